"""Server-side sessions: the ticket, the login that makes one, and the logout that voids it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from coatcheck import base64url
from coatcheck.errors import (
    SessionGone,
    StoreUnavailable,
)
from coatcheck.sessions import CookieSessions, ServerSideSessions, SessionRow, parse_cookies
from coatcheck.stores import MemoryStore
from tests.sessions.samples import (
    HOUR,
    ISSUER,
    NOW,
    POLICY,
    RING,
    TENTH,
    Browser,
    Recording,
    log_in,
    opened,
    server_side,
    sqlite_nodes,
    ticket_of,
)
from tests.testing.clocks import HandClock

# The ticket


async def test_who_logs_in_is_who_is_found() -> None:
    sessions, browser = server_side(), Browser()
    created = await log_in(sessions, browser, claims={"name": "Ada", "groups": ["x"]}, tokens=b"the tokens")
    found = await opened(sessions, browser)
    for handle in (created, found):
        session = handle.session
        assert (session.iss, session.sub, session.sid) == (ISSUER, "ada", "sid-1")
        assert session.claims == {"name": "Ada", "groups": ["x"]}
        assert (session.created_at, session.expires_at, session.seen_at) == (NOW, NOW + 8 * HOUR, NOW)
        assert await handle.tokens() == (b"the tokens", 1)
        assert not handle.renews_inline
    assert created.session.id == found.session.id


@pytest.mark.spec("SES-01")
async def test_a_ticket_is_256_random_bits_and_says_nothing() -> None:
    sessions = server_side()
    tickets = set()
    for _ in range(200):
        browser = Browser()
        await log_in(sessions, browser)
        tickets.add(ticket_of(browser))
    assert len(tickets) == 200
    raw = [base64url.decode(ticket) for ticket in tickets]
    assert {len(ticket) for ticket in raw} == {32}
    # No bit of them is the same in all: nothing in a ticket is a counter, a time or a user.
    for bit in range(256):
        assert 0 < sum(ticket[bit // 8] >> bit % 8 & 1 for ticket in raw) < 200


@pytest.mark.spec("COO-01", "COO-03", "RPL-03")
async def test_the_cookie_is_set_once_and_deleted_with_the_same_attributes() -> None:
    sessions, browser = server_side(), Browser()
    handle = await sessions.create(claims={}, iss=ISSUER, sub="ada", sid=None, tokens=b"", now=NOW)
    line, *left_over = handle.set_cookies()
    assert line.endswith(b"; Path=/; Secure; HttpOnly; SameSite=Strict")
    deletion = "=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"
    assert left_over == [f"{POLICY.session}.{number}{deletion}".encode() for number in (1, 2)]
    assert handle.set_cookies() == []
    browser.receive([line])
    handle = await opened(sessions, browser)
    assert handle.set_cookies() == []
    await sessions.end(handle)
    assert handle.set_cookies() == [f"{POLICY.session}{deletion}".encode()]


@pytest.mark.spec("SES-02")
async def test_a_dump_of_the_store_cannot_be_turned_into_a_cookie() -> None:
    store = Recording()
    sessions, browser = server_side(store), Browser()
    handle = await log_in(sessions, browser)
    (row,) = store.rows.values()
    values: list[bytes] = [handle.session.id.encode()]
    for name in row.__slots__:
        value = getattr(row, name)
        values.append(value if isinstance(value, bytes) else str(value).encode())
    assert ticket_of(browser).encode() not in b"".join(values)
    for value in values:
        for text in (value, base64url.encode(value).encode(), value.hex().encode(), sha256(value).hexdigest().encode()):
            cookies = parse_cookies([(b"cookie", POLICY.session.encode() + b"=" + text)])
            assert await sessions.open(cookies, now=NOW) is None
    assert await sessions.open(browser.cookies(), now=NOW) is not None


@pytest.mark.spec("SES-02", "STO-09")
async def test_a_ticket_is_never_compared_only_its_hash_is_looked_up() -> None:
    """Comparing secrets takes a time that tells how much of them is right; looking up a hash tells nothing."""
    store = Recording()
    sessions, browser = server_side(store), Browser()
    handle = await log_in(sessions, browser)
    await opened(sessions, browser)
    ticket = ticket_of(browser)
    (key,) = store.loaded
    assert len(key) == 32
    assert key == base64url.decode(handle.session.id)
    assert key not in (sha256(ticket.encode()).digest(), sha256(base64url.decode(ticket)).digest())  # a domain prefix
    almost = ("B" if ticket[0] == "A" else "A") + ticket[1:]
    assert await sessions.open(parse_cookies([(b"cookie", f"{POLICY.session}={almost}".encode())]), now=NOW) is None
    assert store.loaded[-1] != key


@pytest.mark.spec("SES-01", "COO-06")
@pytest.mark.parametrize(
    "change", [lambda t: t + "A", lambda t: t[:-1], lambda t: "", lambda t: t + "=", lambda t: t * 90]
)
async def test_a_ticket_of_another_shape_does_not_reach_the_store(change: Callable[[str], str]) -> None:
    store = Recording()
    sessions, browser = server_side(store), Browser()
    await log_in(sessions, browser)
    browser.jar[POLICY.session] = change(ticket_of(browser))
    assert await sessions.open(browser.cookies(), now=NOW) is None
    assert store.loaded == []
    assert sessions.presented(browser.cookies())


@pytest.mark.spec("COO-07")
async def test_cookie_tossing_two_session_cookies_are_no_session_and_are_cleared() -> None:
    sessions, victim, attacker = server_side(), Browser(), Browser()
    await log_in(sessions, victim)
    await log_in(sessions, attacker, sub="mallory")
    pairs = [f"{POLICY.session}={ticket_of(browser)}" for browser in (victim, attacker)]
    for header in ("; ".join(pairs), "; ".join(reversed(pairs)), f"{pairs[0]}; {pairs[0]}"):
        cookies = parse_cookies([(b"cookie", header.encode())])
        assert await sessions.open(cookies, now=NOW) is None
        assert sessions.presented(cookies)
        (line,) = sessions.expire_cookies(cookies)
        assert line.endswith(b"SameSite=Strict; Max-Age=0")


async def test_without_our_cookie_nothing_is_expired() -> None:
    cookies = parse_cookies([(b"cookie", b"theme=dark")])
    assert server_side().expire_cookies(cookies) == []
    assert not server_side().presented(cookies)


# Login and logout


@pytest.mark.spec("LGN-04")
async def test_session_fixation_a_planted_ticket_is_dead_after_the_login() -> None:
    """The attacker plants a ticket of an own, valid session; the victim logs in; the attacker's copy opens nothing."""
    sessions, attacker, victim = server_side(), Browser(), Browser()
    await log_in(sessions, attacker, sub="mallory")
    victim.jar.update(attacker.jar)
    planted = await opened(sessions, victim)
    await log_in(sessions, victim, sub="ada", replaces=planted)
    assert ticket_of(victim) != ticket_of(attacker)
    assert (await opened(sessions, victim)).session.sub == "ada"
    assert await sessions.open(attacker.cookies(), now=NOW) is None


