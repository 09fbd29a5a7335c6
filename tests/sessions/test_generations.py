"""What a process knows of the generations of its sessions, what it tells the store, and what it never hands out."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from coatcheck.sessions import CookieSessions
from coatcheck.sessions.endings import LOOK_EVERY
from coatcheck.sessions.pending import STRAGGLING
from tests.sessions.nodes import LIFETIME, MINUTE, Nodes, held, renewed_meanwhile
from tests.sessions.samples import POLICY, RING, TENTH, Browser

# How long it waits


@pytest.mark.spec("REF-11")
async def test_tokens_wait_until_the_sessions_end_and_a_minute_after_they_arrived() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    answer = await nodes.renew(nodes.a, browser, b"2")
    nodes.clock.forward(MINUTE / 2)
    assert await nodes.tokens_end_in(browser) == LIFETIME - 30
    straggler = await nodes.opened(nodes.b, browser)
    browser.receive(answer.set_cookies())
    await nodes.opened(nodes.b, browser)
    await nodes.background()
    assert await nodes.tokens_end_in(browser) == STRAGGLING
    nodes.clock.forward(timedelta(seconds=59))
    assert await straggler.tokens(reload=True) == (b"2", 2)
    nodes.clock.forward(timedelta(seconds=1))
    assert await straggler.tokens(reload=True) == (b"2", 2)
    assert await (await nodes.opened(nodes.a, browser)).tokens(reload=True) == (b"2", 2)


async def test_shortly_before_the_end_tokens_wait_no_longer_than_the_session_lives() -> None:
    nodes = Nodes()
    nodes.a = CookieSessions(RING, POLICY, clock=nodes.clock, coordination=nodes.store, idle_timeout=timedelta(hours=9))
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(hours=8, seconds=-30))
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    assert await nodes.tokens_end_in(browser) == 30


@pytest.mark.spec("REF-11")
async def test_an_arrival_never_shortens_the_life_of_a_newer_generation() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    nodes.store.before["replace"] = partial(renewed_meanwhile, nodes, browser)
    await nodes.opened(nodes.b, browser)  # looks, and before it shortens, the other process renews
    await nodes.background()
    assert await nodes.tokens_end_in(browser) == LIFETIME
    await nodes.opened(nodes.process(), browser)  # and whoever looks later sees that it is newer
    await asyncio.sleep(0)
    assert await nodes.tokens_end_in(browser) == LIFETIME
    assert await (await nodes.opened(nodes.b, browser)).tokens(reload=True) == (b"3", 3)


@pytest.mark.spec("REF-11")
async def test_whoever_tells_of_an_arrival_learns_of_a_newer_generation() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.renew(nodes.a, browser, b"3")  # lost
    await nodes.opened(nodes.b, browser)
    await nodes.background()
    nodes.clock.forward(timedelta(seconds=TENTH))
    assert await (await nodes.opened(nodes.b, browser)).tokens() == (b"3", 3)
    assert await nodes.tokens_end_in(browser) == LIFETIME - TENTH


@pytest.mark.spec("REF-11")
async def test_an_arrival_says_nothing_of_other_tokens_with_the_same_number() -> None:
    """A copy of the cookies in another browser was renewed first, from the same generation, by a store since lost."""
    nodes, others = Nodes(), Nodes()
    browser, copy = await nodes.log_in(), Browser()
    copy.jar.update(browser.jar)
    browser.receive((await others.renew(others.a, browser, b"2 of another store")).set_cookies())
    await nodes.renew(nodes.a, copy, b"2")
    await nodes.opened(nodes.b, browser)
    await nodes.background()
    assert await nodes.tokens_end_in(browser) == LIFETIME


# What it costs


LOOK = ["get"] * 4
"""A look whether the session was ended: itself, or all of its `sub`, of its `sid`, or of both."""


@pytest.mark.spec("SES-05")
async def test_a_fresh_request_asks_only_whether_the_session_was_ended_and_seldom() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    for asked in ([], LOOK):  # the first process has begun the session itself, and need not ask
        sessions = nodes.b if asked else nodes.a
        for _ in range(10):
            handle = await nodes.opened(sessions, browser)
            await handle.tokens()
            assert handle.set_cookies() == []
        await nodes.background()
        assert nodes.store.asked == asked
    nodes.clock.forward(timedelta(seconds=LOOK_EVERY))
    for _ in range(10):
        await nodes.opened(nodes.b, browser)
    assert nodes.store.asked == LOOK * 2


async def test_an_arrival_is_told_to_the_store_once_by_each_process() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.background()
    nodes.store.asked.clear()
    for sessions in (nodes.a, nodes.b):
        for _ in range(10):
            await nodes.opened(sessions, browser)  # at once, before the first one has been told
        await nodes.background()
        for _ in range(10):
            await nodes.opened(sessions, browser)
        await nodes.background()
    # Is it held for a login? The second one finds that all was told.
    assert nodes.store.asked == ["get", "get", "add", "replace", *LOOK, "get"]


async def test_nothing_is_told_of_a_generation_that_is_known_to_be_old() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.renew(nodes.a, browser, b"3")  # lost
    await nodes.background()
    nodes.store.asked.clear()
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    assert nodes.store.asked == []


async def test_a_cookie_that_slides_says_that_its_tokens_have_arrived() -> None:
    """A process that is started later has nothing to tell the store."""
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    nodes.clock.forward(timedelta(seconds=TENTH))
    browser.receive((await nodes.opened(nodes.a, browser)).set_cookies())
    await nodes.background()
    nodes.store.asked.clear()
    nodes.b = nodes.process()
    await nodes.opened(nodes.b, browser)
    await nodes.background()
    assert nodes.store.asked == LOOK


# Stragglers, and what else brings an old generation back


@pytest.mark.spec("REF-11")
async def test_a_straggler_does_not_bring_the_old_cookie_back() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=TENTH))
    straggler = await nodes.opened(nodes.a, browser)  # its cookie slides
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    browser.receive(straggler.set_cookies())
    assert await held(browser, nodes) == (b"2", 2)


@pytest.mark.spec("REF-11")
async def test_a_straggler_is_known_by_what_another_request_carried() -> None:
    """The other process renewed; this one has merely seen the newer cookie."""
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=TENTH))
    straggler = await nodes.opened(nodes.b, browser)
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.opened(nodes.b, browser)
    assert straggler.set_cookies() == []
    await nodes.background()


@pytest.mark.spec("REF-11")
@pytest.mark.parametrize("seen", ["before", "after", "never"])
async def test_a_browser_that_another_process_threw_back_finds_its_tokens_however_late(seen: str) -> None:
    """The straggler's process knows nothing of the renewal; its answer comes before or after the new cookie is seen."""
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=TENTH))
    straggler = await nodes.opened(nodes.b, browser)
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    newer = Browser()
    newer.jar.update(browser.jar)
    if seen == "before":
        await nodes.opened(nodes.a, newer)
        await nodes.background()
        nodes.clock.forward(timedelta(seconds=40))
    old = straggler.set_cookies()
    assert old
    await nodes.background()
    if seen == "after":
        nodes.clock.forward(timedelta(seconds=5))
        await nodes.opened(nodes.a, newer)
        await nodes.background()
    browser.receive(old)
    assert await held(browser, nodes) == (b"1", 1)
    nodes.clock.forward(timedelta(minutes=30))
    again = await nodes.opened(nodes.process(), browser)
    assert await again.tokens(reload=True) == (b"2", 2)


