"""
Does your own session store find sessions as `coatcheck.sessions.store.SessionIndex` says? Run these checks on it.

They are used as those of `coatcheck.testing.stores`: each takes a callable that opens the store on the same data, with
the system's clock. The store has to be a `SessionStore`, too. No check needs an empty store; all clean up.

    @pytest.mark.parametrize("check", SESSION_INDEX_CHECKS, ids=lambda check: check.__name__)
    def test_my_index(check, database_url):
        asyncio.run(check(lambda: MySessionStore(database_url)))
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Protocol

from coatcheck.errors import SessionGone, StaleVersion
from coatcheck.sessions.store import ReplacePart, SessionIndex, SessionRow, SessionStore, Touch
from coatcheck.testing.expectations import expect, expect_raises, opened_twice, soon


class IndexedSessionStore(SessionStore, SessionIndex, Protocol):
    """A session store that can look sessions up."""


OpenIndexedSessionStore = Callable[[], IndexedSessionStore]
SessionIndexCheck = Callable[[OpenIndexedSessionStore], Awaitable[None]]

_HERE = "conform1"
_ELSEWHERE = "conform2"


async def check_session_index(open_store: OpenIndexedSessionStore) -> None:
    """Run every check of `SESSION_INDEX_CHECKS`, one after another."""
    for check in SESSION_INDEX_CHECKS:
        await check(open_store)


# Finding


async def sessions_are_found_by_sub_and_by_sid(open_store: OpenIndexedSessionStore) -> None:
    """Each row in every field, once, though several keys lead to it; nothing for a key that nobody has."""
    async with opened_twice(open_store) as (one, other):
        sub, sid, both = _key(), _key(), _key()
        rows = [_row(sub), _row(sub, sid), _row(_key(), sid), _row(both, both), _row(_key(), None)]
        await _create(one, rows)
        for keys, wanted in (
            ([sub], rows[:2]),
            ([sid], rows[1:3]),
            ([sub, sid], rows[:3]),
            ([both, _key(), both], rows[3:4]),
            ([_key(), _key()], []),
            ([], []),
        ):
            await _expect_found(other, keys, wanted, "find must return every row with one of the keys, once")
        await _delete(one, rows)


async def many_sessions_of_one_user_are_all_found(open_store: OpenIndexedSessionStore) -> None:
    """A hundred and fifty, created at once over two openers, among those of others."""
    async with opened_twice(open_store) as (one, other):
        sub = _key()
        rows, others = [_row(sub, _key()) for _ in range(150)], [_row(_key(), _key()) for _ in range(20)]
        await asyncio.gather(_create(one, rows[::2]), _create(other, rows[1::2]), _create(one, others))
        await _expect_found(other, [sub], rows, "all sessions of one user must be found")
        revoked = await one.revoke(_HERE, [sub])
        expect(_by_key(revoked) == _by_key(rows), "revoke must return every row that it deleted")
        await _expect_found(other, [sub], [], "a revoked session must not be found")
        for row in others:
            expect(await other.load(row.key) == row, "revoke must leave the sessions of others alone")
        await _delete(one, others)


async def partitions_do_not_see_each_other(open_store: OpenIndexedSessionStore) -> None:
    """Two applications on one store, and one hash in both: neither finds nor revokes what is the other's."""
    async with opened_twice(open_store) as (one, other):
        sub, sid = _key(), _key()
        here, there = _row(sub, sid), _row(sub, sid, partition=_ELSEWHERE)
        await _create(one, [here, there])
        await _expect_found(other, [sub, sid], [here], "find must stay in its partition")
        expect(await other.find(_ELSEWHERE, [sub, sid]) == [there], "find must stay in its partition")
        expect(await other.find("conform", [sub, sid]) == [], "a partition is the whole name, not its beginning")
        expect(await one.revoke(_HERE, [sub, sid]) == [here], "revoke must stay in its partition")
        expect(await other.load(there.key) == there, "revoke must stay in its partition")
        await _delete(one, [there])


