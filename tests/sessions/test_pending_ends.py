"""A session that was ended stays so, whatever was under way in which process."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from coatcheck.errors import SessionGone
from tests.sessions.nodes import LIFETIME, Nodes, renewed_meanwhile
from tests.sessions.samples import TENTH, log_in


@pytest.mark.spec("REF-23")
@pytest.mark.parametrize("renewals_before", [0, 1])
async def test_a_renewal_under_way_in_another_process_does_not_bring_a_session_back(renewals_before: int) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    for _ in range(renewals_before):
        browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    renewing = await nodes.opened(nodes.b, browser)
    _, version = await renewing.tokens(reload=True)
    await nodes.a.end(await nodes.opened(nodes.a, browser))
    with pytest.raises(SessionGone):
        await renewing.replace_tokens(b"late", version=version)
    assert renewing.set_cookies() == []
    assert await nodes.open(nodes.b, browser) is None  # now this process knows, too
    assert nodes.ends_in == LIFETIME


@pytest.mark.spec("REF-23")
async def test_a_logout_between_look_and_write_wins() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    renewing = await nodes.opened(nodes.b, browser)
    leaving = await nodes.opened(nodes.a, browser)
    nodes.store.before["replace"] = partial(nodes.a.end, leaving)
    with pytest.raises(SessionGone):
        await renewing.replace_tokens(b"late", version=2)
    assert await nodes.open(nodes.b, browser) is None


@pytest.mark.spec("REF-23")
@pytest.mark.parametrize("answer", ["add", "get"])
async def test_a_logout_right_after_the_store_has_answered_wins(answer: str) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    renewing, leaving = await nodes.opened(nodes.a, browser), await nodes.opened(nodes.a, browser)
    nodes.store.after[answer] = partial(nodes.a.end, leaving)
    with pytest.raises(SessionGone):
        if answer == "add":
            await renewing.replace_tokens(b"late", version=1)
        else:
            await renewing.tokens(reload=True)
    assert renewing.set_cookies() == []


@pytest.mark.spec("REF-23")
async def test_a_logout_overtaken_by_a_renewal_wins_all_the_same() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    nodes.store.before["replace"] = partial(renewed_meanwhile, nodes, browser)
    late = await nodes.opened(nodes.b, browser)
    await nodes.b.end(late)
    assert await nodes.open(nodes.process(), browser) is None


@pytest.mark.spec("STO-10", "REF-23")
async def test_a_reload_sees_that_the_session_was_ended_elsewhere() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=TENTH))
    here = await nodes.opened(nodes.b, browser)
    await nodes.a.end(await nodes.opened(nodes.a, browser))
    with pytest.raises(SessionGone):
        await here.tokens(reload=True)
    assert here.set_cookies() == []
    with pytest.raises(SessionGone):
        await here.tokens()


@pytest.mark.spec("REF-23")
async def test_a_login_that_replaces_a_session_ends_it_for_every_process() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    renewing = await nodes.opened(nodes.b, browser)
    await log_in(nodes.a, browser, sub="bob", replaces=await nodes.opened(nodes.a, browser))
    with pytest.raises(SessionGone):
        await renewing.replace_tokens(b"late", version=1)


@pytest.mark.spec("LOG-01")
async def test_many_requests_that_end_a_session_at_once_all_succeed(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    both = (nodes.a, nodes.b)
    leaving = [(sessions, await nodes.opened(sessions, browser)) for sessions in both for _ in range(20)]
    await nodes.background()
    gate = nodes.store.gate = asyncio.Event()
    ends = [asyncio.ensure_future(sessions.end(handle)) for sessions, handle in leaving]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*ends)
    assert caplog.records == []
    assert await nodes.open(nodes.process(), browser) is None


async def test_a_late_answer_of_another_process_revives_a_session_there_for_a_moment_only() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=TENTH))
    straggler = await nodes.opened(nodes.b, browser)
    await nodes.a.end(await nodes.opened(nodes.a, browser))
    browser.receive(straggler.set_cookies())
    await nodes.background()
    assert await nodes.open(nodes.a, browser) is None
    assert await nodes.open(nodes.b, browser) is None


@pytest.mark.spec("REF-23")
@pytest.mark.parametrize("later", [timedelta(hours=1), timedelta(hours=8)])
async def test_a_renewal_that_outlives_its_session_is_none(later: timedelta) -> None:
    nodes = Nodes()
    handle = await nodes.opened(nodes.a, await nodes.log_in())
    nodes.clock.forward(later)
    with pytest.raises(SessionGone):
        await handle.replace_tokens(b"late", version=1)
    assert nodes.store.asked == []
