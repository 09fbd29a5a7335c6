"""A store that fails under load: 503 while it lasts, everybody goes on afterwards, and no refresh token comes twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

import pytest

from tests.rig.fleet import Fleet
from tests.rig.postgresql import PostgreSQL
from tests.rig.tcp_fault import TCPFault
from tests.rig.valkey import Valkey
from tests.rig.worker_plan import SessionKind, WorkerPlan
from tests.scenarios.load import Load
from tests.storm.crashes import LEASE_TIMES
from tests.storm.stage import LONG_LEASE, Stage, World, log_in

FaultName = Literal["cut", "hang", "restart", "cut answers"]
FAULTS: tuple[FaultName, ...] = ("cut", "hang", "restart", "cut answers")

SERVED_FROM_MEMORY = 2
"""Visitors whose renewed tokens cannot be written: the renewal stands before the write when the fault begins."""
NOT_SENT = 2
"""Visitors whose renewal holds the lease and has sent nothing."""
OTHERS = 2
"""Visitors whose renewal is anywhere when the fault begins."""


@dataclass(frozen=True, slots=True)
class FailingStore:
    """The *url* of a store, and how a fault of it begins and ends."""

    url: str
    begin: Callable[[], object]
    end: Callable[[], object]


@contextmanager
def failing(server: PostgreSQL | Valkey, fault: FaultName) -> Iterator[FailingStore]:
    """Let *server* fail, behind a proxy; or be stopped, and come back with its data."""
    if fault == "restart":
        with PostgreSQL.start() if isinstance(server, PostgreSQL) else Valkey.start(durable=True) as own:
            yield FailingStore(_fresh(own, own.port), own.stop, own.restart)
        return
    with TCPFault.before(server.port) as proxy:
        begin = {"cut": proxy.cut, "hang": proxy.hang, "cut answers": proxy.cut_answers}[fault]
        yield FailingStore(_fresh(server, proxy.port), begin, proxy.restore)


def _fresh(server: PostgreSQL | Valkey, port: int) -> str:
    return server.fresh_database(port=port) if isinstance(server, PostgreSQL) else server.fresh_url(port=port)


async def endure(
    world: World, fleet: Fleet, plan: WorkerPlan, store: FailingStore, *, not_sent: int = NOT_SENT, others: int = OTHERS
) -> None:
    """
    Let the store of *plan* fail while every token is due and every page calls, then come back.

    Two renewals have their answer and stand before the write, *not_sent* hold the lease and have sent nothing, and
    *others* are anywhere when it begins.
    """
    stage = await Stage.of(world, fleet, plan, "strict", workers=2)
    visitors = await log_in(stage.workers[0], SERVED_FROM_MEMORY + not_sent + others)
    written, unsent = visitors[:SERVED_FROM_MEMORY], visitors[SERVED_FROM_MEMORY : SERVED_FROM_MEMORY + not_sent]
    await stage.expire()
    held = []
    for checkpoint, group in (("renewal.before_write", written), ("renewal.lease_held", unsent)):
        for visitor, worker in zip(group, stage.workers, strict=False):
            await worker.arm(checkpoint)
            held.append(asyncio.create_task(visitor.ask(worker)))
            await worker.reached(checkpoint)
    async with Load(visitors, stage.workers) as load:
        await asyncio.to_thread(store.begin)
        for worker in stage.workers:
            for checkpoint in ("renewal.before_write", "renewal.lease_held")[: 2 if unsent else 1]:
                await worker.release(checkpoint)
        await load.everybody(503, of=written + unsent)
        answers = await asyncio.gather(*held)
        await asyncio.to_thread(store.end)
        await load.everybody(200)
    await stage.drain()
    assert [answer.status for answer in answers] == [200, 200, 503, 503][: len(held)], (
        "waiters get what is not written yet"
    )
    assert set(load.statuses) == {200, 503}
    for refusal in load.refusals():
        assert (refusal.code, refusal.content_type) == ("store_unavailable", "application/problem+json")
        assert refusal.retry_after
    assert await stage.log.refreshes() == len(visitors), "each of them was renewed once"
    await stage.expire()
    for visitor in visitors:
        assert [(await visitor.ask(worker)).status for worker in stage.workers] == [200, 200]
    assert await stage.log.refreshes() == 2 * len(visitors)
    assert await stage.log.reuse() == 0


async def endure_all(world: World, server: PostgreSQL | Valkey, sessions: SessionKind, *faults: FaultName) -> None:
    """Several applications side by side, each with a fault of its own."""
    async with Fleet() as fleet, asyncio.TaskGroup() as tasks:
        for fault in faults:
            tasks.create_task(_endure(world, fleet, server, sessions, fault), name=f"{sessions} sessions, {fault}")


async def _endure(
    world: World,
    fleet: Fleet,
    server: PostgreSQL | Valkey,
    sessions: SessionKind,
    fault: FaultName,
) -> None:
    with ExitStack() as stack:
        store = await asyncio.to_thread(stack.enter_context, failing(server, fault))
        # A hanging store is away for longer than these leases last: successors come before what is known is written.
        times = LEASE_TIMES if fault == "hang" else None
        plan = world.plan("sqlite", "strict", sessions=sessions, lease_times=times)
        plan = replace(plan, store=store.url)
        try:
            await endure(world, fleet, plan, store)
        except AssertionError as failed:
            failed.add_note(f"{sessions} sessions, {fault}")
            raise


@pytest.mark.spec("REF-08", "REF-10", "REF-26")
async def test_sessions_outlive_faults_of_postgresql(world: World, postgresql: PostgreSQL) -> None:
    await endure_all(world, postgresql, "server", *FAULTS)


@pytest.mark.spec("REF-08", "REF-10", "REF-26")
async def test_sessions_outlive_faults_of_valkey(world: World, valkey: Valkey) -> None:
    await endure_all(world, valkey, "server", *FAULTS)


@pytest.mark.spec("REF-08", "REF-26")
async def test_cookie_sessions_outlive_faults_of_the_store_that_coordinates_them(world: World, valkey: Valkey) -> None:
    await endure_all(world, valkey, "cookie", *FAULTS)


@pytest.mark.spec("REF-08", "REF-26")
async def test_sessions_outlive_a_locked_file(world: World) -> None:
    """Another process keeps the SQLite file for itself for a while; one file has sessions, one coordinates cookies."""
    async with Fleet() as fleet, asyncio.TaskGroup() as tasks:
        tasks.create_task(_endure_a_lock(world, fleet, "server"))
        tasks.create_task(_endure_a_lock(world, fleet, "cookie"))


async def _endure_a_lock(world: World, fleet: Fleet, sessions: SessionKind) -> None:
    # Short leases: the second process finds out that it cannot take the first one's when that has run out.
    plan = world.plan("sqlite", "strict", sessions=sessions, lease_times=LEASE_TIMES)
    path = urlsplit(plan.store).path
    with ExitStack() as held:
        locked = FailingStore(plan.store, lambda: held.enter_context(_held(path)), held.close)
        # Whoever waits for a file does so for five seconds: nobody who needs it several times, for one answer.
        await endure(world, fleet, plan, locked, not_sent=0, others=0)


@contextmanager
def _held(path: str) -> Iterator[None]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _HOLD, path], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate("go\n", timeout=10)


_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.spec("REF-10", "REF-26")
async def test_a_mark_that_was_written_unheard_costs_no_session(
    world: World, postgresql: PostgreSQL, valkey: Valkey
) -> None:
    """The store dies right after the mark, so that nothing is sent, and comes back when the lease has run out."""
    async with Fleet() as fleet, asyncio.TaskGroup() as tasks:
        for server in (postgresql, valkey):
            tasks.create_task(_mark_unheard(world, fleet, server))


async def _mark_unheard(world: World, fleet: Fleet, server: PostgreSQL | Valkey) -> None:
    plan = world.plan("sqlite", "strict", lease_times=LEASE_TIMES)
    with TCPFault.before(server.port) as proxy:
        stage = await Stage.of(world, fleet, replace(plan, store=_fresh(server, proxy.port)), "strict", workers=2)
        holder, successor = stage.workers
        [visitor] = await log_in(holder)
        await stage.expire()
        assert (await visitor.ask(holder)).status == 200  # and what is sent to a database for the first time has been
        await stage.expire()
        await holder.arm("renewal.lease_held")
        waiting = asyncio.create_task(visitor.ask(holder))
        await holder.reached("renewal.lease_held")
        proxy.cut_answers(times=1, then="cut")
        await holder.release("renewal.lease_held")
        assert (await waiting).status == 503
        assert proxy.answers_cut == 1
        await asyncio.sleep(max(LEASE_TIMES))  # the clock of a lease is a database's
        proxy.restore()
        assert [(await visitor.ask(worker)).status for worker in (successor, holder)] == [200, 200]
    assert (await stage.log.refreshes(), await stage.log.reuse()) == (2, 0)


@pytest.mark.spec("REF-08", "REF-10")
async def test_control_without_the_lease_a_store_that_loses_answers_costs_a_second_request(
    world: World, valkey: Valkey
) -> None:
    """What the tests above would see if nobody waited for whoever is renewing: both send, and neither can write."""
    with failing(valkey, "cut answers") as store:
        plan = replace(world.plan("sqlite", "strict", lease_times=LONG_LEASE, without="lease"), store=store.url)
        async with Fleet() as fleet:
            stage = await Stage.of(world, fleet, plan, "strict", workers=2)
            [visitor] = await log_in(stage.workers[0])
            await stage.expire()
            waiting = []
            for worker in stage.workers:
                await worker.arm("renewal.marked")
                waiting.append(asyncio.create_task(visitor.ask(worker)))
                await worker.reached("renewal.marked")
            store.begin()
            for worker in stage.workers:
                await worker.release("renewal.marked")
            answers = await asyncio.gather(*waiting)
            store.end()
            assert 503 in {answer.status for answer in answers}
            assert (await stage.log.refreshes(), await stage.log.reuse() > 0) == (2, True)


@pytest.mark.spec("REF-14", "REF-26")
async def test_with_a_token_that_works_nobody_notices_that_cookie_sessions_cannot_be_coordinated(
    world: World, valkey: Valkey
) -> None:
    with TCPFault.before(valkey.port) as proxy:
        plan = replace(world.plan("sqlite", "strict", sessions="cookie"), store=valkey.fresh_url(port=proxy.port))
        async with Fleet() as fleet:
            stage = await Stage.of(world, fleet, plan, "strict", workers=2)
            [visitor] = await log_in(stage.workers[0])
            await stage.expire()
            for worker in stage.workers:  # each sees that the session lives; of others nobody could say so afterwards
                assert (await visitor.ask(worker)).status == 200
            proxy.cut()
            fresh = [(await visitor.ask(worker)).status for worker in stage.workers]
            await stage.make_stale(left=20)
            stale = [(await visitor.ask(worker)).status for worker in stage.workers]
            await stage.advance(20)
            expired = [(await visitor.ask(worker)).status for worker in stage.workers]
            proxy.restore()
            again = [(await visitor.ask(worker)).status for worker in stage.workers]
    assert [fresh, stale, expired, again] == [[200, 200], [200, 200], [503, 503], [200, 200]]
    assert await stage.log.reuse() == 0
