"""Requests whose cookie is older than anything that waits: their refresh token was spent, and is never given out."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coatcheck.coordination import ExpiringValue
from coatcheck.errors import CookieOutdated, SessionGone, StaleVersion, StoreUnavailable
from coatcheck.sessions.pending import STRAGGLING
from tests.sessions.nodes import MINUTE, Nodes
from tests.sessions.samples import Browser


async def renewed_and_arrived(nodes: Nodes, browser: Browser) -> None:
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.opened(nodes.a, browser)
    await nodes.background()


@pytest.mark.spec("REF-02", "REF-11")
@pytest.mark.parametrize("later", [timedelta(minutes=1), timedelta(minutes=50)])
async def test_a_request_that_was_held_up_for_long_never_gives_out_spent_tokens(later: timedelta) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    here, elsewhere = await nodes.opened(nodes.a, browser), await nodes.opened(nodes.b, browser)
    await renewed_and_arrived(nodes, browser)
    nodes.clock.forward(later)
    for held_up in (here, elsewhere):
        with pytest.raises(CookieOutdated, match="newer cookie"):
            await held_up.tokens(reload=True)
        with pytest.raises(StaleVersion):
            await held_up.replace_tokens(b"late", version=1)
        assert held_up.set_cookies() == []
    again = await nodes.opened(nodes.b, browser)
    assert await again.tokens(reload=True) == (b"2", 2)
    await again.replace_tokens(b"3", version=2)


@pytest.mark.spec("REF-11")
@pytest.mark.parametrize("renewals_before", [0, 1])
async def test_a_request_that_was_held_up_for_long_renews_what_nobody_else_has_renewed(renewals_before: int) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    for _ in range(renewals_before):
        await renewed_and_arrived(nodes, browser)
    held_up = await nodes.opened(nodes.b, browser)
    nodes.clock.forward(timedelta(minutes=50))
    tokens, version = await held_up.tokens(reload=True)
    assert tokens == b"%d" % version == b"%d" % (1 + renewals_before)
    await held_up.replace_tokens(b"new", version=version)
    assert await held_up.tokens() == (b"new", version + 1)


@pytest.mark.spec("REF-11")
async def test_at_each_moment_of_an_arrival_an_older_request_finds_the_tokens() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    older = [await nodes.opened(nodes.b, browser) for _ in range(3)]
    seen: list[tuple[bytes, int]] = []

    async def look() -> None:
        seen.append(await older.pop().tokens(reload=True))

    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    nodes.store.before["add"] = look
    nodes.store.before["replace"] = look
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    await look()
    assert seen == [(b"2", 2)] * 3


@pytest.mark.spec("REF-11")
@pytest.mark.parametrize("lost", ["add", "replace"])
async def test_an_arrival_that_could_not_be_told_leaves_the_tokens_where_they_are(lost: str) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    old = await nodes.opened(nodes.b, browser)
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())

    async def go_down() -> None:
        nodes.store.down = True

    nodes.store.before[lost] = go_down
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    nodes.store.down = False
    nodes.clock.forward(timedelta(minutes=20))
    assert await old.tokens(reload=True) == (b"2", 2)
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    assert await nodes.tokens_end_in(browser) == STRAGGLING


async def test_a_store_that_cannot_say_whether_a_request_is_behind_lets_nobody_renew() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    old = await nodes.opened(nodes.b, browser)
    await renewed_and_arrived(nodes, browser)

    async def go_down() -> None:
        nodes.store.down = True

    nodes.clock.forward(timedelta(minutes=20))
    nodes.store.after["get"] = go_down  # the second look
    with pytest.raises(StoreUnavailable, match="down"):
        await old.tokens(reload=True)


@pytest.mark.spec("STO-03")
async def test_nothing_of_the_tokens_is_left_in_the_store_a_minute_after_they_arrived() -> None:
    nodes = Nodes()
    browser = await nodes.log_in(tokens=b"1")
    browser.receive((await nodes.renew(nodes.a, browser, b"2" * 1000)).set_cookies())
    assert max(len(value.value) for value in await left(nodes)) > 1000
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    nodes.clock.forward(MINUTE)
    (number,) = await left(nodes)
    assert len(number.value) < 200


async def left(nodes: Nodes) -> list[ExpiringValue]:
    found = [await nodes.store.get(key) for key in nodes.store.ends]
    return [value for value in found if value is not None]


@pytest.mark.spec("REF-11", "SES-04")
async def test_a_cookie_from_a_backup_serves_while_its_access_token_does_and_slides_no_more() -> None:
    nodes = Nodes()
    browser, backup = await nodes.log_in(), Browser()
    backup.jar.update(browser.jar)
    await renewed_and_arrived(nodes, browser)
    nodes.clock.forward(timedelta(minutes=50))
    handle = await nodes.opened(nodes.a, backup)
    assert await handle.tokens() == (b"1", 1)
    assert handle.set_cookies() == []
    with pytest.raises(CookieOutdated, match="newer cookie"):
        await handle.tokens(reload=True)
    nodes.clock.forward(timedelta(minutes=10))
    assert await nodes.open(nodes.a, backup) is None


@pytest.mark.spec("REF-23")
async def test_a_logout_says_more_than_being_behind() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    old = await nodes.opened(nodes.b, browser)
    await renewed_and_arrived(nodes, browser)
    nodes.clock.forward(MINUTE)
    await nodes.a.end(await nodes.opened(nodes.a, browser))
    with pytest.raises(SessionGone):
        await old.tokens(reload=True)
