"""PostgreSQL away, restarted, frozen or cut off; callers that leave; and what is left in the pool after all that."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from coatcheck.coordination import SentMark
from coatcheck.errors import LeaseLost, StoreUnavailable
from coatcheck.sessions import ReplacePart, SessionRow, Touch
from coatcheck.stores import PostgreSQLStore
from tests.rig.postgresql import PostgreSQL, Stop
from tests.rig.tcp_fault import TCPFault
from tests.stores.postgresql_samples import PATIENCE, impatient, opened, row

each = pytest.mark.parametrize
MARK = SentMark(1_799_999_999.25)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """One that nobody else uses, so that it may be stopped."""
    with PostgreSQL.start() as own:
        yield own


@asynccontextmanager
async def with_idle_connections(store: PostgreSQLStore, count: int = 5) -> AsyncIterator[SessionRow]:
    """Have *store* hold *count* connections that nobody uses; gives a session."""
    session = row()
    await store.create(session)
    await asyncio.gather(*(store._database.ask("SELECT pg_sleep(0.05)") for _ in range(count)))
    assert len(_idle(store)) == count
    yield session


def _idle(store: PostgreSQLStore) -> list[object]:
    return [connection for connection, _ in store._database.here().connections._idle]


@asynccontextmanager
async def held(server: PostgreSQL, store: PostgreSQLStore) -> AsyncIterator[None]:
    """Have *store* hold all sessions inside, so that whoever writes one waits."""
    statement = (
        "WITH held AS MATERIALIZED (SELECT key FROM coatcheck_sessions FOR UPDATE) SELECT pg_sleep(60) FROM held"
    )
    holding = asyncio.create_task(store._database.ask(statement))
    await until(server, "wait_event = 'PgSleep'")
    try:
        yield
    finally:
        server.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        await asyncio.wait([holding])
        assert isinstance(holding.exception(), StoreUnavailable)


async def until(server: PostgreSQL, condition: str, *, found: str = "1") -> None:
    """Wait until as many connections as *found* are so."""
    async with asyncio.timeout(20):
        while server.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {condition}") != found:
            await asyncio.sleep(0.01)


# A server that restarts


@pytest.mark.spec("SES-12")
@each("how", ["fast", "immediate"])
async def test_a_restart_costs_no_call(how: Stop, server: PostgreSQL) -> None:
    """Several connections died; neither the first call nor any other one pays for it, be it repeatable or not."""
    async with opened(server.fresh_database()) as store:
        key, holder = secrets.token_bytes(32), secrets.token_bytes(16)
        assert await store.add(key, b"value", until=4e9)
        assert await store.acquire(key, holder, seconds=60) is not None
        calls: list[Callable[[SessionRow], Coroutine[Any, Any, object]]] = [
            lambda session: store.load(session.key),
            lambda session: store.update(session.key, Touch(session.seen_at + 1)),
            lambda session: store.update(session.key, ReplacePart("tokens", b"renewed", 1)),
            lambda session: store.delete(session.key),
            lambda _: store.create(row()),
            lambda session: store.find(session.partition, [session.sub_key]),
            lambda session: store.revoke(session.partition, [session.sub_key]),
            lambda _: store.get(key),
            lambda _: store.replace(key, b"value 2", version=1, until=4e9),
            lambda _: store.mark_sent(key, holder, MARK, seconds=60, until=4e9),
            lambda _: store.extend(key, holder, seconds=60),
            lambda _: store.acquire(key, holder, seconds=60),
            lambda _: store.release(key, holder, mark=None),
            lambda _: store.discard(key),
            lambda _: store.publish("channel", b"message"),
        ]
        for call in calls:
            async with with_idle_connections(store) as session:
                server.restart(how)  # blocks the loop: nobody has told it yet when the call begins
                await call(session)


@pytest.mark.spec("SES-12")
async def test_while_the_server_is_away_it_says_so_at_once_and_works_when_it_is_back(server: PostgreSQL) -> None:
    async with opened(server.fresh_database()) as store, with_idle_connections(store) as session:
        server.stop()
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(StoreUnavailable, match="check that the server runs"):
                await store.load(session.key)
        assert time.monotonic() - began < 2
        server.restart()
        assert await store.load(session.key) == session


@pytest.mark.spec("SES-12")
@each("kill", [False, True])
async def test_what_was_answered_survives_a_crash(kill: bool, server: PostgreSQL) -> None:
    """A sent mark, tokens, a value: each was on the disk before the answer came."""
    dsn = server.fresh_database()
    key, holder, session = secrets.token_bytes(32), secrets.token_bytes(16), row()
    server.sql(f"ALTER DATABASE {dsn.rpartition('/')[2]} SET synchronous_commit = off")
    async with opened(dsn) as store:
        await store.create(session)
        await store.update(session.key, ReplacePart("tokens", b"renewed", 1))
        await store.add(key, b"value", until=4e9)
        await store.acquire(key, holder, seconds=60)
        await store.mark_sent(key, holder, MARK, seconds=0.001, until=4e9)
        if kill:
            server.kill()
        server.restart("immediate")
        after = await store.load(session.key)
        assert after is not None and (after.tokens, after.tokens_version) == (b"renewed", 2)
        assert await store.get(key) is not None
        lease = await store.acquire(key, secrets.token_bytes(16), seconds=60)
        assert lease is not None and lease.mark == MARK


async def test_a_standby_is_left_for_the_primary(server: PostgreSQL) -> None:
    """After a fail-over the old server reads only; new connections find the other one."""
    dsn = server.fresh_database()
    database = dsn.rpartition("/")[2]
    async with opened(dsn) as store, with_idle_connections(store) as session:
        for connection in _idle(store):
            await connection.execute("SET default_transaction_read_only = on")  # type: ignore[attr-defined]
        await store.update(session.key, ReplacePart("tokens", b"renewed", 1))
        server.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        await store.aclose()
        with pytest.raises(StoreUnavailable, match=r"read-only.*target_session_attrs=read-write"):
            await store.update(session.key, ReplacePart("tokens", b"renewed", 2))
        assert await store.load(session.key) is not None


# A server that does not answer


@contextmanager
def a_server_that_accepts_and_never_answers() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        yield f"postgresql://user:secret@127.0.0.1:{mute.getsockname()[1]}/database"


@pytest.mark.spec("SES-12")
async def test_a_server_that_never_answers_holds_up_nobody_for_long() -> None:
    with a_server_that_accepts_and_never_answers() as dsn:
        async with impatient(dsn, max_connections=2) as store:
            began = time.monotonic()
            calls = [store.load(bytes(32)) for _ in range(50)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            # One patience for a turn and one for a connection, however many wait: never fifty in a row.
            assert time.monotonic() - began < 10 * PATIENCE.total_seconds()
            with pytest.raises(StoreUnavailable):
                async with store.subscribe("channel"):
                    raise AssertionError("nobody listens")


@pytest.mark.spec("SES-12")
async def test_a_server_that_freezes_is_given_up_and_used_again_when_it_goes_on(server: PostgreSQL) -> None:
    async with impatient(server.fresh_database()) as store, with_idle_connections(store) as session:
        frozen = server.freeze()
        try:
            began = time.monotonic()
            calls = [store.load(session.key) for _ in range(20)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            assert "no answer within 0.3 s" in str(outcomes[0])
            assert time.monotonic() - began < 10 * PATIENCE.total_seconds()
            assert _idle(store) == []
        finally:
            server.thaw(frozen)
        assert await store.load(session.key) == session


async def test_a_statement_that_waits_for_a_lock_gives_up_and_keeps_its_connection(server: PostgreSQL) -> None:
    """The server ends it a little earlier than we do, so nothing stays behind there and nothing is thrown away here."""
    dsn = server.fresh_database()
    async with impatient(dsn) as store, opened(dsn) as other, with_idle_connections(store) as session:
        connections = set(map(id, _idle(store)))
        async with held(server, other):
            with pytest.raises(StoreUnavailable, match="statement timeout"):
                await store.update(session.key, Touch(session.seen_at + 1))
            assert set(map(id, _idle(store))) == connections
            assert await store.load(session.key) == session


# A network that breaks


async def test_a_lost_answer_is_asked_for_again_where_twice_is_as_good_as_once(server: PostgreSQL) -> None:
    key, holder = secrets.token_bytes(32), secrets.token_bytes(16)
    with TCPFault.before(server.port) as fault:
        async with opened(server.fresh_database(port=fault.port)) as store:
            session = row()
            await store.create(session)
            for call in (
                lambda: store.acquire(key, holder, seconds=60),
                lambda: store.mark_sent(key, holder, MARK, seconds=60, until=4e9),
                lambda: store.extend(key, holder, seconds=60),
                lambda: store.release(key, holder, mark=MARK),
                lambda: store.load(session.key),
                lambda: store.update(session.key, Touch(session.seen_at + 1)),
                lambda: store.get(key),
            ):
                lost = fault.answers_cut
                fault.cut_answers(times=1)
                await call()
                assert fault.answers_cut == lost + 1
            lease = await store.acquire(key, secrets.token_bytes(16), seconds=60)
            assert lease is not None and lease.mark == MARK


async def test_a_write_whose_answer_is_lost_is_not_sent_again(server: PostgreSQL) -> None:
    """It may have been done, as here: sent again it would find its own work, and take it for somebody else's."""
    dsn = server.fresh_database()
    database, session = dsn.rpartition("/")[2], row()
    with TCPFault.before(server.port) as fault:
        async with opened(server.dsn_at(fault.port, database=database)) as store, opened(dsn) as other:
            await store.create(session)
            async with held(server, other):
                write = asyncio.create_task(store.update(session.key, ReplacePart("tokens", b"renewed", 1)))
                await until(server, f"datname = '{database}' AND wait_event_type = 'Lock'")
                connections = fault.accepted
                fault.cut()
                with pytest.raises(StoreUnavailable, match="connection"):
                    await write
                assert fault.accepted == connections
            await until(server, f"datname = '{database}' AND state = 'active'", found="0")
            after = await other.load(session.key)
            assert after is not None and (after.tokens, after.tokens_version) == (b"renewed", 2)
            fault.restore()
            assert await store.load(session.key) == after


