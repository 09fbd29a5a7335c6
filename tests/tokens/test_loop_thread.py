"""An event loop on a thread: what is handed over is done, whatever ends when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from coatcheck.tokens.loop_thread import LoopThread


async def _farewell() -> None:
    pass


class SlowToStart(LoopThread):
    """The operating system gives the new thread its turn late."""

    def __init__(self) -> None:
        self.may_start = threading.Event()
        super().__init__(_farewell)

    def _run(self) -> None:
        self.may_start.wait(30)
        super()._run()


@pytest.mark.parametrize("make", [SlowToStart, lambda: LoopThread(_farewell)], ids=["slow to start", "usual"])
def test_what_was_handed_over_right_before_the_end_is_done(make: Callable[[], LoopThread]) -> None:
    async def work() -> int:
        await asyncio.sleep(0.001)
        return 7

    thread = make()
    outcomes = [thread.submit(work()) for _ in range(3)]
    thread.stop()
    if isinstance(thread, SlowToStart):
        thread.may_start.set()
    thread.join()
    assert [outcome() for outcome in outcomes] == [7, 7, 7]


def test_the_farewell_comes_last() -> None:
    said: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.001)
        said.append("work")

    async def farewell() -> None:
        said.append("farewell")

    thread = LoopThread(farewell)
    outcome = thread.submit(work())
    thread.stop()
    thread.stop()
    thread.join()
    outcome()
    assert said == ["work", "farewell"]
