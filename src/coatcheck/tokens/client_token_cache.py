"""
Access tokens of clients that several processes share: one of them fetches, the others find what it left.

A token lies in the coordination store sealed, under a keyed hash of everything that changes the answer, the client's
proof included: after a change of the secret or the scope it is not found any more. While the keys of the ring are
rotated a token may be fetched once under each; that harms nobody, unlike a refresh token that is used twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias, TypeVar

from coatcheck import codec
from coatcheck.clock import Clock
from coatcheck.coordination import CoordinationStore
from coatcheck.errors import SealBroken, StaleVersion, StoreUnavailable, TokenUnavailable, UnknownSealKey
from coatcheck.sessions.seal import KeyRing
from coatcheck.tokens.freshness import TokenState, expiry_margin
from coatcheck.tokens.lease import Leases
from coatcheck.tokens.values import ClientToken
from coatcheck.tokens.verdicts import Verdict, VerdictKind

T = TypeVar("T")

_log = logging.getLogger("coatcheck")

_TOKEN = "client token"
_FAILURE = "client token failure"
_AWAY_SECONDS = 5.0
"""Seconds for which a store that did not answer is not asked again."""
_LARGEST_VALUE = 64 * 1024


@dataclass(frozen=True, slots=True)
class HeldToken:
    """*after_refusal*: it was fetched because an API had refused the one before."""

    token: ClientToken
    after_refusal: bool = False

    @property
    def until(self) -> float:
        """The instant from which it is not sent any more (seconds since the epoch)."""
        return self.token.expires_at - expiry_margin(self.token.expires_at - self.token.issued_at)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which token will do: not the *refused* one; a stale one only for a caller that has none at all."""

    refused: str | None = field(default=None, repr=False)
    stale_will_do: bool = False

    def accepts(self, token: ClientToken, now: float) -> bool:
        """Whether *token* is one to use."""
        if token.access_token == self.refused:
            return False
        state = token.state(now)
        return state is TokenState.FRESH or (self.stale_will_do and state is TokenState.STALE)


@dataclass(frozen=True, slots=True)
class FailedFetch:
    """
    A failure, and the instant until which it stands (seconds since the epoch).

    *tell_others* when the authorization server said so, and not only a circuit of this process.
    """

    verdict: Verdict
    until: float
    tell_others: bool = False


@dataclass(frozen=True, slots=True)
class _Failure:
    """What is left for other processes of a `FailedFetch`."""

    kind: VerdictKind
    message: str
    until: float


Outcome: TypeAlias = HeldToken | FailedFetch
FetchOnce: TypeAlias = Callable[[], Awaitable[Outcome]]

_decode_token = codec.decoder(HeldToken).decode
_decode_failure = codec.decoder(_Failure).decode


class SharedClientTokens:
    """
    One fetch per token for all processes that share *coordination* and a key of *keys*.

    Who finds another process fetching waits for its lease, and finds what it left. While the store does not answer,
    each process fetches for itself: that costs a few requests more and is said once in the log.
    """

    def __init__(self, coordination: CoordinationStore, keys: KeyRing, *, leases: Leases, clock: Clock) -> None:
        self._store = coordination
        self._keys = keys
        self._naming_key = keys.derive(_TOKEN)
        self._naming_keys = sorted(keys.derive_all(_TOKEN), key=lambda key: key != self._naming_key)
        self._leases = leases
        self._clock = clock
        self._away_until = 0.0
        self._is_away = False

    async def fetched(self, description: bytes, wanted: Wanted, fetch: FetchOnce) -> Outcome:
        """Return what some process has left, or what `fetch()` brings, which is left for the others."""
        if self._clock.monotonic() < self._away_until:
            return await fetch()
        name = self._name(self._naming_key, _TOKEN, description)
        try:
            found = await self._found(description, wanted)
            lease = await self._leases.take([name]) if found is None else None
        except StoreUnavailable as error:
            self._note_away(error)
            return await fetch()
        except TokenUnavailable as error:
            return FailedFetch(Verdict(VerdictKind.TRANSIENT, str(error)), self._clock.time())
        self._note_back()
        if lease is None:
            return found or await fetch()
        try:
            return await self._fetched_alone(name, description, wanted, fetch)
        finally:
            await lease.release()

    async def _fetched_alone(self, name: bytes, description: bytes, wanted: Wanted, fetch: FetchOnce) -> Outcome:
        """Be the one that fetches, unless the one before has just left something."""
        try:
            found = await self._found(description, wanted)
        except StoreUnavailable as error:
            self._note_away(error)
            found = None
        if found is not None:
            return found
        outcome = await fetch()
        try:
            await self._leave_for_others(name, outcome, description)
        except StoreUnavailable as error:
            self._note_away(error)
        return outcome

    async def _found(self, description: bytes, wanted: Wanted) -> Outcome | None:
        now = self._clock.time()
        for key in self._naming_keys:
            name = self._name(key, _TOKEN, description)
            opened = await self._opened(name, _TOKEN)
            held = _decoded(_decode_token, opened)
            if held is not None and wanted.accepts(held.token, now):
                return held
        opened = await self._opened(self._name(self._naming_key, _FAILURE, description), _FAILURE)
        failure = _decoded(_decode_failure, opened)
        if failure is None or failure.until <= now:
            return None
        verdict = Verdict(failure.kind, failure.message, retry_after=timedelta(seconds=failure.until - now))
        return FailedFetch(verdict, failure.until)

    async def _opened(self, name: bytes, purpose: str) -> bytes | None:
        value = await self._store.get(name)
        if value is None:
            return None
        try:
            return self._keys.open(value.value, purpose=purpose, aad=(name,))
        except (SealBroken, UnknownSealKey):
            return None  # somebody else's, or of a key that is gone: a new one is fetched and takes its place

    async def _leave_for_others(self, name: bytes, outcome: Outcome, description: bytes) -> None:
        if isinstance(outcome, HeldToken):
            await self._leave(name, _TOKEN, codec.encode(outcome), until=outcome.until)
        elif outcome.tell_others:
            failure = _Failure(outcome.verdict.kind, outcome.verdict.message, outcome.until)
            failed = self._name(self._naming_key, _FAILURE, description)
            await self._leave(failed, _FAILURE, codec.encode(failure), until=failure.until)

    async def _leave(self, name: bytes, purpose: str, value: bytes, *, until: float) -> None:
        if until <= self._clock.time():
            return
        sealed = self._keys.seal(value, purpose=purpose, aad=(name,))
        if len(sealed) > _LARGEST_VALUE:
            return  # each process fetches its own
        if not await self._store.add(name, sealed, until=until):
            held = await self._store.get(name)
            with suppress(StaleVersion):  # somebody else has just left one
                if held is not None:
                    await self._store.replace(name, sealed, version=held.version, until=until)

    def _name(self, key: bytes, purpose: str, description: bytes) -> bytes:
        text = purpose.encode() + b"\0" + description
        return hashlib.blake2b(text, digest_size=32, key=key).digest()

    def _note_away(self, error: StoreUnavailable) -> None:
        self._away_until = self._clock.monotonic() + _AWAY_SECONDS
        if not self._is_away:
            self._is_away = True
            _log.warning("each process fetches tokens of the clients for itself until the store answers: %s", error)

    def _note_back(self) -> None:
        if self._is_away:
            self._is_away = False
            _log.info("processes share the tokens of the clients again")


def _decoded(decode: Callable[[bytes], T], data: bytes | None) -> T | None:
    if data is None:
        return None
    try:
        return decode(data)
    except codec.DecodeError:
        return None  # of another version of coatcheck
