"""An event loop in which no time passes but on the clock of the test: every wait is over as soon as nobody is busy."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from tests.testing.clocks import HandClock


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """
    Moves *clock* to the next timer instead of waiting for it, so that minutes take milliseconds, always the same way.

    Whoever waits for something that nothing will ever do is told so by an error: in real time that would hang.
    """

    def __init__(self, clock: HandClock) -> None:
        super().__init__(_Jumping(clock))
        self.hands = clock
        self._clock_resolution = 1e-4  # more than a timedelta rounds off, or the next timer is never quite reached

    def time(self) -> float:
        return self.hands.monotonic()


class _Jumping(selectors.SelectSelector):
    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits for something that will never happen")
        if not ready and timeout is not None:
            self._clock.forward(timedelta(seconds=timeout))
        return ready


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test with a fixture *clock* in the time of that clock, and end what it leaves behind."""

    @functools.wraps(test)
    def run(*, clock: HandClock, **arguments: Any) -> None:
        loop = VirtualTimeLoop(clock)
        try:
            loop.run_until_complete(test(clock=clock, **arguments))
        finally:
            if left := asyncio.all_tasks(loop):
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(left))
            loop.close()

    return run
