"""A job acts in the name of a user who is not here: it finds their session, uses it, and does not keep it alive."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.errors import ConfigurationError, LoginRequired, StoreUnavailable
from coatcheck.sessions import SessionHandle, SessionRow
from coatcheck.sessions.session import SessionFilter
from coatcheck.stores import MemoryStore
from coatcheck.tokens import BlockingTokens, User
from tests.tokens.scene import CLIENT, LIFETIME, STALE, Browser, Scene
from tests.tokens.token_service import ISSUER


class Fragile(MemoryStore):
    """A store whose index may be away."""

    away = False

    async def find(self, partition: str, index_keys: Any) -> list[SessionRow]:
        if self.away:
            raise StoreUnavailable("the store does not answer")
        return await super().find(partition, index_keys)


def scene() -> tuple[Scene, Fragile]:
    scene = Scene()
    store = Fragile(scene.clock)
    scene.replace_session_store(store)
    sessions: Any = scene.sessions
    scene.tokens = scene.other_process(sessions=sessions)
    return scene, store


def session_of(user: User) -> SessionHandle:
    assert user.session is not None
    return user.session


async def seen_at(browser: Browser, world: Scene) -> float:
    handle = await world.sessions.find(session_of(await browser.request()).session.id, now=world.clock.time())
    assert handle is not None
    return handle.session.seen_at


@pytest.mark.spec("SES-09")
async def test_it_is_the_session_that_was_used_last() -> None:
    world, _ = scene()
    first, second = await world.log_in(), await world.log_in()
    await world.log_in("bob")
    world.clock.forward(timedelta(minutes=10))
    used = session_of(await first.request()).session.id
    user = await world.tokens.user(sub="alice")
    assert (user.iss, user.sub, session_of(user).session.id) == (ISSUER, "alice", used)
    assert (await world.tokens.user_token(user)).access_token == (await first.stored()).access_token
    await first.log_out()
    other = await world.tokens.user(sub="alice")
    assert session_of(other).session.id == session_of(await second.request()).session.id


async def test_who_is_looked_for() -> None:
    """The issuer of the login's registration, unless another one is named."""
    asked: list[SessionFilter] = []

    class Nobody:
        async def find_all(self, who: SessionFilter, *, now: float) -> list[SessionHandle]:
            asked.append(who)
            return []

    world = Scene(sessions=Nobody())
    for arguments in ({"sub": "a"}, {"sid": "s"}, {"sub": "a", "sid": "s", "iss": "https://other.example"}):
        with pytest.raises(LoginRequired) as raised:
            await world.tokens.user(**arguments)
        assert raised.value.code == "session_missing"
    assert asked == [
        SessionFilter(ISSUER, sub="a"),
        SessionFilter(ISSUER, sid="s"),
        SessionFilter("https://other.example", sub="a", sid="s"),
    ]
    with pytest.raises(ValueError, match="whose sessions"):
        await world.tokens.user()


async def test_a_store_that_does_not_answer_says_nothing_about_the_user() -> None:
    world, store = scene()
    await world.log_in()
    store.away = True
    with pytest.raises(StoreUnavailable):
        await world.tokens.user(sub="alice")


async def test_cookies_cannot_be_searched() -> None:
    with pytest.raises(ConfigurationError, match="not in cookies"):
        await Scene(cookies=True).tokens.user(sub="alice")


@pytest.mark.spec("SES-04", "REF-30")
async def test_a_job_that_renews_all_night_does_not_keep_the_session_alive() -> None:
    world, _ = scene()
    browser = await world.log_in()
    before = await seen_at(browser, world)
    for _ in range(11):
        world.clock.forward(LIFETIME)
        await world.tokens.user_token(await world.tokens.user(sub="alice"))
    assert world.service.refreshes == 11
    user = await world.tokens.user(sub="alice")
    assert session_of(user).session.seen_at == before
    world.clock.forward(LIFETIME)
    with pytest.raises(LoginRequired):  # an hour without a human
        await world.tokens.user(sub="alice")
    with pytest.raises(LoginRequired):
        await world.tokens.user_token(user)
    assert world.service.refreshes == 11
    assert not await browser.is_logged_in()


@pytest.mark.spec("SES-03", "REF-30")
async def test_it_stops_at_the_absolute_end_whoever_uses_it() -> None:
    world, _ = scene()
    browser = await world.log_in()
    while True:
        world.clock.forward(timedelta(minutes=20))
        if not await browser.is_logged_in():
            break
        last = await world.tokens.user(sub="alice")
        await world.tokens.user_token(last)
    with pytest.raises(LoginRequired):
        await world.tokens.user(sub="alice")
    renewals = world.service.refreshes
    with pytest.raises(LoginRequired):
        await world.tokens.user_token(last)
    assert world.service.refreshes == renewals


@pytest.mark.spec("REF-01", "REF-02")
async def test_job_and_browser_share_one_renewal() -> None:
    """The job is another process; both find the token expired, and there is one request."""
    world, _ = scene()
    browser = await world.log_in()
    sessions: Any = world.sessions
    job = world.other_process(sessions=sessions)
    world.clock.forward(LIFETIME)
    async with world.service.held() as gate:
        page = asyncio.create_task(world.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        work = asyncio.create_task(job.user_token(await job.user(sub="alice")))
        await asyncio.sleep(0)
        gate.released.set()
        assert await page == await work
    assert world.service.refreshes == 1


async def test_what_a_job_finds_stale_is_renewed_behind_its_back() -> None:
    world, _ = scene()
    browser = await world.log_in()
    world.clock.forward(STALE)
    before = await world.tokens.user_token(await world.tokens.user(sub="alice"))
    await world.tokens.aclose()
    assert (await browser.stored()).access_token != before.access_token


def test_for_code_without_an_event_loop() -> None:
    world, _ = scene()
    sessions: Any = world.sessions
    asyncio.run(world.log_in())
    world.clock.forward(LIFETIME)
    with BlockingTokens(
        CLIENT, coordination=world.coordination, keys=world.keys, sessions=sessions, send=world.service,
        clock=world.clock,
    ) as tokens:  # fmt: skip
        assert tokens.user_token(tokens.user(sub="alice")).access_token
    assert world.service.refreshes == 1
