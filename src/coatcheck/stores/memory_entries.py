"""What the parts of the memory store share: one lock, one clock, and a broom."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from coatcheck.clock import SYSTEM_CLOCK, Clock

V = TypeVar("V")

_LOOKS = 8


class InMemory:
    """What every part of the memory store has: *clock*, and a lock for whoever changes something."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()


class Broom(Generic[V]):
    """
    Sweeps the dead out of *entries*, a few at a time and in turn.

    Every new entry comes with a look at several, so the dead cannot pile up, and nobody ever waits for a clean-up.
    """

    def __init__(self, entries: dict[bytes, V], dead_at: Callable[[V], float]) -> None:
        self._entries = entries
        self._dead_at = dead_at
        self._to_look_at: list[bytes] = []

    def sweep(self, now: float) -> None:
        """Look at the next few, and remove those of them that are dead."""
        if not self._to_look_at:
            self._to_look_at = list(self._entries)
        for key in self._to_look_at[-_LOOKS:]:
            entry = self._entries.get(key)
            if entry is not None and self._dead_at(entry) <= now:
                del self._entries[key]
        del self._to_look_at[-_LOOKS:]

    def sweep_all(self, now: float, *, limit: int) -> int:
        """Remove at most *limit* dead ones; return how many."""
        dead = [key for key, entry in self._entries.items() if self._dead_at(entry) <= now][: max(limit, 0)]
        for key in dead:
            del self._entries[key]
        return len(dead)
