"""
One SQLite file, opened for one event loop of one process: a writer in a thread of its own, and a reader in the loop's.

Three traps of SQLite are disarmed here, because each of them shows only under load:

- A transaction that reads first and writes later fails without waiting if somebody else wrote in between. Every write
  takes the lock at once (`BEGIN IMMEDIATE`).
- SQLite's own busy timeout looks for the lock ten times a second, so a process that writes all the time starves the
  others; and it does not cover switching a new file to the write-ahead log. The waiting is done here (`_patiently`).
- SQLite remembers inside the process which locks it holds. A forked child would inherit that memory without the locks.
  So everything is closed for the moment of a fork; parent and child open it again when they next need it.

A file that was removed or replaced stays what it was for those who have it open, while others agree about leases in the
new one. So each write looks first whether the file that is open still has the name.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar
from weakref import WeakSet

from coatcheck.errors import StoreUnavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_LOOK_AGAIN = 0.002
_LONGEST_LOG = 16 * 1024 * 1024
"""Bytes that the write-ahead log keeps on the disk once all in it has reached the file."""


class SQLiteFile:
    """
    The file at *path*, which *prepare* brings to its schema inside a write transaction when it is opened.

    It is opened on first use, and again on the next use after it was closed or broke.
    """

    def __init__(self, path: Path, prepare: Work[None], *, busy_timeout: float) -> None:
        self.pid = os.getpid()
        self._path = path
        self._prepare = prepare
        self._busy_timeout = busy_timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="coatcheck-sqlite")
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._writing = Lock()
        self._reading = Lock()
        with _registering:
            _files.add(self)

    async def read(self, work: Work[T]) -> T:
        """Run *work*, at most a point look-up, at once and in this thread; in the other thread if it has to wait."""
        with self._reading:
            if self._reader is not None:
                try:
                    return work(self._reader)
                except sqlite3.Error as error:
                    if not _is_busy(error):
                        self._close_reader()
        return await self._in_thread(self._read_in_thread, work)

    async def read_much(self, work: Work[T]) -> T:
        """Run *work*, which may read many rows, in the other thread."""
        return await self._in_thread(self._read_in_thread, work)

    async def write(self, work: Work[T]) -> T:
        """Run *work* in one write transaction; whatever it raises, nothing of it stays."""
        return await self._in_thread(self._write_in_thread, work)

    def write_when_idle(self, work: Work[object]) -> None:
        """Have *work* done in a write transaction behind all others, or not at all if somebody else is writing."""
        with suppress(RuntimeError):  # closed meanwhile
            self._thread.submit(self._write_at_once, work)

    async def close(self) -> None:
        """Finish what was handed over, then close for good."""
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close_writer)
        self._thread.shutdown(wait=False)  # nothing can be handed over after the closing
        await closing
        with self._reading:
            self._close_reader()

    def hold_still(self) -> None:
        """Let what is under way finish, close both connections, and keep every thread from using them."""
        self._writing.acquire()
        self._reading.acquire()
        if self.pid == os.getpid():
            self._close_writer()
            self._close_reader()

    def go_on(self) -> None:
        """End what `hold_still` began."""
        self._reading.release()
        self._writing.release()

    async def _in_thread(self, use: Callable[[Work[T], float], T], work: Work[T]) -> T:
        # From now on, not from its turn on: of many that wait behind each other for a file that somebody else holds,
        # the last one gives up when the first one does.
        until = time.monotonic() + self._busy_timeout
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._thread, use, work, until)
        except RuntimeError as closed:
            raise StoreUnavailable(f"the SQLite store {self._path} was closed") from closed
        try:
            return await answer
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(
                f"the SQLite store {self._path} does not answer ({error}): check that this process may write the file "
                "and its folder, that the disk has room, and that no other program holds the file"
            ) from error

    def _read_in_thread(self, work: Work[T], until: float) -> T:
        with self._opened(until) as writer:
            return _patiently(lambda: work(writer), until)

    def _write_in_thread(self, work: Work[T], until: float) -> T:
        with self._opened(until) as writer, _transaction(writer, until):
            return work(writer)

    def _write_at_once(self, work: Work[object]) -> None:
        # Whatever goes wrong here goes wrong for the next write too, which reports it.
        now = time.monotonic()
        with suppress(sqlite3.Error, OSError, StoreUnavailable), self._opened(now) as writer, _transaction(writer, now):
            work(writer)

    @contextmanager
    def _opened(self, until: float) -> Iterator[sqlite3.Connection]:
        """Give the writer; open both connections if need be. After a fault of the file the next use opens them anew."""
        with self._writing:
            try:
                if self._writer is not None and self._identity != identity(self._path):
                    self._close_writer()
                    with self._reading:
                        self._close_reader()
                if self._writer is None:
                    self._writer = _open_for_writing(self._path, self._prepare, until)
                    self._identity = identity(self._path)
                self._reader = self._reader or _open_for_reading(self._path)
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


_files: WeakSet[SQLiteFile] = WeakSet()
_registering = Lock()
_held_still: list[SQLiteFile] = []


def _before_fork() -> None:
    _registering.acquire()
    _held_still.extend(_files)
    for file in _held_still:
        file.hold_still()


def _after_fork() -> None:
    for file in _held_still:
        file.go_on()
    _held_still.clear()
    _registering.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _patiently(work: Callable[[], T], until: float) -> T:
    """Run *work* once, and again while somebody else holds the file, *until* then. For the writer's thread only."""
    while True:
        try:
            return work()
        except sqlite3.Error as error:
            if not _is_busy(error) or time.monotonic() >= until:
                raise
            time.sleep(_LOOK_AGAIN)


@contextmanager
def _transaction(connection: sqlite3.Connection, until: float) -> Iterator[None]:
    """Hold the write lock from the beginning; commit at the end, or leave everything as it was."""
    _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), until)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _open_for_writing(path: Path, prepare: Work[None], until: float) -> sqlite3.Connection:
    """Open the file, made if it is new (0600, its folder 0700), with a write-ahead log and durable commits."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        # Only ever created here, never opened and closed again: closing any descriptor of a file drops the locks that
        # other connections of this process hold on it (POSIX). SQLite gives `-wal` and `-shm` the mode of the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = _connect(path)
    try:
        mode = _patiently(lambda: connection.execute("PRAGMA journal_mode = wal").fetchone()[0], until)
        if mode != "wal":
            raise StoreUnavailable(f"the SQLite store {path} cannot use a write-ahead log: put it on a local disk")
        connection.execute("PRAGMA synchronous = full")
        # Otherwise the log stays as long as it ever was: measured, 800 MB after many dead sessions were deleted.
        connection.execute(f"PRAGMA journal_size_limit = {_LONGEST_LOG}")
        with _transaction(connection, until):
            prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the file, which is there, for reads that never wait."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = 1")
    return connection


def identity(path: Path) -> tuple[int, int] | None:
    """Tell one file from another that has the same name; None when there is none, or none that we may see."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_busy(error: sqlite3.Error) -> bool:
    """Say whether somebody else holds the file, so that nothing is wrong with the connection."""
    # The low byte is the primary code; the rest says which kind of busy it was.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _connect(path: Path) -> sqlite3.Connection:
    # The reader is made in the writer's thread and used in the loop's, never in two threads at once.
    return sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
