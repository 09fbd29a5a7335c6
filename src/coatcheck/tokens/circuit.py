"""
When to leave an authorization server alone: back-off with jitter, `Retry-After`, a circuit breaker.

Everything here is a value that changes and never waits: the caller brings the time (seconds on a monotonic clock) and
the randomness. `tokens/traffic.py` makes it stand in the way of requests.

RFC 9110 section 10.2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from coatcheck.oauth.error_response import MAX_RETRY_AFTER

FAILURES_TO_OPEN = 5
"""Failures in a row, of requests that set out one after the other, after which a circuit is open."""

_SHORTEST_BACKOFF = 0.25
_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 30.0
_LONGEST_RETRY_AFTER = MAX_RETRY_AFTER.total_seconds()
_PROBE_PAUSE = 1.0
_NOBODY = object()
_EVERYBODY = object()


@dataclass(frozen=True, slots=True)
class Passage:
    """One request on its way, and what was known of its circuit when it set out."""

    who: Hashable = field(repr=False)
    successes: int
    steps: int
    probe: bool


class Circuit:
    """
    Whether requests to one destination go out now.

    Closed, all do. The first failure begins a short back-off, and each further one in a row doubles it; after
    `FAILURES_TO_OPEN` the circuit is open, which means that only one request at a time, the probe, tries whether the
    destination is well again. One success closes it.

    What many requests that were under way together learn is one fact, so they count as one failure; and a failure while
    others of them succeeded is no outage and counts as none. As long as all failures are *who*'s (a grant, for
    instance), the back-off is for that one only: a grant that makes a server stumble must not stop everybody else's.
    What `Retry-After` asks for is asked of all, and no success of an older request shortens it.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._successes = 0
        self._steps = 0
        self._in_a_row = 0
        self._culprit: Hashable = _NOBODY
        self._backoff_until = 0.0
        self._asked_until = 0.0
        self._probing = False

    @property
    def well(self) -> bool:
        """Whether the last thing that is known is a success (or nothing)."""
        return self._in_a_row == 0

    @property
    def open(self) -> bool:
        """Whether requests go one at a time, if at all."""
        return self._in_a_row >= FAILURES_TO_OPEN

    def refusal(self, now: float, who: Hashable = None, *, again: bool = False) -> float | None:
        """
        Return for how many seconds a request of *who* has to wait; None when it may `enter` now.

        *again*: it is the one second try of a request whose connection broke. As long as the circuit is not open, that
        does not wait for the back-off which the first try began.
        """
        until = self._asked_until
        if self._concerns(who) and (self.open or not again):
            until = max(until, self._backoff_until)
            if self._probing and now >= until:
                return _PROBE_PAUSE
        return until - now if now < until else None

    def enter(self, who: Hashable = None) -> Passage:
        """Let a request out for which there was no refusal. End its passage by one of the three methods below."""
        probe = self.open and self._concerns(who)
        self._probing = self._probing or probe
        return Passage(who, self._successes, self._steps, probe)

    def succeeded(self, passage: Passage) -> None:
        """The destination is well."""
        self._returned(passage)
        self._successes += 1
        self._in_a_row = 0
        self._culprit = _NOBODY
        self._backoff_until = 0.0

    def failed(self, passage: Passage, now: float, *, retry_after: float | None = None) -> None:
        """The destination is not well. *retry_after* is what it asked for, in seconds; more than a minute is cut."""
        self._returned(passage)
        if retry_after is not None:
            self._asked_until = max(self._asked_until, now + min(retry_after, _LONGEST_RETRY_AFTER))
        if passage.successes != self._successes:
            return
        self._culprit = passage.who if self._culprit in (_NOBODY, passage.who) else _EVERYBODY
        if passage.steps == self._steps:
            self._steps += 1
            self._in_a_row += 1
            self._backoff_until = now + self._backoff()

    def abandoned(self, passage: Passage) -> None:
        """The request ended without showing anything about the destination."""
        self._returned(passage)

    def _returned(self, passage: Passage) -> None:
        if passage.probe:
            self._probing = False

    def _concerns(self, who: Hashable) -> bool:
        return self._culprit is _EVERYBODY or self._culprit == who

    def _backoff(self) -> float:
        """Draw a pause from all up to the longest of this step, so that processes do not come back together."""
        longest = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(self._in_a_row - 1, 10))
        return _SHORTEST_BACKOFF + (longest - _SHORTEST_BACKOFF) * self._random()
