"""What a store, or whoever may write to it, can do to a row: at worst the session is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from coatcheck import base64url
from coatcheck.errors import (
    SessionGone,
    UnknownSealKey,
)
from coatcheck.sessions import KeyRing, ReplacePart, ServerSideSessions, new_key, parse_cookies
from coatcheck.stores import MemoryStore
from tests.sessions.samples import (
    KEY,
    NOW,
    OTHER_POLICY,
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


async def two_rows(store: Recording) -> tuple[ServerSideSessions, Browser, bytes, Browser, bytes]:
    """Two users, whose sessions have been opened before, and the keys of their rows."""
    sessions, ada, bob = server_side(store), Browser(), Browser()
    one = await log_in(sessions, ada, sub="ada", tokens=b"of ada")
    other = await log_in(sessions, bob, sub="bob", tokens=b"of bob")
    for browser in (ada, bob):
        await (await opened(sessions, browser)).tokens()
    return sessions, ada, base64url.decode(one.session.id), bob, base64url.decode(other.session.id)


@pytest.mark.spec("STO-03")
@pytest.mark.parametrize("reopened", [False, True])
async def test_claims_swapped_between_rows_are_nobody(reopened: bool) -> None:
    store = Recording()
    sessions, ada, one, bob, other = await two_rows(store)
    store.rows[one], store.rows[other] = (
        replace(store.rows[one], claims=store.rows[other].claims),
        replace(store.rows[other], claims=store.rows[one].claims),
    )
    sessions = server_side(store) if reopened else sessions
    assert await sessions.open(ada.cookies(), now=NOW) is None
    assert await sessions.open(bob.cookies(), now=NOW) is None


@pytest.mark.spec("STO-03")
@pytest.mark.parametrize("reopened", [False, True])
async def test_tokens_swapped_between_rows_or_parts_are_no_tokens(reopened: bool) -> None:
    store = Recording()
    sessions, ada, one, bob, other = await two_rows(store)
    store.rows[one] = replace(store.rows[one], tokens=store.rows[other].tokens)
    store.rows[other] = replace(store.rows[other], tokens=store.rows[other].claims)
    sessions = server_side(store) if reopened else sessions
    for browser in (ada, bob):
        handle = await opened(sessions, browser)
        with pytest.raises(SessionGone, match="cannot be opened"):
            await handle.tokens()


@pytest.mark.spec("STO-03", "SES-11", "COO-14")
async def test_a_session_of_one_application_is_none_in_another() -> None:
    """The same store, the same keys, the same ticket under the other application's cookie name."""
    store = Recording()
    here = server_side(store)
    there = ServerSideSessions(store, RING, OTHER_POLICY)
    browser = Browser()
    handle = await log_in(here, browser)
    crossing = parse_cookies([(b"cookie", f"{OTHER_POLICY.session}={ticket_of(browser)}".encode())])
    assert await there.open(crossing, now=NOW) is None
    assert await there.open(browser.cookies(), now=NOW) is None
    assert await there.find(handle.session.id, now=NOW) is None
    # Not even when somebody with write access to the store moves the row over.
    key = store.loaded[0]
    row = store.rows[base64url.decode(handle.session.id)]
    store.rows[key] = replace(row, key=key, partition=OTHER_POLICY.application_id)
    assert await there.open(crossing, now=NOW) is None


@pytest.mark.spec("STO-08")
@pytest.mark.parametrize(
    "damage",
    [
        lambda sealed: b"",
        lambda sealed: sealed[:-1],
        lambda sealed: sealed[:40] + bytes((sealed[40] ^ 1,)) + sealed[41:],
        lambda sealed: b"\x02" + sealed[1:],
        lambda sealed: b"\xff" * 200,
        lambda sealed: b'{"sub":"ada"}',
    ],
)
async def test_a_damaged_or_newer_row_is_no_session_and_is_kept(damage: Callable[[bytes], bytes]) -> None:
    store = Recording()
    sessions, browser = server_side(store), Browser()
    handle = await log_in(sessions, browser)
    key = base64url.decode(handle.session.id)
    store.rows[key] = replace(store.rows[key], claims=damage(store.rows[key].claims))
    assert await sessions.open(browser.cookies(), now=NOW + TENTH) is None
    assert await sessions.find(handle.session.id, now=NOW) is None
    assert list(store.rows) == [key]
    assert store.changes == []


