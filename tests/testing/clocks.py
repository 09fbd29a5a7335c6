"""A clock whose hands a test moves."""

from __future__ import annotations

from datetime import timedelta


class HandClock:
    """Stands still until it is told to go on."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def forward(self, by: timedelta) -> None:
        self._now += by.total_seconds()
