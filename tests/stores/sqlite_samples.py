"""What the SQLite tests share: a row, an impatient store, and another program that holds the file."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

from coatcheck.sessions import SessionRow
from coatcheck.stores import SQLiteStore
from tests.sessions.samples import HOUR, NOW

KEY = bytes(range(32))


def row(key: bytes = KEY, *, tokens: bytes = b"sealed tokens", seen_at: float = NOW) -> SessionRow:
    return SessionRow(
        key=key,
        partition="abcdefgh",
        claims=b"sealed claims",
        claims_version=1,
        tokens=tokens,
        tokens_version=1,
        created_at=NOW,
        expires_at=NOW + 8 * HOUR,
        seen_at=seen_at,
        idle_timeout=HOUR,
        sub_key=bytes(32),
        sid_key=None,
    )


def impatient(path: Path) -> SQLiteStore:
    """A store that does not wait for others."""
    return SQLiteStore(path, busy_timeout=timedelta(0))


class held:
    """Another program that holds a lock on the file."""

    def __init__(self, path: Path, begin: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._begin = begin

    def __enter__(self) -> None:
        self._connection.execute(self._begin)

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()
