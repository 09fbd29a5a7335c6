"""What the PostgreSQL tests share: a row, stores that are closed in the end, and a process of its own."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.errors import StaleVersion
from coatcheck.sessions import SessionRow
from coatcheck.stores import PostgreSQLStore
from tests.stores import sqlite_samples

PATIENCE = timedelta(milliseconds=300)
"""How long an impatient store waits. A healthy server of this machine answers in a hundredth of that."""


def row(*, tokens: bytes = b"sealed tokens") -> SessionRow:
    return replace(sqlite_samples.row(secrets.token_bytes(32), tokens=tokens), sub_key=secrets.token_bytes(32))


@asynccontextmanager
async def opened(dsn: str, clock: Clock = SYSTEM_CLOCK, *, max_connections: int = 10) -> AsyncIterator[PostgreSQLStore]:
    store = PostgreSQLStore(dsn, clock, max_connections=max_connections)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def impatient(dsn: str, *, max_connections: int = 10) -> AsyncIterator[PostgreSQLStore]:
    """A store that gives up early, so that a test of a hang is over soon."""
    store = PostgreSQLStore(
        dsn,
        connect_timeout=PATIENCE,
        operation_timeout=PATIENCE,
        pool_timeout=PATIENCE,
        max_connections=max_connections,
    )
    try:
        yield store
    finally:
        await store.aclose()


async def acquire_at_once(dsn: str, key: bytes, times: int) -> int:
    """Have *times* holders ask for one lease at the same moment; how many got it."""
    async with opened(dsn) as store:
        asking = [store.acquire(key, secrets.token_bytes(16), seconds=60) for _ in range(times)]
        return sum(lease is not None for lease in await asyncio.gather(*asking))


async def increment(dsn: str, key: bytes, times: int) -> int:
    async with opened(dsn) as store:
        await count(store, key, times)
    return times


async def count(store: PostgreSQLStore, key: bytes, times: int) -> None:
    """Add one to the number in a value, again and again: read, compare, swap."""
    done = 0
    while done < times:
        stored = await store.get(key)
        assert stored is not None
        with suppress(StaleVersion):
            await store.replace(key, b"%d" % (int(stored.value) + 1), version=stored.version, until=4e9)
            done += 1


if __name__ == "__main__":
    # `postgresql_samples.py acquire|increment DSN KEY TIMES`: says when it is ready, waits for a line, prints a number.
    what, address, key_hex, how_often = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    work = {"acquire": acquire_at_once, "increment": increment}[what]
    print(asyncio.run(work(address, bytes.fromhex(key_hex), int(how_often))), flush=True)
