"""
Everything in one SQLite file: the default, shared by all processes of one machine, and it needs no server.

**Writes** go through one thread with one connection. They are durable when they return (`synchronous=FULL`), because a
lost write can be a lost refresh token, and a mark that is lost can be one that is sent twice.

**Reads** happen on the event loop's own connection, in the loop's thread. One point look-up in WAL mode never waits for
a writer; measured, it takes 7 us, and 180 us when it is handed to a thread. The price: on a slow disk a cold page holds
up the loop. When the file is busy all the same (another program holds it exclusively), the read waits in the thread.

What SQLite holds is sealed; the file is only for its owner (0600) all the same. Keep it on a local disk: a write-ahead
log does not work over a network.
"""

from __future__ import annotations

from typing import ClassVar

from coatcheck.stores import sqlite_leases, sqlite_messages, sqlite_sessions, sqlite_values
from coatcheck.stores.sqlite_database import Schema
from coatcheck.stores.sqlite_leases import SQLiteLeases
from coatcheck.stores.sqlite_messages import SQLiteMessages
from coatcheck.stores.sqlite_sessions import SQLiteSessions
from coatcheck.stores.sqlite_values import SQLiteValues


class SQLiteStore(SQLiteSessions, SQLiteValues, SQLiteLeases, SQLiteMessages):
    """
    Keeps sessions, leases and values that end in the SQLite file *path*. It and its folder are made if missing.

    It is a `SessionStore`, `SessionIndex`, `LeaseStore`, `ExpiringStore` and `Notifier`, and coordinates all processes
    of one machine. SQLite wakes nobody: who waits for a lease looks every few milliseconds, and who is subscribed to
    messages ten times a second. All times, those of leases too, are on *clock*, in seconds since the epoch.

    *busy_timeout* is how long a write waits for other processes. What is dead is deleted after a write: at most a
    hundred rows at once, and at most once a minute unless there are more.

    Raises:
        ConfigurationError: a path that names no file.
    """

    _schemas: ClassVar[tuple[Schema, ...]] = (
        sqlite_sessions.SCHEMA,
        sqlite_values.SCHEMA,
        sqlite_leases.SCHEMA,
        sqlite_messages.SCHEMA,
    )

    async def expire(self, now: float, *, limit: int) -> int:
        """See `SessionIndex.expire`. Leases that nothing is left of and messages of long ago go, too."""
        return await self._write(lambda connection: self._delete_dead(connection, now, limit))
