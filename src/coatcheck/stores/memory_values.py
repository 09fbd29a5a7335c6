"""Values that end, in a dictionary."""

from __future__ import annotations

from dataclasses import dataclass, field

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.coordination import ExpiringValue
from coatcheck.errors import StaleVersion
from coatcheck.stores.memory_entries import Broom, InMemory


@dataclass(frozen=True, slots=True)
class _Entry:
    stored: ExpiringValue = field(repr=False)
    until: float


class ValuesInMemory(InMemory):
    """An `ExpiringStore`. No method ever suspends, and threads may share it."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(clock)
        self._values: dict[bytes, _Entry] = {}
        self._value_broom = Broom(self._values, lambda entry: entry.until)

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        """See `ExpiringStore.add`."""
        with self._lock:
            if self._alive(key) is not None:
                return False
            self._values[key] = _Entry(ExpiringValue(value, 1), until)
            self._value_broom.sweep(self._clock.time())
            return True

    async def get(self, key: bytes) -> ExpiringValue | None:
        """See `ExpiringStore.get`."""
        return self._alive(key)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        """See `ExpiringStore.replace`."""
        with self._lock:
            stored = self._alive(key)
            if stored is None or stored.version != version:
                raise StaleVersion("the value was replaced or removed meanwhile, or it ended")
            self._values[key] = _Entry(ExpiringValue(value, version + 1), until)

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        """See `ExpiringStore.discard`."""
        with self._lock:
            stored = self._alive(key)
            if stored is None or version not in (None, stored.version):
                return False
            del self._values[key]
            return True

    def _alive(self, key: bytes) -> ExpiringValue | None:
        entry = self._values.get(key)
        return None if entry is None or entry.until <= self._clock.time() else entry.stored
