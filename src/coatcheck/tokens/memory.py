"""A bounded memory whose entries end by themselves. It never waits, and never holds more than it was told to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ExpiringMemory(Generic[K, V]):
    """
    At most *max_entries* values, each until its own instant. When full, the one unused for longest makes room.

    The caller brings the time, on whichever clock the instants are meant.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, *, now: float) -> V | None:
        """Return the value of *key* unless it has ended."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        until, value = entry
        if now >= until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V, *, now: float, until: float) -> None:
        """Remember *value* until the instant *until*; one that has passed already forgets the key."""
        self._entries.pop(key, None)
        if now < until:
            self._entries[key] = (until, value)
        self._make_room(now)

    def forget(self, key: K) -> None:
        """Drop *key*, if it is there."""
        self._entries.pop(key, None)

    def _make_room(self, now: float) -> None:
        # The oldest go first, those that have ended even while there is room: they may be secrets.
        while self._entries:
            oldest = next(iter(self._entries))
            if len(self._entries) <= self._max_entries and now < self._entries[oldest][0]:
                return
            del self._entries[oldest]
