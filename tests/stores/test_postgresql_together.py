"""PostgreSQL: several processes, threads and event loops on one database."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import selectors
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import asyncpg  # type: ignore[import-untyped]
import pytest

from coatcheck.sessions import ReplacePart
from coatcheck.stores import PostgreSQLStore
from coatcheck.stores.postgresql import schema
from tests.rig.postgresql import PostgreSQL
from tests.rig.programs import ROOT
from tests.stores import postgresql_samples
from tests.stores.postgresql_samples import acquire_at_once, opened, row


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`postgresql_samples.py` as a process that is ready to begin."""
    command = [sys.executable, "-W", "error", "-m", postgresql_samples.__name__, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def at_once(commands: Sequence[Sequence[object]]) -> list[int]:
    """Run processes from the same moment on; the number that each prints."""
    with ExitStack() as stack:
        running = [stack.enter_context(process(*command)) for command in commands]
        for one in running:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        return [int(one.communicate(timeout=60)[0]) for one in running]


def test_four_processes_may_use_a_new_database_at_the_same_moment(postgresql: PostgreSQL) -> None:
    """Each finds no tables and wants to make them: `CREATE TABLE IF NOT EXISTS` alone fails for all but one."""
    dsn = postgresql.fresh_database()
    commands = [["acquire", dsn, secrets.token_hex(32), 10] for _ in range(4)]
    assert at_once(commands) == [1, 1, 1, 1]
    tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'coatcheck%'"
    assert postgresql.sql(tables, database=dsn.rpartition("/")[2]) == "4"


async def test_who_waited_for_others_to_make_the_tables_finds_them(postgresql: PostgreSQL) -> None:
    """And says so: one of several that migrate at once has done it."""
    dsn = postgresql.fresh_database()
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with opened(dsn) as one, opened(dsn) as other:
        somebody = await asyncpg.connect(dsn)
        await somebody.execute("BEGIN")
        await somebody.execute(schema._LOCK)
        migrating = []
        async with asyncio.timeout(30):
            for store in (one, other):
                migrating.append(asyncio.create_task(store.migrate()))
                while await somebody.fetchval(waiting) < len(migrating):
                    await asyncio.sleep(0.01)
        await somebody.close()
        made = [f"made the {part} (schema {len(steps)})" for part, steps in schema.STEPS.items()]
        assert sorted(await asyncio.gather(*migrating)) == [[], made]
        assert await one.migrate() == []


async def test_many_first_uses_at_once_make_the_tables_once(postgresql: PostgreSQL) -> None:
    for _ in range(5):
        assert await acquire_at_once(postgresql.fresh_database(), secrets.token_bytes(32), 50) == 1


def test_of_a_hundred_that_ask_from_two_processes_one_gets_the_lease(postgresql: PostgreSQL) -> None:
    dsn = postgresql.fresh_database()
    for _ in range(3):
        key = secrets.token_hex(32)
        assert sorted(at_once([["acquire", dsn, key, 50]] * 2)) == [0, 1]


@pytest.mark.spec("SES-06")
def test_two_processes_lose_no_increment(postgresql: PostgreSQL) -> None:
    dsn, key, times = postgresql.fresh_database(), secrets.token_bytes(32), 150

    async def begin() -> None:
        async with opened(dsn) as store:
            assert await store.add(key, b"0", until=4e9)

    async def result() -> tuple[bytes, int]:
        async with opened(dsn) as store:
            stored = await store.get(key)
            assert stored is not None
            return stored.value, stored.version

    asyncio.run(begin())
    assert at_once([["increment", dsn, key.hex(), times]] * 2) == [times, times]
    assert asyncio.run(result()) == (b"%d" % (2 * times), 1 + 2 * times)


def test_event_loops_in_different_threads_share_a_store(postgresql: PostgreSQL) -> None:
    store, session, faults = PostgreSQLStore(postgresql.fresh_database()), row(tokens=b"0"), list[BaseException]()
    asyncio.run(_use(store, session.key, 0, create=session.tokens))
    together = threading.Barrier(4)

    def work() -> None:
        try:
            together.wait(10)
            asyncio.run(_use(store, session.key, 25))
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert asyncio.run(_use(store, session.key, 0)) == 100


async def _use(store: PostgreSQLStore, key: bytes, times: int, *, create: bytes | None = None) -> int:
    """Count up in a value, hear a message of one's own, close; return the number."""
    if create is not None:
        await store.add(key, create, until=4e9)
    channel = secrets.token_hex(8)
    async with store.subscribe(channel) as heard:
        await store.publish(channel, b"here")
        assert await anext(heard) == b"here"
    await postgresql_samples.count(store, key, times)
    stored = await store.get(key)
    assert stored is not None
    await store.aclose()
    return int(stored.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_child_that_was_forked_opens_connections_of_its_own(postgresql: PostgreSQL) -> None:
    """
    As a server that uses the store and then forks.

    Parent and child would read each other's answers on a shared connection, and the child must not even close what it
    inherited: with epoll, that takes the connection from the parent's event loop.
    """
    async with opened(postgresql.fresh_database()) as store, store.subscribe("channel") as heard:
        sessions = [row(tokens=b"0") for _ in range(4)]
        for session in sessions:
            await store.create(session)
        await asyncio.gather(*(store._database.ask("SELECT pg_sleep(0.05)") for _ in range(4)))
        children = [_fork(store, session.key) for session in sessions]
        for _ in range(50):
            for session in sessions:
                assert (await store.load(session.key) or session).key == session.key
        waits = (asyncio.to_thread(os.waitpid, child, 0) for child in children)
        assert [os.waitstatus_to_exitcode(status) for _, status in await asyncio.gather(*waits)] == [0] * 4
        for session in sessions:
            after = await store.load(session.key)
            assert after is not None and (after.tokens, after.tokens_version) == (b"of the child", 51)
        await store.publish("channel", b"of the parent")
        assert {await anext(heard) for _ in range(5)} == {b"of the child", b"of the parent"}


def _fork(store: PostgreSQLStore, key: bytes) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a thread may be running
        pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(_as_child(store, key))
        except BaseException as fault:
            os.write(2, f"{fault!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return pid


async def _as_child(store: PostgreSQLStore, key: bytes) -> None:
    for version in range(1, 51):
        found = await store.load(key)
        assert found is not None and (found.key, found.tokens_version) == (key, version)
        await store.update(key, ReplacePart("tokens", b"of the child", version))
    await store.publish("channel", b"of the child")
    await store.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_goes_on_with_its_parents_loop_leaves_the_parents_connection_alone(postgresql: PostgreSQL) -> None:
    """With `select` that works: nothing of the loop is shared but the connections that it knows."""
    store, session = PostgreSQLStore(postgresql.fresh_database()), row()
    with closing(asyncio.SelectorEventLoop(selectors.SelectSelector())) as loop:
        loop.run_until_complete(store.create(session))
        before = loop.run_until_complete(_backend(store))
        pid = os.fork()
        if pid == 0:
            here = loop.run_until_complete(_backend(store))
            loop.run_until_complete(store.aclose())
            os._exit(0 if here != before else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert loop.run_until_complete(_backend(store)) == before
        assert loop.run_until_complete(store.load(session.key)) == session
        loop.run_until_complete(store.aclose())


async def _backend(store: PostgreSQLStore) -> object:
    """The process of the server that answers us."""
    [[pid]] = await store._database.ask("SELECT pg_backend_pid()")
    return pid


def test_a_loop_that_ended_without_closing_costs_no_later_one_anything(postgresql: PostgreSQL) -> None:
    store, session = PostgreSQLStore(postgresql.fresh_database()), row()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it is told, as for any connection that nobody closed
        asyncio.run(store.create(session))
        for _ in range(3):
            assert asyncio.run(store.load(session.key)) == session
        assert len(store._database._here) == 1

        async def end() -> None:
            assert await store.load(session.key) == session
            await store.aclose()

        asyncio.run(end())
        assert len(store._database._here) == 0
        gc.collect()
