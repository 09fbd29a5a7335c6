"""The time, as a value that is passed in: services take a `Clock`, pure functions take `now`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What a service asks for the time. Tests pass one whose hands they move."""

    def time(self) -> float:
        """Seconds since the epoch (wall clock)."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    # In this order: the second line hides the module `time` from the rest of the class.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


SYSTEM_CLOCK: Clock = SystemClock()
