"""The lease on a grant: how it is waited for, kept alive, lost and given back."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from coatcheck.coordination import Lease, SentMark
from coatcheck.errors import LeaseLost, StoreUnavailable, TokenUnavailable
from coatcheck.stores import MemoryStore
from coatcheck.tokens.lease import HeldLease, Leases, LeaseTimes
from tests.testing.clocks import HandClock
from tests.tokens.virtual_time import in_virtual_time

NAME, OTHER = b"n" * 32, b"o" * 32
FOREVER = 4e9


class Store(MemoryStore):
    """Counts, and fails when told to."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.looks = self.beats = 0
        self.away = self.unheard = False

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        self.looks += 1
        return await super().acquire(key, holder, seconds=seconds)

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        await super().mark_sent(key, holder, mark, seconds=seconds, until=until)
        if self.unheard:
            raise StoreUnavailable("nobody heard of it")

    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        self.beats += 1
        self._answers()
        await super().extend(key, holder, seconds=seconds)

    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        self._answers()
        await super().release(key, holder, mark=mark)

    def _answers(self) -> None:
        if self.away:
            raise StoreUnavailable("the store does not answer")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(clock: HandClock) -> Store:
    return Store(clock)


def leases(store: Store, clock: HandClock) -> Leases:
    return Leases(store, clock=clock, times=LeaseTimes())


async def sent(lease: HeldLease, clock: HandClock, *, seconds: float = 12.0) -> None:
    await lease.mark_sent(began=clock.time(), until=FOREVER, seconds=seconds)


@pytest.mark.spec("REF-02", "REF-27")
@in_virtual_time
async def test_who_waits_has_it_within_hundredths_of_a_second(clock: HandClock, store: Store) -> None:
    first = await leases(store, clock).take([NAME])
    waiting = asyncio.create_task(leases(store, clock).take([NAME]))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await first.release()
    released_at = clock.time()
    await waiting
    assert clock.time() - released_at <= 0.011
    assert store.looks <= 70


@in_virtual_time
async def test_who_waits_for_long_looks_seldom_and_gives_up_after_a_minute(clock: HandClock, store: Store) -> None:
    await leases(store, clock).take([NAME])
    with pytest.raises(TokenUnavailable, match="a minute"):
        await leases(store, clock).take([NAME])
    assert store.looks < 1000


@pytest.mark.spec("REF-03")
@in_virtual_time
async def test_a_heartbeat_keeps_it_for_as_long_as_it_is_held(clock: HandClock, store: Store) -> None:
    lease = await leases(store, clock).take([NAME, OTHER])
    await asyncio.sleep(50.0)
    lease.check(at_least=3.0)
    for name in (NAME, OTHER):
        assert await store.acquire(name, b"somebody else...", seconds=5.0) is None
    await lease.release()
    beats = store.beats
    await asyncio.sleep(10.0)
    assert store.beats == beats
    assert store._leases == {}


@in_virtual_time
async def test_beats_that_the_store_does_not_hear_are_repeated(clock: HandClock, store: Store) -> None:
    lease = await leases(store, clock).take([NAME])
    store.away = True
    await asyncio.sleep(4.0)
    lease.check(at_least=0.5)
    with pytest.raises(LeaseLost):
        lease.check(at_least=2.0)
    store.away = False
    await asyncio.sleep(0.9)
    lease.check(at_least=3.0)


@pytest.mark.spec("REF-04")
@in_virtual_time
async def test_a_beat_that_comes_too_late_tells_that_it_is_lost(clock: HandClock, store: Store) -> None:
    lease = await leases(store, clock).take([NAME])
    clock.forward(timedelta(seconds=6))  # nobody ran meanwhile
    await store.acquire(NAME, b"somebody else...", seconds=5.0)
    await asyncio.sleep(0.1)
    assert not lease.is_held
    with pytest.raises(LeaseLost):
        lease.check(at_least=0.0)
    with pytest.raises(LeaseLost):
        await sent(lease, clock)
    await lease.release()
    assert await store.acquire(NAME, b"a third one.....", seconds=5.0) is None


