"""
Tombstones: who was logged out, and which of their sessions that is about.

A session that exists when somebody is logged out from outside is deleted where it is kept. Two kinds cannot be: one
that is just being made by a login under way, and one that only a browser has, in its cookies. Both meet the tombstone.

Whoever logs somebody out writes the tombstone first and looks for sessions second; a login makes its session first and
looks for tombstones second. So one of the two sees the other, whatever the timing.

A tombstone says which sessions it is about by the instant at which their id_token was issued, in the words of the
authorization server's own clock (`iat`): a login after the logout is not about to be undone by it, however late the
logout arrives, or how often. Where we end sessions ourselves, it is our clock and the beginning of the session.

Names are keyed hashes, one for each key of the ring, so that nodes in the middle of a key rotation find them.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from coatcheck.codec import DecodeError, decoder, encode
from coatcheck.coordination import ExpiringStore
from coatcheck.errors import StaleVersion, StoreUnavailable
from coatcheck.sessions.seal import KeyRing, framed
from coatcheck.sessions.session import Session, SessionFilter

_ATTEMPTS = 8
_MOST_WRITTEN = 10_000
"""Tombstones that the process remembers to have written; beyond that the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Until:
    """
    Which sessions a logout is about: those whose id_token was *issued*, or that were *created*, no later than this.

    Both are instants in seconds since the epoch, by the clock of the authorization server and by our own.
    """

    issued: float | None = None
    created: float | None = None

    def covers(self, session: Session) -> bool:
        """Say whether *session* is one of them."""
        issued = self.issued is not None and session.issued_at <= self.issued
        return issued or (self.created is not None and session.created_at <= self.created)

    def or_later(self, other: Until) -> Until:
        """Return what is about all the sessions that this one or *other* is about."""
        return Until(_later(self.issued, other.issued), _later(self.created, other.created))


_decode_until = decoder(Until).decode


class Tombstones:
    """
    The tombstones of one application in *store*. *ring* is bound to the application already.

    What waits for an answer may raise `StoreUnavailable`.
    """

    def __init__(self, store: ExpiringStore, ring: KeyRing) -> None:
        self._store = store
        self._keys = ring.derive_all("tombstones")
        self._written: dict[bytes, Until] = {}
        self.news = 0
        """Changes when this process writes a tombstone, or hears that another one did."""

    def heard(self) -> None:
        """Take note that another process has ended sessions."""
        self.news += 1

    async def put(self, who: SessionFilter, about: Until, *, until: float) -> None:
        """
        Let *who* be logged out, as far as *about* says, until *until* (seconds since the epoch).

        It returns when all who look from now on will see it.
        """
        for name in self.names(who):
            await self._put(name, about, until)
            self._remember(name, about)
        self.news += 1

    async def cover(self, session: Session) -> bool:
        """Say whether *session* was ended by whom it is about."""
        for who in filters_of(session):
            for name in self.names(who):
                found = await self._store.get(name)
                if found is not None and _read(found.value).covers(session):
                    return True
        return False

    async def put_logout(self, session_id: str, *, until: float) -> None:
        """Let logins that began in this session come to nothing, until *until*: its user has logged out."""
        for name in self.session_names(session_id):
            await self._store.add(name, b"", until=until)

    async def was_logged_out(self, session_id: str) -> bool:
        """Say whether the user of this session has logged out."""
        for name in self.session_names(session_id):
            if await self._store.get(name) is not None:
                return True
        return False

    def wrote_about(self, session: Session) -> bool:
        """Say whether this very process has ended *session*: it knows that much while the store does not answer."""
        names = (name for who in filters_of(session) for name in self.names(who)) if self._written else ()
        return any((about := self._written.get(name)) is not None and about.covers(session) for name in names)

    def names(self, who: SessionFilter) -> tuple[bytes, ...]:
        """Return what *who* is called here, and in messages to other nodes."""
        kind = f"{'sub' if who.sub else ''}{'sid' if who.sid else ''}"
        parts = (kind.encode(), who.iss.encode(), (who.sub or "").encode(), (who.sid or "").encode())
        return tuple(hmac.digest(key, framed(parts), "sha256") for key in self._keys)

    def session_names(self, session_id: str) -> tuple[bytes, ...]:
        """Return what one session is called here, and in messages to other nodes, which say nothing about its id."""
        return tuple(hmac.digest(key, framed((b"session", session_id.encode())), "sha256") for key in self._keys)

    def _remember(self, name: bytes, about: Until) -> None:
        """Single dictionary operations only, so that threads may share it."""
        former = self._written.pop(name, about)
        self._written[name] = about.or_later(former)
        while len(self._written) > _MOST_WRITTEN:
            self._written.pop(next(iter(self._written)), None)

    async def _put(self, name: bytes, about: Until, until: float) -> None:
        for _ in range(_ATTEMPTS):
            if await self._store.add(name, encode(about), until=until):
                return
            found = await self._store.get(name)
            if found is None:
                continue
            merged = encode(_read(found.value).or_later(about))
            try:
                return await self._store.replace(name, merged, version=found.version, until=until)
            except StaleVersion:
                continue
        raise StoreUnavailable(f"a tombstone was changed {_ATTEMPTS} times while writing it: try again")


def filters_of(session: Session) -> Iterator[SessionFilter]:
    """Give all that *session* can be found by."""
    yield SessionFilter(session.iss, sub=session.sub)
    if session.sid:
        yield SessionFilter(session.iss, sid=session.sid)
        yield SessionFilter(session.iss, sub=session.sub, sid=session.sid)


def _read(value: bytes) -> Until:
    try:
        return _decode_until(value)
    except DecodeError as error:
        message = "a tombstone was written by another version of coatcheck: finish the update"
        raise StoreUnavailable(message) from error


def _later(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)
