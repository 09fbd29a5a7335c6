"""
A process of its own that holds leases on an SQLite file.

`lease_holder.py count FILE KEY TIMES NUMBER` adds to the number in the file NUMBER, each time under the lease and with
nothing else that would keep others out. `lease_holder.py hold FILE KEY SECONDS` takes the lease, writes a mark, prints
the instant before it did, and waits; for each line that it reads, it tries to go on, and prints `sent` or `lost`.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from pathlib import Path

from coatcheck.coordination import SentMark
from coatcheck.errors import LeaseLost
from coatcheck.stores import SQLiteStore

MARK = SentMark(1_799_999_999.25, 1)


async def count(path: str, key: bytes, times: int, number: Path) -> None:
    store = SQLiteStore(path)
    for _ in range(times):
        holder = secrets.token_bytes(16)
        while (lease := await store.acquire(key, holder, seconds=60)) is None:
            await asyncio.sleep(0.001)
        assert lease.mark is None
        number.write_text(str(int(number.read_text()) + 1))
        await store.release(key, holder, mark=None)
    await store.aclose()


async def hold(path: str, key: bytes, seconds: float) -> None:
    store, holder = SQLiteStore(path), secrets.token_bytes(16)
    assert await store.acquire(key, holder, seconds=60) is not None
    before = time.time()
    await store.mark_sent(key, holder, MARK, seconds=seconds, until=before + 3600)
    print(before, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        try:
            await store.mark_sent(key, holder, SentMark(1.0, 9), seconds=60, until=before + 3600)
            print("sent", flush=True)
        except LeaseLost:
            await store.release(key, holder, mark=None)
            print("lost", flush=True)
    await store.aclose()


if __name__ == "__main__":
    what, file, key_hex, value, *rest = sys.argv[1:]
    if what == "count":
        asyncio.run(count(file, bytes.fromhex(key_hex), int(value), Path(rest[0])))
    else:
        asyncio.run(hold(file, bytes.fromhex(key_hex), float(value)))