@in_virtual_time
async def test_the_mark_makes_it_long_and_says_how_often_was_sent(clock: HandClock, store: Store) -> None:
    lease = await leases(store, clock).take([NAME, OTHER])
    began = clock.time()
    await sent(lease, clock)
    lease.check(at_least=12.0)
    await sent(lease, clock)
    assert lease.sends == 2
    await lease.release()
    successor = await leases(store, clock).take([OTHER, NAME])
    assert successor.mark == SentMark(began, sends=2)
    assert successor.sends == 0
    await successor.release()


@in_virtual_time
async def test_it_is_given_back_in_the_background_when_the_store_is_back(clock: HandClock, store: Store) -> None:
    ours = leases(store, clock)
    lease = await ours.take([NAME, OTHER])
    store.away = True
    await lease.release()
    await asyncio.sleep(3.0)
    store.away = False
    await asyncio.sleep(0.51)
    assert store._leases == {}
    assert len(ours._releases) == 0


@pytest.mark.spec("REF-10")
@in_virtual_time
async def test_a_mark_of_which_nobody_heard_is_taken_back_from_whoever_overtook(clock: HandClock, store: Store) -> None:
    """Nothing was sent under it. The store was away for longer than the lease ran."""
    lease = await leases(store, clock).take([NAME])
    store.unheard = True
    with pytest.raises(StoreUnavailable):
        await sent(lease, clock)
    store.away = True
    await lease.release()
    await asyncio.sleep(15.0)
    store.away = store.unheard = False
    overtaker = await leases(store, clock).take([NAME])
    assert overtaker.mark is not None
    await asyncio.sleep(1.0)
    await overtaker.release()
    await asyncio.sleep(0.6)
    assert (await leases(store, clock).take([NAME])).mark is None


@in_virtual_time
async def test_a_mark_of_the_overtaker_is_not_ours_to_take_back(clock: HandClock, store: Store) -> None:
    lease = await leases(store, clock).take([NAME])
    store.unheard = True
    with pytest.raises(StoreUnavailable):
        await sent(lease, clock)
    store.away = True
    await lease.release()
    await asyncio.sleep(15.0)
    store.away = store.unheard = False
    overtaker = await leases(store, clock).take([NAME])
    overtaker.mark = None
    await sent(overtaker, clock)
    theirs = overtaker.mark
    await overtaker.release()
    await asyncio.sleep(2.0)
    assert (await leases(store, clock).take([NAME])).mark == theirs


@in_virtual_time
async def test_who_leaves_while_waiting_for_the_second_gives_the_first_back(clock: HandClock, store: Store) -> None:
    await store.acquire(OTHER, b"somebody else...", seconds=50.0)
    waiting = asyncio.create_task(leases(store, clock).take([NAME, OTHER]))
    await asyncio.sleep(0.1)
    assert await store.acquire(NAME, b"a third one.....", seconds=5.0) is None
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await store.acquire(NAME, b"a third one.....", seconds=5.0) is not None


@pytest.mark.spec("REF-31")
@in_virtual_time
async def test_the_end_of_a_process_waits_for_what_is_given_back_but_not_for_ever(
    clock: HandClock, store: Store
) -> None:
    ours = leases(store, clock)
    lease = await ours.take([NAME])
    store.away = True
    await lease.release()
    began = clock.time()
    await ours.drain(seconds=4.0)
    assert 3.9 <= clock.time() - began <= 4.1
    assert len(ours._releases) == 0


@pytest.mark.spec("REF-28")
async def test_a_mark_that_the_store_has_forgotten_counts_and_is_not_left_behind(clock: HandClock) -> None:
    """It is supposed to be there, and nobody can take back what nobody has written."""
    left: list[SentMark | None] = []

    class Watched(Store):
        async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
            left.append(mark)
            await super().release(key, holder, mark=mark)

    leases = Leases(Watched(clock), clock=clock, times=LeaseTimes())
    supposed = SentMark(clock.time())
    lease = await leases.take([NAME])
    lease.suppose(supposed)
    await lease.release()
    again = await leases.take([NAME])
    again.suppose(supposed)
    await again.mark_sent(began=clock.time(), until=FOREVER, seconds=5.0)
    assert again.sends == 2
    await again.release()
    assert left == [None, SentMark(supposed.sent_at, 2)]
