"""Memory: how it is kept small, and how its notifier crosses threads."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

from coatcheck.coordination import Lease, SentMark
from coatcheck.sessions import ServerSideSessions
from coatcheck.stores import MemoryStore
from tests.sessions.samples import POLICY, RING, Browser, log_in
from tests.testing.clocks import HandClock

US, THEM = b"u" * 16, b"t" * 16

# Cleaning up


async def test_dead_sessions_do_not_pile_up() -> None:
    """Nobody opens them any more, and still they go: a few at every login."""
    clock = HandClock()
    store = MemoryStore(clock)
    sessions = ServerSideSessions(store, RING, POLICY, clock=clock)
    largest = 0
    for _ in range(1000):
        await log_in(sessions, Browser(), now=clock.time())
        clock.forward(timedelta(minutes=1))
        largest = max(largest, len(store._rows))
    assert largest < 100


async def test_live_sessions_stay_whatever_else_is_cleaned_up() -> None:
    clock = HandClock()
    store = MemoryStore(clock)
    sessions = ServerSideSessions(store, RING, POLICY, clock=clock, idle_timeout=timedelta(hours=8))
    browser = Browser()
    await log_in(sessions, browser, now=clock.time())
    for _ in range(100):
        await log_in(sessions, Browser(), now=clock.time())
        clock.forward(timedelta(minutes=4))
    assert await sessions.open(browser.cookies(), now=clock.time()) is not None


async def test_values_that_ended_do_not_pile_up() -> None:
    clock, largest = HandClock(), 0
    store = MemoryStore(clock)
    await store.add(b"long", b"value", until=clock.time() + 86_400)
    for number in range(1000):
        await store.add(b"%d" % number, b"value", until=clock.time() + 3600)
        clock.forward(timedelta(minutes=1))
        largest = max(largest, len(store._values))
    assert largest < 100
    assert await store.get(b"long") is not None


async def test_leases_that_nothing_is_left_of_do_not_pile_up() -> None:
    """Holders that die without a word, and marks whose time is over."""
    clock, largest = HandClock(), 0
    store = MemoryStore(clock)
    await store.acquire(b"running", THEM, seconds=86_400)
    for number in range(1000):
        await store.acquire(b"%d" % number, US, seconds=20)
        await store.mark_sent(b"%d" % number, US, SentMark(clock.time()), seconds=20, until=clock.time() + 3600)
        clock.forward(timedelta(minutes=1))
        largest = max(largest, len(store._leases))
    assert largest < 100
    assert await store.acquire(b"running", US, seconds=5) is None
    assert await store.acquire(b"999", THEM, seconds=5) == Lease(b"999", THEM, SentMark(clock.time() - 60))


async def test_expire_removes_at_most_so_many_and_says_how_many() -> None:
    clock = HandClock()
    store = MemoryStore(clock)
    for number in range(10):
        await store.add(bytes([number]), b"", until=clock.time() + 1 + number)
        await store.acquire(bytes([number]), US, seconds=1)
    clock.forward(timedelta(seconds=5))
    assert [await store.expire(clock.time(), limit=7) for _ in range(4)] == [7, 7, 1, 0]
    assert not store._leases
    assert sorted(store._values) == [bytes([number]) for number in range(5, 10)]


# Between threads and event loops


def test_fifty_threads_and_one_lease() -> None:
    store, together, given = MemoryStore(), threading.Barrier(50), list[Lease]()

    def attempt(number: int) -> None:
        together.wait(10)
        lease = asyncio.run(store.acquire(bytes(32), bytes([number]) * 16, seconds=60))
        if lease is not None:
            given.append(lease)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(given) == 1


def test_a_message_wakes_another_event_loop() -> None:
    """Both ways at once: each of two loops answers the other until they have counted to a hundred."""
    store, counted, ready = MemoryStore(), list[int](), threading.Barrier(2)

    async def play(mine: str, theirs: str, first: bool) -> None:
        async with asyncio.timeout(30), store.subscribe(mine) as messages:
            await asyncio.to_thread(ready.wait, 10)
            if first:
                await store.publish(theirs, b"0")
            async for message in messages:
                counted.append(int(message))
                await store.publish(theirs, b"%d" % (int(message) + 1))
                if int(message) >= 99:
                    return

    threads = [
        threading.Thread(target=lambda a=a: asyncio.run(play(*a))) for a in (("a", "b", True), ("b", "a", False))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert counted == list(range(101))
    assert not store._subscribers


async def test_who_falls_behind_loses_the_oldest_messages() -> None:
    store = MemoryStore()
    async with store.subscribe("a") as messages:
        for number in range(10_000):
            await store.publish("a", b"%d" % number)
        heard = [int(await anext(messages)) for _ in range(256)]
        assert heard == list(range(10_000 - 256, 10_000))
        asking = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        assert not asking.done()
        await store.publish("a", b"next")
        assert await asking == b"next"


def test_a_loop_that_was_closed_inside_its_block_disturbs_nobody() -> None:
    store = MemoryStore()
    loop = asyncio.new_event_loop()
    block = store.subscribe("a")
    loop.run_until_complete(block.__aenter__())
    loop.close()

    async def go_on() -> None:
        async with store.subscribe("a") as messages:
            await store.publish("a", b"message")
            assert await anext(messages) == b"message"

    asyncio.run(go_on())
