"""Cookie sessions: everything in the browser, sealed once, with both ends of its life inside the seal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck import base64url
from coatcheck.errors import CookieTooLarge, SessionGone, StaleVersion
from coatcheck.sessions import CookieSessions, KeyRing, ServerSideSessions, new_key, parse_cookies
from coatcheck.sessions.cookie import COOKIE_LIMIT
from coatcheck.stores import MemoryStore
from tests.sessions.samples import HOUR, ISSUER, KEY, NOW, OTHER_POLICY, POLICY, RING, TENTH, Browser, log_in, opened
from tests.testing.clocks import HandClock

NAMES = (POLICY.session, f"{POLICY.session}.1", f"{POLICY.session}.2")
LARGE = bytes(5000)


def in_cookies(ring: KeyRing = RING) -> CookieSessions:
    clock = HandClock(NOW)
    return CookieSessions(ring, POLICY, clock=clock, coordination=MemoryStore(clock))


async def test_who_logs_in_is_who_is_found_by_a_server_that_keeps_nothing() -> None:
    browser = Browser()
    created = await log_in(in_cookies(), browser, claims={"name": "Ada", "groups": ["x"]}, tokens=b"a\nb\x00c")
    found = await opened(in_cookies(), browser)
    for handle in (created, found):
        session = handle.session
        assert (session.iss, session.sub, session.sid) == (ISSUER, "ada", "sid-1")
        assert session.claims == {"name": "Ada", "groups": ["x"]}
        assert (session.created_at, session.expires_at, session.seen_at) == (NOW, NOW + 8 * HOUR, NOW)
        assert await handle.tokens() == (b"a\nb\x00c", 1)
        assert handle.renews_inline
        assert handle.set_cookies() == []
    assert created.session == found.session


@pytest.mark.spec("LGN-04", "SES-01")
async def test_every_login_has_another_id() -> None:
    ids = {(await log_in(in_cookies(), Browser())).session.id for _ in range(50)}
    assert len(ids) == 50
    assert {len(base64url.decode(each)) for each in ids} == {32}


@pytest.mark.spec("SES-02", "LOG-01")
async def test_neither_names_nor_tokens_can_be_read_from_the_cookie() -> None:
    browser = Browser()
    await log_in(in_cookies(), browser, sub="CANARY", claims={"email": "CANARY"}, tokens=b"CANARY")
    content = base64url.decode(browser.jar[POLICY.session][1:])
    assert b"CANARY" not in content
    assert ISSUER.encode() not in content


@pytest.mark.spec("COO-01", "COO-02", "COO-03", "COO-08")
async def test_a_large_session_takes_several_cookies_of_the_same_attributes() -> None:
    handle = await in_cookies().create(claims={}, iss=ISSUER, sub="ada", sid=None, tokens=LARGE, now=NOW)
    lines = [line.decode() for line in handle.set_cookies()]
    assert [line.partition("=")[0] for line in lines] == list(NAMES)
    assert all(len(line) <= COOKIE_LIMIT for line in lines)
    assert [line.partition("; ")[2] for line in lines] == [
        "Path=/; Secure; HttpOnly; SameSite=Strict",
        "Path=/; Secure; HttpOnly; SameSite=Strict",
        "Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0",
    ]


@pytest.mark.spec("COO-09")
async def test_a_session_too_large_for_cookies_says_what_to_do() -> None:
    with pytest.raises(CookieTooLarge, match="use a session store"):
        await log_in(in_cookies(), Browser(), tokens=bytes(10_000))


@pytest.mark.spec("COO-09", "STO-08")
@pytest.mark.parametrize("chunk", [0, 1, 2])
@pytest.mark.parametrize("fault", ["missing", "emptied", "cut", "changed", "of another login", "twice"])
async def test_a_session_with_one_bad_chunk_is_no_session(chunk: int, fault: str) -> None:
    browser, other = Browser(), Browser()
    await log_in(in_cookies(), browser, tokens=bytes(8000))
    await log_in(in_cookies(), other, tokens=bytes(8000))
    name, value = NAMES[chunk], browser.jar[NAMES[chunk]]
    replacement = {
        "missing": None,
        "emptied": "",
        "cut": value[:-4],
        "changed": value[:50] + ("A" if value[50] != "A" else "B") + value[51:],
        "of another login": other.jar[name],
        "twice": value,
    }[fault]
    if replacement is None:
        del browser.jar[name]
    else:
        browser.jar[name] = replacement
    header = "; ".join(f"{each}={text}" for each, text in browser.jar.items())
    if fault == "twice":
        header += f"; {name}={value}"
    cookies = parse_cookies([(b"cookie", header.encode())])
    assert await in_cookies().open(cookies, now=NOW) is None
    assert in_cookies().presented(cookies)
    assert len(in_cookies().expire_cookies(cookies)) == len(browser.jar)


@pytest.mark.spec("COO-09")
async def test_chunks_of_a_larger_session_are_removed_when_it_shrinks() -> None:
    browser = Browser()
    handle = await log_in(in_cookies(), browser, tokens=bytes(8000))
    assert list(browser.jar) == list(NAMES)
    await handle.replace_tokens(b"small", version=1)
    browser.receive(handle.set_cookies())
    assert list(browser.jar) == [POLICY.session]
    assert await (await opened(in_cookies(), browser)).tokens() == (b"small", 2)


@pytest.mark.spec("RPL-03")
async def test_logging_out_deletes_every_chunk_with_all_attributes() -> None:
    browser = Browser()
    await log_in(in_cookies(), browser, tokens=bytes(8000))
    sessions = in_cookies()
    handle = await opened(sessions, browser)
    await handle.replace_tokens(bytes(8000), version=1)
    await sessions.end(handle)
    lines = handle.set_cookies()
    assert lines == [f"{name}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0".encode() for name in NAMES]
    assert await handle.tokens() == (bytes(8000), 2)  # to be given back
    with pytest.raises(SessionGone):
        await handle.tokens(reload=True)
    with pytest.raises(SessionGone):
        await handle.replace_tokens(b"late", version=2)
    assert handle.set_cookies() == []


# Lifetimes


@pytest.mark.spec("STO-10", "SES-03")
async def test_an_old_cookie_that_was_kept_is_worthless_after_the_absolute_end() -> None:
    """However often it slid: the end stands inside the seal, and a renewal does not move it."""
    browser, now = Browser(), NOW
    await log_in(in_cookies(), browser)
    while now < NOW + 8 * HOUR - 600:
        now += 600
        handle = await opened(in_cookies(), browser, now=now)
        _, version = await handle.tokens()
        await handle.replace_tokens(b"renewed", version=version)
        browser.receive(handle.set_cookies())
        assert handle.session.expires_at == NOW + 8 * HOUR
    assert await in_cookies().open(browser.cookies(), now=NOW + 8 * HOUR - 0.001) is not None
    assert await in_cookies().open(browser.cookies(), now=NOW + 8 * HOUR) is None


@pytest.mark.spec("SES-04")
async def test_an_idle_cookie_dies_and_a_used_one_slides() -> None:
    used, idle = Browser(), Browser()
    await log_in(in_cookies(), used)
    await log_in(in_cookies(), idle)
    await opened(in_cookies(), used, now=NOW + HOUR - 1)
    assert await in_cookies().open(used.cookies(), now=NOW + 2 * HOUR - 2) is not None
    assert await in_cookies().open(idle.cookies(), now=NOW + HOUR) is None


@pytest.mark.spec("SES-04", "COO-13")
async def test_a_cookie_is_set_again_at_most_every_tenth_of_the_idle_time() -> None:
    browser = Browser()
    await log_in(in_cookies(), browser)
    written = []
    for second in range(0, 3600, 10):
        handle = await in_cookies().open(browser.cookies(), now=NOW + second)
        assert handle is not None
        lines = handle.set_cookies()
        browser.receive(lines)
        if lines:
            written.append(second)
            assert handle.session.seen_at == NOW + second
    assert written == [TENTH * step for step in range(1, 10)]


@pytest.mark.spec("SES-04")
async def test_without_slide_no_cookie_is_set() -> None:
    browser = Browser()
    await log_in(in_cookies(), browser)
    handle = await in_cookies().open(browser.cookies(), now=NOW + HOUR / 2, slide=False)
    assert handle is not None
    assert handle.set_cookies() == []
    assert handle.session.seen_at == NOW


async def test_a_reload_notices_that_the_session_has_died_meanwhile() -> None:
    clock, browser = HandClock(NOW), Browser()
    sessions = CookieSessions(RING, POLICY, clock=clock, coordination=MemoryStore(clock))
    handle = await log_in(sessions, browser)
    assert await handle.tokens(reload=True) == (b"the tokens", 1)
    clock.forward(timedelta(hours=1))
    with pytest.raises(SessionGone):
        await handle.tokens(reload=True)


# New tokens


@pytest.mark.spec("SES-06")
async def test_new_tokens_are_in_this_request_and_in_the_next() -> None:
    browser = Browser()
    await log_in(in_cookies(), browser, claims={"name": "Ada"})
    handle = await opened(in_cookies(), browser)
    await handle.replace_tokens(b"renewed", version=1)
    assert await handle.tokens() == (b"renewed", 2)
    with pytest.raises(StaleVersion):
        await handle.replace_tokens(b"again", version=1)
    assert await handle.tokens(reload=True) == (b"renewed", 2)
    browser.receive(handle.set_cookies())
    after = await opened(in_cookies(), browser)
    assert await after.tokens() == (b"renewed", 2)
    assert after.session == handle.session


async def test_new_tokens_that_do_not_fit_leave_the_session_as_it_was() -> None:
    browser = Browser()
    handle = await log_in(in_cookies(), browser)
    with pytest.raises(CookieTooLarge):
        await handle.replace_tokens(bytes(10_000), version=1)
    assert await handle.tokens() == (b"the tokens", 1)
    assert handle.set_cookies() == []


async def test_a_slide_and_new_tokens_in_one_request_are_one_set_of_cookies() -> None:
    browser = Browser()
    await log_in(in_cookies(), browser)
    handle = await in_cookies().open(browser.cookies(), now=NOW + TENTH)
    assert handle is not None
    await handle.replace_tokens(b"renewed", version=1)
    lines = handle.set_cookies()
    assert len(lines) == 3
    browser.receive(lines)
    after = await opened(in_cookies(), browser, now=NOW + TENTH)
    assert (await after.tokens(), after.session.seen_at) == ((b"renewed", 2), NOW + TENTH)


# What a browser may send


@pytest.mark.spec("STO-03", "SES-11", "COO-14")
async def test_a_cookie_of_one_application_is_none_in_another() -> None:
    browser = Browser()
    await log_in(in_cookies(), browser)
    there = CookieSessions(RING, OTHER_POLICY, clock=HandClock(NOW), coordination=MemoryStore())
    crossing = parse_cookies([(b"cookie", f"{OTHER_POLICY.session}={browser.jar[POLICY.session]}".encode())])
    assert await there.open(crossing, now=NOW) is None
    assert await there.open(browser.cookies(), now=NOW) is None


@pytest.mark.spec("STO-03")
async def test_a_value_sealed_for_another_purpose_is_no_session() -> None:
    """The sealed transaction of a login, replayed as a session (CVE-2023-48309); or a part of a stored row."""
    browser = Browser()
    contents = b'{"id":"x","iss":"i","sub":"ada","sid":null,"created_at":1.8e9,"expires_at":9e9,"seen_at":9e9,'
    contents += b'"idle_timeout":9e9,"tokens_version":1}\n{}\n'
    ring = RING.bound_to(POLICY.application_id)
    for purpose, opens in (("transaction", False), ("session", False), ("cookie session", True)):
        browser.jar[POLICY.session] = "1" + base64url.encode(ring.seal(contents, purpose=purpose))
        assert (await in_cookies().open(browser.cookies(), now=NOW) is not None) is opens


@pytest.mark.spec("STO-05")
async def test_a_cookie_under_a_key_that_is_not_in_the_ring_is_no_session() -> None:
    browser = Browser()
    await log_in(in_cookies(), browser)
    assert await in_cookies(KeyRing([new_key()])).open(browser.cookies(), now=NOW) is None
    rotated = in_cookies(KeyRing([new_key(), KEY]))
    assert (await opened(rotated, browser, now=NOW + TENTH)).session.sub == "ada"
    # The slide has sealed it again, under the first key; the old one may go.
    assert await in_cookies().open(browser.cookies(), now=NOW + TENTH) is None


@pytest.mark.spec("STO-08")
@pytest.mark.parametrize(
    "contents", [b"", b"{}", b"[]\n{}\n", b"\xff\n{}\n", b'{"id":"x","iss":"i"}\n{}\n', b'{"id":1,"iss":2}\n{}\n']
)
async def test_well_sealed_contents_of_another_version_are_no_session(contents: bytes) -> None:
    browser = Browser()
    sealed = RING.bound_to(POLICY.application_id).seal(contents, purpose="cookie session")
    browser.jar[POLICY.session] = "1" + base64url.encode(sealed)
    assert await in_cookies().open(browser.cookies(), now=NOW) is None


ANY_VALUE = st.binary(max_size=120) | st.text("123ABCabc-_", max_size=120).map(str.encode)


@pytest.mark.spec("STO-08")
@given(st.lists(st.tuples(st.sampled_from(NAMES), ANY_VALUE), max_size=4))
def test_no_cookie_makes_opening_fail(pairs: list[tuple[str, bytes]]) -> None:
    header = b"; ".join(name.encode() + b"=" + value for name, value in pairs)
    opening = in_cookies().open(parse_cookies([(b"cookie", header)]), now=NOW)
    with pytest.raises(StopIteration) as done:
        opening.send(None)  # and it never suspends
    assert done.value.value is None


@pytest.mark.spec("STO-08")
@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: "2" + text[1:], lambda text: "3" + text[1:]])
async def test_a_cut_or_miscounted_cookie_is_no_session(change: Callable[[str], str]) -> None:
    browser = Browser()
    await log_in(in_cookies(), browser)
    browser.jar[POLICY.session] = change(browser.jar[POLICY.session])
    assert await in_cookies().open(browser.cookies(), now=NOW) is None


async def test_the_two_kinds_of_sessions_do_not_take_each_others_cookies() -> None:
    """An application that changes its store: everybody logs in once more, nothing fails."""
    server_side = ServerSideSessions(MemoryStore(), RING, POLICY, clock=HandClock(NOW))
    one, other = Browser(), Browser()
    await log_in(in_cookies(), one)
    await log_in(server_side, other)
    assert await server_side.open(one.cookies(), now=NOW) is None
    assert await in_cookies().open(other.cookies(), now=NOW) is None


async def test_what_is_remembered_of_a_cookie_lives_no_longer_than_the_session() -> None:
    sessions, browser = in_cookies(), Browser()
    await log_in(sessions, browser, claims={"groups": ["readers"]})
    for _ in range(2):
        handle = await opened(sessions, browser)
        handle.session.claims["groups"].append("administrators")
        await handle.replace_tokens(b"never sent", version=1)
    after = await opened(sessions, browser, now=NOW + HOUR - 1, slide=False)
    assert after.session.claims["groups"] == ["readers"]
    assert await after.tokens() == (b"the tokens", 1)
    assert await sessions.open(browser.cookies(), now=NOW + HOUR) is None


async def test_what_is_remembered_of_cookies_is_bounded() -> None:
    sessions = in_cookies()
    for _ in range(600):
        browser = Browser()
        await log_in(sessions, browser)
        await opened(sessions, browser)
    assert 0 < len(sessions._remembered) <= 512


async def test_a_session_that_is_replaced_is_over_in_this_request() -> None:
    sessions, browser = in_cookies(), Browser()
    before = await log_in(sessions, browser)
    after = await log_in(sessions, browser, sub="bob", replaces=before)
    assert before.set_cookies() == []  # deletions would hit the cookies of the new session
    with pytest.raises(SessionGone):
        await before.tokens()
    assert after.session.id != before.session.id
    assert (await opened(sessions, browser)).session.sub == "bob"
    assert await sessions.find(after.session.id, now=NOW) is None


async def test_a_late_response_does_not_bring_a_session_back_that_was_logged_out() -> None:
    """Two requests at once: one logs out, the other one would slide the cookie, or put new tokens into it."""
    sessions, browser = in_cookies(), Browser()
    await log_in(sessions, browser)
    sliding = await sessions.open(browser.cookies(), now=NOW + 2 * TENTH)
    renewing = await sessions.open(browser.cookies(), now=NOW)
    assert sliding is not None and renewing is not None
    await renewing.replace_tokens(b"new tokens", version=1)
    kept = Browser()
    kept.jar.update(browser.jar)
    leaving = await opened(sessions, browser)
    await sessions.end(leaving)
    browser.receive(leaving.set_cookies())
    for late in (sliding, renewing):
        assert late.set_cookies() == []
        with pytest.raises(SessionGone):
            await late.tokens()
        with pytest.raises(SessionGone):
            await late.replace_tokens(b"newer tokens", version=2)
    assert await sessions.open(browser.cookies(), now=NOW) is None
    assert await sessions.open(kept.cookies(), now=NOW) is None


async def test_a_late_response_does_not_overwrite_the_session_of_the_next_user() -> None:
    sessions, browser = in_cookies(), Browser()
    before = await log_in(sessions, browser)
    late = await sessions.open(browser.cookies(), now=NOW + 2 * TENTH)
    assert late is not None
    await log_in(sessions, browser, sub="bob", replaces=before)
    browser.receive(late.set_cookies())
    assert (await opened(sessions, browser)).session.sub == "bob"


async def test_what_is_remembered_of_ended_sessions_is_bounded_and_ends_with_them() -> None:
    clock = HandClock(NOW)
    sessions = CookieSessions(RING, POLICY, clock=clock, coordination=MemoryStore(clock))
    for _ in range(10):
        await sessions.end(await log_in(sessions, Browser()))
    assert len(sessions._endings._ended) == 10
    clock.forward(timedelta(hours=8))
    for _ in range(10):
        await sessions.end(await log_in(sessions, Browser(), now=clock.time()))
    assert len(sessions._endings._ended) == 10


@pytest.mark.spec("SES-03")
async def test_a_lifetime_that_was_made_shorter_is_one_for_older_cookies_too() -> None:
    browser = Browser()
    await log_in(in_cookies(), browser)
    shorter = CookieSessions(RING, POLICY, lifetime=timedelta(minutes=30), coordination=MemoryStore())
    assert await shorter.open(browser.cookies(), now=NOW + 29 * 60) is not None
    assert await shorter.open(browser.cookies(), now=NOW + 30 * 60) is None
