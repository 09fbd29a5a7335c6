"""What the Redis tests share: a row, a store that does not wait long, and a look at the server behind its back."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta

from redis.asyncio import Redis

from coatcheck.clock import Clock
from coatcheck.coordination import SentMark
from coatcheck.errors import LeaseLost, SessionGone, StaleVersion
from coatcheck.sessions import SessionRow, Touch
from coatcheck.stores import RedisStore
from tests.rig.tcp_fault import TCPFault
from tests.rig.valkey import Valkey
from tests.sessions.samples import HOUR, NOW
from tests.testing.clocks import HandClock

KEY, HOLDER = bytes(range(32)), bytes(range(16))

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
async def opened(url: str, clock: Clock | None = None, *, connections: int = 16) -> AsyncIterator[RedisStore]:
    """A store at NOW, closed at the end."""
    store = RedisStore(url, clock or HandClock(NOW), max_connections=connections)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def impatient(url: str, *, connections: int = 16, patience: timedelta = PATIENCE) -> AsyncIterator[RedisStore]:
    """A store that gives up early, so that a test of a hang is over soon."""
    clock = HandClock(NOW)
    store = RedisStore(url, clock, connect_timeout=patience, operation_timeout=patience, max_connections=connections)
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


USES: list[Callable[[RedisStore], Awaitable[object]]] = [
    lambda store: store.create(row()),
    lambda store: store.load(KEY),
    lambda store: store.update(KEY, Touch(NOW)),
    lambda store: store.delete(KEY),
    lambda store: store.find("abcdefgh", [KEY]),
    lambda store: store.revoke("abcdefgh", [KEY]),
    lambda store: store.acquire(KEY, HOLDER, seconds=5),
    lambda store: store.mark_sent(KEY, HOLDER, SentMark(NOW), seconds=5, until=NOW + 60),
    lambda store: store.extend(KEY, HOLDER, seconds=5),
    lambda store: store.release(KEY, HOLDER, mark=None),
    lambda store: store.add(KEY, b"value", until=NOW + 60),
    lambda store: store.get(KEY),
    lambda store: store.replace(KEY, b"value", version=1, until=NOW + 60),
    lambda store: store.discard(KEY),
    lambda store: store.publish("news", b"message"),
    lambda store: store.subscribe("news").__aenter__(),
]
"""One call of each method, on keys that are the same each time. The last one leaves a subscription behind."""


async def use_everything(store: RedisStore) -> None:
    """So that the server knows every script; nothing is left behind."""
    for use in USES[:-1]:
        with suppress(SessionGone, LeaseLost, StaleVersion):
            await use(store)


@contextmanager
def faulty(valkey: Valkey) -> Iterator[tuple[TCPFault, str]]:
    """The network before the server, and the URL that leads through it."""
    with TCPFault.before(valkey.port) as fault:
        yield fault, valkey.fresh_url(port=fault.port)
