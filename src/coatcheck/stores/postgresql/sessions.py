"""Sessions as rows of a table, each change a single statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from coatcheck.errors import SessionGone, StaleVersion
from coatcheck.sessions.store import Change, SessionRow, Touch
from coatcheck.stores.postgresql.cleaning import Cleaning
from coatcheck.stores.postgresql.database import Database

# Columns are named, so that a later version may add some.
_COLUMNS = (
    "key, partition, claims, claims_version, tokens, tokens_version, "
    "created_at, expires_at, seen_at, idle_timeout, sub_key, sid_key"
)
_INSERT = f"""
    INSERT INTO coatcheck_sessions ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT DO NOTHING RETURNING 1
"""  # noqa: S608
_SELECT = f"SELECT {_COLUMNS} FROM coatcheck_sessions WHERE key = $1"  # noqa: S608
_IS_THERE = "SELECT 1 FROM coatcheck_sessions WHERE key = $1"
_REPLACE = {
    "claims": "UPDATE coatcheck_sessions SET claims = $3, claims_version = claims_version + 1 "
    "WHERE key = $1 AND claims_version = $2 RETURNING 1",
    "tokens": "UPDATE coatcheck_sessions SET tokens = $3, tokens_version = tokens_version + 1 "
    "WHERE key = $1 AND tokens_version = $2 RETURNING 1",
}
# The comparison is made again on the row as it is once it is ours: of two touches the later instant stays.
_TOUCH = "UPDATE coatcheck_sessions SET seen_at = $2 WHERE key = $1 AND seen_at < $2 RETURNING 1"
_DELETE = f"DELETE FROM coatcheck_sessions WHERE key = $1 RETURNING {_COLUMNS}"  # noqa: S608
_FIND = f"""
    SELECT {_COLUMNS} FROM coatcheck_sessions
    WHERE partition = $1 AND sub_key = ANY($2) OR partition = $1 AND sid_key = ANY($2)
"""  # noqa: S608
# Locked in one order, so that two who revoke the same rows wait for each other and not in a circle.
_REVOKE = f"""
    DELETE FROM coatcheck_sessions WHERE key IN (
        SELECT key FROM coatcheck_sessions
        WHERE partition = $1 AND sub_key = ANY($2) OR partition = $1 AND sid_key = ANY($2)
        ORDER BY key FOR UPDATE
    ) RETURNING {_COLUMNS}
"""  # noqa: S608


class SessionsInPostgreSQL:
    """A `SessionStore` and a `SessionIndex`."""

    _database: Database
    _cleaning: Cleaning

    async def create(self, row: SessionRow) -> None:
        """See `SessionStore.create`."""
        if not await self._database.ask(_INSERT, *astuple(row)):
            raise StaleVersion("there is a session under this key already")
        await self._cleaning.now_and_then()

    async def load(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.load`."""
        rows = await self._database.ask(_SELECT, key, repeatable=True)
        return SessionRow(*rows[0]) if rows else None

    async def update(self, key: bytes, change: Change) -> None:
        """See `SessionStore.update`. One statement, and a second one only to say why nothing was changed."""
        if isinstance(change, Touch):
            done = await self._database.ask(_TOUCH, key, change.seen_at, repeatable=True)
        else:
            done = await self._database.ask(_REPLACE[change.part], key, change.version, change.data)
        if done:
            return
        if not await self._database.ask(_IS_THERE, key, repeatable=True):
            raise SessionGone("the session was deleted")
        if not isinstance(change, Touch):
            raise StaleVersion("this part of the session was replaced meanwhile")

    async def delete(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.delete`."""
        rows = await self._database.ask(_DELETE, key)
        return SessionRow(*rows[0]) if rows else None

    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """See `SessionIndex.find`."""
        rows = await self._database.ask(_FIND, partition, list(index_keys), repeatable=True)
        return [SessionRow(*row) for row in rows]

    async def revoke(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """See `SessionIndex.revoke`."""
        return [SessionRow(*row) for row in await self._database.ask(_REVOKE, partition, list(index_keys))]

    async def expire(self, now: float, *, limit: int) -> int:
        """See `SessionIndex.expire`. Sessions that idled away are found little by little, a part of them each time."""
        return await self._cleaning.expire(now, limit=limit)
