"""Sessions in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple

from coatcheck.errors import SessionGone, StaleVersion
from coatcheck.sessions.store import Change, SessionRow, Touch
from coatcheck.stores.sqlite_database import Schema, SQLiteDatabase

SCHEMA = Schema(
    "sessions",
    (
        (
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
        ),
        (
            "CREATE INDEX coatcheck_sessions_sub ON coatcheck_sessions (sub_key, partition)",
            "CREATE INDEX coatcheck_sessions_sid ON coatcheck_sessions (sid_key, partition) WHERE sid_key IS NOT NULL",
        ),
    ),
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
_SELECT_BY = {
    column: f"SELECT {_COLUMNS} FROM coatcheck_sessions WHERE {column} = ? AND partition = ?"  # noqa: S608
    for column in ("sub_key", "sid_key")
}
_DELETE_DEAD = (
    "DELETE FROM coatcheck_sessions WHERE rowid IN "
    "(SELECT rowid FROM coatcheck_sessions WHERE min(expires_at, seen_at + idle_timeout) <= ? LIMIT ?)"
)


class SQLiteSessions(SQLiteDatabase):
    """A `SessionStore`, and all of a `SessionIndex` but `expire`, which is the business of the whole file."""

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

    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """See `SessionIndex.find`."""
        return await self._file().read_much(lambda connection: _select_by(connection, partition, index_keys))

    async def revoke(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """See `SessionIndex.revoke`."""

        def select_and_delete(connection: sqlite3.Connection) -> list[SessionRow]:
            rows = _select_by(connection, partition, index_keys)
            connection.executemany(_DELETE, [(row.key,) for row in rows])
            return rows

        return await self._write(select_and_delete)

    def _delete_dead(self, connection: sqlite3.Connection, now: float, limit: int) -> int:
        removed = super()._delete_dead(connection, now, limit)
        return removed + connection.execute(_DELETE_DEAD, (now, limit - removed)).rowcount


def _select(connection: sqlite3.Connection, key: bytes) -> SessionRow | None:
    row = connection.execute(_SELECT, (key,)).fetchone()
    return None if row is None else SessionRow(*row)


def _select_by(connection: sqlite3.Connection, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
    """Return the rows that one of the keys leads to, each once."""
    found: dict[bytes, SessionRow] = {}
    for index_key in index_keys:
        for select in _SELECT_BY.values():
            for values in connection.execute(select, (index_key, partition)):
                row = SessionRow(*values)
                found[row.key] = row
    return list(found.values())