@pytest.mark.spec("STO-08")
async def test_well_sealed_contents_of_a_newer_version_are_no_session() -> None:
    store = Recording()
    sessions, browser = server_side(store), Browser()
    handle = await log_in(sessions, browser)
    key = base64url.decode(handle.session.id)
    for contents in (b"", b"{}", b'["iss"]\n{}', b"[1,2,3]\n{}", b'["iss","sub",null,"more"]\n{}', b"\xff\xfe"):
        sealed = RING.bound_to(POLICY.application_id).seal(contents, purpose="session", aad=(key, b"claims"))
        store.rows[key] = replace(store.rows[key], claims=sealed)
        assert await sessions.open(browser.cookies(), now=NOW) is None


@pytest.mark.spec("STO-05")
async def test_a_row_under_a_key_that_was_dropped_is_an_operators_fault() -> None:
    """Nothing is deleted: with the key back in the ring the session is there again."""
    store = Recording()
    browser = Browser()
    await log_in(server_side(store), browser)
    without = ServerSideSessions(store, KeyRing([new_key()]), POLICY)
    with pytest.raises(UnknownSealKey) as caught:
        await without.open(browser.cookies(), now=NOW + TENTH)
    assert caught.value.kid == KEY.split(".")[1]
    assert len(store.rows) == 1
    assert store.changes == []
    rotated = ServerSideSessions(store, KeyRing([new_key(), KEY]), POLICY)
    assert (await opened(rotated, browser)).session.sub == "ada"


@pytest.mark.spec("STO-05")
async def test_renewed_tokens_are_sealed_under_the_newest_key() -> None:
    store = Recording()
    browser, newest = Browser(), new_key()
    await log_in(server_side(store), browser)
    handle = await opened(ServerSideSessions(store, KeyRing([newest, KEY]), POLICY), browser)
    await handle.replace_tokens(b"renewed", version=1)
    (change,) = store.changes
    assert isinstance(change, ReplacePart)
    assert newest.split(".")[1].encode() in change.data[:12]


async def test_subjects_are_found_by_keyed_hashes_only() -> None:
    """A plain hash of a `sub` could be found by trying all names; these need the key."""
    store = Recording()
    for browser, ring in ((Browser(), RING), (Browser(), RING), (Browser(), KeyRing([new_key()]))):
        await log_in(ServerSideSessions(store, ring, POLICY), browser)
    one, same, other = (row.sub_key for row in store.rows.values())
    assert one == same
    assert one != other
    assert {row.sid_key for row in store.rows.values()}.isdisjoint({one, other, None})


async def test_what_is_remembered_of_opened_rows_is_bounded() -> None:
    store = MemoryStore()
    sessions = server_side(store)
    for _ in range(2100):
        handle = await log_in(sessions, Browser())
        await handle.tokens()
    assert len(sessions._vault._remembered) <= 2048


@pytest.mark.spec("STO-03")
@pytest.mark.parametrize("reopened", [False, True])
async def test_a_database_writer_cannot_have_a_session_outlive_its_absolute_end(reopened: bool) -> None:
    """Somebody has an old cookie, and a row that was kept when the session ended."""
    store = Recording()
    sessions, ada, one, _, _ = await two_rows(store)
    end = store.rows[one].expires_at
    store.rows[one] = replace(store.rows[one], expires_at=4e9, idle_timeout=4e9, seen_at=end)
    sessions = server_side(store) if reopened else sessions
    handle = await sessions.open(ada.cookies(), now=end - 1, slide=False)
    assert handle is not None and handle.session.expires_at == end
    assert await sessions.open(ada.cookies(), now=end) is None
    assert await sessions.find(handle.session.id, now=end) is None
