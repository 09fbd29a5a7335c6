"""Everything in this process: for development, for tests, and for one worker that may forget it all at a restart."""

from __future__ import annotations

from coatcheck.stores.memory_leases import LeasesInMemory
from coatcheck.stores.memory_notifier import NotifierInMemory
from coatcheck.stores.memory_sessions import SessionsInMemory
from coatcheck.stores.memory_values import ValuesInMemory


class MemoryStore(SessionsInMemory, LeasesInMemory, ValuesInMemory, NotifierInMemory):
    """
    Keeps sessions, leases and values that end in dictionaries; wakes who shares the object.

    It is a `SessionStore`, `SessionIndex`, `LeaseStore`, `ExpiringStore` and `Notifier`. No method ever suspends, and
    threads and event loops may share it; another process has another store, so it coordinates one worker only. Nothing
    is kept over a restart, marks of what was sent included.

    The rows are sealed here too: one code path for all stores. Sealing costs a login or a renewal 8 us; what was opened
    once is remembered (see `vault.py`), so that a request pays 5 us for session and tokens together.

    What is dead goes little by little: each new entry comes with a look at a few older ones. All times, those of leases
    too, are on *clock*.
    """

    async def expire(self, now: float, *, limit: int) -> int:
        """See `SessionIndex.expire`."""
        with self._lock:
            removed = self._broom.sweep_all(now, limit=limit)
            removed += self._value_broom.sweep_all(now, limit=limit - removed)
            return removed + self._lease_broom.sweep_all(self._clock.time(), limit=limit - removed)

    async def aclose(self) -> None:
        """Do nothing: what is kept here is kept as long as the object, so that closing every store is one line."""
