"""The claims that a page may see: those of the session, fewer by a list, and others by code of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, NamedTuple, Protocol

from coatcheck import codec
from coatcheck.bff.who import ANSWERED_ERRORS
from coatcheck.errors import ConfigurationError
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.values import User
from coatcheck.tokens.verdicts import told

PROTOCOL_CLAIMS = frozenset(
    {"nonce", "at_hash", "c_hash", "s_hash", "aud", "azp", "exp", "iat", "nbf", "jti", "session_state"}
)
"""Claims that are about the token, not about the user."""

OURS = "bff:"
"""Begins the names of claims that only we make: nobody else can put a logout link into our mouth."""

ENRICHER_DEADLINE = 30.0
"""Seconds for an enricher: as long as a remote API may be silent, and longer than a renewal can take."""


class UserClaim(NamedTuple):
    """One claim as `/bff/user` shows it. A claim that has several values is there several times."""

    type: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsEnricherContext:
    """
    What a claims enricher works with.

    *user* is who asks; `user.claims` is all that the id_token said. *claims* is what would be shown: those of
    `user_claims`, values as text, without ours (`bff:...`) and without those about the token. *tokens* has the user's
    tokens, for calls of your own.
    """

    user: User
    claims: tuple[UserClaim, ...] = field(repr=False)
    tokens: Tokens


class ClaimsEnricher(Protocol):
    """What `BFF(claims_enricher=...)` takes: one async function, or an object that can be called like one."""

    async def __call__(self, context: ClaimsEnricherContext) -> Sequence[tuple[str, Any]]:
        """
        Return the claims that `/bff/user` shows in place of `context.claims`: pairs of a name and any JSON value.

        It is asked each time. Claims that begin with `bff:`, and those about the token, are left out of what it
        returns. `LoginRequired`, `TokenUnavailable` and `StoreUnavailable` may leave it: they become 401 and 503.
        Anything else that it raises, and more than 30 seconds, is a 503 and one line in the log: claims that are
        missing might be taken for rights that a user lacks, or restrictions that they are free of.
        """
        ...


class ClaimsUnavailable(Exception):
    """The enricher has failed. The message is for the log; it names places and types, never a value."""


class ShownClaims:
    """
    Finds the claims that are shown. *names* None shows all that the session has.

    Raises:
        ConfigurationError: see `checked_claim_names`.
    """

    def __init__(self, names: Collection[str] | None, enricher: ClaimsEnricher | None, tokens: Tokens) -> None:
        self._names = None if names is None else checked_claim_names(names, at="user_claims")
        self._enricher = enricher
        self._tokens = tokens

    async def of(self, user: User) -> Sequence[UserClaim]:
        """
        Return the claims that a page of *user* may see, but for ours.

        Raises:
            ClaimsUnavailable: the enricher failed, took too long, or returned something else than claims.
            LoginRequired, TokenUnavailable, StoreUnavailable: what the enricher let escape.
        """
        claims = tuple(claim for claim in _entries(user.claims) if self._names is None or claim.type in self._names)
        if self._enricher is None:
            return claims
        context = ClaimsEnricherContext(user=user, claims=claims, tokens=self._tokens)
        returned = await _asked(self._enricher, context)
        return [claim for claim in _read(returned) if not _is_reserved(claim.type)]


def checked_claim_names(names: object, *, at: str) -> frozenset[str]:
    """
    Return the names of claims that may be shown. *at* is the setting that has them.

    Raises:
        ConfigurationError: one text in place of a list, or a name that could never have an effect.
    """
    if isinstance(names, str) or not isinstance(names, Collection):
        raise ConfigurationError(f"expected names of claims, such as ['name', 'email'], not {names!r}", path=at)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{name!r} is not the name of a claim", path=at)
        if name.startswith(OURS):
            raise ConfigurationError(f"{name!r} is ours and always shown: remove it", path=at)
        if name in PROTOCOL_CLAIMS:
            message = f"{name!r} is about the token, not about the user, and never shown: remove it"
            raise ConfigurationError(message, path=at)
    return frozenset(names)


async def _asked(enricher: ClaimsEnricher, context: ClaimsEnricherContext) -> object:
    """Ask the enricher. Text of what it raises may hold anything, so only kind and place go into the message."""
    deadline = asyncio.timeout(ENRICHER_DEADLINE)
    try:
        async with deadline:
            answer: object = enricher(context)
            if not isawaitable(answer):
                raise ClaimsUnavailable(f"returned {type(answer).__name__} without being async")
            return await answer
    except (*ANSWERED_ERRORS, ClaimsUnavailable):
        raise
    except Exception as error:
        if deadline.expired():
            raise ClaimsUnavailable(f"took longer than {ENRICHER_DEADLINE:g} s") from None
        raise ClaimsUnavailable(f"raised {told(error)}") from None


def _read(returned: object) -> Iterator[UserClaim]:
    if not isinstance(returned, Sequence) or isinstance(returned, str | bytes):
        raise ClaimsUnavailable(f"returned {type(returned).__name__}, not a list of (name, value)")
    for position, pair in enumerate(returned):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ClaimsUnavailable(f"returned {type(pair).__name__} at [{position}], not (name, value)")
        claim = UserClaim(*pair)
        try:
            codec.encode(claim.value)
        except Exception as error:
            kinds = f"{type(claim.value).__name__} ({type(error).__name__})"
            raise ClaimsUnavailable(f"returned at [{position}] what JSON has no words for: {kinds}") from None
        yield claim


def _entries(claims: Mapping[str, Any]) -> Iterator[UserClaim]:
    """Yield the claims of a session as text: an array element by element, a number, boolean or object as JSON."""
    for name, value in claims.items():
        if _is_reserved(name):
            continue
        for element in value if isinstance(value, list) else [value]:
            if element is not None:
                yield UserClaim(name, element if isinstance(element, str) else codec.encode(element).decode())


def _is_reserved(name: str) -> bool:
    return name in PROTOCOL_CLAIMS or name.startswith(OURS)
