"""Several processes clean one store while it is in use: each dead session goes once, and nobody is held up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from coatcheck.stores.urls import open_store
from tests.rig.postgresql import PostgreSQL
from tests.rig.programs import printed_by_processes_that_start_together
from tests.stores.cleaner import EXPIRED, IDLE, fill, live_keys
from tests.testing.clocks import HandClock


@pytest.mark.spec("SES-10", "SES-06")
async def test_three_processes_clean_a_file_that_they_use(tmp_path: Path) -> None:
    await _clean_together(f"sqlite://{tmp_path}/sessions.db")


@pytest.mark.spec("SES-10", "SES-06")
async def test_three_processes_clean_a_postgresql_that_they_use(postgresql: PostgreSQL) -> None:
    await _clean_together(postgresql.fresh_database())


async def _clean_together(url: str) -> None:
    before = open_store(url, clock=HandClock(time.time() - 8000))  # nothing was dead then, so nothing is cleaned yet
    await fill(before)
    await before.aclose()
    printed = printed_by_processes_that_start_together(
        "import asyncio\nfrom tests.stores.cleaner import clean", f"print(asyncio.run(clean({url!r})))"
    )
    # A store cleans behind its own writes, too, and does not say how much.
    assert 0 < sum(map(int, printed)) <= EXPIRED + IDLE
    store = open_store(url)
    assert await store.expire(time.time(), limit=EXPIRED + IDLE) == 0, "what was dead is gone"
    rows = [await store.load(key) for key in live_keys()]
    assert None not in rows, "what lives is there"
    assert all(row is not None and int(row.tokens) == row.tokens_version - 1 > 0 for row in rows), "with every change"
    await store.aclose()
