"""
Leases as rows of a table: one statement each, and the time is the server's, so that nodes agree whatever their clocks.

`clock_timestamp()` and not `now()`: a statement may have waited for another one, and the end of a lease counts from
when it is written. A row that is released without a mark is deleted.
"""

from __future__ import annotations

from coatcheck.clock import Clock
from coatcheck.coordination import Lease, SentMark
from coatcheck.errors import LeaseLost
from coatcheck.stores.postgresql.cleaning import Cleaning
from coatcheck.stores.postgresql.database import Database

# The first line is for those who ask again and again: while somebody else holds the lease, they only read. Without it
# each of them would lock the row, which is a write and waits for the disk. It decides nothing: the last lines do, on
# the row as it is once it is ours.
_ACQUIRE = """
    INSERT INTO coatcheck_leases AS lease (key, holder, ends_at)
    SELECT $1::bytea, $2::bytea, clock_timestamp() + make_interval(secs => $3)
    WHERE NOT EXISTS (
        SELECT FROM coatcheck_leases WHERE key = $1 AND holder <> $2 AND ends_at > clock_timestamp()
    )
    ON CONFLICT (key) DO UPDATE SET
        holder = excluded.holder,
        ends_at = clock_timestamp() + make_interval(secs => $3),
        mark_sent_at = CASE WHEN lease.mark_until > $4 THEN lease.mark_sent_at END,
        mark_sends = CASE WHEN lease.mark_until > $4 THEN lease.mark_sends END
    WHERE lease.holder IS NULL OR lease.holder = excluded.holder OR lease.ends_at <= clock_timestamp()
    RETURNING mark_sent_at, mark_sends
"""
_MARK_SENT = """
    UPDATE coatcheck_leases SET
        mark_sent_at = $3, mark_sends = $4, ends_at = clock_timestamp() + make_interval(secs => $5), mark_until = $6
    WHERE key = $1 AND holder = $2 AND ends_at > clock_timestamp() RETURNING 1
"""
_EXTEND = """
    UPDATE coatcheck_leases SET ends_at = clock_timestamp() + make_interval(secs => $3)
    WHERE key = $1 AND holder = $2 AND ends_at > clock_timestamp() RETURNING 1
"""
_FORGET = "DELETE FROM coatcheck_leases WHERE key = $1 AND holder = $2"
_RELEASE = """
    UPDATE coatcheck_leases SET holder = NULL, ends_at = clock_timestamp(), mark_sent_at = $3, mark_sends = $4
    WHERE key = $1 AND holder = $2
"""


class LeasesInPostgreSQL:
    """
    A `LeaseStore`.

    A holder is drawn for each attempt, so all four may be sent again when the connection breaks: the second time does
    what the first did, or finds that the lease is no longer this holder's.
    """

    _database: Database
    _cleaning: Cleaning
    _clock: Clock

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        """See `LeaseStore.acquire`."""
        rows = await self._database.ask(_ACQUIRE, key, holder, seconds, self._clock.time(), repeatable=True)
        if not rows:
            return None
        [[sent_at, sends]] = rows
        return Lease(key, holder, None if sent_at is None else SentMark(sent_at, sends))

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        """See `LeaseStore.mark_sent`."""
        arguments = (key, holder, mark.sent_at, mark.sends, seconds, until)
        if not await self._database.ask(_MARK_SENT, *arguments, repeatable=True):
            raise _lost()

    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        """See `LeaseStore.extend`."""
        if not await self._database.ask(_EXTEND, key, holder, seconds, repeatable=True):
            raise _lost()

    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        """See `LeaseStore.release`. Late is in time as long as nobody took the lease since."""
        if mark is None:
            await self._database.ask(_FORGET, key, holder, repeatable=True)
        else:
            await self._database.ask(_RELEASE, key, holder, mark.sent_at, mark.sends, repeatable=True)
        await self._cleaning.now_and_then()


def _lost() -> LeaseLost:
    return LeaseLost("the lease ran out, or somebody else took it")
