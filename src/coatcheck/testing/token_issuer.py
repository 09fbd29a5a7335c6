"""Grants and the tokens made from them: rotation, reuse detection, exchange. State in memory, time as an argument."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coatcheck import base64url
from coatcheck.errors import InvalidGrant, OAuthError
from coatcheck.testing.registered_clients import RegisteredClient
from coatcheck.testing.scripting import Behaviour


@dataclass(slots=True, kw_only=True)
class Grant:
    """What a user allowed a client: the family that all tokens of one login belong to."""

    client_id: str
    sub: str
    sid: str
    scope: str
    auth_time: float
    resource: tuple[str, ...] = ()
    nonce: str | None = None
    acr: str | None = None
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """An authorization code, bound to its request."""

    grant: Grant
    redirect_uri: str
    code_challenge: str
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """What the server knows of an access token. The token itself is a random string: only introspection reads it."""

    value: str = field(repr=False)
    client_id: str
    sub: str
    scope: str
    audience: tuple[str, ...]
    issued_at: float
    expires_at: float
    grant: Grant | None = None
    actor: str | None = None

    def active(self, now: float) -> bool:
        """Whether an API shall accept it at this moment."""
        return now < self.expires_at and not (self.grant and self.grant.ended)


@dataclass(slots=True, kw_only=True)
class RefreshToken:
    """A refresh token; once rotation has replaced it, `replaced_at` says when and `successor` by which tokens."""

    grant: Grant
    expires_at: float
    replaced_at: float | None = None
    successor: Issued | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What one token request brought."""

    access_token: AccessToken
    refresh_token: str | None = field(default=None, repr=False)
    grant: Grant | None = None
    with_id_token: bool = False


