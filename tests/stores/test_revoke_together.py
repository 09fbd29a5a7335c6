"""All sessions of a user are revoked by several nodes at once, while that user logs in and is active."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from coatcheck.errors import SessionGone
from coatcheck.sessions import SessionRow, Touch
from coatcheck.stores import PostgreSQLStore, open_store
from coatcheck.stores.urls import Store
from tests.rig.postgresql import PostgreSQL
from tests.rig.programs import ROOT
from tests.rig.valkey import Valkey
from tests.stores import revoke_together
from tests.stores.postgresql_samples import opened
from tests.stores.revoke_together import PARTITION, row


@pytest.mark.spec("SES-09")
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "valkey"])
def test_what_two_nodes_revoke_while_a_third_logs_in_is_returned_once(
    kind: str, postgresql: PostgreSQL, valkey: Valkey, tmp_path: Path
) -> None:
    """Fifty sessions are there, forty more come. No row is lost, none is returned twice, and nobody gets an error."""
    urls = {
        "sqlite": f"sqlite://{tmp_path}/sessions.db",
        "postgresql": postgresql.fresh_database(),
        "valkey": valkey.fresh_url(),
    }
    sub_key, sid_key = secrets.token_bytes(32), secrets.token_bytes(32)
    there = asyncio.run(_created(urls[kind], [row(sub_key, sid_key) for _ in range(50)]))
    words = [urls[kind], sub_key.hex(), sid_key.hex()]
    one, other, created = _at_once(words, ["revoke", "revoke", "create"])
    rest = asyncio.run(_revoked(urls[kind], sub_key))
    returned = one + other + rest
    assert len(one) + len(other) >= len(there)
    assert sorted(returned) == sorted(there + created)


def _at_once(words: list[str], roles: list[str]) -> list[list[str]]:
    """Run processes from the same moment on; the lines that each prints."""
    with ExitStack() as stack:
        running = []
        for role in roles:
            command = [sys.executable, "-m", revoke_together.__name__, words[0], role, *words[1:], "40"]
            started = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            running.append(stack.enter_context(started))
            stack.callback(started.kill)
        for process in running:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        printed = [process.communicate(timeout=60)[0].split() for process in running]
        assert [process.returncode for process in running] == [0, 0, 0]
        return printed


async def _created(url: str, rows: list[SessionRow]) -> list[str]:
    store: Store = open_store(url)
    for session in rows:
        await store.create(session)
    await store.aclose()
    return [session.key.hex() for session in rows]


async def _revoked(url: str, sub_key: bytes) -> list[str]:
    store: Store = open_store(url)
    rows = await store.revoke(PARTITION, [sub_key])
    assert await store.find(PARTITION, [sub_key]) == []
    await store.aclose()
    return [session.key.hex() for session in rows]


# PostgreSQL locks rows. Another transaction holds one here, so that it is known who waits for whom.


@asynccontextmanager
async def _transaction(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


async def _somebody_waits(dsn: str) -> None:
    """Return when a statement in the database waits for a lock of another."""
    connection = await asyncpg.connect(dsn)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while not await connection.fetchval(waiting):
            await asyncio.sleep(0.005)
    await connection.close()


async def _two(store: PostgreSQLStore, sub_key: bytes) -> tuple[SessionRow, SessionRow]:
    """Two sessions of a user; the first one's key is the lesser, and the second one lies before it in the table."""
    pair = sorted((row(sub_key, secrets.token_bytes(32)) for _ in range(2)), key=lambda session: session.key)
    for session in reversed(pair):
        await store.create(session)
    return pair[0], pair[1]


async def test_postgresql_revokes_in_one_order_so_that_nobody_waits_in_a_circle(postgresql: PostgreSQL) -> None:
    """Whoever waits for the row that comes first must not hold one that comes later: two of them would deadlock."""
    dsn, sub_key = postgresql.fresh_database(), secrets.token_bytes(32)
    async with opened(dsn) as store:
        first, second = await _two(store, sub_key)
        async with _transaction(dsn) as other:  # another node, that revokes both as well
            await other.execute("DELETE FROM coatcheck_sessions WHERE key = $1", first.key)
            revoking = asyncio.ensure_future(store.revoke(PARTITION, [sub_key]))
            await _somebody_waits(dsn)
            await other.execute("DELETE FROM coatcheck_sessions WHERE key = $1", second.key)
        assert await revoking == []


async def test_postgresql_revokes_a_session_that_is_used_at_that_moment(postgresql: PostgreSQL) -> None:
    """The use has not been written when the revoking begins, and is when it goes on: the row is another one by then."""
    dsn, sub_key = postgresql.fresh_database(), secrets.token_bytes(32)
    async with opened(dsn) as store:
        first, second = await _two(store, sub_key)
        async with _transaction(dsn) as other:
            touch = "UPDATE coatcheck_sessions SET seen_at = seen_at + 1 WHERE key = $1"
            await other.execute(touch, first.key)
            revoking = asyncio.ensure_future(store.revoke(PARTITION, [sub_key]))
            await _somebody_waits(dsn)
        revoked = {session.key: session.seen_at for session in await revoking}
        assert revoked == {first.key: first.seen_at + 1, second.key: second.seen_at}
        for session in (first, second):
            assert await store.load(session.key) is None


async def test_postgresql_does_not_bring_back_what_was_revoked_at_that_moment(postgresql: PostgreSQL) -> None:
    """The other way round: a use waits until the revoking has been written."""
    dsn, sub_key = postgresql.fresh_database(), secrets.token_bytes(32)
    async with opened(dsn) as store:
        first, _ = await _two(store, sub_key)
        async with _transaction(dsn) as other:
            await other.execute("DELETE FROM coatcheck_sessions WHERE sub_key = $1", sub_key)
            touching = asyncio.ensure_future(store.update(first.key, Touch(first.seen_at + 1)))
            await _somebody_waits(dsn)
        with pytest.raises(SessionGone):
            await touching
        assert await store.find(PARTITION, [sub_key]) == []