async def a_found_row_is_the_stored_row(open_store: OpenIndexedSessionStore) -> None:
    """What was replaced and touched since is in the answer; what was deleted is not."""
    async with opened_twice(open_store) as (one, other):
        row, gone = _row(sub := _key(), sid := _key()), _row(sub, sid)
        await _create(one, [row, gone])
        await other.update(row.key, ReplacePart("tokens", b"tokens 2", 1))
        await one.update(row.key, Touch(row.seen_at + 30))
        await one.delete(gone.key)
        stored = replace(row, tokens=b"tokens 2", tokens_version=2, seen_at=row.seen_at + 30)
        for store in (one, other):
            await _expect_found(store, [sub, sid], [stored], "find must return the row as the last write left it")
        expect(await other.revoke(_HERE, [sid]) == [stored], "revoke must return the row as the last write left it")
        await _expect_found(one, [sub, sid], [], "a revoked session must not be found")


async def a_refused_create_is_not_found(open_store: OpenIndexedSessionStore) -> None:
    """A row that came second under one key leaves no trace of whom it was about."""
    async with opened_twice(open_store) as (one, other):
        row, second = _row(_key(), _key()), _row(_key(), _key())
        await one.create(row)
        await expect_raises(StaleVersion, other.create(replace(second, key=row.key)), "create under an existing key")
        for index_key in (second.sub_key, second.sid_key or b""):
            await _expect_found(one, [index_key], [], "a refused create must not be found")
        await _expect_found(one, [row.sub_key], [row], "a refused create must change nothing")
        await _delete(one, [row])


# Revoking


async def a_revoked_session_is_gone_for_everybody(open_store: OpenIndexedSessionStore) -> None:
    """At once, for every opener; no later write brings it back, and revoking again finds nothing."""
    async with opened_twice(open_store) as (one, other):
        row, same_sub = _row(sub := _key(), sid := _key()), _row(sub, _key())
        await _create(one, [row, same_sub])
        expect(await other.revoke(_HERE, [sid]) == [row], "revoke by sid must delete that session only")
        for store in (one, other):
            expect(await store.load(row.key) is None, "a revoked session must be gone for everybody")
        for change in (ReplacePart("tokens", b"late", 1), Touch(row.seen_at + 60)):
            await expect_raises(SessionGone, one.update(row.key, change), "an update of a revoked session")
        await _expect_found(one, [sub, sid], [same_sub], "a session of the same user with another sid must stay")
        expect(await one.revoke(_HERE, [sid]) == [], "revoking again must find nothing")
        expect(await one.revoke(_HERE, []) == [], "revoking nothing must find nothing")
        expect(await one.delete(row.key) is None, "a revoked session cannot be deleted again")
        await _delete(one, [same_sub])


async def each_revoked_row_is_returned_once(open_store: OpenIndexedSessionStore) -> None:
    """Its tokens are to be revoked by whoever got it: four that revoke the same user, and two that delete a row."""
    async with opened_twice(open_store) as (one, other):
        rows = [_row(sub := _key(), sid := _key())] + [_row(sub, sid) for _ in range(19)]
        await _create(one, rows)
        keys = ([sub], [sid], [sub, sid], [sid, sub])
        revoking = asyncio.gather(*((one, other)[number % 2].revoke(_HERE, keys[number]) for number in range(4)))
        deleting = asyncio.gather(*(store.delete(rows[0].key) for store in (one, other)))
        answers, deleted = await revoking, await deleting
        returned = [row for answer in answers for row in answer] + [row for row in deleted if row is not None]
        expect(len(returned) == len(rows), f"{len(rows)} rows were returned {len(returned)} times")
        expect(_by_key(returned) == _by_key(rows), "every deleted row must be returned, as it was")


# Dead rows


