"""Log lines that any stranger can cause: a few a minute, and then only a count of those that were not written."""

from __future__ import annotations

from dataclasses import dataclass

PERIOD = 60.0
"""Seconds."""
LINES = 5
"""How many lines of one kind are written in that time."""


@dataclass(slots=True)
class _Kind:
    began_at: float
    written: int = 0
    unwritten: int = 0


class Sparing:
    """
    Decides which lines are written. Each kind is counted by itself, so that a flood of one does not hide another.

    Nothing is ever removed: *kinds* are words of ours, never something that came from outside.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def lets_through(self, kind: str, *, now: float) -> int | None:
        """
        Return how many lines of this *kind* were not written since the last one that was; None to write none now, too.

        *now* is in monotonic seconds.
        """
        counted = self._kinds.setdefault(kind, _Kind(now))
        if now - counted.began_at >= PERIOD:
            counted.began_at, counted.written = now, 0
        if counted.written >= LINES:
            counted.unwritten += 1
            return None
        counted.written += 1
        unwritten, counted.unwritten = counted.unwritten, 0
        return unwritten
