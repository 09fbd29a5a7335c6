"""The conformance suite of lease stores: ours keep every rule, and a store that breaks one is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from coatcheck.coordination import Lease, LeaseStore, SentMark
from coatcheck.errors import LeaseLost
from coatcheck.stores import MemoryStore
from coatcheck.stores.lease_entry import LeaseEntry
from coatcheck.testing import lease_stores
from coatcheck.testing.lease_stores import LEASE_STORE_CHECKS, LeaseStoreCheck, check_lease_store
from tests.stores.conformance import Opener, expect_found_out, memory, run, sqlite, written


@pytest.mark.spec("REF-02", "REF-04", "REF-25", "REF-29")
@pytest.mark.parametrize("check", LEASE_STORE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("opener", [memory, sqlite])
def test_the_store_keeps_the_rule(opener: Opener, check: LeaseStoreCheck, tmp_path: Path) -> None:
    run(check, opener(tmp_path))


async def test_all_checks_run_in_one_call_and_leave_nothing() -> None:
    store = MemoryStore()
    await check_lease_store(lambda: store)
    assert not store._leases


def test_every_check_is_in_the_suite() -> None:
    assert written(lease_stores) == set(LEASE_STORE_CHECKS)


# Controls: each of these stores breaks one rule, and the suite has to say so.


class GivesToEverybody(MemoryStore):
    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        return await super().acquire(key, holder, seconds=seconds) or Lease(key, holder)


class LooksTooEarly(MemoryStore):
    """Looks, waits, then takes: without a lock between them two find the lease free."""

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        if self._lease(key).is_held_from(holder, self._clock.time()):
            return None
        await asyncio.sleep(0)
        mark = self._lease(key).mark
        self._leases.pop(key, None)
        await super().acquire(key, holder, seconds=seconds)
        return Lease(key, holder, mark)


class OneLeaseForAll(MemoryStore):
    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        lease = await super().acquire(bytes(32), holder, seconds=seconds)
        return lease and replace(lease, key=key)


class DoesNotKnowItsHolder(MemoryStore):
    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        held = self._lease(key).is_held_from(b"", self._clock.time())
        return None if held else await super().acquire(key, holder, seconds=seconds)


class NeverReleases(MemoryStore):
    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None: ...


class KeepsTheMarkForEver(MemoryStore):
    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        await super().release(key, holder, mark=mark or self._lease(key).mark)


class NeverRunsOut(MemoryStore):
    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        await super().extend(key, holder, seconds=3600.0)

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        return await super().acquire(key, holder, seconds=3600.0)


class ExtendsNothing(MemoryStore):
    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        self._lease(key).extended(holder, self._clock.time(), seconds)


class MarksWithoutProlonging(MemoryStore):
    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        runs_until = self._lease(key).runs_until
        await super().mark_sent(key, holder, mark, seconds=seconds, until=until)
        self._leases[key] = replace(self._leases[key], runs_until=runs_until)


class EndsTheLeaseWithItsMark(MemoryStore):
    """As one whose database removes the whole entry at *until*."""

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        seconds = min(seconds, until - self._clock.time())
        await super().mark_sent(key, holder, mark, seconds=seconds, until=until)


class ForgetsTheMarkWithTheLease(MemoryStore):
    """As one whose database removes the whole entry when the lease ends."""

    def _lease(self, key: bytes) -> LeaseEntry:
        entry = super()._lease(key)
        return entry if entry.runs_until > self._clock.time() or entry.holder is None else LeaseEntry()


class RoundsTheMark(MemoryStore):
    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        mark = replace(mark, sent_at=round(mark.sent_at, 3))
        await super().mark_sent(key, holder, mark, seconds=seconds, until=until)


class HandsTheMarkOutOnce(MemoryStore):
    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        lease = await super().acquire(key, holder, seconds=seconds)
        if lease is not None:
            self._leases[key] = replace(self._leases[key], mark=None)
        return lease


class ExtendsWithoutTheMark(MemoryStore):
    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        await super().extend(key, holder, seconds=seconds)
        self._leases[key] = replace(self._leases[key], mark=None)


class KeepsTheFirstMark(MemoryStore):
    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        mark = self._lease(key).mark or mark
        await super().mark_sent(key, holder, mark, seconds=seconds, until=until)


class PutsNoMarkBack(MemoryStore):
    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        await super().release(key, holder, mark=mark and self._lease(key).mark)


class ReleasesForAnybody(MemoryStore):
    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        await super().release(key, self._lease(key).holder or holder, mark=mark)


class MarksForAnybody(MemoryStore):
    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        await super().mark_sent(key, self._lease(key).holder or holder, mark, seconds=seconds, until=until)


class ExtendsForAnybody(MemoryStore):
    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        await super().extend(key, self._lease(key).holder or holder, seconds=seconds)


class MarksWhatRanOut(MemoryStore):
    """Compares the holder and not the time."""

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        if self._lease(key).holder == holder:
            self._leases[key] = replace(self._leases[key], runs_until=self._clock.time() + seconds)
        await super().mark_sent(key, holder, mark, seconds=seconds, until=until)


class MarksAndThenLooks(MemoryStore):
    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        self._leases[key] = replace(self._lease(key), mark=mark, mark_until=until)
        await super().mark_sent(key, holder, mark, seconds=seconds, until=until)


class LosesQuietly(MemoryStore):
    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        with suppress(LeaseLost):
            await super().mark_sent(key, holder, mark, seconds=seconds, until=until)


class ReleasesOnlyInTime(MemoryStore):
    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        if self._lease(key).runs_until > self._clock.time():
            await super().release(key, holder, mark=mark)


FOUND_OUT_BY: list[tuple[Callable[[], LeaseStore], LeaseStoreCheck]] = [
    (GivesToEverybody, lease_stores.one_of_many_takes_a_free_lease),
    (LooksTooEarly, lease_stores.one_of_many_takes_a_free_lease),
    (GivesToEverybody, lease_stores.nobody_is_inside_with_the_holder),
    (LooksTooEarly, lease_stores.nobody_is_inside_with_the_holder),
    (OneLeaseForAll, lease_stores.every_key_has_a_lease_of_its_own),
    (DoesNotKnowItsHolder, lease_stores.the_same_holder_may_ask_again),
    (NeverReleases, lease_stores.a_released_lease_is_free),
    (KeepsTheMarkForEver, lease_stores.a_released_lease_is_free),
    (NeverRunsOut, lease_stores.a_lease_that_ran_out_is_free),
    (LooksTooEarly, lease_stores.a_lease_that_ran_out_is_free),
    (ExtendsNothing, lease_stores.extend_and_mark_sent_let_the_lease_run_on),
    (MarksWithoutProlonging, lease_stores.extend_and_mark_sent_let_the_lease_run_on),
    (EndsTheLeaseWithItsMark, lease_stores.a_lease_outlives_the_time_of_its_mark),
    (ForgetsTheMarkWithTheLease, lease_stores.a_mark_survives_its_lease),
    (RoundsTheMark, lease_stores.a_mark_survives_its_lease),
    (HandsTheMarkOutOnce, lease_stores.a_mark_survives_holders_who_sent_nothing),
    (ExtendsWithoutTheMark, lease_stores.a_mark_survives_holders_who_sent_nothing),
    (KeepsTheFirstMark, lease_stores.the_next_mark_takes_the_place_of_the_last),
    (PutsNoMarkBack, lease_stores.the_next_mark_takes_the_place_of_the_last),
    (ReleasesForAnybody, lease_stores.who_lost_the_lease_to_another_can_do_nothing),
    (MarksForAnybody, lease_stores.who_lost_the_lease_to_another_can_do_nothing),
    (MarksAndThenLooks, lease_stores.who_lost_the_lease_to_another_can_do_nothing),
    (ExtendsForAnybody, lease_stores.who_lost_the_lease_to_another_can_do_nothing),
    (MarksWhatRanOut, lease_stores.who_let_the_lease_run_out_can_do_nothing),
    (MarksAndThenLooks, lease_stores.who_let_the_lease_run_out_can_do_nothing),
    (LosesQuietly, lease_stores.who_let_the_lease_run_out_can_do_nothing),
    (ReleasesForAnybody, lease_stores.who_released_the_lease_can_do_nothing),
    (LosesQuietly, lease_stores.who_released_the_lease_can_do_nothing),
    (MarksAndThenLooks, lease_stores.who_released_the_lease_can_do_nothing),
    (ReleasesOnlyInTime, lease_stores.the_last_holder_may_say_late_what_came_of_it),
]


@pytest.mark.parametrize(("broken", "check"), FOUND_OUT_BY)
def test_a_store_that_breaks_a_rule_is_found_out(
    broken: Callable[[], LeaseStore], check: LeaseStoreCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_found_out(broken, check, monkeypatch)


def test_every_check_has_a_store_that_fails_it() -> None:
    assert {check for _, check in FOUND_OUT_BY} == set(LEASE_STORE_CHECKS)


async def test_two_stores_that_do_not_share_their_data_are_found_out() -> None:
    with pytest.raises(AssertionError, match="2 of 50 attempts"):
        await check_lease_store(MemoryStore)
