"""Redis and Valkey behind a network that fails all the time: what they promise holds."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from coatcheck.errors import StaleVersion, StoreUnavailable
from coatcheck.sessions import ReplacePart
from coatcheck.stores import RedisStore
from tests.rig.valkey import Valkey
from tests.stores.redis_samples import USES, faulty, impatient, opened, row


@pytest.mark.spec("SES-06", "REF-02")
async def test_whatever_the_network_does_no_write_is_lost_or_doubled_and_one_holds_the_lease(valkey: Valkey) -> None:
    """Eight count upwards in one session, two compete for a lease, callers leave in the middle; faults come and go."""
    until, session = time.monotonic() + 2, replace(row(), tokens=b"0")
    counted = in_doubt = inside = 0
    lease = secrets.token_bytes(32)
    with faulty(valkey) as (fault, url):

        async def count(store: RedisStore) -> None:
            nonlocal counted, in_doubt
            while time.monotonic() < until:
                with suppress(StoreUnavailable, StaleVersion):
                    before = await store.load(session.key)
                    assert before is not None
                    in_doubt += 1
                    change = ReplacePart("tokens", b"%d" % (int(before.tokens) + 1), before.tokens_version)
                    try:
                        await store.update(session.key, change)
                        counted += 1
                        in_doubt -= 1
                    except StaleVersion:
                        in_doubt -= 1
                await asyncio.sleep(0)

        async def hold(store: RedisStore, healthy: RedisStore) -> None:
            nonlocal inside
            while time.monotonic() < until:
                holder = secrets.token_bytes(16)
                with suppress(StoreUnavailable):
                    if await store.acquire(lease, holder, seconds=1.5) is not None:
                        inside += 1
                        assert inside == 1
                        await asyncio.sleep(0)
                        inside -= 1
                        await healthy.release(lease, holder, mark=None)
                await asyncio.sleep(0.005)

        async def leave(store: RedisStore) -> None:
            while time.monotonic() < until:
                call = asyncio.ensure_future(secrets.choice(USES[:-1])(store))
                await asyncio.sleep(0.001)
                call.cancel()
                await asyncio.wait([call])

        async def fail() -> None:
            while time.monotonic() < until - 0.3:
                for begin in (fault.cut_answers, fault.hang, lambda: fault.cut_answers(times=1), fault.cut):
                    await asyncio.to_thread(begin)
                    await asyncio.sleep(0.03)
                    await asyncio.to_thread(fault.restore)
                    await asyncio.sleep(0.03)

        healthy_url = url.replace(str(fault.port), str(valkey.port))
        async with impatient(url) as one, impatient(url) as other, opened(healthy_url) as healthy:
            await healthy.create(session)
            await asyncio.gather(
                *map(count, [one, other] * 4),
                hold(one, healthy),
                hold(other, healthy),
                leave(one),
                leave(other),
                fail(),
            )
            after = await healthy.load(session.key)
    assert after is not None
    assert counted > 20
    assert counted <= int(after.tokens) <= counted + in_doubt
    assert after.tokens_version == int(after.tokens) + 1
