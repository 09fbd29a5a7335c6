"""Redis and Valkey: the rules of every store, what is on the server, and what a fault of it looks like."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from coatcheck.stores import RedisStore
from coatcheck.testing.stores import (
    EXPIRING_STORE_CHECKS,
    LEASE_STORE_CHECKS,
    NOTIFIER_CHECKS,
    SESSION_INDEX_CHECKS,
    SESSION_STORE_CHECKS,
)
from tests.rig.valkey import Valkey

CHECKS = [
    *SESSION_STORE_CHECKS,
    *SESSION_INDEX_CHECKS,
    *LEASE_STORE_CHECKS,
    *EXPIRING_STORE_CHECKS,
    *NOTIFIER_CHECKS,
]


@pytest.mark.spec("SES-05", "SES-06", "SES-07", "SES-08")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_store_keeps_the_rule(
    check: Callable[[Callable[[], RedisStore]], Awaitable[None]], valkey: Valkey
) -> None:
    url = valkey.fresh_url()

    async def run() -> None:
        async with asyncio.timeout(60):
            await check(lambda: RedisStore(url))

    asyncio.run(run())
