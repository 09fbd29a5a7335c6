"""Values that end, as rows of a table. When they end is told by our clock, not by the server's."""

from __future__ import annotations

from coatcheck.clock import Clock
from coatcheck.coordination import ExpiringValue
from coatcheck.errors import StaleVersion
from coatcheck.stores.postgresql.cleaning import Cleaning
from coatcheck.stores.postgresql.database import Database

_ADD = """
    INSERT INTO coatcheck_values AS stored (key, value, version, until) VALUES ($1, $2, 1, $3)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = 1, until = excluded.until
    WHERE stored.until <= $4
    RETURNING 1
"""
_GET = "SELECT value, version FROM coatcheck_values WHERE key = $1 AND until > $2"
_REPLACE = """
    UPDATE coatcheck_values SET value = $3, version = version + 1, until = $4
    WHERE key = $1 AND version = $2 AND until > $5 RETURNING 1
"""
_DISCARD = """
    DELETE FROM coatcheck_values WHERE key = $1 AND until > $2 AND ($3::bigint IS NULL OR version = $3) RETURNING 1
"""


class ValuesInPostgreSQL:
    """An `ExpiringStore`."""

    _database: Database
    _cleaning: Cleaning
    _clock: Clock

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        """See `ExpiringStore.add`."""
        added = bool(await self._database.ask(_ADD, key, value, until, self._clock.time()))
        await self._cleaning.now_and_then()
        return added

    async def get(self, key: bytes) -> ExpiringValue | None:
        """See `ExpiringStore.get`."""
        rows = await self._database.ask(_GET, key, self._clock.time(), repeatable=True)
        return ExpiringValue(*rows[0]) if rows else None

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        """See `ExpiringStore.replace`."""
        if not await self._database.ask(_REPLACE, key, version, value, until, self._clock.time()):
            raise StaleVersion("the value was replaced or removed meanwhile, or it ended")

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        """See `ExpiringStore.discard`."""
        return bool(await self._database.ask(_DISCARD, key, self._clock.time(), version))
