"""A coordination store that is down or hangs, and what this process remembers of many sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import pytest

from coatcheck.errors import (
    StoreUnavailable,
)
from coatcheck.sessions import generations
from coatcheck.sessions.endings import TRUST
from tests.sessions.nodes import Nodes, Watched
from tests.sessions.samples import Browser

# A store that is down


async def test_without_the_store_nothing_is_renewed_and_nothing_is_lost() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    handle = await nodes.opened(nodes.a, browser)
    nodes.store.down = True
    for doing in (partial(handle.tokens, reload=True), partial(handle.replace_tokens, b"2", version=1)):
        with pytest.raises(StoreUnavailable):
            await doing()
    assert await handle.tokens() == (b"1", 1)
    assert handle.set_cookies() == []
    nodes.store.down = False
    await handle.replace_tokens(b"2", version=1)
    assert await handle.tokens(reload=True) == (b"2", 2)


@pytest.mark.spec("SES-12")
async def test_without_the_store_requests_are_served_for_some_minutes_and_then_nobody_knows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.opened(nodes.b, browser)
    await nodes.background()
    nodes.store.down = True
    caplog.set_level(logging.DEBUG, "coatcheck")
    with pytest.raises(StoreUnavailable):  # what was never seen alive may have been ended long ago
        await nodes.open(nodes.process(), browser)
    for _ in range(3):
        nodes.clock.forward(timedelta(seconds=TRUST / 3 - 1))
        for sessions in (nodes.a, nodes.b):
            assert await (await nodes.opened(sessions, browser)).tokens() == (b"2", 2)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3  # once in each process
    nodes.clock.forward(timedelta(seconds=5))
    for sessions in (nodes.a, nodes.b):
        with pytest.raises(StoreUnavailable):
            await nodes.open(sessions, browser)
    nodes.store.down = False
    for sessions in (nodes.a, nodes.b):
        await nodes.opened(sessions, browser)  # nobody was logged out


@pytest.mark.spec("SES-12")
async def test_a_store_that_has_just_failed_is_not_asked_by_every_request() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=10))
    nodes.store.down = True
    for _ in range(10):
        await nodes.opened(nodes.a, browser)
    assert nodes.store.asked == ["get"]


async def test_without_the_store_a_browser_that_is_behind_is_served() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    await nodes.renew(nodes.a, browser, b"2")  # lost
    nodes.clock.forward(timedelta(minutes=30))
    assert await nodes.open(nodes.a, browser, slide=False)
    nodes.store.down = True
    nodes.clock.forward(timedelta(seconds=30))
    handle = await nodes.opened(nodes.a, browser)
    assert await handle.tokens() == (b"1", 1)
    assert handle.set_cookies() == []


@pytest.mark.spec("LOG-01")
async def test_without_the_store_a_logout_succeeds_here_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    handle = await nodes.opened(nodes.a, browser)
    nodes.store.down = True
    kept = Browser()
    kept.jar.update(browser.jar)
    await nodes.a.end(handle)
    browser.receive(handle.set_cookies())
    assert browser.jar == {}
    assert await nodes.open(nodes.a, kept) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert handle.session.id not in record.getMessage()


# Bounds


async def test_many_sessions_with_a_renewal_each_leave_no_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "_MOST_SESSIONS", 50)
    nodes = Nodes()
    for _ in range(500):
        browser = await nodes.log_in()
        browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
        await nodes.opened(nodes.a, browser)
        await asyncio.sleep(0)
    await nodes.background()
    known = nodes.a.generations
    assert len(known._newest) == len(known._settled) == 50
    assert known._tasks == set() and known._settling == set()
    assert len(nodes.a._remembered) <= 512


async def test_sessions_that_were_never_renewed_take_no_memory() -> None:
    nodes = Nodes()
    for _ in range(20):
        browser = await nodes.log_in()
        await (await nodes.opened(nodes.a, browser)).tokens(reload=True)
    assert len(nodes.a.generations._newest) == len(nodes.a.generations._settled) == 0


@contextmanager
def hanging(store: Watched) -> Iterator[None]:
    """Have every look at the store hang until the block ends."""
    gate = store.gate = asyncio.Event()
    try:
        yield
    finally:
        store.gate = None
        gate.set()


async def test_a_store_that_hangs_holds_a_bounded_number_of_tasks_and_no_request() -> None:
    nodes = Nodes()
    browsers = []
    for _ in range(150):
        browser = await nodes.log_in()
        browser.receive((await nodes.renew(nodes.b, browser, b"2")).set_cookies())
        browsers.append(browser)
    await nodes.background()
    with hanging(nodes.store):
        for browser in browsers:
            assert await (await nodes.opened(nodes.a, browser)).tokens() == (b"2", 2)
        assert len(nodes.a.generations._tasks) == 100
        await asyncio.sleep(0)
    await nodes.background()
    assert nodes.a.generations._tasks == set()


async def test_closing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "_CLOSING_SECONDS", 0.0)
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.b, browser, b"2")).set_cookies())
    await nodes.background()
    with hanging(nodes.store):
        await nodes.opened(nodes.a, browser)
        (task,) = nodes.a.generations._tasks
        await nodes.a.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task
