"""What the Redis tests share: a row, a store that does not wait long, and a look at the server behind its back."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from redis.asyncio import Redis

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.sessions import SessionRow
from coatcheck.stores import RedisStore
from tests.sessions.samples import HOUR, NOW

PATIENCE = timedelta(milliseconds=300)
"""How long an impatient store waits. A healthy server of this machine answers in a hundredth of that."""


def row(*, now: float = NOW, sub_key: bytes | None = None, sid_key: bytes | None = None, size: int = 64) -> SessionRow:
    return SessionRow(
        key=secrets.token_bytes(32),
        partition="abcdefgh",
        claims=b"sealed claims",
        claims_version=1,
        tokens=secrets.token_bytes(size),
        tokens_version=1,
        created_at=now,
        expires_at=now + 8 * HOUR,
        seen_at=now,
        idle_timeout=HOUR,
        sub_key=secrets.token_bytes(32) if sub_key is None else sub_key,
        sid_key=sid_key,
    )


@asynccontextmanager
async def opened(url: str, clock: Clock = SYSTEM_CLOCK, *, connections: int = 16) -> AsyncIterator[RedisStore]:
    """A store, closed at the end."""
    store = RedisStore(url, clock, max_connections=connections)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def impatient(url: str, *, connections: int = 16, patience: timedelta = PATIENCE) -> AsyncIterator[RedisStore]:
    """A store that gives up early, so that a test of a hang is over soon."""
    store = RedisStore(url, connect_timeout=patience, operation_timeout=patience, max_connections=connections)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def behind_its_back(url: str) -> AsyncIterator[Redis]:
    """A client of the library's own."""
    client = Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()
