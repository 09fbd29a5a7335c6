"""
What the store has forgotten: somebody restored an older state of it, and it says again what was true then.

Sessions are back at refresh tokens that were spent since, and the sent marks that would say so are gone. Two things
still know better, and both only say "in doubt"; what follows is as after a lost answer.

- Each process remembers for a day which refresh tokens it has spent itself.
- A **watermark** in the coordination store, the instant of some recent renewal, only ever moves forward. Whoever reads
  an older one than it has seen knows that the store went back, and writes that down beside it: from then on every
  refresh token that came before is in doubt, in every process. Somebody who has seen nothing may move the watermark
  first, from its old place to the present; such leaps stay on record, and who has seen an instant inside of one knows
  as much. A leap alone says nothing: the night was quiet.

What nobody who still runs has seen has to be told: `StoreHistory.note_restore`, which `coatcheck sessions restored`
calls. Less than a minute is taken for a failover, which forgets the last moments: ending every session for those would
do more harm than it prevents.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from coatcheck import codec
from coatcheck.audit import audit
from coatcheck.clock import Clock
from coatcheck.coordination import ExpiringStore, ExpiringValue, SentMark
from coatcheck.errors import SealBroken, StaleVersion, StoreUnavailable, UnknownSealKey
from coatcheck.sessions.seal import KeyRing
from coatcheck.tokens.memory import ExpiringMemory
from coatcheck.tokens.values import UserToken

_log = logging.getLogger("coatcheck")

_MOVED_AFTER = 15.0
"""Seconds between two moves of the watermark: all other renewals only read it."""
_LEAP = 60.0
"""Seconds by which a store has to go back to count as restored."""
_MOST_LEAPS = 50
_KEPT = 400 * 24 * 3600.0
"""Seconds for which a watermark is kept: longer than any refresh token of a store that is in use."""
_SPENT_KEPT = 24 * 3600.0
_MOST_SPENT = 20_000
"""Refresh tokens that one process remembers as spent: 6 MB."""
_ATTEMPTS = 5
_PURPOSE = "watermark"


class Gap(NamedTuple):
    """The store holds what it held at *since* or later, and was told or seen to be restored at *until*."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class _Watermark:
    """What is stored. Instants are seconds since the epoch; *leaps* are long moves, the latest last."""

    at: float = 0.0
    leaps: tuple[Gap, ...] = ()
    gap: Gap | None = None

    def moved(self, now: float) -> _Watermark:
        """Return it at *now*, or where it is if that is near."""
        if now - self.at < _MOVED_AFTER:
            return self
        leaps = (*self.leaps, Gap(self.at, now))[-_MOST_LEAPS:] if now - self.at > _LEAP else self.leaps
        return replace(self, at=now, leaps=leaps)

    def restored(self, since: float, now: float) -> _Watermark:
        """Return it with the knowledge that the store was restored to what it was at *since*."""
        earliest = since if self.gap is None else min(since, self.gap.since)
        return replace(self.moved(now), gap=Gap(earliest, now))

    def went_back_to(self, seen: float | None) -> float | None:
        """Return the instant to which the store went back after somebody had *seen* a watermark; None if it did not."""
        if seen is None or (self.gap is not None and seen < self.gap.until):
            return None  # nothing is known, or it is known already
        if seen - self.at > _LEAP:
            return self.at
        return next((leap.since for leap in self.leaps if leap.since + _LEAP < seen < leap.until), None)


_decode = codec.decoder(_Watermark).decode


class StoreHistory:
    """
    Remembers what was spent, and notices when *store* does not remember it any more.

    *names* are those of the watermark, one for each key of *ring*: processes in the middle of a key rotation meet under
    one of them. It is sealed, so that who may write to the store cannot doubt everything for good.
    """

    def __init__(self, store: ExpiringStore, names: Sequence[bytes], ring: KeyRing, *, clock: Clock) -> None:
        self._store = store
        self._names = names
        self._ring = ring
        self._clock = clock
        self._seen: dict[bytes, float] = {}
        self._spent: ExpiringMemory[bytes, float] = ExpiringMemory(_MOST_SPENT)

    def spent(self, grant: bytes, *, sent_at: float) -> None:
        """Remember that the refresh token of *grant* was sent at *sent_at*, and that it is spent, or may be."""
        now = self._clock.monotonic()
        self._spent.put(grant, sent_at, now=now, until=now + _SPENT_KEPT)

    async def forgotten_mark(self, grant: bytes, token: UserToken) -> SentMark | None:
        """
        Return the mark that the lease of *grant* lacks, if the refresh token of *token*, as stored, may be spent.

        Call it while holding the lease: a store that is restored later does not know the lease, and nothing is sent.

        Raises:
            StoreUnavailable: nobody can say.
        """
        gaps = [await self._gap(name) for name in self._names]
        sent_at = self._spent.get(grant, now=self._clock.monotonic())
        if sent_at is not None and token.issued_at < sent_at:
            return SentMark(sent_at)
        # A token of unknown age is a bare refresh token in a store of the application's own, which knows better.
        doubtful = [gap.since for gap in gaps if gap is not None and 0.0 < token.issued_at < gap.until]
        return SentMark(min(doubtful)) if doubtful else None

    async def note_restore(self) -> None:
        """
        Write down that the store was restored from an older state just now.

        Raises:
            StoreUnavailable: it may not be written.
        """
        for name in self._names:
            await self._gap(name, restored=True)

    async def _gap(self, name: bytes, *, restored: bool = False) -> Gap | None:
        """Look at the watermark, move it when it is time, and return what is known of a restore."""
        seen = self._seen.get(name)
        for _ in range(_ATTEMPTS):
            found = await self._store.get(name)
            before, now = self._opened(name, found), self._clock.time()
            since = before.at if restored else before.went_back_to(seen)
            after = before.restored(since, now) if since is not None else before.moved(now)
            try:
                if after != before:
                    await self._put(name, after, found)
            except StaleVersion:
                continue  # somebody else has just moved it
            except StoreUnavailable:
                if restored:
                    raise
                return after.gap  # it could be read, which is enough for now; the next renewal tries to move it again
            self._seen[name] = after.at
            if since is not None:
                _tell(since, now, noticed=not restored)
            return after.gap
        raise StoreUnavailable(f"the watermark was moved {_ATTEMPTS} times by others while it was to be read")

    def _opened(self, name: bytes, found: ExpiringValue | None) -> _Watermark:
        """Read it; what cannot be opened is as good as none."""
        if found is None:
            return _Watermark()
        try:
            return _decode(self._ring.open(found.value, purpose=_PURPOSE, aad=(name,)))
        except (SealBroken, UnknownSealKey, codec.DecodeError):
            return _Watermark()

    async def _put(self, name: bytes, watermark: _Watermark, found: ExpiringValue | None) -> None:
        sealed = self._ring.seal(codec.encode(watermark), purpose=_PURPOSE, aad=(name,))
        until = watermark.at + _KEPT
        if found is not None:
            await self._store.replace(name, sealed, version=found.version, until=until)
        elif not await self._store.add(name, sealed, until=until):
            raise StaleVersion("somebody else was first")


def _tell(since: float, until: float, *, noticed: bool) -> None:
    if noticed:
        _log.warning(
            "store_rolled_back: the coordination store was restored from an older state. Refresh tokens that came "
            "before may be spent: where the provider rotates them they are not sent, and their sessions end with their "
            "access tokens. If nobody has restored a backup, see why the store forgets."
        )
    audit("store_rolled_back", since=round(since), until=round(until))
