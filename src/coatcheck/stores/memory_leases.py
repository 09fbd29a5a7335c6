"""Leases in a dictionary: who renews, among the threads and event loops of one process."""

from __future__ import annotations

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.coordination import Lease, SentMark
from coatcheck.stores.lease_entry import LeaseEntry
from coatcheck.stores.memory_entries import Broom, InMemory


class LeasesInMemory(InMemory):
    """A `LeaseStore`. Lease times are on *clock*, like everything else here; a mark is as durable as the process."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(clock)
        self._leases: dict[bytes, LeaseEntry] = {}
        self._lease_broom = Broom(self._leases, lambda entry: entry.dead_at)

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        """See `LeaseStore.acquire`."""
        with self._lock:
            now, entry = self._clock.time(), self._lease(key)
            if entry.is_held_from(holder, now):
                return None
            taken = self._leases[key] = entry.taken(holder, now, seconds)
            self._lease_broom.sweep(now)
            return Lease(key, holder, taken.mark)

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        """See `LeaseStore.mark_sent`."""
        with self._lock:
            self._leases[key] = self._lease(key).sent(holder, mark, self._clock.time(), seconds, until)

    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        """See `LeaseStore.extend`."""
        with self._lock:
            self._leases[key] = self._lease(key).extended(holder, self._clock.time(), seconds)

    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        """See `LeaseStore.release`."""
        with self._lock:
            if key not in self._leases:
                return
            left = self._leases[key].released(holder, mark)
            if left is None:
                del self._leases[key]
            else:
                self._leases[key] = left

    def _lease(self, key: bytes) -> LeaseEntry:
        return self._leases.get(key, _NOBODYS)


_NOBODYS = LeaseEntry()
