"""How long a session lives, what counts as a use, and what a store that fails does to it."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from coatcheck.errors import (
    ConfigurationError,
    SessionGone,
    StoreUnavailable,
)
from coatcheck.sessions import Change, ServerSideSessions, SessionRow, Touch
from coatcheck.stores import MemoryStore
from tests.sessions.samples import (
    HOUR,
    NOW,
    POLICY,
    RING,
    TENTH,
    Browser,
    Recording,
    log_in,
    opened,
    server_side,
    ticket_of,
)
from tests.testing.clocks import HandClock


@pytest.mark.spec("SES-03")
async def test_the_absolute_lifetime_ends_a_session_however_busy_it_is() -> None:
    sessions, browser = server_side(), Browser()
    await log_in(sessions, browser)
    now = NOW
    while now < NOW + 8 * HOUR - 600:
        now += 600
        handle = await opened(sessions, browser, now=now)
        assert handle.session.expires_at == NOW + 8 * HOUR
        assert handle.session.dead_at <= NOW + 8 * HOUR
    assert await sessions.open(browser.cookies(), now=NOW + 8 * HOUR - 0.001) is not None
    assert await sessions.open(browser.cookies(), now=NOW + 8 * HOUR) is None


@pytest.mark.spec("SES-03")
async def test_renewed_tokens_do_not_move_the_end() -> None:
    sessions, browser = server_side(), Browser()
    handle = await log_in(sessions, browser)
    await handle.replace_tokens(b"renewed", version=1)
    assert (await opened(sessions, browser)).session.expires_at == NOW + 8 * HOUR


@pytest.mark.spec("SES-04")
async def test_an_idle_session_dies_and_a_used_one_slides() -> None:
    sessions, used, idle = server_side(), Browser(), Browser()
    await log_in(sessions, used)
    await log_in(sessions, idle)
    await opened(sessions, used, now=NOW + HOUR - 1)
    assert await sessions.open(used.cookies(), now=NOW + 2 * HOUR - 2) is not None
    assert await sessions.open(idle.cookies(), now=NOW + HOUR - 1) is not None
    late = Browser()
    await log_in(sessions, late)
    assert await sessions.open(late.cookies(), now=NOW + HOUR) is None


@pytest.mark.spec("SES-04")
async def test_polling_without_slide_does_not_keep_a_session_alive() -> None:
    store = Recording()
    sessions, browser = server_side(store), Browser()
    await log_in(sessions, browser)
    for minute in range(60):
        handle = await opened(sessions, browser, now=NOW + 60 * minute, slide=False)
        assert handle.session.seen_at == NOW
    assert store.changes == []
    assert await sessions.open(browser.cookies(), now=NOW + HOUR, slide=False) is None


@pytest.mark.spec("SES-04")
async def test_a_use_is_written_at_most_every_tenth_of_the_idle_time() -> None:
    store = Recording()
    sessions, browser = server_side(store), Browser()
    await log_in(sessions, browser)
    for second in range(0, 3600, 10):
        await opened(sessions, browser, now=NOW + second)
    assert store.changes == [Touch(NOW + TENTH * step) for step in range(1, 10)]
    assert (await opened(sessions, browser, now=NOW + 3599)).session.seen_at == NOW + 9 * TENTH


@pytest.mark.spec("SES-04")
async def test_requests_of_one_moment_write_one_touch() -> None:
    class Slow(Recording):
        async def update(self, key: bytes, change: Change) -> None:
            await asyncio.sleep(0)
            await super().update(key, change)

    store = Slow()
    sessions, browser = server_side(store), Browser()
    await log_in(sessions, browser)
    cookies = browser.cookies()
    handles = await asyncio.gather(*(sessions.open(cookies, now=NOW + TENTH) for _ in range(50)))
    assert None not in handles
    assert store.changes == [Touch(NOW + TENTH)]


@pytest.mark.spec("SES-12")
async def test_a_use_that_cannot_be_written_costs_nobody_the_request(caplog: pytest.LogCaptureFixture) -> None:
    store = Recording()
    sessions, browser = server_side(store), Browser()
    await log_in(sessions, browser)
    store.update_fault = StoreUnavailable("the disk is full")
    with caplog.at_level(logging.WARNING, "coatcheck"):
        assert (await opened(sessions, browser, now=NOW + TENTH)).session.sub == "ada"
    assert len(caplog.records) == 1 and "the disk is full" in caplog.text
    assert ticket_of(browser) not in caplog.text
    store.update_fault = None
    assert (await opened(sessions, browser, now=NOW + TENTH + 1)).session.seen_at == NOW + TENTH + 1


@pytest.mark.spec("SES-12")
async def test_a_store_that_does_not_answer_is_not_nobody_logged_in() -> None:
    class Down(MemoryStore):
        async def load(self, key: bytes) -> SessionRow | None:
            raise StoreUnavailable("down")

    browser = Browser()
    await log_in(server_side(), browser)
    with pytest.raises(StoreUnavailable):
        await server_side(Down()).open(browser.cookies(), now=NOW)


async def test_a_reload_notices_that_the_session_has_died_meanwhile() -> None:
    clock = HandClock(NOW)
    sessions, browser = ServerSideSessions(MemoryStore(), RING, POLICY, clock=clock), Browser()
    handle = await log_in(sessions, browser)
    clock.forward(timedelta(hours=1))
    with pytest.raises(SessionGone):
        await handle.tokens(reload=True)


@pytest.mark.parametrize("name", ["lifetime", "idle_timeout"])
def test_a_lifetime_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ServerSideSessions(MemoryStore(), RING, POLICY, **{name: timedelta(0)})  # type: ignore[arg-type]
    assert caught.value.path == name


async def test_opening_with_a_store_that_answers_at_once_never_suspends() -> None:
    sessions, browser = server_side(), Browser()
    await log_in(sessions, browser)
    opening = sessions.open(browser.cookies(), now=NOW)
    with pytest.raises(StopIteration) as done:
        opening.send(None)
    assert done.value.value.session.sub == "ada"
