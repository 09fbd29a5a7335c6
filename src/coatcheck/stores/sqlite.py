"""
Sessions in one SQLite file: the default, shared by all processes of one machine, and it needs no server.

**Writes** go through one thread with one connection. They are durable when they return (`synchronous=FULL`), because a
lost write can be a lost refresh token.

**Reads** happen on the event loop's own connection, in the loop's thread. One point look-up in WAL mode never waits for
a writer; measured, it takes 7 us, and 180 us when it is handed to a thread. The price: on a slow disk a cold page holds
up the loop. When the file is busy all the same (another program holds it exclusively), the read waits in the thread.

What SQLite holds is sealed; the file is only for its owner (0600) all the same. Keep it on a local disk: a write-ahead
log does not work over a network.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.errors import ConfigurationError, SessionGone, StaleVersion, StoreUnavailable
from coatcheck.sessions.store import Change, SessionRow, Touch
from coatcheck.stores.sqlite_file import SQLiteFile, Work

T = TypeVar("T")

_SCHEMA_VERSION = 1
_SCHEMA_VERSIONS = "CREATE TABLE IF NOT EXISTS coatcheck_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL)"
_SCHEMA = (
    """
    CREATE TABLE coatcheck_sessions (
        key BLOB PRIMARY KEY,
        partition TEXT NOT NULL,
        claims BLOB NOT NULL,
        claims_version INTEGER NOT NULL,
        tokens BLOB NOT NULL,
        tokens_version INTEGER NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        seen_at REAL NOT NULL,
        idle_timeout REAL NOT NULL,
        sub_key BLOB NOT NULL,
        sid_key BLOB
    )
    """,
    "CREATE INDEX coatcheck_sessions_dead ON coatcheck_sessions (min(expires_at, seen_at + idle_timeout))",
)
# Columns are named, so that a later version may add some at the end.
_COLUMNS = (
    "key, partition, claims, claims_version, tokens, tokens_version, "
    "created_at, expires_at, seen_at, idle_timeout, sub_key, sid_key"
)
_INSERT = f"INSERT INTO coatcheck_sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_SELECT = f"SELECT {_COLUMNS} FROM coatcheck_sessions WHERE key = ?"  # noqa: S608
_REPLACE = {
    "claims": "UPDATE coatcheck_sessions SET claims = ?, claims_version = claims_version + 1 "
    "WHERE key = ? AND claims_version = ?",
    "tokens": "UPDATE coatcheck_sessions SET tokens = ?, tokens_version = tokens_version + 1 "
    "WHERE key = ? AND tokens_version = ?",
}
_TOUCH = "UPDATE coatcheck_sessions SET seen_at = max(seen_at, ?) WHERE key = ?"
_DELETE = "DELETE FROM coatcheck_sessions WHERE key = ?"
_DELETE_DEAD = (
    "DELETE FROM coatcheck_sessions WHERE rowid IN "
    "(SELECT rowid FROM coatcheck_sessions WHERE min(expires_at, seen_at + idle_timeout) <= ? LIMIT ?)"
)
_CLEAN_EVERY = 60.0
_CLEAN_AT_ONCE = 100


class SQLiteStore:
    """
    A session store in the SQLite file *path*. The file and its folder are made when they are missing.

    *busy_timeout* is how long a write waits for other processes. Dead rows are deleted after a write: at most a hundred
    at once, and at most once a minute unless there are more.

    Raises:
        ConfigurationError: a path that names no file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock = SYSTEM_CLOCK,
        *,
        busy_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        name = os.fspath(path)
        if not name or name.startswith((":", "file:")):
            raise ConfigurationError(f"{name!r} is not the path of a file: for sessions in memory use the memory store")
        self._path = Path(name).absolute()
        self._clock = clock
        self._busy_timeout = busy_timeout.total_seconds()
        self._files: WeakKeyDictionary[asyncio.AbstractEventLoop, SQLiteFile] = WeakKeyDictionary()
        self._clean_at = 0.0

    async def create(self, row: SessionRow) -> None:
        """See `SessionStore.create`."""

        def insert(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(_INSERT, astuple(row))
            except sqlite3.IntegrityError as error:
                raise StaleVersion("there is a session under this key already") from error

        await self._write(insert)

    async def load(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.load`. Once the file is open it does not suspend."""
        return await self._file().read(lambda connection: _select(connection, key))

    async def update(self, key: bytes, change: Change) -> None:
        """See `SessionStore.update`."""

        def apply(connection: sqlite3.Connection) -> None:
            if isinstance(change, Touch):
                done = connection.execute(_TOUCH, (change.seen_at, key))
            else:
                done = connection.execute(_REPLACE[change.part], (change.data, key, change.version))
            if done.rowcount:
                return
            if _select(connection, key) is None:
                raise SessionGone("the session was deleted")
            raise StaleVersion("this part of the session was replaced meanwhile")

        await self._write(apply)

    async def delete(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.delete`."""

        def select_and_delete(connection: sqlite3.Connection) -> SessionRow | None:
            row = _select(connection, key)
            connection.execute(_DELETE, (key,))
            return row

        return await self._write(select_and_delete)

    async def aclose(self) -> None:
        """Close what this event loop holds open. The next use opens it again."""
        file = self._files.pop(asyncio.get_running_loop(), None)
        if file is not None and file.pid == os.getpid():
            await file.close()

    def _file(self) -> SQLiteFile:
        """Return what belongs to this process and event loop."""
        loop = asyncio.get_running_loop()
        file = self._files.get(loop)
        if file is None or file.pid != os.getpid():
            file = self._files[loop] = SQLiteFile(self._path, self._prepare, busy_timeout=self._busy_timeout)
        return file

    async def _write(self, work: Work[T]) -> T:
        file = self._file()
        result = await file.write(work)
        if self._clock.monotonic() >= self._clean_at:
            self._clean_at = self._clock.monotonic() + _CLEAN_EVERY
            file.write_when_idle(self._delete_dead_rows)
        return result

    def _delete_dead_rows(self, connection: sqlite3.Connection) -> None:
        done = connection.execute(_DELETE_DEAD, (self._clock.time(), _CLEAN_AT_ONCE))
        if done.rowcount >= _CLEAN_AT_ONCE:
            self._clean_at = 0.0

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables of a new file; refuse one that a newer coatcheck wrote."""
        connection.execute(_SCHEMA_VERSIONS)
        found = connection.execute("SELECT version FROM coatcheck_schema WHERE part = 'sessions'").fetchone()
        if found is None:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO coatcheck_schema VALUES ('sessions', ?)", (_SCHEMA_VERSION,))
        elif found[0] > _SCHEMA_VERSION:
            raise StoreUnavailable(
                f"the session store {self._path} was written by a newer coatcheck (schema {found[0]}, this one knows "
                f"{_SCHEMA_VERSION}): run that version again, or give another file"
            )


def _select(connection: sqlite3.Connection, key: bytes) -> SessionRow | None:
    row = connection.execute(_SELECT, (key,)).fetchone()
    return None if row is None else SessionRow(*row)
