"""The conformance suite of values that end: our stores keep every rule, and one that breaks a rule is found out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coatcheck.coordination import ExpiringStore, ExpiringValue
from coatcheck.stores import MemoryStore
from coatcheck.testing import expiring_stores
from coatcheck.testing.expiring_stores import EXPIRING_STORE_CHECKS, ExpiringStoreCheck, check_expiring_store
from tests.stores.conformance import Opener, expect_found_out, memory, run, sqlite, written


@pytest.mark.spec("STO-12")
@pytest.mark.parametrize("check", EXPIRING_STORE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("opener", [memory, sqlite])
def test_the_store_keeps_the_rule(opener: Opener, check: ExpiringStoreCheck, tmp_path: Path) -> None:
    run(check, opener(tmp_path))


async def test_all_checks_run_in_one_call_and_leave_nothing_alive() -> None:
    store = MemoryStore()
    await check_expiring_store(lambda: store)
    await store.expire(time.time(), limit=1000)
    assert not store._values


def test_every_check_is_in_the_suite() -> None:
    assert written(expiring_stores) == set(EXPIRING_STORE_CHECKS)


# Controls: each of these stores breaks one rule, and the suite has to say so.


class KeepsText(MemoryStore):
    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        return await super().add(key, value.decode(errors="replace").encode(), until=until)


class StartsAtVersion0(MemoryStore):
    async def get(self, key: bytes) -> ExpiringValue | None:
        found = await super().get(key)
        return found and ExpiringValue(found.value, found.version - 1)


class AnswersWithTheLastValue(MemoryStore):
    async def get(self, key: bytes) -> ExpiringValue | None:
        return next((entry.stored for entry in reversed(self._values.values())), None)


class Overwrites(MemoryStore):
    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        free = await self.get(key) is None
        await self.discard(key)
        await super().add(key, value, until=until)
        return free


class ProlongsWhatItRefuses(MemoryStore):
    """As one whose database sets the end before it looks."""

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        found = await self.get(key)
        if found is not None:
            await super().replace(key, found.value, version=found.version, until=until)
        return await super().add(key, value, until=until)


class LooksTooEarly(MemoryStore):
    """Looks, waits, then writes: without a lock between them two find what they want."""

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        if await self.get(key) is not None:
            return False
        await asyncio.sleep(0)
        await self.discard(key)
        return await super().add(key, value, until=until)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        before = self._values.get(key)
        await super().replace(key, value, version=version, until=until)
        after, self._values[key] = self._values[key], before  # type: ignore[assignment]
        await asyncio.sleep(0)
        self._values[key] = after

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        found = await self.get(key)
        await asyncio.sleep(0)
        await super().discard(key, version=version)
        return found is not None and version in (None, found.version)


class NeverCompares(MemoryStore):
    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        found = await self.get(key)
        await super().replace(key, value, version=found.version if found else version, until=until)


class ReplaceCreates(MemoryStore):
    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        if not await self.add(key, value, until=until):
            await super().replace(key, value, version=version, until=until)


class NumbersOn(MemoryStore):
    """The first version of a new value goes on from that of the last."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[bytes, int] = {}

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        found = await self.get(key)
        if found is not None:
            self._last[key] = self._last.get(key, 0) + found.version
        return await super().discard(key, version=version)

    async def get(self, key: bytes) -> ExpiringValue | None:
        found = await super().get(key)
        return found and ExpiringValue(found.value, found.version + self._last.get(key, 0))


class NeverEnds(MemoryStore):
    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        return await super().add(key, value, until=until + 3600)


class EndsOnlyForReaders(MemoryStore):
    """As one that filters in `get` and waits for its clean-up everywhere else."""

    def _alive(self, key: bytes) -> ExpiringValue | None:
        entry = self._values.get(key)
        return entry.stored if entry else None

    async def get(self, key: bytes) -> ExpiringValue | None:
        return super()._alive(key)


class KeepsItsEnd(MemoryStore):
    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        entry = self._values.get(key)
        await super().replace(key, value, version=version, until=entry.until if entry else until)


class DiscardsWithoutTelling(MemoryStore):
    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        await super().discard(key, version=version)
        return True


class DiscardsAnyVersion(MemoryStore):
    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        return await super().discard(key)


FOUND_OUT_BY: list[tuple[Callable[[], ExpiringStore], ExpiringStoreCheck]] = [
    (KeepsText, expiring_stores.an_added_value_is_read_as_it_was),
    (StartsAtVersion0, expiring_stores.an_added_value_is_read_as_it_was),
    (AnswersWithTheLastValue, expiring_stores.an_unknown_key_is_none),
    (DiscardsWithoutTelling, expiring_stores.an_unknown_key_is_none),
    (Overwrites, expiring_stores.add_never_overwrites),
    (ProlongsWhatItRefuses, expiring_stores.add_never_overwrites),
    (LooksTooEarly, expiring_stores.one_of_many_adds_wins),
    (AnswersWithTheLastValue, expiring_stores.everybody_gets_their_own_value),
    (NeverCompares, expiring_stores.a_stale_version_is_refused),
    (NeverCompares, expiring_stores.one_of_many_replacements_wins),
    (LooksTooEarly, expiring_stores.one_of_many_replacements_wins),
    (LooksTooEarly, expiring_stores.no_increment_is_lost),
    (NeverCompares, expiring_stores.replace_never_creates),
    (ReplaceCreates, expiring_stores.replace_never_creates),
    (NumbersOn, expiring_stores.replace_never_creates),
    (NeverEnds, expiring_stores.an_ended_value_is_gone),
    (EndsOnlyForReaders, expiring_stores.an_ended_value_is_gone),
    (ReplaceCreates, expiring_stores.an_ended_value_is_gone),
    (EndsOnlyForReaders, expiring_stores.one_of_many_adds_on_an_ended_value_wins),
    (LooksTooEarly, expiring_stores.one_of_many_adds_on_an_ended_value_wins),
    (KeepsItsEnd, expiring_stores.replace_moves_the_end),
    (DiscardsWithoutTelling, expiring_stores.discard_removes_once),
    (LooksTooEarly, expiring_stores.discard_removes_once),
    (DiscardsAnyVersion, expiring_stores.discard_compares_the_version),
    (DiscardsWithoutTelling, expiring_stores.discard_and_replace_of_one_version_exclude_each_other),
    (LooksTooEarly, expiring_stores.discard_and_replace_of_one_version_exclude_each_other),
]


@pytest.mark.parametrize(("broken", "check"), FOUND_OUT_BY)
def test_a_store_that_breaks_a_rule_is_found_out(
    broken: Callable[[], ExpiringStore], check: ExpiringStoreCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_found_out(broken, check, monkeypatch)


def test_every_check_has_a_store_that_fails_it() -> None:
    assert {check for _, check in FOUND_OUT_BY} == set(EXPIRING_STORE_CHECKS)


async def test_two_stores_that_do_not_share_their_data_are_found_out() -> None:
    with pytest.raises(AssertionError, match="get must return what add was given"):
        await check_expiring_store(MemoryStore)