@pytest.mark.spec("LGN-04")
async def test_every_login_gets_a_new_ticket_though_nothing_is_replaced() -> None:
    sessions, browser = server_side(), Browser()
    await log_in(sessions, browser)
    first = ticket_of(browser)
    await log_in(sessions, browser)
    assert ticket_of(browser) != first


@pytest.mark.spec("LGN-04")
async def test_a_session_can_be_found_and_replaced_by_the_id_that_was_kept() -> None:
    sessions, browser = server_side(), Browser()
    kept = (await log_in(sessions, browser)).session.id
    before = await sessions.find(kept, now=NOW)
    assert before is not None
    await log_in(sessions, browser, sub="bob", replaces=before)
    assert await sessions.find(kept, now=NOW) is None
    assert (await opened(sessions, browser)).session.sub == "bob"


@pytest.mark.spec("LGN-04", "SES-12")
async def test_the_old_session_survives_a_login_that_the_store_refused() -> None:
    class Full(MemoryStore):
        full = False

        async def create(self, row: SessionRow) -> None:
            if self.full:
                raise StoreUnavailable("the disk is full")
            await super().create(row)

    store = Full()
    sessions, browser = server_side(store), Browser()
    before = await log_in(sessions, browser)
    store.full = True
    with pytest.raises(StoreUnavailable):
        await log_in(sessions, browser, replaces=before)
    assert await sessions.open(browser.cookies(), now=NOW) is not None


@pytest.mark.spec("SES-05")
async def test_an_ended_session_is_over_for_every_node_at_once(tmp_path: Path) -> None:
    """Both nodes have opened it before, so nothing that they remember of it may count."""
    async with sqlite_nodes(tmp_path) as (here, there):
        browser = Browser()
        await log_in(here, browser)
        handle, elsewhere = await opened(here, browser), await opened(there, browser)
        await elsewhere.tokens()
        await here.end(handle)
        assert await there.open(browser.cookies(), now=NOW) is None
        assert await here.open(browser.cookies(), now=NOW) is None
        with pytest.raises(SessionGone):
            await elsewhere.tokens(reload=True)
        with pytest.raises(SessionGone):
            await elsewhere.replace_tokens(b"late", version=1)
        assert await there.open(browser.cookies(), now=NOW) is None


@pytest.mark.spec("SES-03", "REF-23")
async def test_a_session_that_reached_its_end_takes_no_new_tokens() -> None:
    """The renewal began before the end. The store has the row still, but nobody would use what is written there."""
    clock, browser = HandClock(NOW), Browser()
    sessions = ServerSideSessions(MemoryStore(clock), RING, POLICY, clock=clock)
    await log_in(sessions, browser)
    renewing = await opened(sessions, browser)
    clock.forward(timedelta(seconds=8 * HOUR - 1))
    await renewing.replace_tokens(b"in time", version=1)
    clock.forward(timedelta(seconds=1))
    with pytest.raises(SessionGone):
        await renewing.replace_tokens(b"late", version=2)


@pytest.mark.spec("SES-07")
async def test_a_late_write_does_not_bring_a_session_back(tmp_path: Path) -> None:
    """The renewal began before the logout and ends after it; the slide likewise."""
    async with sqlite_nodes(tmp_path) as (here, there):
        browser = Browser()
        await log_in(here, browser)
        renewing = await opened(here, browser)
        _, version = await renewing.tokens()
        await there.end(await opened(there, browser))
        with pytest.raises(SessionGone):
            await renewing.replace_tokens(b"renewed", version=version)
        assert await here.open(browser.cookies(), now=NOW + TENTH) is None
        assert await there.open(browser.cookies(), now=NOW) is None


@pytest.mark.spec("SES-07")
async def test_a_session_deleted_while_it_is_touched_is_no_session() -> None:
    store = Recording()
    sessions, browser = server_side(store), Browser()
    await log_in(sessions, browser)
    store.update_fault = SessionGone("deleted")
    assert await sessions.open(browser.cookies(), now=NOW + TENTH) is None


async def test_a_handle_of_other_sessions_is_refused() -> None:
    handle = await log_in(CookieSessions(RING, POLICY, coordination=MemoryStore()), Browser())
    with pytest.raises(TypeError):
        await server_side().end(handle)
