"""
Sessions in one SQLite file: the default, shared by all processes of one machine, and it needs no server.

**Writes** go through one thread with one connection, each in a transaction that takes the write lock at once
(`BEGIN IMMEDIATE`): a transaction that reads first and writes later fails without waiting when somebody else wrote in
between. They are durable when they return (`synchronous=FULL`), because a lost write can be a lost refresh token.

**Reads** happen on the event loop's own connection, in the loop's thread. One point look-up in WAL mode never waits for
a writer; measured, it takes 7 us, and 180 us when it is handed to a thread. The price: on a slow disk a cold page holds
up the loop. When the file is busy all the same (another program holds it exclusively), the read waits in the thread.

Both connections belong to one (process, event loop) and are made on first use: a child that was forked before makes its
own, and one that was forked later leaves what it inherited alone. What SQLite holds is sealed; the file is only for its
owner (0600) all the same. Keep it on a local disk: a write-ahead log does not work over a network.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.errors import ConfigurationError, SessionGone, StaleVersion, StoreUnavailable
from coatcheck.sessions.store import Change, SessionRow, Touch

T = TypeVar("T")
Argument = TypeVar("Argument")

_SCHEMA_VERSION = 1
_SCHEMA = """
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
);
CREATE INDEX coatcheck_sessions_dead ON coatcheck_sessions (min(expires_at, seen_at + idle_timeout));
"""
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


class SQLiteSessionStore:
    """
    A session store in the SQLite file *path*. The file and its folder are made when they are missing.

    *busy_timeout* is how long a write waits for other processes. Dead rows are deleted by the writer, at most a hundred
    after a write and at most once a minute while there are fewer.

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
        self._databases: WeakKeyDictionary[asyncio.AbstractEventLoop, _Database] = WeakKeyDictionary()
        self._of_the_parent: list[_Database] = []

    async def create(self, row: SessionRow) -> None:
        """See `SessionStore.create`."""

        def insert(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(_INSERT, astuple(row))
            except sqlite3.IntegrityError as error:
                raise StaleVersion("there is a session under this key already") from error

        await self._database().write(insert)

    async def load(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.load`. Once the file is open it does not suspend."""
        return await self._database().load(key)

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

        await self._database().write(apply)

    async def delete(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.delete`."""

        def select_and_delete(connection: sqlite3.Connection) -> SessionRow | None:
            row = _select(connection, key)
            connection.execute(_DELETE, (key,))
            return row

        return await self._database().write(select_and_delete)

    async def aclose(self) -> None:
        """Close what this event loop holds open. The next use opens it again."""
        database = self._databases.pop(asyncio.get_running_loop(), None)
        if database is not None and database.pid == os.getpid():
            await database.close()

    def _database(self) -> _Database:
        """Return what belongs to this process and event loop."""
        loop = asyncio.get_running_loop()
        database = self._databases.get(loop)
        if database is not None and database.pid == os.getpid():
            return database
        if database is not None:
            # Inherited through a fork. It must be neither used nor closed here, so it is kept out of reach.
            self._of_the_parent.append(database)
        database = _Database(self._path, self._clock, self._busy_timeout)
        self._databases[loop] = database
        return database


class _Database:
    """The file, opened for one event loop of one process: a writer with its thread, and a reader."""

    def __init__(self, path: Path, clock: Clock, busy_timeout: float) -> None:
        self.pid = os.getpid()
        self._path = path
        self._clock = clock
        self._busy_timeout = busy_timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="coatcheck-sqlite")
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._clean_at = 0.0

    async def load(self, key: bytes) -> SessionRow | None:
        reader = self._reader
        if reader is not None:
            try:
                return _select(reader, key)
            except sqlite3.Error as error:
                if not _is_busy(error):
                    self._close_reader()
        return await self._in_thread(self._load_in_thread, key)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run *work* in one write transaction."""
        result = await self._in_thread(self._write_in_thread, work)
        if self._clock.monotonic() >= self._clean_at:
            self._clean_at = self._clock.monotonic() + _CLEAN_EVERY
            with suppress(RuntimeError):  # closed meanwhile
                self._thread.submit(self._clean_in_thread)
        return result

    async def close(self) -> None:
        self._close_reader()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_writer)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[Argument], T], argument: Argument) -> T:
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._thread, work, argument)
        except RuntimeError as closed:
            raise StoreUnavailable(f"the session store {self._path} was closed") from closed
        try:
            return await answer
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(
                f"the session store {self._path} does not answer ({error}): check that this process may write the file "
                "and its folder, that the disk has room, and that no other program holds the file"
            ) from error

    def _load_in_thread(self, key: bytes) -> SessionRow | None:
        with self._opened() as writer:
            if self._reader is None:
                self._reader = _connect(self._path, 0.0)
                self._reader.execute("PRAGMA query_only = 1")
            return _select(writer, key)

    def _write_in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._opened() as writer, _transaction(writer):
            return work(writer)

    def _clean_in_thread(self) -> None:
        # Whatever goes wrong here goes wrong for the next write too, which reports it.
        with suppress(sqlite3.Error, OSError, StoreUnavailable), self._opened() as writer, _transaction(writer):
            done = writer.execute(_DELETE_DEAD, (self._clock.time(), _CLEAN_AT_ONCE))
            if done.rowcount >= _CLEAN_AT_ONCE:
                self._clean_at = 0.0

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Give the writer, opened if need be. After a fault of the file it is opened anew by the next one."""
        try:
            if self._writer is None:
                self._writer = _open(self._path, self._busy_timeout)
            yield self._writer
        except sqlite3.Error as error:
            if not _is_busy(error):
                self._close_writer()
            raise

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


def _select(connection: sqlite3.Connection, key: bytes) -> SessionRow | None:
    row = connection.execute(_SELECT, (key,)).fetchone()
    return None if row is None else SessionRow(*row)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock from the beginning; commit at the end, or leave everything as it was."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _open(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """Open the file for writing, made and brought to our schema if it is new."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        # Only ever created here, never opened and closed again: closing any descriptor of a file drops the locks that
        # other connections of this process hold on it (POSIX). SQLite gives `-wal` and `-shm` the mode of the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = _connect(path, busy_timeout)
    try:
        mode = connection.execute("PRAGMA journal_mode = wal").fetchone()[0]
        if mode != "wal":
            raise StoreUnavailable(f"the session store {path} cannot use a write-ahead log: put it on a local disk")
        connection.execute("PRAGMA synchronous = full")
        _bring_to_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    # The reader is made in the thread and used in the loop, never in both at once.
    return sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)


def _bring_to_schema(connection: sqlite3.Connection, path: Path) -> None:
    with _transaction(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS coatcheck_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL)"
        )
        found = connection.execute("SELECT version FROM coatcheck_schema WHERE part = 'sessions'").fetchone()
        if found is None:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("INSERT INTO coatcheck_schema VALUES ('sessions', ?)", (_SCHEMA_VERSION,))
        elif found[0] > _SCHEMA_VERSION:
            raise StoreUnavailable(
                f"the session store {path} was written by a newer coatcheck (schema {found[0]}, this one knows "
                f"{_SCHEMA_VERSION}): run that version again, or give another file"
            )


def _is_busy(error: sqlite3.Error) -> bool:
    # The low byte is the primary code; the rest says which kind of busy it was.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
