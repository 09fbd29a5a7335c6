"""
A process of its own that ends or makes sessions: `revoke_together.py URL revoke|create SUB_KEY SID_KEY TIMES`.

It says `ready`, waits for a line, and prints the keys of what it has got from `revoke`, or has created.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace

from coatcheck.errors import SessionGone
from coatcheck.sessions import SessionRow, Touch
from coatcheck.stores import open_store
from coatcheck.stores.urls import Store
from tests.sessions.samples import NOW
from tests.stores import sqlite_samples

PARTITION = "abcdefgh"


def row(sub_key: bytes, sid_key: bytes) -> SessionRow:
    """A session that is alive by the system's clock, too."""
    sample = sqlite_samples.row(secrets.token_bytes(32), seen_at=4 * NOW)
    return replace(sample, expires_at=8 * NOW, sub_key=sub_key, sid_key=sid_key)


async def create(store: Store, sub_key: bytes, sid_key: bytes, times: int) -> list[bytes]:
    """Log in again and again, and use each session at once: by then it may be gone."""
    rows = [row(sub_key, sid_key) for _ in range(times)]
    for session in rows:
        await store.create(session)
        with suppress(SessionGone):
            await store.update(session.key, Touch(session.seen_at + 1))
    return [session.key for session in rows]


async def revoke(store: Store, sub_key: bytes, sid_key: bytes, times: int) -> list[bytes]:
    """Revoke by both, so many times, and never stop in between."""
    revoked = [await store.revoke(PARTITION, [sub_key, sid_key]) for _ in range(times)]
    return [session.key for rows in revoked for session in rows]


WORK: dict[str, Callable[[Store, bytes, bytes, int], Coroutine[None, None, list[bytes]]]] = {
    "create": create,
    "revoke": revoke,
}


async def main(url: str, what: str, sub_key: bytes, sid_key: bytes, times: int) -> None:
    store = open_store(url)
    await store.load(bytes(32))  # connected
    print("ready", flush=True)
    sys.stdin.readline()
    for key in await WORK[what](store, sub_key, sid_key, times):
        print(key.hex())
    await store.aclose()


if __name__ == "__main__":
    sub, sid = (bytes.fromhex(word) for word in sys.argv[3:5])
    asyncio.run(main(sys.argv[1], sys.argv[2], sub, sid, int(sys.argv[5])))
