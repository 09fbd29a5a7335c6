"""Sessions are found by whom they are about, and what was found ends as any other does."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from coatcheck import base64url
from coatcheck.errors import ConfigurationError, SessionGone, UnknownSealKey
from coatcheck.sessions import (
    CookieSessions,
    KeyRing,
    ReplacePart,
    ServerSideSessions,
    SessionFilter,
    SessionHandle,
    new_key,
)
from coatcheck.sessions.cookie_sessions import CookieHandle
from coatcheck.stores import MemoryStore
from tests.sessions.nodes import Nodes
from tests.sessions.samples import HOUR, ISSUER, KEY, NOW, OTHER_POLICY, POLICY, RING, Browser, log_in
from tests.testing.clocks import HandClock


def kept_in(store: MemoryStore, *, ring: KeyRing = RING, policy=POLICY, clock: HandClock | None = None):
    return ServerSideSessions(store, ring, policy, clock=clock or HandClock(NOW))


async def begin(sessions: ServerSideSessions, sub: str, sid: str | None, *, now: float = NOW) -> SessionHandle:
    return await sessions.create(claims={}, iss=ISSUER, sub=sub, sid=sid, tokens=b"t:" + sub.encode(), now=now)


async def found(sessions: ServerSideSessions, *, now: float = NOW, **who: str) -> list[tuple[str, str | None]]:
    handles = await sessions.find_all(SessionFilter(ISSUER, **who), now=now)
    return sorted(((handle.session.sub, handle.session.sid) for handle in handles), key=str)


@pytest.mark.spec("SES-09", "BCL-12", "BCL-13")
async def test_by_sub_by_sid_and_by_both() -> None:
    sessions = kept_in(MemoryStore(HandClock(NOW)))
    for sub, sid in (("ada", "s1"), ("ada", "s2"), ("ada", None), ("bob", "s1"), ("s1", "ada")):
        await begin(sessions, sub, sid)
    assert len(await found(sessions, sub="ada")) == 3
    assert await found(sessions, sid="s1") == [("ada", "s1"), ("bob", "s1")]
    assert await found(sessions, sub="ada", sid="s1") == [("ada", "s1")]
    assert await found(sessions, sub="bob", sid="s2") == []
    assert await found(sessions, sub="carol") == []
    assert await sessions.find_all(SessionFilter("https://idp.example.org", sub="ada"), now=NOW) == []


@pytest.mark.spec("SES-03", "SES-04")
async def test_what_is_over_is_not_found_and_a_find_is_no_use() -> None:
    clock = HandClock(NOW)
    sessions = kept_in(MemoryStore(clock), clock=clock)
    await begin(sessions, "ada", "s1")
    assert await found(sessions, sub="ada", now=NOW + HOUR - 1)
    assert await found(sessions, sub="ada", now=NOW + HOUR) == []


@pytest.mark.spec("SES-11")
async def test_another_application_in_the_store_has_sessions_of_its_own() -> None:
    store = MemoryStore(HandClock(NOW))
    await begin(kept_in(store), "ada", "s1")
    other = kept_in(store, policy=OTHER_POLICY)
    assert await found(other, sub="ada") == []
    await begin(other, "ada", "s9")
    assert await found(other, sub="ada") == [("ada", "s9")]


@pytest.mark.spec("STO-05", "SES-09")
async def test_sessions_of_before_a_key_rotation_are_found_after_it() -> None:
    store, old, new = MemoryStore(HandClock(NOW)), KEY, new_key()
    for number, keys in enumerate(([old], [old, new], [new, old])):
        await begin(kept_in(store, ring=KeyRing(keys)), "ada", f"s{number}")
    for keys in ([old, new], [new, old]):
        assert len(await found(kept_in(store, ring=KeyRing(keys)), sub="ada")) == 3
    # Dropped before the longest session was over: the index has lost those of the old key, and says so of none.
    assert await found(kept_in(store, ring=KeyRing([new])), sub="ada") == [("ada", "s2")]


async def test_a_session_under_a_key_that_is_not_in_the_ring_is_an_operators_fault() -> None:
    store, new = MemoryStore(HandClock(NOW)), new_key()
    await begin(kept_in(store, ring=KeyRing([new, KEY])), "ada", "s1")
    from_new = kept_in(store, ring=KeyRing([KEY]))
    assert await found(from_new, sub="ada") == []  # its index keys are of the other key
    sub_key = from_new._vault.index_key("sub", ISSUER, "ada")
    store._rows.update({key: replace(row, sub_key=sub_key) for key, row in store._rows.items()})
    with pytest.raises(UnknownSealKey):
        await found(from_new, sub="ada")


async def test_a_damaged_session_is_none_and_hides_no_other() -> None:
    store = MemoryStore(HandClock(NOW))
    sessions = kept_in(store)
    damaged = await begin(sessions, "ada", "s1")
    await begin(sessions, "ada", "s2")
    await store.update(base64url.decode(damaged.session.id), ReplacePart("claims", b"\x01garbage", 1))
    assert await found(sessions, sub="ada") == [("ada", "s2")]


@pytest.mark.spec("SES-05")
async def test_what_was_found_ends_once_and_its_tokens_are_still_known_to_who_ended_it() -> None:
    store = MemoryStore(HandClock(NOW))
    sessions = kept_in(store)
    browser = Browser()
    opened = await log_in(sessions, browser)
    (one,) = await sessions.find_all(SessionFilter(ISSUER, sub="ada"), now=NOW)
    (other,) = await sessions.find_all(SessionFilter(ISSUER, sub="ada"), now=NOW)
    await opened.replace_tokens(b"renewed meanwhile", version=1)
    assert await sessions.end(one)
    assert not await sessions.end(other)
    assert await one.tokens() == (b"renewed meanwhile", 2)
    with pytest.raises(SessionGone):
        await one.tokens(reload=True)
    with pytest.raises(SessionGone):
        await opened.replace_tokens(b"late", version=2)
    assert await sessions.open(browser.cookies(), now=NOW) is None


async def test_a_store_without_an_index_says_so() -> None:
    class Plain:
        create = load = update = delete = None

    sessions = ServerSideSessions(Plain(), RING, POLICY)  # type: ignore[arg-type]
    assert not sessions.searchable
    with pytest.raises(ConfigurationError, match="Plain cannot find sessions"):
        await sessions.find_all(SessionFilter(ISSUER, sub="ada"), now=NOW)


# Looking again


@pytest.mark.spec("SES-05")
async def test_a_session_is_opened_again_as_it_is_now() -> None:
    clock = HandClock(NOW)
    sessions, browser = kept_in(MemoryStore(clock), clock=clock), Browser()
    handle = await log_in(sessions, browser)
    clock.forward(timedelta(minutes=30))
    assert await sessions.open(browser.cookies(), now=clock.time())
    again = await sessions.reopen(handle, now=clock.time())
    assert again is not None and again.session.seen_at == clock.time()
    await sessions.end(handle)
    assert await sessions.reopen(handle, now=clock.time()) is None


@pytest.mark.spec("SES-05", "BCL-19")
async def test_in_cookies_it_is_asked_whether_it_has_ended_and_idleness_is_the_browsers_to_tell() -> None:
    nodes = Nodes()
    browser = await nodes.log_in()
    handle = await nodes.opened(nodes.b, browser)
    nodes.clock.forward(timedelta(hours=2))
    assert await nodes.b.reopen(handle, now=nodes.clock.time()) is handle
    assert await nodes.a.end(await nodes.a.reopen(handle_of(nodes.a, handle), now=nodes.clock.time()) or handle)
    assert await nodes.b.reopen(handle, now=nodes.clock.time()) is None


def handle_of(sessions: CookieSessions, handle: SessionHandle) -> SessionHandle:
    """The same cookie, opened by another process."""
    assert isinstance(handle, CookieHandle)
    return CookieHandle(sessions, handle.contents, carried=handle.contents.head)