async def test_once_the_newer_cookie_has_stayed_its_tokens_stop_waiting() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=TENTH))
    straggler = await nodes.opened(nodes.b, browser)
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    straggler.set_cookies()  # lost
    await nodes.background()
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    assert await nodes.tokens_end_in(browser) == LIFETIME - TENTH
    nodes.clock.forward(MINUTE)
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    assert await nodes.tokens_end_in(browser) == STRAGGLING


@pytest.mark.spec("REF-11")
async def test_a_request_that_takes_a_minute_brings_no_cookie() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=TENTH))
    slow = await nodes.opened(nodes.b, browser)
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    nodes.clock.forward(MINUTE)  # nothing waits any more, and the other process has never heard of it
    assert slow.set_cookies() == []


@pytest.mark.spec("REF-11")
async def test_a_slow_renewal_brings_no_cookie_and_loses_nothing() -> None:
    """An older generation again: the other process took this one over and went on."""
    nodes = Nodes()
    browser = await nodes.log_in()
    slow = await nodes.renew(nodes.b, browser, b"2")
    browser.receive((await nodes.renew(nodes.a, browser, b"3")).set_cookies())
    nodes.clock.forward(MINUTE)
    assert slow.set_cookies() == []
    assert await held(browser, nodes) == (b"3", 3)


async def test_a_slow_request_that_looked_a_moment_ago_brings_its_cookie() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    reloading, renewing = await nodes.opened(nodes.b, browser), await nodes.opened(nodes.b, browser)
    await nodes.renew(nodes.a, browser, b"2")
    nodes.clock.forward(MINUTE)
    await reloading.tokens(reload=True)
    browser.receive(reloading.set_cookies())
    assert await held(browser, nodes) == (b"2", 2)
    await renewing.tokens(reload=True)
    nodes.clock.forward(MINUTE)
    await renewing.replace_tokens(b"3", version=2)
    browser.receive(renewing.set_cookies())
    assert await held(browser, nodes) == (b"3", 3)
    await nodes.background()


@pytest.mark.spec("REF-11")
async def test_an_answer_of_the_store_that_was_overtaken_makes_nobody_forget_the_newer_generation() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=TENTH))
    straggler = await nodes.opened(nodes.a, browser)

    async def renew() -> None:
        await nodes.renew(nodes.a, browser, b"2")

    nodes.store.after["get"] = renew
    assert await straggler.tokens(reload=True) == (b"1", 1)
    assert straggler.set_cookies() == []


@pytest.mark.spec("SES-04")
async def test_slow_requests_alone_keep_a_session_alive() -> None:
    """A page that does nothing but poll for a minute at a time."""
    nodes = Nodes()
    browser = await nodes.log_in()
    for _ in range(180):
        polling = await nodes.opened(nodes.a, browser)
        nodes.clock.forward(MINUTE)
        browser.receive(polling.set_cookies())
    await nodes.background()


@pytest.mark.spec("SES-04")
async def test_a_browser_that_lost_a_cookie_slides_and_is_brought_up_to_date() -> None:
    """Its access token is good for hours, so it never has to ask for newer tokens."""
    nodes = Nodes()
    browser = await nodes.log_in()
    await nodes.renew(nodes.a, browser, b"2")  # for another API; the answer is lost
    for _ in range(4):
        nodes.clock.forward(timedelta(minutes=30))
        handle = await nodes.opened(nodes.a, browser)
        assert await handle.tokens() == (b"2", 2)
        browser.receive(handle.set_cookies())
    await nodes.background()
    assert await held(browser, nodes) == (b"2", 2)
