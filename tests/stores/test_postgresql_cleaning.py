"""PostgreSQL: what has ended is deleted now and then, behind a write."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.rig.postgresql import PostgreSQL
from tests.stores.postgresql_samples import opened, row
from tests.testing.clocks import HandClock


@pytest.mark.spec("SES-10")
async def test_what_has_ended_goes_behind_a_later_write(postgresql: PostgreSQL) -> None:
    clock, dsn, holder = HandClock(), postgresql.fresh_database(), secrets.token_bytes(16)
    database = dsn.rpartition("/")[2]
    async with opened(dsn, clock) as store:
        for _ in range(150):
            await store.create(row())
            key = secrets.token_bytes(32)
            await store.add(key, b"", until=clock.time() + 10)
            await store.acquire(key, holder, seconds=0)
        clock.forward(timedelta(hours=2))
        for _ in range(2):  # a hundred of each at once, and the rest behind the next write
            await store.add(secrets.token_bytes(32), b"", until=clock.time() + 10)
    for table, left in (("sessions", "0"), ("leases", "0"), ("values", "2")):
        assert postgresql.sql(f"SELECT count(*) FROM coatcheck_{table}", database=database) == left


@pytest.mark.spec("SES-10")
async def test_what_ended_first_is_deleted_first(postgresql: PostgreSQL) -> None:
    """
    So the index leads to them. In any other order each call looks at all that has ended, and at what calls before it
    have deleted: measured with a million sessions and 50,000 dead ones, until no call ends in time.
    """
    clock = HandClock()
    ends = [clock.time() + minute for minute in (7, 3, 9, 1, 8, 2, 6, 4, 5, 0)]
    sessions = [replace(row(), expires_at=end, seen_at=clock.time(), idle_timeout=3600.0) for end in ends]
    async with opened(postgresql.fresh_database(), clock) as store:
        for session in sessions:
            await store.create(session)
        for limit, left in ((3, 7), (4, 3)):
            assert await store.expire(clock.time() + 60, limit=limit) == limit
            found = [session.expires_at for session in sessions if await store.load(session.key)]
            assert sorted(found) == sorted(ends)[-left:]
