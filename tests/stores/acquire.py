"""A process of its own that tries to take leases: `acquire.py URL KEY COUNT`, and how many got it."""

from __future__ import annotations

import asyncio
import secrets
import sys

from coatcheck.stores import RedisStore


async def main(url: str, key: bytes, count: int) -> None:
    store = RedisStore(url)
    await store.load(bytes(32))  # connected
    print("ready", flush=True)
    sys.stdin.readline()
    taken = await asyncio.gather(*(store.acquire(key, secrets.token_bytes(16), seconds=30) for _ in range(count)))
    print("taken", sum(lease is not None for lease in taken), flush=True)
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])))
