"""Sessions in this process: for development, for tests, and for one worker that may forget them at a restart."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.errors import SessionGone, StaleVersion
from coatcheck.sessions.store import Change, ReplacePart, SessionRow

_LOOKS_PER_CREATE = 8


class MemoryStore:
    """
    A session store in a dictionary. No method ever suspends, and threads may share it.

    The rows are sealed here too: one code path for all stores. Sealing costs a login or a renewal 8 us; what was opened
    once is remembered (see `vault.py`), so that a request pays 5 us for session and tokens together.

    Dead rows go little by little: each login looks at a few of them.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._rows: dict[bytes, SessionRow] = {}
        self._to_look_at: list[bytes] = []
        self._lock = Lock()

    async def create(self, row: SessionRow) -> None:
        """See `SessionStore.create`."""
        with self._lock:
            if row.key in self._rows:
                raise StaleVersion("there is a session under this key already")
            self._rows[row.key] = row
            self._forget_dead_rows()

    async def load(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.load`."""
        return self._rows.get(key)

    async def update(self, key: bytes, change: Change) -> None:
        """See `SessionStore.update`."""
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                raise SessionGone("the session was deleted")
            self._rows[key] = changed(row, change)

    async def delete(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.delete`."""
        with self._lock:
            return self._rows.pop(key, None)

    def _forget_dead_rows(self) -> None:
        """Look at a few rows in turn. Every login adds one and looks at several, so dead rows cannot pile up."""
        now = self._clock.time()
        if not self._to_look_at:
            self._to_look_at = list(self._rows)
        for key in self._to_look_at[-_LOOKS_PER_CREATE:]:
            row = self._rows.get(key)
            if row is not None and row.dead_at <= now:
                del self._rows[key]
        del self._to_look_at[-_LOOKS_PER_CREATE:]


def changed(row: SessionRow, change: Change) -> SessionRow:
    """Return *row* after *change*, or raise `StaleVersion`: the rules of `SessionStore.update` as a pure function."""
    if not isinstance(change, ReplacePart):
        return replace(row, seen_at=max(row.seen_at, change.seen_at))
    if change.part == "tokens":
        if row.tokens_version != change.version:
            raise StaleVersion("the tokens were replaced meanwhile")
        return replace(row, tokens=change.data, tokens_version=change.version + 1)
    if row.claims_version != change.version:
        raise StaleVersion("the claims were replaced meanwhile")
    return replace(row, claims=change.data, claims_version=change.version + 1)
