"""What is asked for and what is given: the user, their token, the client's token, and the parameters of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self

from coatcheck.codec import encode
from coatcheck.oauth.client_auth import ClientAssertion
from coatcheck.oauth.messages import Form
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.tokens.freshness import DEFAULT_LIFETIME, TokenState, token_state

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""An empty mapping that nobody can fill."""


def nothing() -> Mapping[str, Any]:
    """Return NOTHING: dataclasses of Python 3.11 take no mapping as a default."""
    return NOTHING


_LEEWAY = 60.0
"""Seconds after its announced end for which a refresh token is still tried: clocks differ, and servers round up."""


class TokenType(StrEnum):
    """Whose access token a call to a remote API carries."""

    USER = "user"
    CLIENT = "client"
    USER_OR_CLIENT = "user_or_client"
    USER_OR_NONE = "user_or_none"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class User:
    """
    Somebody who has logged in: *iss* and *sub* together name them, *sid* is their session at the authorization server.

    *session* is the live session of the request, where the default token store keeps the tokens. A worker that keeps
    them elsewhere has none. Two users are equal when *iss*, *sub* and *sid* are.
    """

    iss: str
    sub: str
    sid: str | None = None
    claims: Mapping[str, Any] = field(default_factory=nothing, repr=False, compare=False)
    session: SessionHandle | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, session: SessionHandle) -> Self:
        """Return whose live *session* it is."""
        who = session.session
        return cls(iss=who.iss, sub=who.sub, sid=who.sid, claims=who.claims, session=session)

    @property
    def name(self) -> str:
        """A name to greet them by; never a key, because users can choose it."""
        for claim in ("name", "preferred_username", "email"):
            value = self.claims.get(claim)
            if isinstance(value, str) and value:
                return value
        return self.sub


@dataclass(frozen=True, slots=True, kw_only=True)
class UserToken:
    """
    A user's access token and what renews it. Instants are seconds since the epoch.

    *expires_at* is None when the authorization server did not say, and so is *refresh_token_expires_at*. *dpop_key* is
    the private key (JWK, as text) that the token is bound to. An empty *access_token* means that there is none yet,
    only something to renew it with (see `from_refresh_token`), which came at *issued_at*, 0 if nobody knows;
    `Tokens.user_token` never returns such a value. An empty *refresh_token* is none.
    """

    access_token: str = field(repr=False)
    token_type: str = "Bearer"
    issued_at: float
    expires_at: float | None = None
    scope: str | None = None
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)
    dpop_key: str | None = field(default=None, repr=False)
    refresh_token_expires_at: float | None = None

    def __post_init__(self) -> None:
        # A column of an application's own store may be empty and not null. Renewals go by the refresh token, so users
        # with the same one, be it empty, would be taken for sessions of one grant.
        if self.refresh_token == "":
            object.__setattr__(self, "refresh_token", None)

    @classmethod
    def from_refresh_token(
        cls,
        refresh_token: str,
        *,
        id_token: str | None = None,
        dpop_key: str | None = None,
        issued_at: float = 0.0,
        refresh_token_expires_at: float | None = None,
    ) -> Self:
        """What a store returns that knows how to renew but has no access token yet: the first use fetches one."""
        return cls(
            access_token="",
            issued_at=issued_at,
            refresh_token=refresh_token,
            id_token=id_token,
            dpop_key=dpop_key,
            refresh_token_expires_at=refresh_token_expires_at,
        )

    def state(self, now: float) -> TokenState:
        """
        Tell what to do with this token at *now*.

        A token of unknown lifetime is never *expired*: with a refresh token it becomes *stale* after five minutes,
        without one it is used until the API refuses it.
        """
        if self.expires_at is not None and self.access_token:
            return token_state(self.access_token, issued_at=self.issued_at, expires_at=self.expires_at, now=now)
        if not self.access_token:
            return TokenState.EXPIRED
        if self.refresh_token is None or now < self.issued_at + DEFAULT_LIFETIME:
            return TokenState.FRESH
        return TokenState.STALE

    def can_be_renewed(self, now: float) -> bool:
        """Say whether there is a refresh token that is not dead at *now* by announcement."""
        announced = self.refresh_token_expires_at
        return self.refresh_token is not None and (announced is None or now < announced + _LEEWAY)

    @property
    def grant_ends_at(self) -> float | None:
        """The instant from which neither of the two tokens is good for anything; None when nobody knows."""
        announced = self.refresh_token_expires_at
        if self.refresh_token is None or announced is None or (self.access_token and self.expires_at is None):
            return None
        return max(announced, self.expires_at or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientToken:
    """An access token of the client registration itself (RFC 6749 4.4). Instants are seconds since the epoch."""

    access_token: str = field(repr=False)
    token_type: str = "Bearer"
    issued_at: float
    expires_at: float
    scope: str | None = None

    def state(self, now: float) -> TokenState:
        """Tell what to do with this token at *now*."""
        return token_state(self.access_token, issued_at=self.issued_at, expires_at=self.expires_at, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTokenRequestParameters:
    """
    Which of a user's tokens is meant. The default is the one that came with the login.

    Each combination of *client* (the name of a registration), *scope*, *resource* and *form_parameters* has an access
    token of its own; those of one registration share a refresh token. *form_parameters* are sent along when renewing,
    and so is *client_assertion*, which is good for one attempt. *context* is handed to the `ClientAssertionService` and
    to retrievers; it is not sent, and its values must be hashable. *force_renewal* renews even a fresh token: for one
    that an API has refused.
    """

    client: str = "default"
    scope: str | None = None
    resource: tuple[str, ...] = ()
    force_renewal: bool = False
    form_parameters: Form = field(default=(), repr=False)
    client_assertion: ClientAssertion | None = field(default=None, repr=False)
    context: Mapping[str, Any] = field(default_factory=nothing, repr=False, compare=False)
    slot: str = field(init=False, repr=False, compare=False)
    """Names the access token among those of the registration; empty for the one that came with the login."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "slot", slot_name(self.scope, self.resource, self.form_parameters))


def is_renewed(current: UserToken, seen: UserToken, parameters: UserTokenRequestParameters, *, now: float) -> bool:
    """Say whether the *current* token is good for who has *seen* an older one: it is fresh, and not the refused one."""
    if current.state(now) is not TokenState.FRESH:
        return False
    return not parameters.force_renewal or current.access_token != seen.access_token


def slot_name(scope: str | None, resource: tuple[str, ...], form_parameters: Form) -> str:
    """Name what changes the answer of a token endpoint; order and repetition do not (RFC 6749 3.3, RFC 8707)."""
    if not (scope or resource or form_parameters):
        return ""
    scopes = sorted(set((scope or "").split()))
    return encode([scopes, sorted(set(resource)), sorted(form_parameters)]).decode("utf-8")


DEFAULT_PARAMETERS = UserTokenRequestParameters()
"""The token that came with the login."""
