"""Renewing inline: the tokens travel in the browser's cookie, so the response itself must carry the new ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from coatcheck.coordination import Lease
from coatcheck.errors import LoginRequired, StoreUnavailable, TokenUnavailable
from coatcheck.oauth.messages import Response
from coatcheck.stores import MemoryStore
from coatcheck.tokens import TokenState, User, UserTokenRequestParameters
from tests.testing.clocks import HandClock
from tests.tokens.scene import LIFETIME, STALE, Browser, Scene, forced
from tests.tokens.virtual_time import in_virtual_time

ORDERS = UserTokenRequestParameters(scope="orders.read")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def scene() -> Scene:
    return Scene(cookies=True)


async def test_a_stale_token_is_renewed_before_the_response_starts(scene: Scene) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(STALE)
    user = await browser.request()
    renewed = await scene.tokens.user_token(user)
    assert renewed.access_token != before.access_token
    browser.receive(user.session)
    assert await browser.stored() == renewed


async def test_a_stale_token_is_used_when_it_cannot_be_renewed_now(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.answers.append(Response(503))
    scene.clock.forward(STALE)
    for _ in range(3):
        assert await scene.tokens.user_token(await browser.request()) == before
    assert scene.service.refreshes == 1
    assert len(caplog.records) == 1


@in_virtual_time
async def test_nobody_waits_long_for_a_slow_provider_while_the_token_works(clock: HandClock) -> None:
    """The new token is there for the next request, though this response does not carry it."""
    scene = Scene(cookies=True, clock=clock)
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(STALE)
    async with scene.service.held() as gate:
        began = scene.clock.time()
        assert await scene.tokens.user_token(await browser.request()) == before
        assert scene.clock.time() - began == pytest.approx(3)
        gate.released.set()
        await scene.tokens.aclose()
    assert (await scene.tokens.user_token(await browser.request())).access_token != before.access_token
    assert scene.service.refreshes == 1


async def test_an_expired_token_that_cannot_be_renewed_is_no_token(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.service.answers.append(Response(503))
    scene.clock.forward(LIFETIME)
    with pytest.raises(TokenUnavailable):
        await scene.tokens.user_token(await browser.request())


async def parallel_requests(browser: Browser, number: int) -> list[User]:
    return [await browser.request() for _ in range(number)]


@pytest.mark.spec("REF-01")
async def test_every_parallel_request_gets_the_token_and_a_cookie_with_it(scene: Scene) -> None:
    """Whichever response the browser applies last, it holds the new refresh token."""
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    users = await parallel_requests(browser, 50)
    tokens = await asyncio.gather(*(scene.tokens.user_token(user) for user in users))
    assert len({token.access_token for token in tokens}) == 1
    assert scene.service.refreshes == 1
    for user in users:
        browser.receive(user.session)
        assert await browser.stored() == tokens[0]


@pytest.mark.spec("REF-11")
async def test_a_straggler_with_the_old_cookie_gets_the_new_token(scene: Scene) -> None:
    """It left the browser before the response with the new cookie had arrived: its refresh token is spent."""
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    straggler = await browser.request()
    renewed = await scene.tokens.user_token(await browser.request())
    scene.clock.forward(timedelta(seconds=59))
    assert await scene.tokens.user_token(straggler) == renewed
    assert scene.service.refreshes == 1
    browser.receive(straggler.session)
    assert await browser.stored() == renewed


@pytest.mark.spec("REF-11")
async def test_a_browser_that_never_got_the_new_cookie_is_served_while_the_old_one_lives(scene: Scene) -> None:
    """Its tab was closed meanwhile, or the response of a slower request brought the old cookie back."""
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    renewed = await scene.tokens.user_token(await browser.request())
    scene.clock.forward(timedelta(minutes=54))
    user = await browser.request()
    token = await scene.tokens.user_token(user)
    assert [form["refresh_token"] for form in scene.service.requests][1:] == [renewed.refresh_token]
    browser.receive(user.session)
    assert await browser.stored() == token


async def test_nothing_is_renewed_for_a_session_whose_cookie_is_dead(scene: Scene) -> None:
    """It has not been used for an hour."""
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    late = await browser.request()
    await scene.tokens.user_token(await browser.request())
    scene.clock.forward(timedelta(minutes=55))
    assert not await browser.is_logged_in()
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(late)
    assert scene.service.refreshes == 1


async def test_a_token_that_does_not_fit_into_cookies_is_none_to_be_had(scene: Scene) -> None:
    """The session lives on, and the refresh token is not sent a second time."""
    browser = await scene.log_in()
    scene.service.answers.append({"access_token": "x" * 13_000})
    scene.clock.forward(LIFETIME)
    for _ in range(2):
        with pytest.raises(TokenUnavailable, match="use a session store"):
            await scene.tokens.user_token(await browser.request())
        scene.clock.forward(timedelta(seconds=5))
    assert await browser.is_logged_in()
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-11")
async def test_a_straggler_follows_several_renewals(scene: Scene) -> None:
    """With tokens of five seconds its refresh token may be three generations old."""
    browser = await scene.log_in()
    scene.service.expires_in = 5
    scene.clock.forward(LIFETIME)
    straggler = await browser.request()
    for _ in range(3):
        scene.clock.forward(timedelta(seconds=5))
        user = await browser.request()
        await scene.tokens.user_token(user)
        browser.receive(user.session)
    assert await scene.tokens.user_token(straggler) == await browser.stored()
    assert scene.service.refreshes == 3


async def test_a_straggler_that_wants_another_access_token_uses_the_new_refresh_token(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    straggler = await browser.request()
    renewed = await scene.tokens.user_token(await browser.request())
    token = await scene.tokens.user_token(straggler, ORDERS)
    assert [form["refresh_token"] for form in scene.service.requests][1] == renewed.refresh_token
    assert token.access_token != renewed.access_token
    browser.receive(straggler.session)
    stored = await browser.stored()
    assert (stored.access_token, stored.refresh_token) == (renewed.access_token, token.refresh_token)


async def test_parallel_requests_for_different_access_tokens_never_send_a_refresh_token_twice(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    wanted = [UserTokenRequestParameters(), ORDERS, UserTokenRequestParameters(scope="rates.read")]
    calls = [(await browser.request(), parameters) for parameters in wanted for _ in range(3)]
    tokens = await asyncio.gather(*(scene.tokens.user_token(user, parameters) for user, parameters in calls))
    assert scene.service.refreshes == 3
    assert len({form["refresh_token"] for form in scene.service.requests}) == 3
    assert len({token.access_token for token in tokens}) == 3


async def test_without_rotation_a_newer_access_token_is_found_and_an_old_one_is_renewed(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.service.rotation = False
    scene.clock.forward(LIFETIME)
    straggler = await browser.request()
    user = await browser.request()
    renewed = await scene.tokens.user_token(user)
    assert await scene.tokens.user_token(straggler) == renewed
    browser.receive(user.session)
    again = await scene.tokens.user_token(await browser.request(), forced())
    assert again.access_token != renewed.access_token
    assert scene.service.refreshes == 2


async def test_without_rotation_an_older_access_token_never_takes_the_place_of_a_newer_one(scene: Scene) -> None:
    """Another process renewed last: the memory of this one is behind the cookie."""
    browser = await scene.log_in()
    scene.service.rotation = False
    scene.clock.forward(LIFETIME)
    user = await browser.request()
    ours = await scene.tokens.user_token(user)
    scene.clock.forward(timedelta(seconds=10))
    theirs = replace(ours, access_token="theirs", issued_at=scene.clock.time())
    await scene.tokens.store.store_token(user, theirs, UserTokenRequestParameters(), replaces=ours)
    browser.receive(user.session)
    token = await scene.tokens.user_token(await browser.request(), forced())
    assert token.access_token not in (ours.access_token, theirs.access_token)


@pytest.mark.spec("REF-07")
async def test_the_first_request_leaving_does_not_cost_the_others_their_cookie(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    first, second = await parallel_requests(browser, 2)
    async with scene.service.held() as gate:
        leaving = asyncio.create_task(scene.tokens.user_token(first))
        await gate.arrived.wait()
        staying = asyncio.create_task(scene.tokens.user_token(second))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gate.released.set()
        renewed = await staying
    browser.receive(second.session)
    assert await browser.stored() == renewed
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-12")
async def test_invalid_grant_ends_the_session_of_every_waiter(scene: Scene) -> None:
    browser = await scene.log_in()
    token = await browser.stored()
    assert token.refresh_token is not None
    scene.service.revoke_at_the_provider(token.refresh_token)
    scene.clock.forward(LIFETIME)
    users = await parallel_requests(browser, 5)
    results = await asyncio.gather(*(scene.tokens.user_token(user) for user in users), return_exceptions=True)
    assert [getattr(result, "code", None) for result in results] == ["session_ended"] * 5
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 1


@pytest.mark.spec("SES-08")
async def test_the_memory_for_stragglers_is_nobody_elses(scene: Scene) -> None:
    browsers = {f"user-{number}": await scene.log_in(f"user-{number}") for number in range(50)}
    scene.clock.forward(LIFETIME)
    for _ in range(2):
        calls = [(sub, await browser.request()) for sub, browser in browsers.items() for _ in range(4)]
        tokens = await asyncio.gather(*(scene.tokens.user_token(user) for _, user in calls))
        assert [scene.service.owners[token.access_token] for token in tokens] == [sub for sub, _ in calls]
    assert scene.service.refreshes == 50


async def test_a_renewed_token_is_fresh_in_the_next_request(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    user = await browser.request()
    await scene.tokens.user_token(user)
    browser.receive(user.session)
    assert (await browser.stored()).state(scene.clock.time()) is TokenState.FRESH
    await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-08")
async def test_whoever_waits_gets_the_renewed_token_though_it_is_not_written_yet() -> None:
    """What can be read from the store meanwhile is the old token: no answer to somebody who waited for a new one."""

    class CannotBeWritten(MemoryStore):
        leased = False

        async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
            self.leased = True
            return await super().acquire(key, holder, seconds=seconds)

        async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
            if self.leased:
                raise StoreUnavailable("the disk is full")
            return await super().add(key, value, until=until)

    scene = Scene(cookies=True, coordination=CannotBeWritten)
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    tokens = await asyncio.gather(*[scene.tokens.user_token(user) for user in await parallel_requests(browser, 3)])
    assert [token.state(scene.clock.time()) for token in tokens] == [TokenState.FRESH] * 3


@in_virtual_time
async def test_a_token_that_expires_while_its_renewal_is_waited_for_is_not_given_out(clock: HandClock) -> None:
    scene = Scene(cookies=True, clock=clock)
    browser = await scene.log_in()
    await asyncio.sleep(STALE.total_seconds() + 13.0)
    async with scene.service.held():
        with pytest.raises(TokenUnavailable, match="did not finish"):
            await scene.tokens.user_token(await browser.request())