@pytest.mark.spec("SES-12")
async def test_a_network_that_swallows_everything_is_noticed(server: PostgreSQL) -> None:
    with TCPFault.before(server.port) as fault:
        async with impatient(server.fresh_database(port=fault.port)) as store, with_idle_connections(store) as session:
            fault.hang()
            with pytest.raises(StoreUnavailable, match="no answer within"):
                await store.load(session.key)
            fault.restore()
            assert await store.load(session.key) == session


# Callers that leave


async def test_callers_that_leave_leave_no_broken_connection(server: PostgreSQL) -> None:
    dsn = server.fresh_database()
    async with opened(dsn, max_connections=3) as store:
        sessions = [row(tokens=b"of %d" % number) for number in range(20)]
        for session in sessions:
            await store.create(session)
        for moment in range(60):
            calls = [asyncio.ensure_future(store.load(session.key)) for session in sessions]
            for _ in range(moment % 12):
                await asyncio.sleep(0)
            if moment % 5 == 0:
                await asyncio.sleep(0.001)
            for call in calls[::2]:
                call.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert outcomes[1::2] == sessions[1::2]
            assert all(
                outcome == session or isinstance(outcome, asyncio.CancelledError)
                for outcome, session in zip(outcomes[::2], sessions[::2], strict=True)
            )
        here = store._database.here().connections
        assert here._turns._value == 3 and len(here._idle) <= 3
    await until(server, f"datname = '{dsn.rpartition('/')[2]}'", found="0")


