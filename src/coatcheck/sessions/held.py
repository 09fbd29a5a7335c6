"""
Cookie sessions that are held for a login under way, which is to replace or to strengthen them.

The answer of an authorization server that has shown a page comes from another site, and the browser withholds the
Strict cookie. So when the login begins, while the cookie is there, the session is sealed into the coordination store:
one value per session, however many logins begin in it, and for as long as a login may take.

Its name is HMAC-SHA-256 keyed with the session's id, as in `pending.py` and for the same reason.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from coatcheck.codec import DecodeError, decoder, encode
from coatcheck.coordination import ExpiringStore, ExpiringValue
from coatcheck.errors import SealBroken, StaleVersion, UnknownSealKey
from coatcheck.sessions.cookie_contents import Contents, read
from coatcheck.sessions.seal import KeyRing, framed

_PURPOSE = "held session"


@dataclass(frozen=True, slots=True)
class Held:
    """A session as it was when a login began in it, and until when (seconds since the epoch) it is held."""

    contents: Contents
    until: float


@dataclass(frozen=True, slots=True)
class _Note:
    """What stands before the contents."""

    until: float


_decode_note = decoder(_Note).decode


class HeldSessions:
    """
    The held sessions of one application in *store*. *ring* is bound to *application_id* already.

    Every method may raise `StoreUnavailable`.
    """

    def __init__(self, store: ExpiringStore, ring: KeyRing, application_id: str) -> None:
        self._store = store
        self._ring = ring
        self._domain = framed((b"coatcheck held session", application_id.encode()))

    async def hold(self, contents: Contents, *, until: float) -> None:
        """Hold the session until then, and no more until any other instant. Newer tokens that are there are kept."""
        key = self._key(contents.head.id)
        if await self._store.add(key, self._sealed(Held(contents, until)), until=until):
            return
        found = await self._store.get(key)
        if found is None:  # it ended this very moment
            await self._store.add(key, self._sealed(Held(contents, until)), until=until)
            return
        held = self._known(contents.head.id, found)
        if held is not None and held.contents.head.tokens_version > contents.head.tokens_version:
            contents = held.contents
        try:
            await self._store.replace(key, self._sealed(Held(contents, until)), version=found.version, until=until)
        except StaleVersion:
            return  # another login in this session began at this moment, and holds it for as long

    async def get(self, session_id: str) -> Held | None:
        """
        Return the session as it was when it was held; None if it is not, or if what is there cannot be read.

        Raises:
            UnknownSealKey: a key was dropped from the ring too early.
        """
        found = await self._store.get(self._key(session_id))
        return None if found is None else self._opened(session_id, found)

    def _known(self, session_id: str, found: ExpiringValue) -> Held | None:
        try:
            return self._opened(session_id, found)
        except UnknownSealKey:
            return None

    def _opened(self, session_id: str, found: ExpiringValue) -> Held | None:
        try:
            plaintext = self._ring.open(found.value, purpose=_PURPOSE, aad=(session_id.encode(),))
            note, _, contents = plaintext.partition(b"\n")
            return Held(read(contents), _decode_note(note).until)
        except (SealBroken, DecodeError):
            return None

    def _key(self, session_id: str) -> bytes:
        return hmac.digest(session_id.encode(), self._domain, "sha256")

    def _sealed(self, held: Held) -> bytes:
        plaintext = encode(_Note(held.until)) + b"\n" + held.contents.plaintext()
        return self._ring.seal(plaintext, purpose=_PURPOSE, aad=(held.contents.head.id.encode(),))
