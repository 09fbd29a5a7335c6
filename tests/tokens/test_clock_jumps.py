"""Clocks that jump by ten minutes, and an authorization server whose clock is five minutes off: nothing runs wild."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.errors import InvalidIDToken, TokenUnavailable
from coatcheck.oauth.authorize import AuthorizationCode, new_transaction
from coatcheck.oauth.messages import Response
from coatcheck.tokens import TokenState
from tests.testing.clocks import HandClock
from tests.tokens.processes import Process
from tests.tokens.scene import CLIENT, LIFETIME, Browser, Scene, forced

MINUTES_10 = 600.0
LEASE_RUNS_OUT = timedelta(seconds=13)
JUMPS = pytest.mark.parametrize(
    ("wall", "monotonic"),
    [(MINUTES_10, 0.0), (-MINUTES_10, 0.0), (0.0, MINUTES_10), (MINUTES_10, MINUTES_10)],
    ids=["wall ahead", "wall back", "monotonic ahead", "both ahead"],
)


class MachineClock(HandClock):
    """Two clocks, and what each shows beside the true time."""

    def __init__(self, true: HandClock) -> None:
        super().__init__()
        self.true = true
        self.wall = self.stopwatch = 0.0

    def time(self) -> float:
        return self.true.time() + self.wall

    def monotonic(self) -> float:
        return self.true.monotonic() + self.stopwatch

    def forward(self, by: timedelta) -> None:
        self.true.forward(by)


class World:
    """A scene whose machine has clocks of its own; the authorization server goes by the *true* time."""

    def __init__(self, **arguments: Any) -> None:
        self.true = HandClock()
        self.clock = MachineClock(self.true)
        self.scene = Scene(clock=self.clock, provider_clock=self.true, **arguments)
        self.service = self.scene.service

    def jump(self, *, wall: float = 0.0, monotonic: float = 0.0) -> None:
        self.clock.wall += wall
        self.clock.stopwatch += monotonic

    async def people(self, number: int) -> list[Browser]:
        return [await self.scene.log_in(f"user-{each}") for each in range(number)]

    async def call(self, browser: Browser) -> str:
        return (await self.scene.tokens.user_token(await browser.request())).access_token

    async def everybody(self, browsers: list[Browser], *, times: int = 3) -> None:
        for _ in range(times):
            await asyncio.gather(*(self.call(browser) for browser in browsers))
            await self.scene.tokens.aclose()


@pytest.mark.spec("REF-32")
@JUMPS
@pytest.mark.parametrize("lifetime", [300, 3600])
async def test_after_a_jump_no_session_renews_twice_and_not_all_at_a_time(
    wall: float, monotonic: float, lifetime: int
) -> None:
    """Tokens of an hour hardly notice. Those of five minutes look over after ten, but once: then the clock is new."""
    world = World()
    world.service.expires_in = lifetime
    browsers = await world.people(100)
    for browser in browsers:  # their first token lives for five minutes; the one that is looked at as long as is said
        await world.scene.tokens.user_token(await browser.request(), forced())
    before = world.service.refreshes
    world.jump(wall=wall, monotonic=monotonic)
    await world.everybody(browsers)
    looks_over = wall > 0 and lifetime == 300
    assert world.service.refreshes - before == (100 if looks_over else 0)
    assert world.service.most_under_way <= 40
    world.jump(wall=-wall, monotonic=-monotonic)
    again = world.service.refreshes
    await world.everybody(browsers)
    assert world.service.refreshes == again, "coming back renews nothing"


@pytest.mark.spec("REF-32")
@JUMPS
async def test_a_jump_during_a_renewal_loses_neither_its_answer_nor_anybody_who_waits(
    wall: float, monotonic: float
) -> None:
    world = World()
    (browser,) = await world.people(1)
    world.true.forward(LIFETIME)
    async with world.service.held() as gate:
        waiting = [asyncio.create_task(world.call(browser)) for _ in range(20)]
        await gate.arrived.wait()
        world.jump(wall=wall, monotonic=monotonic)
        gate.released.set()
        tokens = set(await asyncio.gather(*waiting))
    assert len(tokens) == 1
    assert world.service.refreshes == 1
    assert await browser.is_logged_in()
    stored = await browser.stored()
    assert stored.access_token in tokens


@pytest.mark.spec("REF-32")
@JUMPS
async def test_after_a_jump_back_a_token_is_used_no_longer_than_the_jump(wall: float, monotonic: float) -> None:
    """
    What is known of a token is when it ends by the wall clock.

    While that is behind, an API may refuse a token before we think that it is over; who then asks for another one gets
    it, once. From the end of the jump on nothing is used that is over, and never with a clock that is ahead.
    """
    world = World()
    (browser,) = await world.people(1)
    first = await world.call(browser)
    world.jump(wall=wall, monotonic=monotonic)
    world.true.forward(LIFETIME + timedelta(seconds=max(0.0, -wall)))
    assert await world.call(browser) != first
    assert world.service.refreshes == 1


@pytest.mark.spec("REF-32")
async def test_a_token_that_an_api_refuses_after_a_jump_back_is_renewed_once() -> None:
    world = World()
    (browser,) = await world.people(1)
    refused = await browser.stored()
    world.jump(wall=-MINUTES_10)
    world.true.forward(LIFETIME)
    user = await browser.request()
    calls = (world.scene.tokens.user_token(user, forced()) for _ in range(5))
    assert {token.access_token for token in await asyncio.gather(*calls)} != {refused.access_token}
    assert world.service.refreshes == 1
    await world.everybody([browser])
    assert world.service.refreshes == 1


@pytest.mark.spec("REF-32", "REF-16")
@pytest.mark.parametrize("wall", [MINUTES_10, -MINUTES_10])
@pytest.mark.parametrize("answer", [Response(500), Response(429, {"retry-after": "20"})], ids=["500", "429"])
async def test_a_wall_clock_that_jumps_makes_no_silence_longer_or_shorter(wall: float, answer: Response) -> None:
    """Back-off, `Retry-After` and the failure memory go by the clock that is never set."""
    world = World()
    (browser,) = await world.people(1)
    world.true.forward(LIFETIME)
    world.service.answers.append(answer)
    with pytest.raises(TokenUnavailable):
        await world.call(browser)
    world.jump(wall=wall)
    if wall < 0:  # the token would seem to be alive again
        world.true.forward(timedelta(seconds=-wall))
        world.service.answers.append(answer)
        with pytest.raises(TokenUnavailable):
            await world.call(browser)
    with pytest.raises(TokenUnavailable) as caught:
        await world.call(browser)
    asked = world.service.refreshes
    retry_after = caught.value.retry_after
    if answer.status == 429:
        assert retry_after is not None and retry_after <= timedelta(seconds=20)
    world.true.forward(timedelta(seconds=21))
    assert await world.call(browser)
    assert world.service.refreshes == asked + 1


@pytest.mark.spec("REF-32", "REF-25")
@pytest.mark.parametrize("wall", [MINUTES_10, -MINUTES_10], ids=["ahead", "back"])
async def test_who_waits_for_a_dead_holder_while_the_clock_jumps_waits_no_longer_than_ever(wall: float) -> None:
    """Set ahead, its lease has run out. Set back, it lasts as long as the jump, and callers are told to come back."""
    world = World()
    (browser,) = await world.people(1)
    world.true.forward(LIFETIME)
    _ = await Process(world.scene, stops_at="lease_held").stand_still(browser)
    world.jump(wall=wall)
    ours = world.scene.other_process(waiter_deadline=timedelta(seconds=0.05))
    if wall < 0:
        with pytest.raises(TokenUnavailable, match="did not finish within"):
            await ours.user_token(await browser.request(), forced())
        assert world.service.refreshes == 0
        world.true.forward(timedelta(seconds=-wall) + LEASE_RUNS_OUT)
        await ours.aclose()
    assert (await ours.user_token(await browser.request())).state(world.clock.time()) is TokenState.FRESH
    assert world.service.refreshes == 1


@pytest.mark.spec("REF-32", "REF-27")
@pytest.mark.parametrize("wall", [MINUTES_10, -MINUTES_10], ids=["ahead", "back"])
async def test_a_process_that_waits_for_a_living_holder_while_the_clock_jumps_sends_nothing_twice(wall: float) -> None:
    world = World(client=replace(CLIENT, rotation="strict"))
    (browser,) = await world.people(1)
    world.true.forward(LIFETIME)
    holder, other = Process(world.scene), Process(world.scene)
    async with world.service.held() as gate:
        ours = asyncio.create_task(holder.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        theirs = asyncio.create_task(other.tokens.user_token(await browser.request(), forced()))
        for _ in range(100):
            await asyncio.sleep(0)
        world.jump(wall=wall)
        gate.released.set()
        tokens = [(await ours).access_token, (await theirs).access_token]
    sent = [form["refresh_token"] for form in world.service.sent("refresh_token")]
    # What was asked for before the clock was set ahead is over by it; the other one renews what that one got.
    assert (len(sent), len(set(tokens))) == ((1, 1) if wall < 0 else (2, 2))
    assert len(set(sent)) == len(sent), "a refresh token was sent twice"
    assert await browser.is_logged_in()


@pytest.mark.spec("REF-32")
@pytest.mark.parametrize("off", [timedelta(minutes=5), timedelta(minutes=-5)], ids=["ahead", "behind"])
async def test_a_provider_whose_clock_is_off_renews_as_ever(off: timedelta, caplog: pytest.LogCaptureFixture) -> None:
    """`expires_in` is counted from our own request; an id_token beside it that our clock cannot believe is not kept."""
    provider = HandClock()
    provider.forward(off)
    scene = Scene(provider_clock=provider)
    browser = await scene.log_in()
    before = await browser.stored()
    for clock in (scene.clock, provider):
        clock.forward(LIFETIME)
    scene.service.id_token_on_refresh = True
    renewed = await scene.tokens.user_token(await browser.request())
    assert renewed.state(scene.clock.time()) is TokenState.FRESH
    assert renewed.expires_at == scene.clock.time() + 300
    if off > timedelta(0):
        assert renewed.id_token == before.id_token
        assert "the one of the login is kept" in caplog.text
    await asyncio.gather(*[scene.tokens.user_token(await browser.request()) for _ in range(10)])
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-32")
@pytest.mark.parametrize(("seconds", "believed"), [(50, True), (-50, True), (300, False), (-300, True), (-720, False)])
async def test_a_login_believes_a_provider_within_the_leeway(seconds: int, believed: bool) -> None:
    """A minute into the future; ten more into the past, for that is how long the way through the browser may take."""
    provider = HandClock()
    provider.forward(timedelta(seconds=seconds))
    scene = Scene(provider_clock=provider)
    login = new_transaction(
        CLIENT,
        name="default",
        redirect_uri="https://app.example/bff/callback",
        return_url="/",
        now=scene.clock.time(),
    )
    redeem = scene.tokens.redeem(AuthorizationCode(login.nonce), login)
    if believed:
        assert (await redeem).token.expires_at == scene.clock.time() + 300
    else:
        with pytest.raises(InvalidIDToken):
            await redeem
