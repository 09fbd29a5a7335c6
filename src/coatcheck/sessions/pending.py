"""
Where the tokens of a cookie session wait until the browser has them.

A renewal spends the old refresh token, and the new one is on its way in a `Set-Cookie` that may never arrive. So it is
written to the coordination store first, under the session: whoever comes with the older cookie, to any process, finds
it there and does not use the old one again. One record per session, and these changes of it:

- a newer generation takes the place of an older one, never the other way round;
- the generation has arrived: its tokens leave the record, its number stays (see below);
- an older cookie went out after that, while the tokens still waited: they go back into the record;
- a tombstone takes the place of any generation, and nothing takes its place: the session was ended, and a renewal that
  was under way elsewhere cannot bring it back.

**What rests where, and how long.** The record lives until the session's end. It holds a generation's tokens until a
request shows that the browser has them; then they move to a value of their own, which lives for `STRAGGLING` seconds
(longer while the session is held for a login), and only the generation's number is left in the record: that is how
long they rest here, unless they go back. The number is what a request with an older cookie needs to know that its
refresh token was spent, however long it was held up. The tokens are written to their own value first and leave the
record second, so at each moment there is one or the other.

**Names and keys.** The record's name is HMAC-SHA-256 *keyed with the session's id*, which is 256 random bits that exist
inside seals only. It does not depend on the ring, so nodes in the middle of a rolling key rotation meet under one name
and one compare-and-swap decides between them; a name for each key of the ring would need several, one after the other.
All that is written is sealed with the ring and bound to the session, and every node of a rotation opens it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from coatcheck.codec import DecodeError, decoder, encode
from coatcheck.coordination import ExpiringStore, ExpiringValue
from coatcheck.errors import SealBroken, SessionGone, StaleVersion, StoreUnavailable, UnknownSealKey
from coatcheck.sessions.seal import KeyRing, framed

STRAGGLING = 60.0
"""Seconds that tokens go on waiting after a request has carried them: older requests may still be under way."""

_PURPOSE = "pending tokens"
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    The newest generation of a session. *version* is the store's.

    *tokens* is None when they have arrived in the browser: then they may still be among `PendingTokens.straggling`.
    *older_cookie_at* is the last instant (seconds since the epoch) at which a cookie with an older generation is known
    to have been sent to the browser; None if never.
    """

    generation: int
    tokens: bytes | None = field(repr=False)
    older_cookie_at: float | None
    version: int


