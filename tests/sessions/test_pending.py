"""Renewed tokens wait for the browser: two processes, and one place where they agree."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest

from coatcheck.coordination import ExpiringStore
from coatcheck.errors import (
    CookieTooLarge,
    SessionGone,
    StaleVersion,
    StoreUnavailable,
    UnknownSealKey,
)
from coatcheck.sessions import KeyRing, new_key
from coatcheck.sessions.pending import PendingTokens
from coatcheck.stores import MemoryStore
from tests.sessions.nodes import LIFETIME, Nodes, held, renewed_meanwhile
from tests.sessions.samples import NOW, OTHER_POLICY, POLICY, RING, TENTH, Browser, log_in
from tests.testing.clocks import HandClock

# Both processes


@pytest.mark.spec("REF-05", "REF-11")
async def test_another_process_finds_a_renewal_with_the_old_cookie() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    await nodes.renew(nodes.a, browser, b"2")
    there = await nodes.opened(nodes.b, browser)
    assert await there.tokens() == (b"1", 1)
    assert await there.tokens(reload=True) == (b"2", 2)
    assert await there.tokens() == (b"2", 2)
    browser.receive(there.set_cookies())
    assert await held(browser, nodes) == (b"2", 2)


@pytest.mark.spec("REF-05")
async def test_tokens_are_in_the_store_before_they_are_handed_to_anybody() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    handle, late = await nodes.opened(nodes.a, browser), await nodes.opened(nodes.b, browser)

    async def look() -> None:
        assert await handle.tokens() == (b"1", 1)

    nodes.store.before["add"] = look
    nodes.store.asked.clear()
    await handle.replace_tokens(b"2", version=1)
    assert nodes.store.asked[:2] == ["get", "add"]  # then it looks whether the session was ended meanwhile
    assert await late.tokens(reload=True) == (b"2", 2)


@pytest.mark.spec("REF-05", "REF-11")
@pytest.mark.parametrize("later", [0, 59, 61, 30 * 60])
async def test_a_browser_that_never_got_the_answer_is_served_by_any_process(later: int) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    for number in (2, 3):
        lost = await nodes.renew(nodes.a, browser, b"%d" % number)
        assert lost.set_cookies()
    await nodes.background()
    nodes.clock.forward(timedelta(seconds=later))
    for sessions in (nodes.b, nodes.process(), nodes.a):  # the middle one has just been started
        assert await (await nodes.opened(sessions, browser)).tokens(reload=True) == (b"3", 3)


@pytest.mark.spec("REF-11", "REF-27")
async def test_of_two_renewals_of_one_generation_one_wins_and_the_other_one_finds_it() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    one, other = await nodes.opened(nodes.a, browser), await nodes.opened(nodes.b, browser)
    results = await asyncio.gather(
        one.replace_tokens(b"one", version=1), other.replace_tokens(b"other", version=1), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "StaleVersion"]
    winner = b"one" if results[0] is None else b"other"
    for handle in (one, other):
        assert await handle.tokens(reload=True) == (winner, 2)
        browser.receive(handle.set_cookies())
        assert await held(browser, nodes) == (winner, 2)


@pytest.mark.spec("REF-11")
async def test_the_loser_changes_nothing() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    loser = await nodes.opened(nodes.b, browser)
    await nodes.renew(nodes.a, browser, b"2")
    with pytest.raises(StaleVersion):
        await loser.replace_tokens(b"late", version=1)
    assert await loser.tokens() == (b"1", 1)
    assert loser.set_cookies() == []


@pytest.mark.spec("REF-05")
async def test_the_same_tokens_may_be_written_twice() -> None:
    """The answer of the store was lost; or several requests waited for one renewal and each wants its cookie."""
    nodes = Nodes()
    browser = await nodes.log_in()
    handles = [await nodes.opened(sessions, browser) for sessions in (nodes.a, nodes.a, nodes.b)]
    for handle in handles:
        await handle.replace_tokens(b"2", version=1)
        assert await handle.tokens() == (b"2", 2)
    for handle in handles:
        browser.receive(handle.set_cookies())
        assert await held(browser, nodes) == (b"2", 2)


@pytest.mark.spec("REF-11")
async def test_an_older_generation_never_overwrites_a_newer_one() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    late = await nodes.opened(nodes.b, browser)
    for number in (2, 3, 4):
        browser.receive((await nodes.renew(nodes.a, browser, b"%d" % number)).set_cookies())
    with pytest.raises(StaleVersion):
        await late.replace_tokens(b"old", version=1)
    assert await late.tokens(reload=True) == (b"4", 4)


async def test_a_process_that_is_overtaken_between_look_and_write_looks_again() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    handle = await nodes.opened(nodes.b, browser)
    nodes.store.before["replace"] = partial(renewed_meanwhile, nodes, browser)
    with pytest.raises(StaleVersion):
        await handle.replace_tokens(b"mine", version=2)
    assert await handle.tokens(reload=True) == (b"3", 3)


async def test_two_renewals_within_one_request_are_two_generations() -> None:
    nodes = Nodes()
    handle = await nodes.opened(nodes.a, await nodes.log_in())
    await handle.replace_tokens(b"2", version=1)
    await handle.replace_tokens(b"3", version=2)
    assert await handle.tokens(reload=True) == (b"3", 3)


async def test_what_is_too_large_for_cookies_is_not_written_at_all() -> None:
    nodes = Nodes()
    handle = await nodes.opened(nodes.a, await nodes.log_in())
    with pytest.raises(CookieTooLarge):
        await handle.replace_tokens(bytes(10_000), version=1)
    assert nodes.store.asked == []


async def test_a_request_that_was_overtaken_by_itself_keeps_the_newer_tokens() -> None:
    """Two calls of one request: while the first one writes, the second one takes over what another process wrote."""
    nodes = Nodes()
    browser = await nodes.log_in()
    handle = await nodes.opened(nodes.b, browser)

    async def reload() -> None:
        await renewed_meanwhile(nodes, browser)
        assert await handle.tokens(reload=True) == (b"3", 3)

    nodes.store.after["add"] = reload
    await handle.replace_tokens(b"2", version=1)
    assert await handle.tokens() == (b"3", 3)
    browser.receive(handle.set_cookies())
    assert await held(browser, nodes) == (b"3", 3)


async def test_a_reload_that_finds_nothing_sets_no_cookie() -> None:
    nodes = Nodes()
    handle = await nodes.opened(nodes.a, await nodes.log_in())
    assert await handle.tokens(reload=True) == (b"1", 1)
    assert handle.set_cookies() == []


async def test_what_waits_is_used_even_where_it_does_not_fit_into_this_cookie() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    nodes.clock.forward(timedelta(seconds=TENTH))
    handle = await nodes.opened(nodes.a, browser)
    room = waiting_room(nodes.store)
    await room.put(handle.session.id, bytes(10_000), generation=2, until=NOW + LIFETIME)
    assert await handle.tokens(reload=True) == (bytes(10_000), 2)
    assert handle.set_cookies() == []  # nor the older one, which was about to slide


# Keys


@pytest.mark.spec("STO-05", "REF-11")
async def test_nodes_in_the_middle_of_a_key_rotation_see_each_others_renewals() -> None:
    old, new = new_key(), new_key()
    deploys = [KeyRing([old]), KeyRing([old, new]), KeyRing([new, old]), KeyRing([new])]
    for before, after in pairwise(deploys):
        for first, second in ((before, after), (after, before)):
            nodes = Nodes()
            nodes.a, nodes.b = nodes.process(before), nodes.process(after)
            browser = await nodes.log_in()
            if after is deploys[3]:  # by then the old key seals nothing that lives
                browser = Browser()
                await log_in(nodes.process(KeyRing([new])), browser, tokens=b"1")
            one, other = nodes.process(first), nodes.process(second)
            await nodes.renew(one, browser, b"2")
            late = await nodes.opened(other, browser)
            with pytest.raises(StaleVersion):
                await late.replace_tokens(b"mine", version=1)
            assert await late.tokens(reload=True) == (b"2", 2)
            await other.end(late)
            with pytest.raises(SessionGone):
                await (await nodes.opened(one, browser)).tokens(reload=True)


@pytest.mark.spec("STO-05")
async def test_a_key_that_was_dropped_too_early_is_said_and_nothing_is_overwritten() -> None:
    old, new = new_key(), new_key()
    nodes = Nodes()
    nodes.a, nodes.b = nodes.process(KeyRing([old, new])), nodes.process(KeyRing([new]))
    browser = Browser()
    await log_in(nodes.b, browser, tokens=b"1")
    await nodes.renew(nodes.a, browser, b"2")
    handle = await nodes.opened(nodes.b, browser)
    for doing in (partial(handle.tokens, reload=True), partial(handle.replace_tokens, b"mine", version=1)):
        with pytest.raises(UnknownSealKey):
            await doing()
    assert await (await nodes.opened(nodes.a, browser)).tokens(reload=True) == (b"2", 2)


def waiting_room(store: ExpiringStore, application_id: str = POLICY.application_id) -> PendingTokens:
    return PendingTokens(store, RING.bound_to(application_id), application_id)


@pytest.mark.spec("STO-03", "SES-02")
async def test_what_waits_is_sealed_and_opens_for_its_session_only() -> None:
    """Somebody who can write to the store moves the tokens of one user to another."""
    store = MemoryStore(HandClock(NOW))
    room = waiting_room(store)
    await room.put("ada", b"CANARY", generation=2, until=NOW + 1)
    await room.put("bob", b"bob's", generation=2, until=NOW + 1)
    ada, bob = await store.get(room._key("ada")), await store.get(room._key("bob"))
    assert ada is not None and bob is not None
    assert b"CANARY" not in ada.value
    await store.replace(room._key("bob"), ada.value, version=bob.version, until=NOW + 1)
    with pytest.raises(SessionGone):
        await room.get("bob")
    with pytest.raises(SessionGone):
        await room.put("bob", b"newer", generation=3, until=NOW + 1)


@pytest.mark.spec("STO-03", "COO-14")
async def test_two_applications_that_share_a_store_never_meet() -> None:
    store = MemoryStore(HandClock(NOW))
    await waiting_room(store).put("ada", b"shop", generation=2, until=NOW + 1)
    assert await waiting_room(store, OTHER_POLICY.application_id).get("ada") is None


async def test_what_another_version_wrote_is_left_alone() -> None:
    store = MemoryStore(HandClock(NOW))
    room = waiting_room(store)
    value = RING.bound_to(POLICY.application_id).seal(b'{"format": 2}\n', purpose="pending tokens", aad=(b"ada",))
    await store.add(room._key("ada"), value, until=NOW + 1)
    for doing in (partial(room.get, "ada"), partial(room.put, "ada", b"", generation=9, until=NOW + 1)):
        with pytest.raises(StoreUnavailable, match="finish the update"):
            await doing()
    await room.bury("ada", until=NOW + 1)
    with pytest.raises(SessionGone):
        await room.get("ada")


@pytest.mark.parametrize("change", ["put", "bury"])
async def test_a_value_that_never_holds_still_is_given_up(change: str) -> None:
    class Restless(MemoryStore):
        async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
            raise StaleVersion("again")

    room = waiting_room(Restless(HandClock(NOW)))
    await room.put("ada", b"1", generation=1, until=NOW + 1)
    doing = {
        "put": partial(room.put, "ada", b"2", generation=2, until=NOW + 1),
        "bury": partial(room.bury, "ada", until=NOW + 1),
    }[change]
    with pytest.raises(StoreUnavailable, match="8 times"):
        await doing()
