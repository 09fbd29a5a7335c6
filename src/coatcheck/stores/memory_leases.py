"""Leases in a dictionary: who renews, among the threads and event loops of one process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.coordination import Lease, SentMark
from coatcheck.errors import LeaseLost
from coatcheck.stores.memory_entries import Broom, InMemory


@dataclass(frozen=True, slots=True)
class _Entry:
    """*holder* is None after a release with a mark. *mark_until* says nothing when there is no mark."""

    holder: bytes | None = field(repr=False)
    runs_until: float
    mark: SentMark | None = None
    mark_until: float = 0.0

    @property
    def dead_at(self) -> float:
        return max(self.runs_until, self.mark_until)


class LeasesInMemory(InMemory):
    """
    A `LeaseStore`. No method ever suspends, and threads may share it.

    Lease times are on *clock*, like everything else here. A mark is as durable as the process.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(clock)
        self._leases: dict[bytes, _Entry] = {}
        self._lease_broom = Broom(self._leases, lambda entry: entry.dead_at)

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        """See `LeaseStore.acquire`."""
        with self._lock:
            now = self._clock.time()
            entry = self._leases.get(key, _NOBODYS)
            if entry.runs_until > now and entry.holder != holder:
                return None
            if entry.mark_until <= now:
                entry = _NOBODYS
            self._leases[key] = replace(entry, holder=holder, runs_until=now + seconds)
            self._lease_broom.sweep(now)
            return Lease(key, holder, entry.mark)

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        """See `LeaseStore.mark_sent`."""
        with self._lock:
            self._require(key, holder)
            self._leases[key] = _Entry(holder, self._clock.time() + seconds, mark, until)

    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        """See `LeaseStore.extend`."""
        with self._lock:
            entry = self._require(key, holder)
            self._leases[key] = replace(entry, runs_until=self._clock.time() + seconds)

    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        """See `LeaseStore.release`. Late is in time as long as nobody took the lease since."""
        with self._lock:
            entry = self._leases.get(key)
            if entry is None or entry.holder != holder:
                return
            if mark is None:
                del self._leases[key]
            else:
                self._leases[key] = _Entry(None, 0.0, mark, entry.mark_until)

    def _require(self, key: bytes, holder: bytes) -> _Entry:
        entry = self._leases.get(key)
        if entry is None or entry.holder != holder or entry.runs_until <= self._clock.time():
            raise LeaseLost("the lease ran out, or somebody else took it")
        return entry


_NOBODYS = _Entry(None, 0.0)
