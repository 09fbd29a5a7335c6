"""What one of several processes does that clean the same store while it is in use."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from coatcheck.errors import StaleVersion
from coatcheck.sessions import ReplacePart, SessionRow, Touch
from coatcheck.stores.urls import Store, open_store
from tests.stores.sqlite_samples import row

EXPIRED, IDLE, LIVE = 150, 150, 12
AT_ONCE = 10
"""So many are to be deleted at a time."""


def live_keys() -> list[bytes]:
    return [bytes([2]) * 31 + bytes([number]) for number in range(LIVE)]


async def fill(store: Store) -> None:
    """Create sessions that reached their end, that idled away, and that live."""
    now = time.time()
    for number in range(EXPIRED):
        await store.create(_row(bytes([0]) * 31 + bytes([number]), now, expires_at=now - 1))
    for number in range(IDLE):
        await store.create(_row(bytes([1]) * 31 + bytes([number]), now, seen_at=now - 7200))
    for key in live_keys():
        await store.create(_row(key, now, tokens=b"0"))


def _row(key: bytes, now: float, **changes: object) -> SessionRow:
    lives = replace(row(key), created_at=now - 9000, seen_at=now, expires_at=now + 9000)
    return replace(lives, **changes)  # type: ignore[arg-type]


async def clean(url: str) -> int:
    """Delete what is dead until nothing is, and use the sessions that live meanwhile; how many were deleted here."""
    store, deleted, nothing = open_store(url), 0, 0
    while nothing < 5:
        cleaning = asyncio.create_task(store.expire(time.time(), limit=AT_ONCE))
        await asyncio.gather(*(_use(store, key) for key in live_keys()))
        found = await cleaning
        deleted += found
        nothing = 0 if found else nothing + 1
    await store.aclose()
    return deleted


async def _use(store: Store, key: bytes) -> None:
    await store.update(key, Touch(time.time()))
    while True:
        found = await store.load(key)
        assert found is not None
        try:
            change = ReplacePart("tokens", b"%d" % (int(found.tokens) + 1), found.tokens_version)
            return await store.update(key, change)
        except StaleVersion:
            continue
