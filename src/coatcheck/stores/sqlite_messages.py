"""
Messages between the processes of one machine: rows that every process with a subscriber looks for, ten times a second.

SQLite wakes nobody. A look is one read on the event loop's own connection (20 us, measured), shared by all subscribers
of the loop, and nobody looks while nobody is subscribed. Between two processes a message takes 50 ms in the middle and
0.11 s at most, and whoever publishes it one durable commit (0.4 ms).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias
from weakref import WeakKeyDictionary

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.errors import StoreUnavailable
from coatcheck.stores.mailbox import Mailbox
from coatcheck.stores.sqlite_database import Schema, SQLiteDatabase
from coatcheck.stores.sqlite_file import SQLiteFile, identity

SCHEMA = Schema(
    "messages",
    (
        (
            # Numbers are never used again (AUTOINCREMENT), and there is one writer at a time: they are committed in
            # their order, so whoever has seen one has seen all before it.
            """
            CREATE TABLE coatcheck_messages (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                channel TEXT NOT NULL,
                message BLOB NOT NULL,
                published_at REAL NOT NULL
            )
            """,
        ),
    ),
)
_INSERT = "INSERT INTO coatcheck_messages (channel, message, published_at) VALUES (?, ?, ?)"
# It counts on when rows are deleted. `PRAGMA data_version`, which says whether anything was written, is no quicker.
_LAST_NUMBER = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'coatcheck_messages'"
_SELECT_AFTER = "SELECT id, channel, message FROM coatcheck_messages WHERE id > ? ORDER BY id LIMIT 1000"
_DELETE_DEAD = (
    "DELETE FROM coatcheck_messages WHERE id IN (SELECT id FROM coatcheck_messages WHERE published_at <= ? LIMIT ?)"
)
_LOOK_EVERY = 0.1
"""Seconds."""
_KEPT = 60.0
"""Seconds. Whoever has not looked for so long has missed a message, which may happen."""

_Identity: TypeAlias = tuple[int, int] | None


class SQLiteMessages(SQLiteDatabase):
    """A `Notifier` for the processes of one machine."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock = SYSTEM_CLOCK,
        *,
        busy_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        super().__init__(path, clock, busy_timeout=busy_timeout)
        self._lookouts: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lookout] = WeakKeyDictionary()

    async def publish(self, channel: str, message: bytes) -> None:
        """See `Notifier.publish`."""
        await self._write(lambda writer: writer.execute(_INSERT, (channel, message, self._clock.time())))

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Notifier.subscribe`. It ends with an error also when the file is replaced, or goes back in time."""
        file = self._file()
        # In the other thread, which opens the file that has the name now.
        number, found = await file.read_much(lambda connection: (_last_number(connection), identity(self._path)))
        lookout = self._lookout(file, found)
        subscriber = _Subscriber(channel, number)
        lookout.add(subscriber)
        try:
            yield subscriber.mailbox
        finally:
            lookout.remove(subscriber)

    async def aclose(self) -> None:
        """Close what this event loop holds open, and tell its subscribers. The next use opens it again."""
        lookout = self._lookouts.pop(asyncio.get_running_loop(), None)
        if lookout is not None:
            lookout.end(StoreUnavailable(f"the SQLite store {self._path} was closed"))
        await super().aclose()

    def _lookout(self, file: SQLiteFile, found: _Identity) -> _Lookout:
        """Return who looks into *file*, which is the one *found* under the name, for this event loop."""
        loop = asyncio.get_running_loop()
        lookout = self._lookouts.get(loop)
        if lookout is None or not lookout.looks_into(file, found):
            lookout = self._lookouts[loop] = _Lookout(file, self._path, found)
        return lookout

    def _delete_dead(self, connection: sqlite3.Connection, now: float, limit: int) -> int:
        removed = super()._delete_dead(connection, now, limit)
        dead_since = self._clock.time() - _KEPT  # whatever the time is said to be
        return removed + connection.execute(_DELETE_DEAD, (dead_since, limit - removed)).rowcount


@dataclass(slots=True, eq=False)
class _Subscriber:
    """Who hears what is said on *channel* after the message *number*."""

    channel: str
    number: int
    mailbox: Mailbox = field(default_factory=Mailbox)


class _Lookout:
    """Looks on behalf of all subscribers of one event loop, from the first one to the last one or to a fault."""

    def __init__(self, file: SQLiteFile, path: Path, found: _Identity) -> None:
        self._file = file
        self._path = path
        self._found = found
        self._subscribers: set[_Subscriber] = set()
        looking = asyncio.get_running_loop().create_task(self._look_on(), context=Context())
        self._looking: asyncio.Task[None] | None = looking

    def looks_into(self, file: SQLiteFile, found: _Identity) -> bool:
        """Say whether it still looks, as this process, into the file that has the name now."""
        return self._looking is not None and self._file is file and self._found == found

    def add(self, subscriber: _Subscriber) -> None:
        self._subscribers.add(subscriber)

    def remove(self, subscriber: _Subscriber) -> None:
        """Forget *subscriber*. With the last one the looking ends."""
        self._subscribers.discard(subscriber)
        if not self._subscribers:
            self.end(StoreUnavailable("nobody is subscribed any more"))

    def end(self, why: StoreUnavailable) -> None:
        """Look no more, and tell everybody *why*."""
        if self._looking is None:
            return
        self._looking.cancel()
        self._looking = None
        for subscriber in self._subscribers:
            subscriber.mailbox.end(why)

    async def _look_on(self) -> None:
        try:
            while True:
                await asyncio.sleep(_LOOK_EVERY)
                await self._look()
        except StoreUnavailable as error:
            self.end(error)

    async def _look(self) -> None:
        """Hand over what is new."""
        if identity(self._path) != self._found:
            raise StoreUnavailable(f"the SQLite store {self._path} was replaced")
        subscribers = list(self._subscribers)  # who comes during the reading may have missed what this look leaves out
        seen = min(subscriber.number for subscriber in subscribers)
        last, rows = await self._file.read(lambda connection: _news(connection, seen))
        if last < seen:
            raise StoreUnavailable(f"the SQLite store {self._path} was restored from an older state")
        for subscriber in subscribers:
            for number, channel, message in rows:
                if number > subscriber.number and channel == subscriber.channel:
                    subscriber.mailbox.put(message)
            subscriber.number = max(subscriber.number, last)


def _last_number(connection: sqlite3.Connection) -> int:
    number: int = connection.execute(_LAST_NUMBER).fetchone()[0]
    return number


def _news(connection: sqlite3.Connection, seen: int) -> tuple[int, list[tuple[int, str, bytes]]]:
    """Return the number up to which the messages after *seen* are in the list, and the list."""
    last = _last_number(connection)
    rows = connection.execute(_SELECT_AFTER, (seen,)).fetchall() if last > seen else []
    return (rows[-1][0] if rows else last), rows
