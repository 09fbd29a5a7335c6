from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from functools import partial
from typing import Any

import pytest

from coatcheck.single_flight import SingleFlight


class Work:
    """Work that counts how often it was started and ends when the test says so."""

    def __init__(self, outcome: str | Exception = "done") -> None:
        self.started = 0
        self.finished = 0
        self.outcome = outcome
        self.may_end = asyncio.Event()

    async def __call__(self) -> str:
        self.started += 1
        await self.may_end.wait()
        self.finished += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return f"{self.outcome} {self.started}"


async def _let_others_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.spec("REF-07")
async def test_those_who_ask_meanwhile_share_one_flight_and_its_outcome() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    waiters = [asyncio.create_task(flights.join("key", work)) for _ in range(100)]
    await _let_others_run()
    assert "key" in flights
    work.may_end.set()
    assert await asyncio.gather(*waiters) == ["done 1"] * 100
    assert work.started == 1
    assert "key" not in flights


@pytest.mark.spec("REF-07")
async def test_the_first_callers_cancellation_harms_nobody() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    first = asyncio.create_task(flights.join("key", work))
    await _let_others_run()
    others = [asyncio.create_task(flights.join("key", work)) for _ in range(3)]
    await _let_others_run()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.may_end.set()
    assert await asyncio.gather(*others) == ["done 1"] * 3


@pytest.mark.spec("REF-07")
async def test_the_work_ends_even_when_every_caller_has_left() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    waiters = [asyncio.create_task(flights.join("key", work)) for _ in range(3)]
    await _let_others_run()
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert all(waiter.cancelled() for waiter in waiters)
    assert "key" in flights
    work.may_end.set()
    await flights.drain()
    assert work.finished == 1


@pytest.mark.spec("REF-07")
async def test_a_waiter_with_a_deadline_leaves_alone() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    patient = asyncio.create_task(flights.join("key", work))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await flights.join("key", work)
    work.may_end.set()
    assert await patient == "done 1"


@pytest.mark.spec("REF-07")
async def test_an_exception_reaches_every_waiter_and_is_not_remembered() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work(ValueError("no luck"))
    waiters = [asyncio.create_task(flights.join("key", work)) for _ in range(5)]
    await _let_others_run()
    work.may_end.set()
    outcomes = await asyncio.gather(*waiters, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no luck"] * 5
    work.outcome = "better"
    assert await flights.join("key", work) == "better 2"


@pytest.mark.spec("REF-07")
async def test_a_failure_that_nobody_waits_for_any_more_is_not_reported_as_forgotten() -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, report: reports.append(report))
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work(ValueError("no luck"))
    waiter = asyncio.create_task(flights.join("key", work))
    flights.start("other", work)
    await _let_others_run()
    waiter.cancel()
    await _let_others_run()
    work.may_end.set()
    await flights.drain()
    del waiter
    gc.collect()
    await _let_others_run()
    assert work.finished == 2
    assert reports == []


async def test_keys_fly_apart() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    one, other = Work(), Work("other")
    waiters = [asyncio.create_task(flights.join("one", one)), asyncio.create_task(flights.join("other", other))]
    await _let_others_run()
    other.may_end.set()
    assert await waiters[1] == "other 1"
    assert not waiters[0].done()
    one.may_end.set()
    assert await waiters[0] == "done 1"


async def test_start_does_not_wait_and_join_finds_what_it_started() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    flights.start("key", work)
    flights.start("key", work)
    assert "key" in flights
    waiter = asyncio.create_task(flights.join("key", work))
    await _let_others_run()
    work.may_end.set()
    assert await waiter == "done 1"


async def test_a_flight_that_has_just_ended_is_not_joined_and_does_not_take_its_successor_off_the_table() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    first, second = Work(), Work("second")
    flights.start("key", first)
    await _let_others_run()
    first.may_end.set()
    while "key" in flights:  # it leaves the table a moment later
        await asyncio.sleep(0)
    assert flights._flights
    flights.start("key", second)
    await _let_others_run()
    assert "key" in flights
    second.may_end.set()
    assert await flights.join("key", second) == "second 1"


async def test_nothing_is_remembered_of_flights_that_landed() -> None:
    flights: SingleFlight[int, int] = SingleFlight()

    async def square(number: int) -> int:
        return number * number

    squares = [await flights.join(number, partial(square, number)) for number in range(100)]
    assert squares == [number * number for number in range(100)]
    await _let_others_run()
    assert not flights._flights


async def test_drain_waits_for_flights_that_flights_start() -> None:
    flights: SingleFlight[str, None] = SingleFlight()
    landed: list[str] = []

    async def second() -> None:
        await _let_others_run()
        landed.append("second")

    async def first() -> None:
        await _let_others_run()
        flights.start("second", second)
        landed.append("first")

    flights.start("first", first)
    await flights.drain()
    assert landed == ["first", "second"]
    await flights.drain()


async def test_a_cancelled_flight_does_not_stay_on_the_table() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    flights.start("key", work)
    (flight,) = flights._flights.values()
    flight.cancel()  # before it ran at all, as the end of an event loop does
    with pytest.raises(asyncio.CancelledError):
        await flights.join("key", work)
    work.may_end.set()
    assert await flights.join("key", work) == "done 1"


async def test_event_loops_do_not_meet() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    here = Work()
    waiter = asyncio.create_task(flights.join("key", _thread_number(here)))
    await _let_others_run()
    there: list[int] = []

    async def elsewhere() -> None:
        assert "key" not in flights
        work = Work()
        work.may_end.set()
        there.append(await flights.join("key", _thread_number(work)))
        async with asyncio.timeout(10):
            await flights.drain()  # does not wait for the other loop's

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await asyncio.to_thread(thread.join)
    here.may_end.set()
    assert await waiter == threading.get_ident()
    assert there != [threading.get_ident()]
    assert len(there) == 1


def _thread_number(work: Work) -> Any:
    async def fly() -> int:
        await work()
        return threading.get_ident()

    return fly


async def test_waiting_for_a_flight_to_land_hears_nothing_of_its_end() -> None:
    """For those who only need it to be over."""
    flights: SingleFlight[str, int] = SingleFlight()
    go_on = asyncio.Event()

    async def fail() -> int:
        await go_on.wait()
        raise RuntimeError("the work went wrong")

    await flights.landed("key")
    flights.start("key", fail)
    waiting = asyncio.create_task(flights.landed("key"))
    await asyncio.sleep(0)
    assert not waiting.done()
    go_on.set()
    await waiting
    assert "key" not in flights


@pytest.mark.spec("SES-08")
async def test_a_flight_sees_nothing_of_the_request_that_started_it() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")

    async def look() -> str:
        return request.get()

    request.set("the first caller's")
    assert await SingleFlight[str, str]().join("key", look) == "none"