@dataclass(frozen=True, slots=True)
class _Note:
    """What stands before the tokens. A tombstone has generation 0 and no tokens."""

    generation: int
    older_cookie_at: float | None = None
    arrived: bool = False


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
        Return the record of the session; None if no tokens were ever put there.

        Raises:
            SessionGone: a tombstone is there; or what is there cannot be opened, so the tokens are lost.
        """
        found = await self._store.get(self._key(session_id))
        if found is None:
            return None
        note, tokens = self._opened(session_id, found)
        if note == _TOMBSTONE:
            raise SessionGone("the session was ended")
        return Waiting(note.generation, None if note.arrived else tokens, note.older_cookie_at, found.version)

    async def straggling(self, session_id: str, waiting: Waiting) -> bytes | None:
        """Return the tokens of the generation that was read, wherever they are; None if they wait no more."""
        if waiting.tokens is not None:
            return waiting.tokens
        found = await self._store.get(self._key(session_id, waiting.generation))
        return None if found is None else self._opened(session_id, found)[1]

    async def put(self, session_id: str, tokens: bytes, *, generation: int, until: float) -> None:
        """
        Have *tokens* wait until *until*, in the place of an older generation. To repeat it is no error.

        Raises:
            StaleVersion: there is a newer generation, or this one with other tokens. Nothing was changed.
            SessionGone: the session was ended.
        """
        key, value = self._key(session_id), self._sealed(session_id, _Note(generation), tokens)
        for _ in range(_ATTEMPTS):
            found = await self.get(session_id)
            if found is None:
                if await self._store.add(key, value, until=until):
                    return
                continue
            if found.generation == generation and await self._is(session_id, found, tokens):
                return  # written already: the answer to an earlier attempt was lost, or another request was faster
            if found.generation >= generation:
                raise StaleVersion("the tokens were replaced meanwhile")
            try:
                return await self._store.replace(key, value, version=found.version, until=until)
            except StaleVersion:
                continue
        raise _too_busy()

    async def keep(
        self, session_id: str, waiting: Waiting, tokens: bytes, *, until: float, older_cookie_at: float
    ) -> None:
        """
        Have the *tokens* of the very generation that was read wait until *until*, though they had arrived.

        Raises:
            StaleVersion: something else is there by now. Nothing was changed.
        """
        value = self._sealed(session_id, _Note(waiting.generation, older_cookie_at), tokens)
        await self._store.replace(self._key(session_id), value, version=waiting.version, until=until)

    async def arrived(
        self, session_id: str, waiting: Waiting, tokens: bytes, *, straggling_until: float, until: float
    ) -> None:
        """
        Let the *tokens* of the very generation that was read wait for stragglers only, and its number until *until*.

        Raises:
            StaleVersion: something else is in the record by now, and stays there.
        """
        straggling = self._sealed(session_id, _Note(waiting.generation), tokens)
        key = self._key(session_id, waiting.generation)
        await self._store.add(key, straggling, until=min(straggling_until, until))  # or another process did
        number = self._sealed(session_id, _Note(waiting.generation, arrived=True), b"")
        await self._store.replace(self._key(session_id), number, version=waiting.version, until=until)

    async def bury(self, session_id: str, *, until: float) -> None:
        """Put a tombstone in the place of whatever waits: nothing can be written for this session until *until*."""
        key, value = self._key(session_id), self._sealed(session_id, _TOMBSTONE, b"")
        for _ in range(_ATTEMPTS):
            if await self._store.add(key, value, until=until):
                return
            found = await self._store.get(key)
            if found is None:
                continue
            if self._is_tombstone(session_id, found):
                return  # another request, or an earlier attempt, was faster
            try:
                return await self._store.replace(key, value, version=found.version, until=until)
            except StaleVersion:
                continue
        raise _too_busy()

    async def _is(self, session_id: str, waiting: Waiting, tokens: bytes) -> bool:
        there = await self.straggling(session_id, waiting)
        return there is not None and hmac.compare_digest(there, tokens)

    def _is_tombstone(self, session_id: str, found: ExpiringValue) -> bool:
        try:
            return self._opened(session_id, found)[0] == _TOMBSTONE
        except (SessionGone, StoreUnavailable, UnknownSealKey):
            return False  # even what cannot be opened is buried

    def _opened(self, session_id: str, found: ExpiringValue) -> tuple[_Note, bytes]:
        try:
            plaintext = self._ring.open(found.value, purpose=_PURPOSE, aad=(session_id.encode(),))
        except SealBroken as broken:
            raise SessionGone("the tokens that wait for the session cannot be opened") from broken
        head, _, tokens = plaintext.partition(b"\n")
        try:
            return _decode_note(head), tokens
        except DecodeError as error:
            message = "tokens that wait for a session were written by another version of coatcheck: finish the update"
            raise StoreUnavailable(message) from error

    def _key(self, session_id: str, generation: int | None = None) -> bytes:
        """Return the name of the record, or of the tokens of one *generation* that has arrived."""
        name = self._domain if generation is None else framed((self._domain, b"%d" % generation))
        return hmac.digest(session_id.encode(), name, "sha256")

    def _sealed(self, session_id: str, note: _Note, tokens: bytes) -> bytes:
        return self._ring.seal(encode(note) + b"\n" + tokens, purpose=_PURPOSE, aad=(session_id.encode(),))


def _too_busy() -> StoreUnavailable:
    return StoreUnavailable(f"what waits for a session was changed {_ATTEMPTS} times while writing it: try again")
