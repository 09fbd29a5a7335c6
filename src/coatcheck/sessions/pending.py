"""
Where the tokens of a cookie session wait until the browser has them.

A renewal spends the old refresh token, and the new one is on its way in a `Set-Cookie` that may never arrive. So it is
written to the coordination store first, under the session: whoever comes with the older cookie, to any process, finds
it there and does not use the old one again. One value per session, and only these changes of it:

- a newer generation takes the place of an older one, never the other way round;
- a tombstone takes the place of any generation, and nothing takes its place: the session was ended, and a renewal that
  was under way elsewhere cannot bring it back;
- how long it waits: until the session's end; from the moment a request carries it, for another minute (`STRAGGLING`).

**Names and keys.** The value's name is HMAC-SHA-256 *keyed with the session's id*, which is 256 random bits that exist
inside seals only. It does not depend on the ring, so nodes in the middle of a rolling key rotation meet under one name
and one compare-and-swap decides between them; a name for each key of the ring would need several, one after the other.
The value itself is sealed with the ring and bound to the session, and every node of a rotation opens it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from coatcheck.codec import DecodeError, decoder, encode
from coatcheck.coordination import ExpiringStore
from coatcheck.errors import SealBroken, SessionGone, StaleVersion, StoreUnavailable
from coatcheck.sessions.seal import KeyRing, framed

STRAGGLING = 60.0
"""Seconds that a generation goes on waiting after a request has carried it: older requests may still be under way."""

_PURPOSE = "pending tokens"
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    The generation that waits. *version* is the store's.

    *older_cookie_at* is the last instant (seconds since the epoch) at which a cookie with an older generation is known
    to have been sent to the browser; None if never.
    """

    generation: int
    tokens: bytes = field(repr=False)
    older_cookie_at: float | None
    version: int


@dataclass(frozen=True, slots=True)
class _Note:
    """What stands before the tokens. A tombstone has generation 0 and no tokens."""

    generation: int
    older_cookie_at: float | None = None


_decode_note = decoder(_Note).decode
_TOMBSTONE = _Note(0)


class PendingTokens:
    """
    The pending generations of one application in *store*. *ring* is bound to *application_id* already.

    Every method may raise `StoreUnavailable`, and `UnknownSealKey` when a key was dropped from the ring too early.
    """

    def __init__(self, store: ExpiringStore, ring: KeyRing, application_id: str) -> None:
        self._store = store
        self._ring = ring
        self._domain = framed((b"coatcheck pending tokens", application_id.encode()))

    async def get(self, session_id: str) -> Waiting | None:
        """
        Return what waits for the session.

        Raises:
            SessionGone: a tombstone is there; or what is there cannot be opened, so the tokens are lost.
        """
        found = await self._store.get(self._key(session_id))
        if found is None:
            return None
        try:
            plaintext = self._ring.open(found.value, purpose=_PURPOSE, aad=(session_id.encode(),))
        except SealBroken as broken:
            raise SessionGone("the tokens that wait for the session cannot be opened") from broken
        head, _, tokens = plaintext.partition(b"\n")
        try:
            note = _decode_note(head)
        except DecodeError as error:
            message = "tokens that wait for a session were written by another version of coatcheck: finish the update"
            raise StoreUnavailable(message) from error
        if note == _TOMBSTONE:
            raise SessionGone("the session was ended")
        return Waiting(note.generation, tokens, note.older_cookie_at, found.version)

    async def put(self, session_id: str, tokens: bytes, *, generation: int, until: float) -> None:
        """
        Have *tokens* wait until *until*, in the place of an older generation. To repeat it is no error.

        Raises:
            StaleVersion: a newer generation waits, or this one with other tokens. Nothing was changed.
            SessionGone: the session was ended.
        """
        key, value = self._key(session_id), self._sealed(session_id, _Note(generation), tokens)
        for _ in range(_ATTEMPTS):
            if await self._store.add(key, value, until=until):
                return
            found = await self.get(session_id)
            if found is None:
                continue
            if found.generation == generation and hmac.compare_digest(found.tokens, tokens):
                return  # written already: the answer to an earlier attempt was lost, or another request was faster
            if found.generation >= generation:
                raise StaleVersion("the tokens were replaced meanwhile")
            try:
                return await self._store.replace(key, value, version=found.version, until=until)
            except StaleVersion:
                continue
        raise _too_busy()

    async def keep(
        self, session_id: str, waiting: Waiting, *, until: float, older_cookie_at: float | None = None
    ) -> None:
        """
        Let the very generation that was read wait until *until*, be that longer or shorter than before.

        Raises:
            StaleVersion: it is not there any more, or something newer is. Nothing was changed.
        """
        value = self._sealed(session_id, _Note(waiting.generation, older_cookie_at), waiting.tokens)
        await self._store.replace(self._key(session_id), value, version=waiting.version, until=until)

    async def bury(self, session_id: str, *, until: float) -> None:
        """Put a tombstone in the place of whatever waits: nothing can be written for this session until *until*."""
        key, value = self._key(session_id), self._sealed(session_id, _TOMBSTONE, b"")
        for _ in range(_ATTEMPTS):
            if await self._store.add(key, value, until=until):
                return
            found = await self._store.get(key)  # whatever it is: even what cannot be opened is buried
            if found is None:
                continue
            try:
                return await self._store.replace(key, value, version=found.version, until=until)
            except StaleVersion:
                continue
        raise _too_busy()

    def _key(self, session_id: str) -> bytes:
        return hmac.digest(session_id.encode(), self._domain, "sha256")

    def _sealed(self, session_id: str, note: _Note, tokens: bytes) -> bytes:
        return self._ring.seal(encode(note) + b"\n" + tokens, purpose=_PURPOSE, aad=(session_id.encode(),))


def _too_busy() -> StoreUnavailable:
    return StoreUnavailable(f"what waits for a session was changed {_ATTEMPTS} times while writing it: try again")