class TokenIssuer:
    """Redeems codes and refresh tokens, and makes tokens for clients and by exchange."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._codes: dict[str, Code] = {}
        self._spent_codes: dict[str, Grant] = {}
        self.access_tokens: dict[str, AccessToken] = {}
        self.refresh_tokens: dict[str, RefreshToken] = {}

    def issue_code(self, grant: Grant, *, redirect_uri: str, code_challenge: str, now: float) -> str:
        """Make the code that an authorization response carries."""
        code = _random("code")
        expires_at = now + self._behaviour.code_lifetime.total_seconds()
        self._codes[code] = Code(
            grant=grant, redirect_uri=redirect_uri, code_challenge=code_challenge, expires_at=expires_at
        )
        return code

    def redeem_code(
        self, client: RegisteredClient, form: Mapping[str, str], resource: tuple[str, ...], *, now: float
    ) -> Issued:
        """RFC 6749 4.1.3 and RFC 7636 4.6. A code used twice ends everything that came of it."""
        value = form.get("code", "")
        if value in self._spent_codes:
            self._spent_codes[value].ended = True
            raise InvalidGrant("invalid_grant", "the code was used before; its tokens are revoked")
        code = self._codes.pop(value, None)
        if code is None or now >= code.expires_at or code.grant.client_id != client.client_id:
            raise InvalidGrant("invalid_grant", "the code is unknown, expired or another client's")
        self._spent_codes[value] = code.grant
        if form.get("redirect_uri") != code.redirect_uri:
            raise InvalidGrant("invalid_grant", "redirect_uri differs from the authorization request")
        if s256(form.get("code_verifier", "")) != code.code_challenge:
            raise InvalidGrant("invalid_grant", "code_verifier does not match code_challenge")
        wanted = self._behaviour.refresh_tokens
        refreshable = wanted == "always" or (wanted != "never" and wanted in code.grant.scope.split())
        refresh_token = self._new_refresh_token(code.grant, now=now) if refreshable else None
        return Issued(
            access_token=self._of_grant(code.grant, form, resource, now=now),
            refresh_token=refresh_token,
            grant=code.grant,
            with_id_token="openid" in code.grant.scope.split(),
        )

    def refresh(
        self, client: RegisteredClient, form: Mapping[str, str], resource: tuple[str, ...], *, now: float
    ) -> Issued:
        """RFC 6749 section 6, with the rotation and the reuse detection of RFC 9700 4.14.2."""
        token = self.refresh_tokens.get(form.get("refresh_token", ""))
        if token is None or token.grant.client_id != client.client_id:
            raise InvalidGrant("invalid_grant", "the refresh token is unknown or another client's")
        if token.grant.ended or now >= token.expires_at:
            raise InvalidGrant("invalid_grant", "the grant is revoked or expired")
        if token.replaced_at is not None and token.successor is not None:
            if now < token.replaced_at + self._behaviour.refresh_token_grace.total_seconds():
                return token.successor
            token.grant.ended = True
            raise InvalidGrant("invalid_grant", "the refresh token was used before; the grant is revoked")
        rotate = self._behaviour.refresh_token_rotation
        issued = Issued(
            access_token=self._of_grant(token.grant, form, resource, now=now),
            refresh_token=self._new_refresh_token(token.grant, now=now) if rotate else None,
            grant=token.grant,
            with_id_token=self._behaviour.id_token_on_refresh and "openid" in token.grant.scope.split(),
        )
        if rotate:
            token.replaced_at, token.successor = now, issued
        return issued

    def for_client(
        self, client: RegisteredClient, form: Mapping[str, str], resource: tuple[str, ...], *, now: float
    ) -> Issued:
        """RFC 6749 4.4: the client acts for itself."""
        if client.client_secret is None and client.keys is None:
            raise OAuthError("unauthorized_client", "client_credentials needs a client that authenticates")
        return Issued(
            access_token=self._new_access_token(
                client_id=client.client_id,
                sub=client.client_id,
                scope=form.get("scope", ""),
                audience=resource,
                now=now,
            )
        )

    def exchange(
        self, client: RegisteredClient, form: Mapping[str, str], resource: tuple[str, ...], *, now: float
    ) -> Issued:
        """RFC 8693: impersonation, or delegation where an actor token comes along."""
        subject = self._presented(form, "subject_token", now=now)
        actor = self._presented(form, "actor_token", now=now) if "actor_token" in form else None
        audience = (*resource, *([form["audience"]] if "audience" in form else []))
        token = self._new_access_token(
            client_id=client.client_id,
            sub=subject.sub,
            scope=_narrowed(subject.scope, form.get("scope")),
            audience=audience,
            now=now,
            grant=subject.grant,
        )
        token = replace(token, actor=actor.sub if actor else None)
        self.access_tokens[token.value] = token
        return Issued(access_token=token)

    def revoke(self, client: RegisteredClient, value: str) -> None:
        """RFC 7009: a refresh token takes its grant along; what is unknown is revoked already."""
        refresh_token = self.refresh_tokens.get(value)
        if refresh_token is not None and refresh_token.grant.client_id == client.client_id:
            refresh_token.grant.ended = True
        access_token = self.access_tokens.get(value)
        if access_token is not None and access_token.client_id == client.client_id:
            del self.access_tokens[value]

    def end_all_grants(self) -> None:
        """As if an administrator had revoked every consent: the next refresh is answered with `invalid_grant`."""
        for token in self.refresh_tokens.values():
            token.grant.ended = True

    def active(self, value: str, *, now: float) -> AccessToken | None:
        """The access token *value*, while it is good."""
        token = self.access_tokens.get(value)
        return token if token is not None and token.active(now) else None

    def _presented(self, form: Mapping[str, str], name: str, *, now: float) -> AccessToken:
        if form.get(f"{name}_type") != "urn:ietf:params:oauth:token-type:access_token":
            raise OAuthError("invalid_request", f"{name}_type must be an access token's")
        token = self.active(form.get(name, ""), now=now)
        if token is None:
            raise OAuthError("invalid_request", f"{name} is unknown, expired or revoked")
        return token

    def _of_grant(self, grant: Grant, form: Mapping[str, str], resource: tuple[str, ...], *, now: float) -> AccessToken:
        return self._new_access_token(
            client_id=grant.client_id,
            sub=grant.sub,
            scope=_narrowed(grant.scope, form.get("scope")),
            audience=resource or grant.resource,
            now=now,
            grant=grant,
        )

    def _new_access_token(
        self, *, client_id: str, sub: str, scope: str, audience: tuple[str, ...], now: float, grant: Grant | None = None
    ) -> AccessToken:
        token = AccessToken(
            value=_random("access"),
            client_id=client_id,
            sub=sub,
            scope=scope,
            audience=audience,
            issued_at=now,
            expires_at=now + self._behaviour.access_token_lifetime.total_seconds(),
            grant=grant,
        )
        self.access_tokens[token.value] = token
        return token

    def _new_refresh_token(self, grant: Grant, *, now: float) -> str:
        value = _random("refresh")
        expires_at = now + self._behaviour.refresh_token_lifetime.total_seconds()
        self.refresh_tokens[value] = RefreshToken(grant=grant, expires_at=expires_at)
        return value


def introspection_of(token: AccessToken | None, *, issuer: str) -> dict[str, Any]:
    """The members of RFC 7662 2.2."""
    if token is None:
        return {"active": False}
    members: dict[str, Any] = {
        "active": True,
        "iss": issuer,
        "sub": token.sub,
        "client_id": token.client_id,
        "scope": token.scope,
        "aud": list(token.audience),
        "iat": int(token.issued_at),
        "exp": int(token.expires_at),
        "token_type": "Bearer",
    }
    return members | ({"act": {"sub": token.actor}} if token.actor else {})


def _narrowed(granted: str, wanted: str | None) -> str:
    """A request may ask for less than was granted, never for more (RFC 6749 section 6)."""
    if wanted is None:
        return granted
    if not set(wanted.split()) <= set(granted.split()):
        raise OAuthError("invalid_scope", "more than was granted")
    return wanted


def s256(code_verifier: str) -> str:
    """The code_challenge of a code_verifier (RFC 7636 4.2)."""
    digest = hashlib.sha256(code_verifier.encode("ascii", "replace")).digest()
    return base64url.encode(digest)


def _random(kind: str) -> str:
    """A value that says what it is, so that a test that looks for leaks can say what leaked."""
    return f"test-{kind}-{secrets.token_urlsafe(32)}"
