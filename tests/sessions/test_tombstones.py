"""Tombstones: who was logged out, and which of their sessions that is about."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.codec import encode
from coatcheck.coordination import ExpiringValue
from coatcheck.errors import StaleVersion, StoreUnavailable
from coatcheck.sessions import KeyRing, Session, SessionFilter, new_key
from coatcheck.sessions.session import Claims
from coatcheck.sessions.tombstones import Tombstones, Until
from coatcheck.stores import MemoryStore
from tests.sessions.samples import HOUR, ISSUER, KEY, NOW, POLICY, RING
from tests.testing.clocks import HandClock

OTHER_ISSUER = "https://idp.example.org"


def session(
    *,
    iss: str = ISSUER,
    sub: str = "ada",
    sid: str | None = "s1",
    issued: float | None = NOW - 1,
    created: float = NOW,
) -> Session:
    claims = b"{}" if issued is None else b'{"iat":%d}' % issued
    return Session("id", iss, sub, sid, Claims(claims), created, NOW + 8 * HOUR, NOW, HOUR)


def tombstones(store: MemoryStore | None = None, *, ring: KeyRing = RING, application: str = "") -> Tombstones:
    return Tombstones(store or MemoryStore(HandClock(NOW)), ring.bound_to(application or POLICY.application_id))


ALL = Until(issued=NOW + 100)


@pytest.mark.spec("BCL-12", "BCL-13", "BCL-14")
@pytest.mark.parametrize(
    ("who", "covered"),
    [
        (SessionFilter(ISSUER, sub="ada"), {("ada", "s1"), ("ada", "s2"), ("ada", None)}),
        (SessionFilter(ISSUER, sid="s1"), {("ada", "s1"), ("bob", "s1"), ("s1", "s1")}),
        (SessionFilter(ISSUER, sub="ada", sid="s1"), {("ada", "s1")}),
        (SessionFilter(ISSUER, sub="s1"), {("s1", "s1"), ("s1", "s2"), ("s1", None)}),  # a sub is no sid
        (SessionFilter(OTHER_ISSUER, sub="ada"), set()),
    ],
)
async def test_it_is_about_those_who_are_named_and_about_nobody_else(
    who: SessionFilter, covered: set[tuple[str, str | None]]
) -> None:
    room = tombstones()
    await room.put(who, ALL, until=NOW + HOUR)
    everybody = product(("ada", "bob", "s1"), ("s1", "s2", None))
    assert {(sub, sid) for sub, sid in everybody if await room.cover(session(sub=sub, sid=sid))} == covered


@pytest.mark.spec("BCL-20")
@pytest.mark.parametrize(
    ("about", "issued", "created", "covered"),
    [
        (Until(issued=NOW), NOW - 1, NOW + 5, True),
        (Until(issued=NOW), NOW, NOW + 5, True),
        (Until(issued=NOW), NOW + 1, NOW + 5, False),
        (Until(issued=NOW), None, NOW, True),  # an id_token without iat: when the session began
        (Until(issued=NOW), None, NOW + 1, False),
        (Until(created=NOW), NOW + 30, NOW, True),  # the clock of the authorization server is ahead
        (Until(created=NOW), NOW - 30, NOW + 1, False),
        (Until(issued=NOW - 10, created=NOW), NOW, NOW, True),
        (Until(), NOW, NOW, False),
    ],
)
async def test_a_login_after_the_logout_is_not_undone(
    about: Until, issued: float | None, created: float, covered: bool
) -> None:
    room = tombstones()
    await room.put(SessionFilter(ISSUER, sub="ada"), about, until=NOW + HOUR)
    assert await room.cover(session(issued=issued, created=created)) is covered


async def test_it_ends_at_its_time() -> None:
    clock = HandClock(NOW)
    room = tombstones(MemoryStore(clock))
    await room.put(SessionFilter(ISSUER, sub="ada"), ALL, until=NOW + 20)
    clock.forward(timedelta(seconds=19))
    assert await room.cover(session())
    clock.forward(timedelta(seconds=1))
    assert not await room.cover(session())


INSTANTS = st.none() | st.integers(0, 50).map(float)
ABOUTS = st.builds(Until, issued=INSTANTS, created=INSTANTS)


@pytest.mark.spec("BCL-20")
@given(st.lists(ABOUTS, min_size=1, max_size=4), st.integers(0, 50), st.integers(0, 50))
def test_a_later_logout_takes_nothing_back_and_an_older_one_adds_nothing(
    abouts: list[Until], issued: int, created: int
) -> None:
    async def check() -> None:
        room = tombstones()
        for about in abouts:
            await room.put(SessionFilter(ISSUER, sub="ada"), about, until=NOW + HOUR)
        one = session(issued=issued, created=created)
        assert await room.cover(one) is any(about.covers(one) for about in abouts)

    asyncio.run(check())


@pytest.mark.spec("SES-11", "BCL-14")
async def test_another_application_in_the_same_store_is_not_touched() -> None:
    store = MemoryStore(HandClock(NOW))
    await tombstones(store).put(SessionFilter(ISSUER, sub="ada"), ALL, until=NOW + HOUR)
    assert not await tombstones(store, application="othera99").cover(session())


@pytest.mark.spec("STO-05")
@pytest.mark.parametrize(("one", "other"), [("old", "old new"), ("old new", "new old"), ("new old", "new")])
async def test_nodes_in_the_middle_of_a_key_rotation_see_each_others(one: str, other: str) -> None:
    keys = {"old": KEY, "new": new_key()}
    rings = [KeyRing([keys[name] for name in names.split()]) for names in (one, other)]
    for writes, reads in (rings, reversed(rings)):
        store = MemoryStore(HandClock(NOW))
        await tombstones(store, ring=writes).put(SessionFilter(ISSUER, sub="ada"), ALL, until=NOW + HOUR)
        assert await tombstones(store, ring=reads).cover(session())


async def test_the_store_says_nothing_of_whom_it_is_about() -> None:
    store = Kept(HandClock(NOW))
    await tombstones(store).put(SessionFilter(ISSUER, sub="ada", sid="s1"), ALL, until=NOW + HOUR)
    (entry,) = store.kept.items()
    assert len(entry[0]) == 32
    assert b"ada" not in entry[0] + entry[1] and b"s1" not in entry[1]


async def test_writers_that_meet_do_not_undo_each_other() -> None:
    store = Kept(HandClock(NOW))
    room, who = tombstones(store), SessionFilter(ISSUER, sub="ada")
    await room.put(who, Until(issued=NOW - 9), until=NOW + HOUR)
    store.meanwhile = [Until(issued=NOW)]
    await room.put(who, Until(issued=NOW - 7), until=NOW + HOUR)
    assert await room.cover(session(issued=NOW))


async def test_a_store_in_which_everybody_writes_at_once_is_no_success() -> None:
    store = Kept(HandClock(NOW))
    room, who = tombstones(store), SessionFilter(ISSUER, sub="ada")
    await room.put(who, ALL, until=NOW + HOUR)
    store.meanwhile = [Until(issued=NOW)] * 100
    with pytest.raises(StoreUnavailable, match="try again"):
        await room.put(who, ALL, until=NOW + HOUR)


async def test_what_another_version_wrote_is_not_taken_for_nothing() -> None:
    store = MemoryStore(HandClock(NOW))
    room, who = tombstones(store), SessionFilter(ISSUER, sub="ada")
    await store.add(room.names(who)[0], b"{", until=NOW + HOUR)
    with pytest.raises(StoreUnavailable, match="another version"):
        await room.cover(session())


def test_nobody_cannot_be_meant() -> None:
    for nobody in ({}, {"sub": ""}, {"sub": None, "sid": ""}):
        with pytest.raises(ValueError, match="say whose"):
            SessionFilter(ISSUER, **nobody)


class Kept(MemoryStore):
    """Shows what it keeps, and lets others write between a look and a write."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.kept: dict[bytes, bytes] = {}
        self.meanwhile: list[Until] = []

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        added = await super().add(key, value, until=until)
        if added:
            self.kept[key] = value
        return added

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        if self.meanwhile:
            found = await self.get(key)
            assert isinstance(found, ExpiringValue)
            other = self.meanwhile.pop(0)
            await super().replace(key, encode(other), version=found.version, until=until)
            raise StaleVersion("somebody was faster")
        await super().replace(key, value, version=version, until=until)
