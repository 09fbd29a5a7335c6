"""The same story over every store that processes can share: found with the old cookie, written once, ended for good."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coatcheck.errors import SessionGone, StaleVersion
from coatcheck.sessions import CookieSessions
from coatcheck.stores import PostgreSQLStore, RedisStore, SQLiteStore
from tests.rig.postgresql import PostgreSQL
from tests.rig.valkey import Valkey
from tests.sessions.samples import HOUR, NOW, POLICY, RING, Browser, log_in
from tests.testing.clocks import HandClock


@pytest.fixture(params=["sqlite", "postgresql", "valkey"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "coordination.db")
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        return server.fresh_database()
    cache: Valkey = request.getfixturevalue("valkey")
    return cache.fresh_url()


def store_at(address: str, clock: HandClock) -> SQLiteStore | PostgreSQLStore | RedisStore:
    if address.startswith("postgresql:"):
        return PostgreSQLStore(address, clock=clock)
    if address.startswith(("redis:", "valkey:")):
        return RedisStore(address, clock=clock)
    return SQLiteStore(Path(address), clock=clock)


@asynccontextmanager
async def process(address: str) -> AsyncIterator[CookieSessions]:
    """A process with a connection of its own."""
    clock = HandClock(NOW)
    store = store_at(address, clock)
    sessions = CookieSessions(RING, POLICY, clock=clock, coordination=store)
    try:
        yield sessions
    finally:
        await sessions.aclose()
        await store.aclose()


@pytest.mark.spec("REF-05", "REF-11", "REF-23")
async def test_two_processes_agree(address: str) -> None:
    tokens = secrets.token_bytes(6000)  # as large as they get
    async with process(address) as here, process(address) as there:
        browser = Browser()
        await log_in(here, browser, tokens=b"1")
        first, second = [await each.open(browser.cookies(), now=NOW) for each in (here, there)]
        assert first is not None and second is not None
        assert await second.tokens(reload=True) == (b"1", 1)
        await first.replace_tokens(tokens, version=1)
        with pytest.raises(StaleVersion):
            await second.replace_tokens(b"mine", version=1)
        assert await second.tokens(reload=True) == (tokens, 2)
        await second.replace_tokens(b"3", version=2)
        late = await there.open(browser.cookies(), now=NOW)
        assert late is not None
        browser.receive(second.set_cookies())
        arrived = await here.open(browser.cookies(), now=NOW + HOUR / 4)  # told in the background, by `aclose`
        assert arrived is not None and await arrived.tokens() == (b"3", 3)
        await here.aclose()
        assert await late.tokens(reload=True) == (b"3", 3)
        await here.end(arrived)
        with pytest.raises(SessionGone):
            await second.replace_tokens(b"4", version=3)
        assert await there.open(browser.cookies(), now=NOW) is None
