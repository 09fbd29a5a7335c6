"""Renewing while the caller goes on: under the same lease, each token at its own time, as long as its session lives."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from coatcheck.errors import LoginRequired
from coatcheck.sessions import CookiePolicy, KeyRing, ServerSideSessions, new_key
from coatcheck.stores import MemoryStore
from coatcheck.tokens import TokenState
from tests.tokens.processes import Process
from tests.tokens.scene import LIFETIME, STALE, Browser, Scene

ENDS = timedelta(seconds=290)
"""After the login: when tokens are stale, and not yet expired."""
IDLE = timedelta(hours=1)


def ending_soon() -> Scene:
    """Sessions end before the first token does."""
    scene = Scene()
    scene.sessions = ServerSideSessions(
        MemoryStore(scene.clock), KeyRing([new_key()]), CookiePolicy("abcdefgh"), clock=scene.clock, lifetime=ENDS
    )
    return scene


async def stale(scene: Scene) -> Browser:
    browser = await scene.log_in()
    scene.clock.forward(STALE)
    return browser


async def a_while() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.spec("REF-30", "REF-02")
async def test_two_processes_that_renew_in_the_background_send_one_request() -> None:
    scene = Scene()
    browser = await stale(scene)
    before = await browser.stored()
    one, other = Process(scene), Process(scene)
    async with scene.service.held() as gate:
        assert await one.tokens.user_token(await browser.request()) == before
        await gate.arrived.wait()
        assert await other.tokens.user_token(await browser.request()) == before
        await a_while()
        assert (one.leases, other.leases) == (1, 0)
        gate.released.set()
        await one.tokens.aclose()
        await other.tokens.aclose()
    assert other.leases == 1
    assert scene.service.refreshes == 1
    assert (await other.tokens.user_token(await browser.request())).access_token != before.access_token


@pytest.mark.spec("REF-30")
async def test_who_comes_when_the_token_has_expired_waits_for_the_renewal_in_the_background() -> None:
    scene = Scene()
    browser = await stale(scene)
    async with scene.service.held() as gate:
        await scene.tokens.user_token(await browser.request())
        await gate.arrived.wait()
        scene.clock.forward(timedelta(seconds=20))
        waiting = [asyncio.create_task(scene.tokens.user_token(await browser.request())) for _ in range(10)]
        await a_while()
        gate.released.set()
        tokens = await asyncio.gather(*waiting)
    assert len({token.access_token for token in tokens}) == 1
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-30", "REF-32")
async def test_tokens_that_were_issued_together_are_not_renewed_together() -> None:
    """All are in use all the time. Within half a minute each has its turn, and in no two seconds have many."""
    scene = Scene()
    browsers = [await scene.log_in(f"user-{number}") for number in range(200)]
    scene.clock.forward(timedelta(seconds=238))
    at_a_time: list[int] = []
    for _ in range(17):
        before = scene.service.refreshes
        for browser in browsers:
            await scene.tokens.user_token(await browser.request())
        await scene.tokens.aclose()
        at_a_time.append(scene.service.refreshes - before)
        scene.clock.forward(timedelta(seconds=2))
    assert (sum(at_a_time), at_a_time[0]) == (200, 0)
    assert max(at_a_time) < 30, at_a_time


@pytest.mark.spec("REF-30")
async def test_sessions_that_nobody_uses_are_left_alone() -> None:
    scene = Scene()
    used, *unused = [await scene.log_in(f"user-{number}") for number in range(10)]
    for _ in range(3):
        scene.clock.forward(STALE)
        await scene.tokens.user_token(await used.request())
        await scene.tokens.aclose()
    assert scene.service.refreshes == 3
    assert {(await browser.stored()).state(scene.clock.time()) for browser in unused} == {TokenState.EXPIRED}
    assert asyncio.all_tasks() == {asyncio.current_task()}, "something waits for its time"


@pytest.mark.spec("REF-30")
async def test_a_renewal_does_not_move_the_idle_time() -> None:
    """A use counts from a tenth of the idle time on; the renewal that it causes never does."""
    for uses, alive in (([timedelta(0)], False), ([timedelta(0), timedelta(minutes=10)], True)):
        scene = Scene()
        browser = await stale(scene)
        for pause in uses:
            scene.clock.forward(pause)
            await scene.tokens.user_token(await browser.request())
            await scene.tokens.aclose()
        assert scene.service.refreshes == len(uses)
        scene.clock.forward(IDLE - STALE - sum(uses, timedelta(0)))
        assert await browser.is_logged_in() is alive


@pytest.mark.spec("REF-30", "REF-23")
async def test_a_renewal_in_the_background_ends_with_its_session() -> None:
    scene = ending_soon()
    browser = await stale(scene)
    held = await browser.request()
    async with scene.service.held() as gate:
        await scene.tokens.user_token(held)
        await gate.arrived.wait()
        scene.clock.forward(ENDS - STALE)
        gate.released.set()
        await scene.tokens.aclose()
    assert not await browser.is_logged_in()
    assert scene.service.refreshes == len(scene.service.revoked) == 1
    scene.clock.forward(LIFETIME - ENDS)
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(held)
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-30")
@pytest.mark.parametrize("after_login", [ENDS, LIFETIME], ids=["stale", "expired"])
async def test_a_job_that_outlives_the_session_renews_nothing(after_login: timedelta) -> None:
    """It holds a user from before the end. While the old token works it may be used; a new one there is not."""
    scene = ending_soon()
    user = await (await scene.log_in()).request()
    before = await scene.tokens.user_token(user)
    scene.clock.forward(after_login)
    if after_login is ENDS:
        assert await scene.tokens.user_token(user) == before
    else:
        with pytest.raises(LoginRequired):
            await scene.tokens.user_token(user)
    await scene.tokens.aclose()
    assert scene.service.refreshes == 0
