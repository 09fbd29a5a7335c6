"""Under load nothing keeps the event loop from everybody else for long."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.tokens.growth import KINDS, scene_of
from tests.tokens.scene import LIFETIME
from tests.tokens.watched_loop import WatchedLoop

LONGEST = 0.05
GRANTS = 200
WAITERS = 1000


@pytest.fixture
def loop() -> Iterator[WatchedLoop]:
    """A loop of its own. The garbage collector rests: its pauses grow with all that other tests have left behind."""
    gc.collect()
    gc.disable()
    watched = WatchedLoop()
    try:
        yield watched
    finally:
        watched.close()
        gc.enable()


def under_watch(loop: WatchedLoop, work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await work()

    loop.run_until_complete(run())


@pytest.mark.spec("REF-38")
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_renewals_with_a_thousand_who_wait_hold_up_nobody(
    loop: WatchedLoop, kind: str, tmp_path: Path
) -> None:
    """Two hundred sessions whose tokens are due, five calls each, all at once; and eight hundred on one of them."""

    async def work() -> None:
        async with scene_of(kind, tmp_path) as (scene, _):
            browsers = [await scene.log_in(f"user-{number}") for number in range(GRANTS)]
            scene.clock.forward(LIFETIME)
            users = [await browser.request() for browser in browsers for _ in range(WAITERS // GRANTS)]
            users += [await browsers[0].request() for _ in range(WAITERS - GRANTS)]
            await asyncio.sleep(0)
            loop.watch_anew()
            tokens = await asyncio.gather(*(scene.tokens.user_token(user) for user in users))
            assert len({token.access_token for token in tokens}) == scene.service.refreshes == GRANTS
            await scene.tokens.aclose()

    under_watch(loop, work)
    assert loop.callbacks > WAITERS
    assert loop.longest < LONGEST, f"{loop.slowest} kept the loop for {loop.longest:.3f} s of CPU time"


@pytest.mark.spec("REF-38")
def test_what_holds_up_the_loop_is_noticed(loop: WatchedLoop) -> None:
    """A control for the test above."""

    async def work() -> None:
        await asyncio.sleep(0)
        began = time.thread_time()
        while time.thread_time() - began < 1.2 * LONGEST:
            pass

    under_watch(loop, work)
    assert loop.longest > LONGEST
    assert "run" in loop.slowest
