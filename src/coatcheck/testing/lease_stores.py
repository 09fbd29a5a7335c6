"""
Does your own lease store keep the rules of `coatcheck.coordination.LeaseStore`? Run these checks on it.

They are used as those of `coatcheck.testing.stores`: each takes a callable that opens the store on the same data. No
check needs an empty store; all clean up, and none rests on how fast the store is: a lease that has to run out is made
short while it is held.

    @pytest.mark.parametrize("check", LEASE_STORE_CHECKS, ids=lambda check: check.__name__)
    def test_my_leases(check, database_url):
        asyncio.run(check(lambda: MyLeaseStore(database_url)))
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from coatcheck.coordination import Lease, LeaseStore, SentMark
from coatcheck.errors import LeaseLost
from coatcheck.testing.expectations import expect, expect_raises, opened_twice, soon

OpenLeaseStore = Callable[[], LeaseStore]
LeaseStoreCheck = Callable[[OpenLeaseStore], Awaitable[None]]

_LONG = 120.0
_SHORT = 0.05


async def check_lease_store(open_store: OpenLeaseStore) -> None:
    """Run every check of `LEASE_STORE_CHECKS`, one after another."""
    for check in LEASE_STORE_CHECKS:
        await check(open_store)


# Taking and giving back


async def one_of_many_takes_a_free_lease(open_store: OpenLeaseStore) -> None:
    """Fifty attempts at once over two openers: one lease, forty-nine times None, and the lease names its holder."""
    async with opened_twice(open_store) as (one, other):
        key, holders = _key(), [_holder() for _ in range(50)]
        attempts = [
            (one, other)[number % 2].acquire(key, holder, seconds=_LONG) for number, holder in enumerate(holders)
        ]
        leases = [
            (holder, lease) for holder, lease in zip(holders, await asyncio.gather(*attempts), strict=True) if lease
        ]
        expect(len(leases) == 1, f"{len(leases)} of 50 attempts got the lease instead of exactly one")
        holder, lease = leases[0]
        expect(lease == Lease(key, holder), "a lease must name its key and holder, and no mark that nobody left")
        for store in (one, other):
            expect(await store.acquire(key, _holder(), seconds=_LONG) is None, "a held lease must not be given again")
        await one.release(key, holder, mark=None)


async def nobody_is_inside_with_the_holder(open_store: OpenLeaseStore) -> None:
    """Eight tasks on two openers take turns, five times each: there are never two inside."""
    async with opened_twice(open_store) as (one, other):
        key, inside, entered = _key(), 0, 0

        async def work(store: LeaseStore) -> None:
            nonlocal inside, entered
            for _ in range(5):
                holder = await _taken_soon(store, key)
                inside, entered = inside + 1, entered + 1
                expect(inside == 1, f"{inside} holders of one lease at the same time")
                await asyncio.sleep(0)
                inside -= 1
                await store.release(key, holder, mark=None)

        await asyncio.gather(*(work(store) for store in (one, other) * 4))
        expect(entered == 40, f"{entered} of 40 turns")


async def every_key_has_a_lease_of_its_own(open_store: OpenLeaseStore) -> None:
    """Fifty keys, asked for at once by two: each is given once, and no answer reaches the wrong one."""
    async with opened_twice(open_store) as (one, other):
        wanted = [(store, key, _holder()) for key in [_key() for _ in range(50)] for store in (one, other)]
        leases = await asyncio.gather(*(store.acquire(key, holder, seconds=_LONG) for store, key, holder in wanted))
        given = [(key, holder) for (_, key, holder), lease in zip(wanted, leases, strict=True) if lease]
        expect(len({key for key, _ in given}) == len(given) == 50, "each of 50 keys must be given exactly once")
        expect([(lease.key, lease.holder) for lease in leases if lease] == given, "an answer is about another key")
        await asyncio.gather(*(one.release(key, holder, mark=None) for key, holder in given))


async def the_same_holder_may_ask_again(open_store: OpenLeaseStore) -> None:
    """The first answer may have been lost: a repeated call succeeds, and is still one holder."""
    async with opened_twice(open_store) as (one, other):
        key, holder = _key(), _holder()
        calls = [store.acquire(key, holder, seconds=_LONG) for store in (one, other, one, other)]
        expect(await asyncio.gather(*calls) == [Lease(key, holder)] * 4, "the same holder must get its lease again")
        expect(await other.acquire(key, _holder(), seconds=_LONG) is None, "a held lease must not be given again")
        await _expect_held(other, key, holder)
        await one.release(key, holder, mark=None)
        await _expect_free(other, key, mark=None)


async def a_released_lease_is_free(open_store: OpenLeaseStore) -> None:
    """At once, for everybody, and nothing is left: neither a holder nor a mark."""
    async with opened_twice(open_store) as (one, other):
        holder = await _taken(one, key := _key())
        await one.release(key, holder, mark=None)
        await _expect_free(other, key, mark=None)
        holder = await _taken(one, key)
        await one.mark_sent(key, holder, _mark(), seconds=_LONG, until=_later())
        await one.release(key, holder, mark=None)
        await _expect_free(other, key, mark=None)


async def a_lease_that_ran_out_is_free(open_store: OpenLeaseStore) -> None:
    """The holder may have died. Of twenty who want it then, one gets it."""
    async with opened_twice(open_store) as (one, other):
        key = _key()
        await _taken(one, key, seconds=_SHORT)
        await _soon_over(other)
        holders = [_holder() for _ in range(20)]
        attempts = [
            (one, other)[number % 2].acquire(key, holder, seconds=_LONG) for number, holder in enumerate(holders)
        ]
        given = [lease for lease in await asyncio.gather(*attempts) if lease]
        expect(len(given) == 1, f"{len(given)} of 20 attempts got the lease that had run out instead of exactly one")
        await one.release(key, given[0].holder, mark=None)


async def extend_and_mark_sent_let_the_lease_run_on(open_store: OpenLeaseStore) -> None:
    """For so many seconds from now, whatever it was before."""
    async with opened_twice(open_store) as (one, other):
        for marks in (False, True):
            key, holder = await _prolonged(one, marks=marks)
            what = "mark_sent" if marks else "extend"
            expect(await other.acquire(key, _holder(), seconds=_LONG) is None, f"{what} must let the lease run on")
            await _expect_held(one, key, holder)
            await one.release(key, holder, mark=None)


async def a_lease_outlives_the_time_of_its_mark(open_store: OpenLeaseStore) -> None:
    """The store may forget the mark from *until* on, but never a lease that runs."""
    async with opened_twice(open_store) as (one, other):
        holder = await _taken(one, key := _key())
        await one.mark_sent(key, holder, _mark(), seconds=_LONG, until=time.time() + _SHORT)
        await _soon_over(other, seconds=2 * _SHORT)
        expect(await other.acquire(key, _holder(), seconds=_LONG) is None, "a lease must not end with its mark")
        await _expect_held(one, key, holder)
        await one.release(key, holder, mark=None)


# The mark


async def a_mark_survives_its_lease(open_store: OpenLeaseStore) -> None:
    """Whether the lease ran out or was released with it, the mark is in the next lease, in every field."""
    async with opened_twice(open_store) as (one, other):
        key, mark = _key(), SentMark(1_799_999_999.123456, 3)
        await _died_after_sending(one, key, mark)
        holder = await _expect_free(other, key, mark=mark, keep=True)
        await other.release(key, holder, mark=mark)
        await _expect_free(one, key, mark=mark)


async def a_mark_survives_holders_who_sent_nothing(open_store: OpenLeaseStore) -> None:
    """The next one reads the mark and dies, having extended its lease or not; the one after it must know as well."""
    async with opened_twice(open_store) as (one, other):
        key, mark = _key(), _mark()
        await _died_after_sending(one, key, mark)
        holder = await _expect_free(other, key, mark=mark, keep=True)
        await other.extend(key, holder, seconds=_SHORT)
        await _soon_over(other)
        expect(await one.acquire(key, holder := _holder(), seconds=_SHORT) == Lease(key, holder, mark), "lost mark")
        await _soon_over(one)
        await _expect_free(other, key, mark=mark)


async def the_next_mark_takes_the_place_of_the_last(open_store: OpenLeaseStore) -> None:
    """Who may send again counts on; and who knows that its own send did not leave puts the older mark back."""
    async with opened_twice(open_store) as (one, other):
        key, first, second = _key(), SentMark(1000.5, 1), SentMark(1000.5, 2)
        await _died_after_sending(one, key, first)
        holder = await _expect_free(other, key, mark=first, keep=True)
        await other.mark_sent(key, holder, second, seconds=_SHORT, until=_later())
        await _soon_over(other)
        holder = await _expect_free(one, key, mark=second, keep=True)
        await one.mark_sent(key, holder, SentMark(1000.5, 3), seconds=_LONG, until=_later())
        await one.release(key, holder, mark=second)
        await _expect_free(other, key, mark=second)


# Losing the lease


async def who_lost_the_lease_to_another_can_do_nothing(open_store: OpenLeaseStore) -> None:
    """The attack of the sleeper: it wakes up when somebody else acts. It must not mark, extend or release."""
    async with opened_twice(open_store) as (one, other):
        sleeper, mark = await _taken(one, key := _key()), SentMark(2000.25, 1)
        await one.mark_sent(key, sleeper, _mark(), seconds=_SHORT, until=_later())
        await _soon_over(one)
        holder = await _taken(other, key)
        await other.mark_sent(key, holder, mark, seconds=_LONG, until=_later())
        await _expect_lost(one, key, sleeper)
        await one.release(key, sleeper, mark=None)
        await one.release(key, sleeper, mark=_mark())
        expect(
            await one.acquire(key, sleeper, seconds=_LONG) is None, "a former holder took the lease of its successor"
        )
        await other.extend(key, holder, seconds=_SHORT)
        await _soon_over(other)
        await one.release(key, sleeper, mark=None)
        await _expect_free(one, key, mark=mark)


async def who_let_the_lease_run_out_can_do_nothing(open_store: OpenLeaseStore) -> None:
    """Though nobody else took it: between looking and sending somebody might."""
    async with opened_twice(open_store) as (one, other):
        sleeper, mark = await _taken(one, key := _key()), _mark()
        await one.mark_sent(key, sleeper, mark, seconds=_SHORT, until=_later())
        await _soon_over(other)
        await _expect_lost(one, key, sleeper)
        await _expect_free(other, key, mark=mark)


async def who_released_the_lease_can_do_nothing(open_store: OpenLeaseStore) -> None:
    """Nor can one who never had it, while somebody holds it or nobody does."""
    async with opened_twice(open_store) as (one, other):
        for mark in (None, _mark()):
            key = _key()
            await _expect_lost(one, key, _holder())
            holder = await _taken(one, key)
            await one.mark_sent(key, holder, SentMark(1.0), seconds=_LONG, until=_later())
            await _expect_lost(other, key, _holder())
            await other.release(key, _holder(), mark=None)
            await _expect_held(one, key, holder)
            await one.release(key, holder, mark=mark)
            await _expect_lost(one, key, holder)
            await one.release(key, holder, mark=None if mark else SentMark(2.0))
            await _expect_free(other, key, mark=mark)


async def the_last_holder_may_say_late_what_came_of_it(open_store: OpenLeaseStore) -> None:
    """Its lease ran out before the answer came. As long as nobody took it since, its release is the best knowledge."""
    async with opened_twice(open_store) as (one, other):
        holder = await _taken(one, key := _key())
        await one.mark_sent(key, holder, _mark(), seconds=_SHORT, until=_later())
        await _soon_over(other)
        await one.release(key, holder, mark=None)
        await _expect_free(other, key, mark=None)


LEASE_STORE_CHECKS: tuple[LeaseStoreCheck, ...] = (
    one_of_many_takes_a_free_lease,
    nobody_is_inside_with_the_holder,
    every_key_has_a_lease_of_its_own,
    the_same_holder_may_ask_again,
    a_released_lease_is_free,
    a_lease_that_ran_out_is_free,
    extend_and_mark_sent_let_the_lease_run_on,
    a_lease_outlives_the_time_of_its_mark,
    a_mark_survives_its_lease,
    a_mark_survives_holders_who_sent_nothing,
    the_next_mark_takes_the_place_of_the_last,
    who_lost_the_lease_to_another_can_do_nothing,
    who_let_the_lease_run_out_can_do_nothing,
    who_released_the_lease_can_do_nothing,
    the_last_holder_may_say_late_what_came_of_it,
)
"""What a `LeaseStore` has to do, one function a rule."""


def _key() -> bytes:
    return secrets.token_bytes(32)


def _holder() -> bytes:
    return secrets.token_bytes(16)


def _mark() -> SentMark:
    return SentMark(time.time())


def _later() -> float:
    return time.time() + 3600


async def _taken(store: LeaseStore, key: bytes, *, seconds: float = _LONG) -> bytes:
    holder = _holder()
    expect(await store.acquire(key, holder, seconds=seconds) is not None, "a free lease must be given")
    return holder


async def _taken_soon(store: LeaseStore, key: bytes) -> bytes:
    holder = _holder()
    await soon(
        lambda: store.acquire(key, holder, seconds=_LONG), "a lease must be free when it was released or ran out"
    )
    return holder


async def _soon_over(store: LeaseStore, *, seconds: float = _SHORT) -> None:
    """Return when a lease taken now for *seconds* has run out on the store's own clock: so have all before it."""
    key = _key()
    await _taken(store, key, seconds=seconds)
    await store.release(key, await _taken_soon(store, key), mark=None)


