"""
Does your own session store keep the rules of `coatcheck.sessions.store`? Run these checks on it.

Each check is a coroutine function of one argument: a callable that opens the store *on the same data* each time it is
called. That is how processes and nodes meet in production, so the checks open it more than once and let the two race. A
store that keeps its data in itself returns the same object each time. No check needs an empty store; all clean up.

    import asyncio
    import pytest
    from coatcheck.testing.stores import SESSION_STORE_CHECKS

    @pytest.mark.parametrize("check", SESSION_STORE_CHECKS, ids=lambda check: check.__name__)
    def test_my_store(check, database_url):
        asyncio.run(check(lambda: MySessionStore(database_url)))

Without pytest, `asyncio.run(check_session_store(lambda: MySessionStore(database_url)))` runs all of them. A broken rule
is an `AssertionError` that says which one.

The same for whatever else your store can do: `SESSION_INDEX_CHECKS`, `LEASE_STORE_CHECKS`, `EXPIRING_STORE_CHECKS` and
`NOTIFIER_CHECKS`. They rest on the system's clock.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from coatcheck.errors import SessionGone, StaleVersion
from coatcheck.sessions.store import Change, Part, ReplacePart, SessionRow, SessionStore, Touch
from coatcheck.testing.expectations import expect, expect_raises, opened_twice
from coatcheck.testing.expiring_stores import EXPIRING_STORE_CHECKS, check_expiring_store
from coatcheck.testing.lease_stores import LEASE_STORE_CHECKS, check_lease_store
from coatcheck.testing.notifiers import NOTIFIER_CHECKS, check_notifier
from coatcheck.testing.session_indexes import SESSION_INDEX_CHECKS, check_session_index

__all__ = [
    "EXPIRING_STORE_CHECKS",
    "LEASE_STORE_CHECKS",
    "NOTIFIER_CHECKS",
    "SESSION_INDEX_CHECKS",
    "SESSION_STORE_CHECKS",
    "OpenStore",
    "StoreCheck",
    "check_expiring_store",
    "check_lease_store",
    "check_notifier",
    "check_session_index",
    "check_session_store",
]

OpenStore = Callable[[], SessionStore]
StoreCheck = Callable[[OpenStore], Awaitable[None]]

_NOW = 1_800_000_000.0
"""An instant in 2027: stores may delete dead rows at any time, and these rows are alive until long after it."""


async def check_session_store(open_store: OpenStore) -> None:
    """Run every check of `SESSION_STORE_CHECKS`, one after another."""
    for check in SESSION_STORE_CHECKS:
        await check(open_store)


async def a_created_row_is_loaded_as_it_was(open_store: OpenStore) -> None:
    """Every field comes back, any bytes, with and without a `sid`."""
    rows = [
        _row(),
        _row(sid_key=None),
        _row(claims=bytes(range(256)), tokens=b""),
        _row(tokens=secrets.token_bytes(65_536)),
    ]
    async with opened_twice(open_store) as (one, other):
        for row in rows:
            await one.create(row)
            expect(await one.load(row.key) == row, "load must return what create was given, in every field")
            expect(await other.load(row.key) == row, "a finished write must be seen by every other opener at once")
            await one.delete(row.key)


async def an_unknown_key_loads_none(open_store: OpenStore) -> None:
    """Absence is None, not an error, and another row is not an answer."""
    async with opened_twice(open_store) as (one, other):
        row = _row()
        await one.create(row)
        expect(await other.load(secrets.token_bytes(32)) is None, "load of an unknown key must return None")
        await one.delete(row.key)


async def create_never_overwrites(open_store: OpenStore) -> None:
    """A second `create` under one key raises `StaleVersion` and leaves the first row."""
    async with opened_twice(open_store) as (one, other):
        row = _row()
        await one.create(row)
        await expect_raises(StaleVersion, other.create(replace(_row(), key=row.key)), "create under an existing key")
        expect(await one.load(row.key) == row, "a refused create must change nothing")
        await one.delete(row.key)


async def a_part_is_replaced_alone(open_store: OpenStore) -> None:
    """Replacing one part raises its version by one and touches nothing else."""
    async with opened_twice(open_store) as (one, other):
        row = _row()
        await one.create(row)
        await one.update(row.key, ReplacePart("tokens", b"tokens 2", 1))
        after_tokens = replace(row, tokens=b"tokens 2", tokens_version=2)
        expect(
            await other.load(row.key) == after_tokens, "replacing the tokens must change them and their version only"
        )
        await other.update(row.key, ReplacePart("claims", b"claims 2", 1))
        after_claims = replace(after_tokens, claims=b"claims 2", claims_version=2)
        expect(await one.load(row.key) == after_claims, "replacing the claims must change them and their version only")
        await one.delete(row.key)


async def a_stale_version_is_refused(open_store: OpenStore) -> None:
    """Any version but the stored one raises `StaleVersion` and changes nothing."""
    async with opened_twice(open_store) as (one, other):
        row = _row(claims_version=4, tokens_version=7)
        await one.create(row)
        stale: list[tuple[Part, int]] = [("tokens", 6), ("tokens", 8), ("tokens", 4), ("claims", 3), ("claims", 7)]
        for part, version in stale:
            change = ReplacePart(part, b"stale", version)
            await expect_raises(StaleVersion, other.update(row.key, change), f"{part} of version {version}")
        expect(await one.load(row.key) == row, "a refused update must change nothing")
        await one.delete(row.key)


async def a_touch_only_moves_forward(open_store: OpenStore) -> None:
    """`seen_at` becomes the later of the two instants, and no version changes."""
    async with opened_twice(open_store) as (one, other):
        row = _row()
        await one.create(row)
        await one.update(row.key, Touch(_NOW + 60.5))
        await other.update(row.key, Touch(_NOW + 30))
        touched = replace(row, seen_at=_NOW + 60.5)
        expect(await one.load(row.key) == touched, "a touch must keep the later instant and change nothing else")
        await one.delete(row.key)


async def a_touch_and_a_replacement_do_not_undo_each_other(open_store: OpenStore) -> None:
    """Whichever comes first, and though both read the row before: both are there in the end."""
    changes: list[Change] = [
        Touch(_NOW + 60),
        ReplacePart("tokens", b"tokens 2", 1),
        ReplacePart("claims", b"claims 2", 1),
    ]
    wanted = {"seen_at": _NOW + 60, "tokens": b"tokens 2", "claims": b"claims 2"}
    for first in range(3):
        async with opened_twice(open_store) as (one, other):
            row = _row()
            await one.create(row)
            await asyncio.gather(one.load(row.key), other.load(row.key))
            for step, store in ((0, one), (1, other), (2, one)):
                await store.update(row.key, changes[(first + step) % 3])
            after = await other.load(row.key)
            expect(after is not None, "an update must not delete")
            found = {name: getattr(after, name) for name in wanted}
            expect(found == wanted, f"lost update: {[name for name in wanted if found[name] != wanted[name]]}")
            await one.delete(row.key)


async def an_update_never_creates(open_store: OpenStore) -> None:
    """A change that comes after the deletion raises `SessionGone`: who logged out stays logged out."""
    async with opened_twice(open_store) as (one, other):
        row = _row()
        await one.create(row)
        await other.load(row.key)
        await one.delete(row.key)
        for change in (ReplacePart("tokens", b"late", 1), ReplacePart("claims", b"late", 1), Touch(_NOW + 60)):
            await expect_raises(
                SessionGone, other.update(row.key, change), f"{type(change).__name__} after the deletion"
            )
            expect(await one.load(row.key) is None, "an update must never bring a deleted session back")


async def delete_returns_the_row_once(open_store: OpenStore) -> None:
    """The last state of the row goes to whoever deleted it, so that its tokens can be revoked, and to nobody else."""
    async with opened_twice(open_store) as (one, other):
        row, bystander = _row(), _row()
        await one.create(row)
        await one.create(bystander)
        await other.update(row.key, ReplacePart("tokens", b"tokens 2", 1))
        answers = await asyncio.gather(*(store.delete(row.key) for store in (one, other, one)))
        last = replace(row, tokens=b"tokens 2", tokens_version=2)
        expect([answer for answer in answers if answer is not None] == [last], "exactly one delete must return the row")
        expect(await one.load(row.key) is None, "a deleted row must be gone")
        expect(await other.load(row.key) is None, "a deletion must be seen by every other opener at once")
        expect(await other.load(bystander.key) == bystander, "delete must leave other rows alone")
        await one.delete(bystander.key)


async def exactly_one_of_many_writers_wins(open_store: OpenStore) -> None:
    """Twenty writers that read the same version: one write counts, nineteen learn that it is stale."""
    async with opened_twice(open_store) as (one, other):
        row = _row()
        await one.create(row)

        async def write(number: int) -> int | None:
            try:
                await (one, other)[number % 2].update(row.key, ReplacePart("tokens", b"%d" % number, 1))
            except StaleVersion:
                return None
            return number

        winners = [number for number in await asyncio.gather(*map(write, range(20))) if number is not None]
        expect(len(winners) == 1, f"{len(winners)} of 20 writers of one version succeeded instead of exactly one")
        after = await one.load(row.key)
        expect(after is not None and after.tokens == b"%d" % winners[0], "the winner's value must be the stored one")
        expect(after is not None and after.tokens_version == 2, "one write must raise the version by one")
        await one.delete(row.key)


async def no_increment_is_lost(open_store: OpenStore) -> None:
    """Eight tasks on two openers read, add one and write back until they win, while others touch the row."""
    async with opened_twice(open_store) as (one, other):
        row = _row(tokens=b"0")
        await one.create(row)

        async def increment(store: SessionStore) -> None:
            for _ in range(1000):
                before = await store.load(row.key)
                if before is None:
                    raise AssertionError("a row that nobody deleted must be there")
                change = ReplacePart("tokens", b"%d" % (int(before.tokens) + 1), before.tokens_version)
                with suppress(StaleVersion):
                    return await store.update(row.key, change)
                await asyncio.sleep(0)
            raise AssertionError("load keeps returning a version that update calls stale")

        async def touch(store: SessionStore) -> None:
            for step in range(10):
                await store.update(row.key, Touch(_NOW + step))

        async def increment_often(store: SessionStore) -> None:
            for _ in range(5):
                await increment(store)

        await asyncio.gather(*(increment_often(store) for store in (one, other) * 4), touch(one), touch(other))
        after = await one.load(row.key)
        expect(
            after is not None and after.tokens == b"40", f"40 increments gave {after and after.tokens!r}: lost update"
        )
        expect(after is not None and after.seen_at == _NOW + 9, "a touch was lost")
        await one.delete(row.key)


async def a_deletion_wins_over_writers(open_store: OpenStore) -> None:
    """A logout among busy writers: whatever the order, the row is gone afterwards."""
    async with opened_twice(open_store) as (one, other):
        row = _row()
        await one.create(row)

        async def write(number: int) -> None:
            store = (one, other)[number % 2]
            change: Change = Touch(_NOW + number) if number % 3 else ReplacePart("tokens", b"late", 1 + number // 3)
            with suppress(StaleVersion, SessionGone):
                await store.update(row.key, change)

        await asyncio.gather(*map(write, range(10)), one.delete(row.key), *map(write, range(10, 20)))
        expect(await one.load(row.key) is None, "a session that was deleted among writers must stay deleted")
        expect(await other.load(row.key) is None, "a session that was deleted among writers must stay deleted")


async def everybody_gets_their_own_row(open_store: OpenStore) -> None:
    """A hundred sessions, read and written at once: no answer reaches the wrong one."""
    async with opened_twice(open_store) as (one, other):
        rows = [_row(tokens=b"of %d" % number) for number in range(100)]
        await asyncio.gather(*(one.create(row) for row in rows))

        async def use(number: int, row: SessionRow) -> bool:
            store = (one, other)[number % 2]
            before = await store.load(row.key)
            await store.update(row.key, ReplacePart("tokens", b"still of %d" % number, 1))
            after = await store.load(row.key)
            return before == row and after == replace(row, tokens=b"still of %d" % number, tokens_version=2)

        expect(all(await asyncio.gather(*map(use, range(100), rows))), "a session was answered with another's row")
        await asyncio.gather(*(other.delete(row.key) for row in rows))


SESSION_STORE_CHECKS: tuple[StoreCheck, ...] = (
    a_created_row_is_loaded_as_it_was,
    an_unknown_key_loads_none,
    create_never_overwrites,
    a_part_is_replaced_alone,
    a_stale_version_is_refused,
    a_touch_only_moves_forward,
    a_touch_and_a_replacement_do_not_undo_each_other,
    an_update_never_creates,
    delete_returns_the_row_once,
    exactly_one_of_many_writers_wins,
    no_increment_is_lost,
    a_deletion_wins_over_writers,
    everybody_gets_their_own_row,
)
"""What a `SessionStore` has to do, one function a rule."""


def _row(
    *,
    claims: bytes = b"sealed claims \x00\xff",
    claims_version: int = 1,
    tokens: bytes = b"sealed tokens \x00\xff",
    tokens_version: int = 1,
    sid_key: bytes | None = bytes(32),
) -> SessionRow:
    return SessionRow(
        key=secrets.token_bytes(32),
        partition="conform1",
        claims=claims,
        claims_version=claims_version,
        tokens=tokens,
        tokens_version=tokens_version,
        created_at=_NOW,
        expires_at=_NOW + 28_800.25,
        seen_at=_NOW,
        idle_timeout=3600.0,
        sub_key=secrets.token_bytes(32),
        sid_key=sid_key,
    )
