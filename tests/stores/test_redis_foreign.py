"""What somebody else has written into the database: an error in our words, and never a token sent twice."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from coatcheck.errors import StoreUnavailable
from coatcheck.sessions.store import SessionRow
from coatcheck.stores import RedisStore
from coatcheck.stores.redis import records
from tests.rig.valkey import Valkey

KEY = bytes(range(32))
HOLDER = bytes(16)


@pytest.mark.parametrize("foreign", [b"", b"x", b"\0" * 23])
async def test_a_value_that_a_database_writer_cut_short_is_an_outage(valkey: Valkey, foreign: bytes) -> None:
    url = valkey.fresh_url()
    async with Redis.from_url(url) as writer:
        await writer.set(records.value_key(KEY), foreign)
    store = RedisStore(url)
    try:
        with pytest.raises(StoreUnavailable, match="not written by coatcheck"):
            await store.get(KEY)
    finally:
        await store.aclose()


async def test_a_mark_that_a_database_writer_damaged_is_no_leave_to_send_again(valkey: Valkey) -> None:
    url = valkey.fresh_url()
    async with Redis.from_url(url) as writer:
        await writer.hset(records.lease_key(KEY), mapping={"ends": "0", "holder": "", "mark": "?", "keep": "9e15"})
    store = RedisStore(url)
    try:
        with pytest.raises(StoreUnavailable, match="not written by coatcheck"):
            await store.acquire(KEY, HOLDER, seconds=5)
    finally:
        await store.aclose()


def test_a_session_whose_partition_a_database_writer_damaged_is_nobodys() -> None:
    row = SessionRow(KEY, "p", b"claims", 1, b"tokens", 1, 0.0, 9e9, 0.0, 9e9, b"sub", None)
    data = bytearray(records.encode_row(row, bytes(records.WRITE_ID)))
    data[data.index(b"psubclaims")] = 0xFF
    assert records.decode_row(KEY, bytes(data)).partition != "p"
