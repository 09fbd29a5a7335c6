"""Values that end, in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from coatcheck.coordination import ExpiringValue
from coatcheck.errors import StaleVersion
from coatcheck.stores.sqlite_database import Schema, SQLiteDatabase

SCHEMA = Schema(
    "values",
    (
        (
            """
            CREATE TABLE coatcheck_values (
                key BLOB PRIMARY KEY,
                value BLOB NOT NULL,
                version INTEGER NOT NULL,
                until REAL NOT NULL
            )
            """,
            "CREATE INDEX coatcheck_values_dead ON coatcheck_values (until)",
        ),
    ),
)
# Each of them sees only what has not ended yet, so it does not matter when the rest is removed.
_ADD = (
    "INSERT INTO coatcheck_values (key, value, version, until) VALUES (?, ?, 1, ?) ON CONFLICT (key) "
    "DO UPDATE SET value = excluded.value, version = 1, until = excluded.until WHERE coatcheck_values.until <= ?"
)
_SELECT = "SELECT value, version FROM coatcheck_values WHERE key = ? AND until > ?"
_REPLACE = (
    "UPDATE coatcheck_values SET value = ?, version = version + 1, until = ? "
    "WHERE key = ? AND version = ? AND until > ?"
)
_DISCARD = "DELETE FROM coatcheck_values WHERE key = ?1 AND (?2 IS NULL OR version = ?2) AND until > ?3"
_DELETE_DEAD = (
    "DELETE FROM coatcheck_values WHERE rowid IN (SELECT rowid FROM coatcheck_values WHERE until <= ? LIMIT ?)"
)


class SQLiteValues(SQLiteDatabase):
    """An `ExpiringStore`."""

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        """See `ExpiringStore.add`."""
        return await self._change(_ADD, lambda now: (key, value, until, now))

    async def get(self, key: bytes) -> ExpiringValue | None:
        """See `ExpiringStore.get`. Once the file is open it does not suspend."""

        def select(connection: sqlite3.Connection) -> ExpiringValue | None:
            row = connection.execute(_SELECT, (key, self._clock.time())).fetchone()
            return None if row is None else ExpiringValue(*row)

        return await self._file().read(select)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        """See `ExpiringStore.replace`."""
        if not await self._change(_REPLACE, lambda now: (value, until, key, version, now)):
            raise StaleVersion("the value was replaced or removed meanwhile, or it ended")

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        """See `ExpiringStore.discard`."""
        return await self._change(_DISCARD, lambda now: (key, version, now))

    async def _change(self, statement: str, values: Callable[[float], tuple[object, ...]]) -> bool:
        """Execute *statement* at the instant at which nobody else can write; say whether it changed anything."""
        return await self._write(lambda writer: writer.execute(statement, values(self._clock.time())).rowcount > 0)

    def _delete_dead(self, connection: sqlite3.Connection, now: float, limit: int) -> int:
        removed = super()._delete_dead(connection, now, limit)
        return removed + connection.execute(_DELETE_DEAD, (now, limit - removed)).rowcount
