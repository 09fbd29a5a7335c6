"""The conformance suite of session indexes: ours keep every rule, and one that breaks a rule is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from coatcheck.sessions import Change, SessionRow, Touch
from coatcheck.stores import MemoryStore
from coatcheck.testing import session_indexes
from coatcheck.testing.session_indexes import (
    SESSION_INDEX_CHECKS,
    IndexedSessionStore,
    SessionIndexCheck,
    check_session_index,
)
from tests.stores.conformance import Opener, expect_found_out, memory, run, sqlite, written


@pytest.mark.spec("SES-05", "SES-09", "SES-10")
@pytest.mark.parametrize("check", SESSION_INDEX_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("opener", [memory, sqlite])
def test_the_store_keeps_the_rule(opener: Opener, check: SessionIndexCheck, tmp_path: Path) -> None:
    run(check, opener(tmp_path))


async def test_all_checks_run_in_one_call_and_leave_nothing() -> None:
    store = MemoryStore()
    await check_session_index(lambda: store)
    assert not store._rows


def test_every_check_is_in_the_suite() -> None:
    assert written(session_indexes) == set(SESSION_INDEX_CHECKS)


# Controls: each of these stores breaks one rule, and the suite has to say so.


class FindsBySubOnly(MemoryStore):
    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        return [row for row in await super().find(partition, index_keys) if row.sub_key in index_keys]


class FindsTwice(MemoryStore):
    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        found = []
        for key in index_keys:
            found += await super().find(partition, [key])
        return found


class FindsAPage(MemoryStore):
    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        return (await super().find(partition, index_keys))[:100]


class RevokesAPage(MemoryStore):
    async def revoke(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        rows = (await self.find(partition, index_keys))[:100]
        return [row for row in rows if await self.delete(row.key)]


class KnowsNoPartitions(MemoryStore):
    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        return await super().find("conform1", index_keys) + await super().find("conform2", index_keys)


class RevokesEverywhere(MemoryStore):
    async def revoke(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        for other in {"conform1", "conform2"} - {partition}:
            await super().revoke(other, index_keys)
        return await super().revoke(partition, index_keys)


class FindsWhatWasCreated(MemoryStore):
    """As one that keeps a copy of the row in its index."""

    def __init__(self) -> None:
        super().__init__()
        self._created: dict[bytes, SessionRow] = {}

    async def create(self, row: SessionRow) -> None:
        await super().create(row)
        self._created[row.key] = row

    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        return [self._created[row.key] for row in await super().find(partition, index_keys)]


class IndexesBeforeItCreates(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[bytes, bytes] = {}

    async def create(self, row: SessionRow) -> None:
        self._keys[row.sub_key] = row.key
        await super().create(row)

    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        keys = {self._keys[key] for key in index_keys if key in self._keys}
        found = {row.key: row for row in await super().find(partition, index_keys)}
        return list(found.values()) + [self._rows[key] for key in keys if key in self._rows and key not in found]


class RevokesTheIndexOnly(MemoryStore):
    """As one that forgets the way to a session, and not the session."""

    def __init__(self) -> None:
        super().__init__()
        self._forgotten: set[bytes] = set()

    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        return [row for row in await super().find(partition, index_keys) if row.key not in self._forgotten]

    async def revoke(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        rows = await self.find(partition, index_keys)
        self._forgotten.update(row.key for row in rows)
        return rows


class RevokesWhatOthersRevoke(MemoryStore):
    """Finds, waits, deletes, and returns what it had found."""

    async def revoke(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        rows = await self.find(partition, index_keys)
        await asyncio.sleep(0)
        for row in rows:
            await self.delete(row.key)
        return rows


class NeverExpires(MemoryStore):
    async def expire(self, now: float, *, limit: int) -> int:
        return 0


class ExpiresIdleOnly(MemoryStore):
    async def expire(self, now: float, *, limit: int) -> int:
        dead = [row for row in self._rows.values() if row.seen_at + row.idle_timeout <= now]
        return sum([await self.delete(row.key) is not None for row in dead])


class ExpiresTooMany(MemoryStore):
    """As one whose database deletes a page in which some rows are dead."""

    async def expire(self, now: float, *, limit: int) -> int:
        removed = await super().expire(now, limit=limit)
        if removed:
            self._rows.clear()
        return removed


class ExpiresFromTheCreation(MemoryStore):
    """As one whose database was told the end once, and not again when the session was used."""

    def __init__(self) -> None:
        super().__init__()
        self._first_seen: dict[bytes, float] = {}

    async def update(self, key: bytes, change: Change) -> None:
        if isinstance(change, Touch):
            self._first_seen.setdefault(key, self._rows[key].seen_at)
        await super().update(key, change)

    async def expire(self, now: float, *, limit: int) -> int:
        for key, seen_at in self._first_seen.items():
            if key in self._rows:
                self._rows[key] = replace(self._rows[key], seen_at=seen_at)
        return await super().expire(now, limit=limit)


FOUND_OUT_BY: list[tuple[Callable[[], IndexedSessionStore], SessionIndexCheck]] = [
    (FindsBySubOnly, session_indexes.sessions_are_found_by_sub_and_by_sid),
    (FindsTwice, session_indexes.sessions_are_found_by_sub_and_by_sid),
    (FindsAPage, session_indexes.many_sessions_of_one_user_are_all_found),
    (RevokesAPage, session_indexes.many_sessions_of_one_user_are_all_found),
    (KnowsNoPartitions, session_indexes.partitions_do_not_see_each_other),
    (RevokesEverywhere, session_indexes.partitions_do_not_see_each_other),
    (FindsWhatWasCreated, session_indexes.a_found_row_is_the_stored_row),
    (IndexesBeforeItCreates, session_indexes.a_refused_create_is_not_found),
    (RevokesTheIndexOnly, session_indexes.a_revoked_session_is_gone_for_everybody),
    (RevokesWhatOthersRevoke, session_indexes.each_revoked_row_is_returned_once),
    (NeverExpires, session_indexes.dead_rows_are_removed_and_live_ones_stay),
    (ExpiresIdleOnly, session_indexes.dead_rows_are_removed_and_live_ones_stay),
    (ExpiresTooMany, session_indexes.dead_rows_are_removed_and_live_ones_stay),
    (ExpiresFromTheCreation, session_indexes.a_touch_keeps_a_row_alive),
]


@pytest.mark.parametrize(("broken", "check"), FOUND_OUT_BY)
def test_a_store_that_breaks_a_rule_is_found_out(
    broken: Callable[[], IndexedSessionStore], check: SessionIndexCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_found_out(broken, check, monkeypatch, soon=1.3)


def test_every_check_has_a_store_that_fails_it() -> None:
    assert {check for _, check in FOUND_OUT_BY} == set(SESSION_INDEX_CHECKS)


async def test_two_stores_that_do_not_share_their_data_are_found_out() -> None:
    with pytest.raises(AssertionError, match="find must return every row"):
        await check_session_index(MemoryStore)
