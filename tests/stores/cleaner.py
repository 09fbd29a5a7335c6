"""
A process of its own among several that share a store: `cleaner.py URL clean|use ROUNDS`.

It says when it is ready, waits for a line, and prints how many rows it has removed, or how often it used a session.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from contextlib import suppress
from dataclasses import replace

from coatcheck.errors import StaleVersion
from coatcheck.sessions import ReplacePart, Touch
from coatcheck.stores.urls import Store, open_store
from tests.stores.sqlite_samples import row

USED = [b"u" * 31 + bytes([number]) for number in range(10)]
"""The sessions that every user of the store touches."""


async def clean(store: Store) -> int:
    return await store.expire(time.time(), limit=15)


async def use(store: Store) -> int:
    """Touch a session, renew its tokens, log somebody else in for a moment, and leave a session behind that is over."""
    now, key = time.time(), secrets.choice(USED)
    found = await store.load(key)
    assert found is not None, "a session that is in use was removed"
    await store.update(key, Touch(now))
    with suppress(StaleVersion):  # another user of it was quicker
        await store.update(key, ReplacePart("tokens", b"%d" % found.tokens_version, found.tokens_version))
    guest = replace(row(secrets.token_bytes(32)), created_at=now, seen_at=now, expires_at=now + 3600)
    await store.create(guest)
    assert await store.delete(guest.key) == guest
    await store.create(replace(guest, key=secrets.token_bytes(32), expires_at=now))
    return 1


async def main(url: str, what: str, rounds: int) -> None:
    store, work = open_store(url), {"clean": clean, "use": use}[what]
    assert await store.load(bytes(32)) is None  # open
    print("ready", flush=True)
    sys.stdin.readline()
    print("done", sum([await work(store) for _ in range(rounds)]), flush=True)
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
