"""Where `bench.sessions` keeps its sessions: a server or a file for each population, filled quickly, and measured."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg  # type: ignore[import-untyped]
from redis.asyncio import Redis

from coatcheck.sessions import SessionRow
from coatcheck.stores import open_store
from coatcheck.stores.postgresql import PostgreSQLStore
from coatcheck.stores.redis import RedisStore, records
from coatcheck.stores.redis.scripts import ADD_TO_INDEX
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.stores.sqlite_sessions import _COLUMNS, _INSERT
from tests.rig.postgresql import PostgreSQL
from tests.rig.valkey import Valkey

Store: TypeAlias = SQLiteStore | PostgreSQLStore | RedisStore
_columns = attrgetter(*_COLUMNS.split(", "))


class Place:
    """One store with a population of its own. Nothing else runs on its server (`server_pid`, if there is one)."""

    server_pid: int | None = None

    def __init__(self, url: str) -> None:
        self.url = url
        store: Any = open_store(url)
        self.store: Store = store

    async def fill(self, rows: Iterator[SessionRow]) -> None:
        """Write *rows* as the store would have written them, and let the dust settle."""
        raise NotImplementedError

    async def sizes(self) -> dict[str, float]:
        """Bytes, by what they are; those that grow with the sessions come first."""
        raise NotImplementedError

    async def aclose(self) -> None:
        await self.store.aclose()


class SQLitePlace(Place):
    """A file. It is filled without its write-ahead log, and used with it."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder, "sessions.db")
        super().__init__(f"sqlite://{self._path}")

    async def fill(self, rows: Iterator[SessionRow]) -> None:
        await self.store.load(b"")  # makes the tables
        await self.store.aclose()
        connection = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode = off", "synchronous = off", "cache_size = -1000000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        connection.executemany(_INSERT, map(_columns, rows))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = wal")
        connection.close()
        with self._path.open("rb") as file:
            os.fsync(file.fileno())

    async def sizes(self) -> dict[str, float]:
        wal = self._path.with_name(self._path.name + "-wal")
        return {"file": self._path.stat().st_size, "WAL": wal.stat().st_size if wal.exists() else 0}


class PostgreSQLPlace(Place):
    """A server whose commits are durable, all else as it comes."""

    def __init__(self, server: PostgreSQL) -> None:
        self.server_pid = server.pid
        super().__init__(server.fresh_database())

    async def fill(self, rows: Iterator[SessionRow]) -> None:
        await self.store.load(b"")  # makes the tables
        connection = await asyncpg.connect(self.url)
        await connection.copy_records_to_table(
            "coatcheck_sessions", records=map(_columns, rows), columns=_COLUMNS.split(", ")
        )
        await connection.execute("VACUUM ANALYZE coatcheck_sessions")
        await connection.execute("CHECKPOINT")
        await connection.close()

    async def sizes(self) -> dict[str, float]:
        connection = await asyncpg.connect(self.url)
        row = await connection.fetchrow(
            "SELECT pg_total_relation_size('coatcheck_sessions'), pg_indexes_size('coatcheck_sessions'), "
            "(SELECT sum(size) FROM pg_ls_waldir())"
        )
        await connection.close()
        return {"table with indexes": row[0], "of which indexes": row[1], "WAL": float(row[2])}


class ValkeyPlace(Place):
    """A server that syncs its append-only file before each answer."""

    def __init__(self, server: Valkey) -> None:
        self.server_pid = server.pid
        self._port = server.port
        super().__init__(server.url)
        self._empty = 0.0

    async def fill(self, rows: Iterator[SessionRow]) -> None:
        async with self._client() as client:
            self._empty = (await client.info("memory"))["used_memory"]
            await client.config_set("appendonly", "no")
            await client.script_load(ADD_TO_INDEX.text)
            await self._send(map(_creation, rows))
            await client.config_set("appendonly", "yes")
            while (await client.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def end(self, keys: Iterable[bytes], *, at: float) -> None:
        """Have these sessions end at an instant, as sessions that nobody uses do."""
        await self._send(_command("PEXPIREAT", records.session_key(key), int(at * 1000)) for key in keys)

    async def sizes(self) -> dict[str, float]:
        async with self._client() as client:
            used = (await client.info("memory"))["used_memory"]
            file = (await client.info("persistence"))["aof_current_size"]
        return {"memory": used - self._empty, "append-only file": file}

    async def expired(self) -> int:
        """How many keys the server has deleted by itself."""
        async with self._client() as client:
            return int((await client.info("stats"))["expired_keys"])

    async def _send(self, commands: Iterable[bytes]) -> None:
        """Send *commands* without waiting for the answers: many more than a client library can send in that time."""
        commands = iter(commands)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(_command("CLIENT", "REPLY", "OFF"))
        while batch := b"".join(islice(commands, 1000)):
            writer.write(batch)
            await writer.drain()
        writer.write(_command("CLIENT", "REPLY", "ON"))
        assert await reader.readline() == b"+OK\r\n"
        writer.close()
        await writer.wait_closed()

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        client = Redis.from_url(self.url)
        try:
            yield client
        finally:
            await client.aclose()


def _creation(row: SessionRow) -> bytes:
    """The commands of `RedisStore.create`; when a row dies the server counts from now on."""
    now = time.time()
    milliseconds = max(1, int((row.dead_at - now) * 1000))
    data = records.encode_row(row, bytes(records.WRITE_ID))
    commands = [_command("SET", records.session_key(row.key), data, "PX", milliseconds)]
    for key in (row.sub_key, row.sid_key):
        assert key is not None
        words = (records.index_key(row.partition, key), row.key, int((row.expires_at - now) * 1000))
        commands.append(_command("EVALSHA", ADD_TO_INDEX.digest, 1, *words))
    return b"".join(commands)


def _command(*words: str | bytes | int) -> bytes:
    """A command in the server's protocol."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


@asynccontextmanager
async def place(name: str) -> AsyncIterator[Place]:
    """Start a server, or make a file, and remove it in the end with all that it holds."""
    made: Place
    with ExitStack() as stack:
        match name:
            case "sqlite":
                made = SQLitePlace(stack.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-bench-")))
            case "postgresql":
                made = PostgreSQLPlace(stack.enter_context(PostgreSQL.start(fsync="on")))
            case "valkey":
                made = ValkeyPlace(stack.enter_context(Valkey.start(durable=True)))
            case _:
                raise ValueError(name)
        try:
            yield made
        finally:
            await made.aclose()
