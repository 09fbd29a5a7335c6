"""The conformance suite of session stores: ours keep every rule, and a store that breaks one is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coatcheck.sessions import Change, SessionRow, SessionStore, Touch
from coatcheck.stores import MemoryStore
from coatcheck.testing import stores
from coatcheck.testing.stores import SESSION_STORE_CHECKS, StoreCheck, check_session_store
from tests.stores.conformance import Opener, memory, run, sqlite, written


@pytest.mark.spec("SES-05", "SES-06", "SES-07", "SES-08")
@pytest.mark.parametrize("check", SESSION_STORE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("opener", [memory, sqlite])
def test_the_store_keeps_the_rule(opener: Opener, check: StoreCheck, tmp_path: Path) -> None:
    run(check, opener(tmp_path))


async def test_all_checks_run_in_one_call() -> None:
    store = MemoryStore()
    await check_session_store(lambda: store)
    assert not store._rows


def test_every_check_is_in_the_suite() -> None:
    assert written(stores) == set(SESSION_STORE_CHECKS)


# Controls: each of these stores breaks one rule, and the suite has to say so.


class Overwrites(MemoryStore):
    async def create(self, row: SessionRow) -> None:
        await self.delete(row.key)
        await super().create(row)


class Resurrects(MemoryStore):
    """Saves what it read before, as a cache with write-back would."""

    def __init__(self) -> None:
        super().__init__()
        self._graves: dict[bytes, SessionRow] = {}

    async def delete(self, key: bytes) -> SessionRow | None:
        row = await super().delete(key)
        if row is not None:
            self._graves[key] = row
        return row

    async def update(self, key: bytes, change: Change) -> None:
        if key in self._graves:
            self._rows[key] = self._graves.pop(key)
        await super().update(key, change)


class ForgetsSilently(MemoryStore):
    async def update(self, key: bytes, change: Change) -> None:
        if key in self._rows:
            await super().update(key, change)


class NeverCompares(MemoryStore):
    async def update(self, key: bytes, change: Change) -> None:
        row = self._rows.get(key)
        if row is not None and not isinstance(change, Touch):
            change = replace(change, version=row.claims_version if change.part == "claims" else row.tokens_version)
        await super().update(key, change)


class ComparesTooEarly(MemoryStore):
    """Reads, waits, then writes: without a lock between them two writers both see the old version."""

    async def update(self, key: bytes, change: Change) -> None:
        before = self._rows.get(key)
        await super().update(key, change)
        after = self._rows[key]
        assert before is not None
        self._rows[key] = before
        await asyncio.sleep(0)
        if key in self._rows:
            self._rows[key] = after


class OneVersionForAll(MemoryStore):
    async def update(self, key: bytes, change: Change) -> None:
        await super().update(key, change)
        row = self._rows[key]
        version = max(row.claims_version, row.tokens_version)
        self._rows[key] = replace(row, claims_version=version, tokens_version=version)


class TouchesBackwards(MemoryStore):
    async def update(self, key: bytes, change: Change) -> None:
        await super().update(key, change)
        if isinstance(change, Touch):
            self._rows[key] = replace(self._rows[key], seen_at=change.seen_at)


class TouchChangesAVersion(MemoryStore):
    async def update(self, key: bytes, change: Change) -> None:
        await super().update(key, change)
        if isinstance(change, Touch):
            self._rows[key] = replace(self._rows[key], tokens_version=self._rows[key].tokens_version + 1)


class DeletesWithoutARow(MemoryStore):
    async def delete(self, key: bytes) -> SessionRow | None:
        await super().delete(key)
        return None


class DropsTheSid(MemoryStore):
    async def create(self, row: SessionRow) -> None:
        await super().create(replace(row, sid_key=None))


class AnswersWithTheLastRow(MemoryStore):
    async def load(self, key: bytes) -> SessionRow | None:
        return next(reversed(self._rows.values()), None)


class CachesReads(MemoryStore):
    """A cache that no write invalidates."""

    def __init__(self) -> None:
        super().__init__()
        self._cache: dict[bytes, SessionRow] = {}

    async def load(self, key: bytes) -> SessionRow | None:
        row = self._cache.get(key) or await super().load(key)
        if row is not None:
            self._cache[key] = row
        return row


FOUND_OUT_BY: list[tuple[Callable[[], SessionStore], StoreCheck]] = [
    (DropsTheSid, stores.a_created_row_is_loaded_as_it_was),
    (AnswersWithTheLastRow, stores.an_unknown_key_loads_none),
    (Overwrites, stores.create_never_overwrites),
    (OneVersionForAll, stores.a_part_is_replaced_alone),
    (NeverCompares, stores.a_stale_version_is_refused),
    (TouchesBackwards, stores.a_touch_only_moves_forward),
    (TouchChangesAVersion, stores.a_touch_only_moves_forward),
    (CachesReads, stores.a_touch_and_a_replacement_do_not_undo_each_other),
    (ForgetsSilently, stores.an_update_never_creates),
    (DeletesWithoutARow, stores.delete_returns_the_row_once),
    (NeverCompares, stores.exactly_one_of_many_writers_wins),
    (ComparesTooEarly, stores.exactly_one_of_many_writers_wins),
    (ComparesTooEarly, stores.no_increment_is_lost),
    (CachesReads, stores.no_increment_is_lost),
    (Resurrects, stores.a_deletion_wins_over_writers),
    (AnswersWithTheLastRow, stores.everybody_gets_their_own_row),
]


@pytest.mark.parametrize(("broken", "check"), FOUND_OUT_BY)
async def test_a_store_that_breaks_a_rule_is_found_out(broken: Callable[[], SessionStore], check: StoreCheck) -> None:
    store = broken()
    with pytest.raises(AssertionError):
        await check(lambda: store)


def test_every_check_has_a_store_that_fails_it() -> None:
    assert {check for _, check in FOUND_OUT_BY} == set(SESSION_STORE_CHECKS)


async def test_two_stores_that_do_not_share_their_data_are_found_out() -> None:
    with pytest.raises(AssertionError, match="seen by every other opener"):
        await check_session_store(MemoryStore)
