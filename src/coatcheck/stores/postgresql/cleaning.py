"""What has ended goes: now and then, behind a call that was a write anyway, so that no task has to be kept for it."""

from __future__ import annotations

from contextlib import suppress

from coatcheck.clock import Clock
from coatcheck.errors import StoreUnavailable
from coatcheck.stores.postgresql.database import Database

_EVERY = 60.0
_AT_ONCE = 100
_LOOKS = 10
"""Sessions looked at for each that may be deleted."""

# Others may be cleaning, too: what somebody else has in hand is left to them. The order keeps to the index, from what
# ended first on: without it each call collects all that has ended, and what was deleted since the last VACUUM as well.
_DELETE_EXPIRED = """
    WITH gone AS (DELETE FROM coatcheck_sessions WHERE key IN (
        SELECT key FROM coatcheck_sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ) RETURNING 1) SELECT count(*) FROM gone
"""
# No index knows when a session was last seen (see `schema`), so all are looked at in turn, in the order of their keys.
_DELETE_IDLE = """
    WITH looked AS MATERIALIZED (
        SELECT key, seen_at + idle_timeout <= $1 AS idle FROM coatcheck_sessions WHERE key > $2 ORDER BY key LIMIT $3
    ), gone AS (DELETE FROM coatcheck_sessions WHERE key IN (
        SELECT key FROM coatcheck_sessions
        WHERE key IN (SELECT key FROM looked WHERE idle) AND seen_at + idle_timeout <= $1 LIMIT $4
        FOR UPDATE SKIP LOCKED
    ) RETURNING 1)
    SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM looked),
        (SELECT key FROM looked ORDER BY key DESC LIMIT 1)
"""
_DELETE_VALUES = """
    WITH gone AS (DELETE FROM coatcheck_values WHERE key IN (
        SELECT key FROM coatcheck_values WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED
    ) RETURNING 1) SELECT count(*) FROM gone
"""
_DELETE_LEASES = """
    WITH gone AS (DELETE FROM coatcheck_leases WHERE key IN (
        SELECT key FROM coatcheck_leases WHERE ends_at <= clock_timestamp() AND mark_until <= $1 LIMIT $2
        FOR UPDATE SKIP LOCKED
    ) RETURNING 1) SELECT count(*) FROM gone
"""


class Cleaning:
    """Deletes dead sessions, values and leases of *database*."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._next_at = clock.monotonic() + _EVERY
        self._looked_until = b""

    async def now_and_then(self) -> None:
        """Clean a little, at most once a minute unless there is more. Whatever goes wrong is left for the next time."""
        if self._clock.monotonic() < self._next_at:
            return
        self._next_at = self._clock.monotonic() + _EVERY
        with suppress(StoreUnavailable):
            if await self.expire(self._clock.time(), limit=_AT_ONCE) >= _AT_ONCE:
                self._next_at = 0.0

    async def expire(self, now: float, *, limit: int) -> int:
        """Delete at most about *limit* of each kind that are dead at *now*; return how many."""
        gone = 0
        for statement in (_DELETE_EXPIRED, _DELETE_VALUES, _DELETE_LEASES):
            [[count]] = await self._database.ask(statement, now, limit, repeatable=True)
            gone += count
        return gone + await self._expire_idle(now, limit=limit)

    async def _expire_idle(self, now: float, *, limit: int) -> int:
        looks, since = limit * _LOOKS, self._looked_until
        [[count, looked, last]] = await self._database.ask(_DELETE_IDLE, now, since, looks, limit, repeatable=True)
        self._looked_until = last if looked >= looks else b""
        return int(count)
