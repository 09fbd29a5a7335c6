"""A process of its own that adds to a number in a session, again and again: `increment.py FILE KEY TIMES`."""

from __future__ import annotations

import asyncio
import sys

from coatcheck.errors import StaleVersion
from coatcheck.sessions import ReplacePart, Touch
from coatcheck.stores import SQLiteStore


async def increment_once(store: SQLiteStore, key: bytes) -> float:
    """Read the number, add one and write it back until nobody was quicker. Returns the row's `seen_at`."""
    while True:
        row = await store.load(key)
        assert row is not None
        try:
            await store.update(key, ReplacePart("tokens", b"%d" % (int(row.tokens) + 1), row.tokens_version))
            return row.seen_at
        except StaleVersion:
            continue


async def main(path: str, key: bytes, times: int) -> None:
    store = SQLiteStore(path)
    for _ in range(times):
        await store.update(key, Touch(await increment_once(store, key) + 1))
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])))
