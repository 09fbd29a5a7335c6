"""Sessions in a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.errors import SessionGone, StaleVersion
from coatcheck.sessions.store import Change, ReplacePart, SessionRow
from coatcheck.stores.memory_entries import Broom, InMemory


class SessionsInMemory(InMemory):
    """
    A `SessionStore` and `SessionIndex`. No method ever suspends, and threads may share it.

    The index is a look at every row: what asks for it (a logout of all sessions of somebody) is rare, and a set for
    each user would be one more thing to keep true at every login.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(clock)
        self._rows: dict[bytes, SessionRow] = {}
        self._broom = Broom(self._rows, lambda row: row.dead_at)

    async def create(self, row: SessionRow) -> None:
        """See `SessionStore.create`."""
        with self._lock:
            if row.key in self._rows:
                raise StaleVersion("there is a session under this key already")
            self._rows[row.key] = row
            self._broom.sweep(self._clock.time())

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

    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """See `SessionIndex.find`."""
        with self._lock:
            return self._with_one_of(partition, index_keys)

    async def revoke(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """See `SessionIndex.revoke`."""
        with self._lock:
            return [self._rows.pop(row.key) for row in self._with_one_of(partition, index_keys)]

    def _with_one_of(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        wanted = set(index_keys)
        return [
            row
            for row in self._rows.values()
            if row.partition == partition and (row.sub_key in wanted or row.sid_key in wanted)
        ]


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