async def test_a_caller_that_leaves_while_it_waits_for_its_turn_takes_none(server: PostgreSQL) -> None:
    async with opened(server.fresh_database(), max_connections=1) as store:
        await store.load(bytes(32))
        slow = asyncio.create_task(store._database.ask("SELECT pg_sleep(0.2)"))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(store.load(bytes(32))) for _ in range(10)]
        await asyncio.sleep(0.01)
        for task in waiting[:9]:
            task.cancel()
        await slow
        assert await waiting[9] is None
        assert await store.load(bytes(32)) is None


# Those who listen


@each("how", ["fast", "immediate"])
async def test_who_listens_is_told_when_the_connection_is_lost_and_may_listen_again(
    how: Stop, server: PostgreSQL
) -> None:
    async with opened(server.fresh_database()) as store:
        async with store.subscribe("one") as one, store.subscribe("other") as other:
            await store.publish("one", b"before")
            assert await anext(one) == b"before"
            waiting = asyncio.ensure_future(anext(other))
            await asyncio.sleep(0)
            server.restart(how)
            for listening in (anext(one), waiting, anext(one)):
                with pytest.raises(StoreUnavailable, match="the connection that listens was lost"):
                    await listening
        async with store.subscribe("one") as one:
            await store.publish("one", b"after")
            assert await anext(one) == b"after"


async def test_who_leaves_while_subscribing_disturbs_nobody(server: PostgreSQL) -> None:
    async with opened(server.fresh_database()) as store, store.subscribe("channel") as heard:

        async def subscribe_and_leave() -> None:
            async with store.subscribe("channel"):
                await asyncio.sleep(10)

        for turns in range(20):
            leaving = asyncio.create_task(subscribe_and_leave())
            for _ in range(turns):
                await asyncio.sleep(0)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
        await store.publish("channel", b"still here")
        assert await anext(heard) == b"still here"


async def test_a_closed_store_ends_what_is_subscribed_and_opens_again(server: PostgreSQL) -> None:
    async with opened(server.fresh_database()) as store:
        async with store.subscribe("channel") as heard:
            await store.aclose()
            with pytest.raises(StoreUnavailable):
                await anext(heard)
        async with store.subscribe("channel") as heard:
            await store.publish("channel", b"again")
            assert await anext(heard) == b"again"


async def test_a_lease_that_is_lost_says_so_after_a_restart_too(server: PostgreSQL) -> None:
    async with opened(server.fresh_database()) as store, with_idle_connections(store):
        key, holder = secrets.token_bytes(32), secrets.token_bytes(16)
        assert await store.acquire(key, holder, seconds=0) is not None
        assert await store.acquire(key, secrets.token_bytes(16), seconds=60) is not None
        server.restart()
        with pytest.raises(LeaseLost):
            await store.mark_sent(key, holder, MARK, seconds=60, until=4e9)
