"""What is in a store, by the store's own means and not by ours."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from urllib.parse import urlsplit

import redis

from tests.rig.postgresql import PostgreSQL
from tests.storm.stage import World


def count_sessions(world: World, url: str) -> int:
    """How many sessions there are."""
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            return len(list(client.scan_iter("coatcheck:*:session")))
    return int(_sql(world, url, "SELECT count(*) FROM coatcheck_sessions"))


def delete_sessions(world: World, url: str) -> None:
    """Delete all sessions, and nothing else."""
    _delete(world, url, "session")


def forget_small_values(world: World, url: str) -> None:
    """Delete all that is no session and no lease: tombstones, what was used once, what waits for a browser."""
    _delete(world, url, "value")


def _delete(world: World, url: str, kind: str) -> None:
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            client.delete(*client.scan_iter(f"coatcheck:*:{kind}"))
    else:
        _sql(world, url, f"DELETE FROM coatcheck_{kind}s")


def _sql(world: World, url: str, statement: str) -> str:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(urlsplit(url).path, timeout=10, isolation_level=None)) as connection:
            found = connection.execute(statement).fetchone()
            return "" if found is None else str(found[0])
    server: PostgreSQL | None = world.postgresql
    assert server is not None
    return server.sql(statement, database=urlsplit(url).path.removeprefix("/"))