async def _died_after_sending(store: LeaseStore, key: bytes, mark: SentMark) -> None:
    holder = await _taken(store, key)
    await store.mark_sent(key, holder, mark, seconds=_SHORT, until=_later())
    await _soon_over(store)


async def _prolonged(store: LeaseStore, *, marks: bool) -> tuple[bytes, bytes]:
    """Take a lease that would have run out by now if it had not been prolonged in time."""
    seconds = _SHORT
    for _ in range(8):
        holder, seconds = await _taken(store, key := _key(), seconds=seconds), seconds * 2
        try:
            if marks:
                await store.mark_sent(key, holder, _mark(), seconds=_LONG, until=_later())
            else:
                await store.extend(key, holder, seconds=_LONG)
        except LeaseLost:
            continue  # a slow machine: with more time it works
        await _soon_over(store, seconds=seconds / 2)
        return key, holder
    raise AssertionError(f"a lease of {seconds / 2} s must last long enough to prolong it")


async def _expect_held(store: LeaseStore, key: bytes, holder: bytes) -> None:
    try:
        await store.extend(key, holder, seconds=_LONG)
    except LeaseLost:
        raise AssertionError("a holder lost a lease that it had neither released nor let run out") from None


async def _expect_lost(store: LeaseStore, key: bytes, holder: bytes) -> None:
    late = store.mark_sent(key, holder, SentMark(3000.0, 9), seconds=_LONG, until=_later())
    await expect_raises(LeaseLost, late, "mark_sent without the lease")
    await expect_raises(LeaseLost, store.extend(key, holder, seconds=_LONG), "extend without the lease")


async def _expect_free(store: LeaseStore, key: bytes, *, mark: SentMark | None, keep: bool = False) -> bytes:
    """Expect to get the lease at once with *mark* on it; forget the key unless it is to be kept."""
    holder = _holder()
    lease = await store.acquire(key, holder, seconds=_LONG)
    expect(lease is not None, "a lease must be free when it was released or ran out")
    expect(lease == Lease(key, holder, mark), f"the lease must have the mark {mark}, not {lease and lease.mark}")
    if not keep:
        await store.release(key, holder, mark=None)
    return holder
