"""All that a thief of a database gets: every row or key as bytes, and what lies on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from redis import Redis

from tests.rig.postgresql import PostgreSQL
from tests.rig.valkey import Valkey


def dump_postgresql(server: PostgreSQL, dsn: str) -> dict[str, bytes]:
    """Every table of the database by its name, and under "disk" its files: rows that were replaced or deleted, too."""
    return asyncio.run(_dump_postgresql(server, dsn))


async def _dump_postgresql(server: PostgreSQL, dsn: str) -> dict[str, bytes]:
    connection = await asyncpg.connect(dsn)
    try:
        names = [
            name for (name,) in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname='public'")
        ]
        tables = {name: _bytes(await connection.fetch(f'SELECT * FROM "{name}"')) for name in names}
        await connection.execute("CHECKPOINT")
        files = await connection.fetch(
            "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relkind IN ('r', 'i', 't') "
            "AND relnamespace IN ('public'::regnamespace, 'pg_toast'::regnamespace)"
        )
    finally:
        await connection.close()
    return {**tables, "disk": b"".join(server.file(path) for (path,) in files)}


def dump_valkey(server: Valkey, url: str) -> dict[str, bytes]:
    """Every key of the database with its value, by the key's last word; under "disk" the append-only file."""
    kinds: dict[str, bytes] = {}
    with closing(Redis.from_url(url)) as client:
        for key in client.scan_iter():
            kind = key.rpartition(b":")[2].decode()
            kinds[kind] = kinds.get(kind, b"") + key + b"\n" + _bytes(_value(client, key))
    return {**kinds, "disk": b"".join(server.files())}


def _value(client: Redis, key: bytes) -> object:
    match client.type(key):
        case b"string":
            return client.get(key)
        case b"hash":
            return client.hgetall(key)
        case b"zset":
            return client.zrange(key, 0, -1, withscores=True)
    raise AssertionError(f"{key!r} is of a type that nobody has looked into")


def _bytes(value: Any) -> bytes:
    return b"\n".join(_leaves(value)) + b"\n"


def _leaves(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _leaves(pair)
    elif isinstance(value, (list, tuple, asyncpg.Record)):
        for element in value:
            yield from _leaves(element)
    else:
        yield str(value).encode()
