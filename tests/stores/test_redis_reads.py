"""Redis and Valkey: reads that are asked for together are one command, and stay everybody's own."""

from __future__ import annotations

import asyncio
import secrets

from redis.asyncio import Redis

from tests.rig.valkey import Valkey
from tests.stores.redis_samples import behind_its_back, opened, row


async def reads(client: Redis) -> int:
    """How many commands of any kind that read sessions the server has done so far."""
    info = await client.info("commandstats")
    return sum(info.get(name, {}).get("calls", 0) for name in ("cmdstat_mget", "cmdstat_get"))


async def test_loads_of_one_tick_are_one_command(valkey: Valkey) -> None:
    async with opened(valkey.fresh_url()) as store, behind_its_back(valkey.url) as client:
        rows = [row() for _ in range(50)]
        for session in rows:
            await store.create(session)
        unknown = secrets.token_bytes(32)
        before = await reads(client)
        found = await asyncio.gather(*(store.load(session.key) for session in rows), store.load(unknown))
        assert found == [*rows, None]
        assert await reads(client) - before == 1


async def test_many_who_read_the_same_are_served_by_one_read(valkey: Valkey) -> None:
    async with opened(valkey.fresh_url()) as store, behind_its_back(valkey.url) as client:
        session = row()
        await store.create(session)
        before = await reads(client)
        assert await asyncio.gather(*(store.load(session.key) for _ in range(200))) == [session] * 200
        assert await reads(client) - before == 1


async def test_what_comes_while_a_command_is_under_way_goes_with_the_next(valkey: Valkey) -> None:
    """A thousand reads that begin in a hundred different ticks: the commands are far fewer than the ticks."""
    async with opened(valkey.fresh_url()) as store, behind_its_back(valkey.url) as client:
        rows = [row() for _ in range(10)]
        for session in rows:
            await store.create(session)
        before, tasks = await reads(client), []
        for _ in range(100):
            tasks += [asyncio.create_task(store.load(session.key)) for session in rows]
            await asyncio.sleep(0)
        assert await asyncio.gather(*tasks) == rows * 100
        assert 1 <= await reads(client) - before <= 60


async def test_a_big_batch_is_cut_into_pieces(valkey: Valkey) -> None:
    async with opened(valkey.fresh_url()) as store, behind_its_back(valkey.url) as client:
        before = await reads(client)
        found = await asyncio.gather(*(store.load(number.to_bytes(32, "big")) for number in range(600)))
        assert found == [None] * 600
        assert await reads(client) - before == 3


async def test_who_is_cancelled_takes_nobody_along(valkey: Valkey) -> None:
    async with opened(valkey.fresh_url()) as store:
        session = row()
        await store.create(session)
        readers = [asyncio.create_task(store.load(session.key)) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for reader in readers[:5]:
            reader.cancel()
        answers = await asyncio.gather(*readers, return_exceptions=True)
        assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True] * 5 + [False] * 5
        assert answers[5:] == [session] * 5