async def dead_rows_are_removed_and_live_ones_stay(open_store: OpenIndexedSessionStore) -> None:
    """Whether they are over or were not used for too long; from the index, too, and by two at once."""
    async with opened_twice(open_store) as (one, other):
        now, sub = time.time(), _key()
        alive = [_row(sub, _key()) for _ in range(10)]
        over = [replace(_row(sub, _key()), expires_at=now + 0.05) for _ in range(10)]
        idle = [replace(_row(sub, _key()), idle_timeout=0.05) for _ in range(10)]
        await _create(one, [row for three in zip(over, alive, idle, strict=True) for row in three])

        async def gone() -> bool | None:
            await asyncio.gather(*(store.expire(time.time(), limit=1000) for store in (one, other)))
            loaded = [await one.load(row.key) for row in over + idle]
            return True if loaded == [None] * 20 else None

        await soon(gone, "dead rows must be deleted, by expire or by the database itself")
        await _expect_found(other, [sub], alive, "expire must delete dead rows only, and they must not be found")
        for row in alive:
            expect(await other.load(row.key) == row, "expire must leave a session alone that is not over")
        await _delete(one, alive)


async def a_touch_keeps_a_row_alive(open_store: OpenIndexedSessionStore) -> None:
    """Dead is what nobody has used for too long, counted from the last touch and not from the creation."""
    async with opened_twice(open_store) as (one, other):
        await other.load(_key())  # open, so that the touch comes in time
        now = time.time()
        row = replace(_row(_key(), _key()), seen_at=now, idle_timeout=1.0)
        await one.create(row)
        await other.update(row.key, Touch(now + 3600))

        async def past_the_first_end() -> bool | None:
            await asyncio.gather(*(store.expire(time.time(), limit=1000) for store in (one, other)))
            return True if time.time() > now + 1.1 else None

        await soon(past_the_first_end, "time must pass")
        touched = replace(row, seen_at=now + 3600)
        expect(await one.load(row.key) == touched, "a session that was used must stay")
        await _expect_found(other, [row.sub_key], [touched], "a session that was used must be found")
        await _delete(one, [row])


SESSION_INDEX_CHECKS: tuple[SessionIndexCheck, ...] = (
    sessions_are_found_by_sub_and_by_sid,
    many_sessions_of_one_user_are_all_found,
    partitions_do_not_see_each_other,
    a_found_row_is_the_stored_row,
    a_refused_create_is_not_found,
    a_revoked_session_is_gone_for_everybody,
    each_revoked_row_is_returned_once,
    dead_rows_are_removed_and_live_ones_stay,
    a_touch_keeps_a_row_alive,
)
"""What a `SessionIndex` has to do, one function a rule."""


def _key() -> bytes:
    return secrets.token_bytes(32)


def _row(sub_key: bytes, sid_key: bytes | None = None, *, partition: str = _HERE) -> SessionRow:
    now = time.time()
    return SessionRow(
        key=_key(),
        partition=partition,
        claims=b"sealed claims \x00\xff",
        claims_version=1,
        tokens=secrets.token_bytes(50),
        tokens_version=1,
        created_at=now,
        expires_at=now + 28_800.25,
        seen_at=now,
        idle_timeout=3600.0,
        sub_key=sub_key,
        sid_key=sid_key,
    )


def _by_key(rows: Iterable[SessionRow]) -> dict[bytes, SessionRow]:
    return {row.key: row for row in rows}


async def _create(store: SessionStore, rows: Iterable[SessionRow]) -> None:
    await asyncio.gather(*(store.create(row) for row in rows))


async def _delete(store: SessionStore, rows: Iterable[SessionRow]) -> None:
    await asyncio.gather(*(store.delete(row.key) for row in rows))


async def _expect_found(store: SessionIndex, keys: list[bytes], wanted: list[SessionRow], rule: str) -> None:
    found = await store.find(_HERE, keys)
    expect(len(found) == len(wanted) and _by_key(found) == _by_key(wanted), f"{rule}: {len(found)} of {len(wanted)}")
