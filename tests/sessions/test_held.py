"""Sessions in cookies that are held while a login is under way, so that they are found without their cookie."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coatcheck.coordination import ExpiringValue
from coatcheck.errors import SessionGone, StoreUnavailable, UnknownSealKey
from coatcheck.sessions import CookieSessions, KeyRing, SessionHandle, new_key
from tests.sessions.nodes import LIFETIME, MINUTE, Nodes
from tests.sessions.samples import KEY, NOW, OTHER_POLICY, RING, Browser, log_in, server_side

QUARTER = 15 * 60.0


async def held(nodes: Nodes, browser: Browser, *, by: CookieSessions | None = None) -> str:
    """Begin a login in the session of *browser*; its id."""
    handle = await nodes.opened(nodes.a, browser)
    await (by or nodes.a).hold(handle, until=nodes.clock.time() + QUARTER)
    return handle.session.id


async def found(nodes: Nodes, session_id: str) -> SessionHandle | None:
    """What another process finds."""
    return await nodes.b.find(session_id, now=nodes.clock.time())


async def with_an_older_cookie(nodes: Nodes) -> tuple[Browser, SessionHandle]:
    """A browser that has renewed tokens, and has shown it; and its session as an older cookie opened it."""
    browser, older = await nodes.log_in(), Browser()
    older.jar.update(browser.jar)
    late = await nodes.opened(nodes.b, older)
    browser.receive((await nodes.renew(nodes.a, browser, b"2")).set_cookies())
    await nodes.opened(nodes.a, browser)
    await nodes.background()
    return browser, late


async def values(nodes: Nodes) -> list[ExpiringValue]:
    there = [await nodes.store.get(key) for key in nodes.store.ends]
    return [value for value in there if value is not None]


@pytest.mark.spec("LGN-04", "LGN-06")
async def test_another_process_finds_a_held_session_until_then() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    session = (await nodes.opened(nodes.a, browser)).session
    assert await found(nodes, session.id) is None
    await held(nodes, browser)
    there = await found(nodes, session.id)
    assert there is not None and (there.session.id, there.session.sub) == (session.id, "ada")
    assert await there.tokens(reload=True) == (b"1", 1)
    assert there.set_cookies() == []
    nodes.clock.forward(timedelta(seconds=QUARTER))
    assert await found(nodes, session.id) is None
    assert await values(nodes) == []


@pytest.mark.spec("LGN-04")
async def test_ending_a_found_session_kills_each_copy_of_its_cookie() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    there = await found(nodes, await held(nodes, browser))
    assert there is not None
    await nodes.b.end(there)
    assert await nodes.open(nodes.b, browser) is None
    copy = await nodes.opened(nodes.a, browser)  # another process learns of it when it needs other tokens
    with pytest.raises(SessionGone):
        await copy.tokens(reload=True)
    assert await nodes.open(nodes.a, browser) is None


@pytest.mark.spec("OAU-35")
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_session_that_was_ended_meanwhile_is_not_found(where: str) -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    session_id = await held(nodes, browser)
    sessions = nodes.b if where == "here" else nodes.a
    await sessions.end(await nodes.opened(sessions, browser))
    assert await found(nodes, session_id) is None


@pytest.mark.spec("OAU-35")
async def test_an_end_that_the_store_was_not_told_of_is_known_to_its_process() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    session_id = await held(nodes, browser)
    handle = await nodes.opened(nodes.b, browser)
    nodes.store.down = True
    await nodes.b.end(handle)
    nodes.store.down = False
    assert await found(nodes, session_id) is None


@pytest.mark.spec("STO-03")
async def test_nothing_is_held_beyond_the_sessions_end() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    await nodes.a.hold(await nodes.opened(nodes.a, browser), until=NOW + 2 * LIFETIME)
    assert nodes.ends_in == LIFETIME


@pytest.mark.spec("OAU-35")
async def test_a_held_session_dies_when_it_would_have_died_anyway() -> None:
    nodes = Nodes()
    nodes.a = nodes.b = CookieSessions(
        RING, OTHER_POLICY, clock=nodes.clock, coordination=nodes.store, idle_timeout=5 * MINUTE
    )
    browser = await nodes.log_in()
    session_id = await held(nodes, browser)
    nodes.clock.forward(5 * MINUTE - timedelta(seconds=1))
    assert await found(nodes, session_id) is not None
    nodes.clock.forward(timedelta(seconds=1))
    assert await found(nodes, session_id) is None


@pytest.mark.spec("LGN-06", "REF-02")
@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("later", [0, 10])
async def test_a_found_session_has_the_tokens_of_a_renewal_meanwhile(arrived: bool, later: int) -> None:
    """Also ten minutes after the browser has shown that it has them, when others would wait no more."""
    nodes = Nodes()
    browser = await nodes.log_in()
    session_id = await held(nodes, browser)
    lines = (await nodes.renew(nodes.a, browser, b"2")).set_cookies()
    if arrived:
        browser.receive(lines)
        await nodes.opened(nodes.a, browser)
    await nodes.background()
    nodes.clock.forward(later * MINUTE)
    there = await found(nodes, session_id)
    assert there is not None and await there.tokens() == (b"2", 2)


@pytest.mark.spec("LGN-06", "REF-02")
async def test_tokens_that_were_replaced_are_never_given_out() -> None:
    """An older cookie began the login, and what it lacked waits no more: the session is found, without tokens."""
    nodes = Nodes()
    browser, late = await with_an_older_cookie(nodes)
    await nodes.b.hold(late, until=nodes.clock.time() + QUARTER)
    nodes.clock.forward(2 * MINUTE)
    there = await found(nodes, late.session.id)
    assert there is not None and (await there.tokens())[0] == b""
    await nodes.b.end(there)
    assert await nodes.open(nodes.b, browser) is None


@pytest.mark.spec("LGN-06")
async def test_one_session_leaves_one_value_however_many_logins_begin_in_it() -> None:
    nodes = Nodes()
    browser = await nodes.log_in(tokens=b"t" * 6000)
    for _ in range(200):
        await held(nodes, browser)
        nodes.clock.forward(timedelta(seconds=1))
    (value,) = await values(nodes)
    assert len(value.value) < 16 * 1024 and b"ttt" not in value.value
    assert max(nodes.store.ends.values()) == NOW + 199 + QUARTER


async def test_a_login_with_an_older_cookie_does_not_take_back_what_is_held() -> None:
    nodes = Nodes()
    browser, late = await with_an_older_cookie(nodes)
    session_id = await held(nodes, browser)
    await nodes.b.hold(late, until=nodes.clock.time() + QUARTER)
    nodes.clock.forward(2 * MINUTE)
    there = await found(nodes, session_id)
    assert there is not None and await there.tokens() == (b"2", 2)


async def test_two_logins_that_begin_at_once_hold_it_both() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    session_id = await held(nodes, browser)
    handle = await nodes.opened(nodes.a, browser)

    async def other() -> None:
        await nodes.b.hold(await nodes.opened(nodes.b, browser), until=NOW + QUARTER + 1)

    nodes.store.before["replace"] = other
    await nodes.a.hold(handle, until=NOW + QUARTER + 1)
    nodes.clock.forward(timedelta(seconds=QUARTER))
    assert await found(nodes, session_id) is not None


async def test_a_login_that_begins_when_the_session_is_held_no_more_holds_it_again() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    session_id = await held(nodes, browser)
    handle = await nodes.opened(nodes.a, browser)

    async def late() -> None:
        nodes.clock.forward(timedelta(seconds=QUARTER))

    nodes.store.before["get"] = late
    await nodes.a.hold(handle, until=NOW + 2 * QUARTER)
    assert await found(nodes, session_id) is not None


@pytest.mark.spec("OAU-35")
async def test_what_cannot_be_opened_is_no_session_and_a_later_login_replaces_it() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    session_id = await held(nodes, browser)
    (key,) = nodes.store.ends
    await nodes.store.replace(key, b"garbage", version=1, until=NOW + QUARTER)
    assert await found(nodes, session_id) is None
    await held(nodes, browser)
    assert await found(nodes, session_id) is not None


async def test_a_value_under_a_key_that_was_dropped_is_said_and_replaced() -> None:
    nodes = Nodes()
    new = nodes.process(KeyRing([new_key(), KEY]))
    browser = await nodes.log_in()
    session_id = await held(nodes, browser, by=new)
    with pytest.raises(UnknownSealKey):
        await found(nodes, session_id)
    await held(nodes, browser)
    assert await found(nodes, session_id) is not None


@pytest.mark.spec("OAU-35")
async def test_a_store_that_is_down_is_no_answer() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    session_id = await held(nodes, browser)
    nodes.store.down = True
    with pytest.raises(StoreUnavailable):
        await found(nodes, session_id)
    with pytest.raises(StoreUnavailable):
        await held(nodes, browser)


async def test_sessions_of_a_store_are_found_anyway_and_strangers_are_not_held() -> None:
    nodes, server = Nodes(), server_side()
    handle = await log_in(server, Browser())
    await server.hold(handle, until=NOW + QUARTER)
    with pytest.raises(TypeError):
        await nodes.a.hold(handle, until=NOW + QUARTER)
