"""SQLite: a file of an older coatcheck is brought forward, one of a newer coatcheck is left alone."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from coatcheck.errors import StoreUnavailable
from coatcheck.sessions import SessionRow
from coatcheck.stores import SQLiteStore
from tests.stores.sqlite_samples import KEY, row

VERSION_1 = """
CREATE TABLE coatcheck_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE coatcheck_sessions (
    key BLOB PRIMARY KEY, partition TEXT NOT NULL, claims BLOB NOT NULL, claims_version INTEGER NOT NULL,
    tokens BLOB NOT NULL, tokens_version INTEGER NOT NULL, created_at REAL NOT NULL, expires_at REAL NOT NULL,
    seen_at REAL NOT NULL, idle_timeout REAL NOT NULL, sub_key BLOB NOT NULL, sid_key BLOB
);
CREATE INDEX coatcheck_sessions_dead ON coatcheck_sessions (min(expires_at, seen_at + idle_timeout));
INSERT INTO coatcheck_schema VALUES ('sessions', 1);
"""
"""As the first version wrote it: sessions only, and no way to find them by user."""


def file_of_version_1(path: Path, *rows: SessionRow) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    connection.executemany(f"INSERT INTO coatcheck_sessions VALUES ({', '.join('?' * 12)})", map(astuple, rows))
    connection.commit()
    connection.close()


def versions(path: Path) -> dict[str, int]:
    connection = sqlite3.connect(path)
    found = dict(connection.execute("SELECT part, version FROM coatcheck_schema").fetchall())
    connection.close()
    return found


def objects(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    return found


@pytest.mark.spec("SES-09")
async def test_a_file_of_version_1_is_brought_forward_with_its_sessions(tmp_path: Path) -> None:
    path, old = tmp_path / "sessions.db", [row(number.to_bytes(32, "big")) for number in range(3)]
    old[2] = replace(old[2], sub_key=b"2" * 32, sid_key=b"s" * 32)
    file_of_version_1(path, *old)
    store = SQLiteStore(path)
    assert [await store.load(session.key) for session in old] == old
    assert await store.find("abcdefgh", [b"s" * 32]) == [old[2]]
    assert {found.key for found in await store.revoke("abcdefgh", [bytes(32)])} == {old[0].key, old[1].key}
    assert await store.acquire(KEY, b"holder", seconds=5) is not None
    assert await store.add(KEY, b"value", until=4e9)
    await store.aclose()
    assert versions(path) == {"sessions": 2, "values": 1, "leases": 1, "messages": 1}


async def test_an_old_and_a_new_file_have_the_same_tables_and_indexes(tmp_path: Path) -> None:
    file_of_version_1(tmp_path / "old.db")
    for path in (tmp_path / "old.db", tmp_path / "new.db"):
        for _ in range(2):  # the second time there is nothing to do
            store = SQLiteStore(path)
            assert await store.load(KEY) is None
            await store.aclose()
    assert objects(tmp_path / "old.db") == objects(tmp_path / "new.db")
    assert {"coatcheck_sessions_sub", "coatcheck_sessions_sid"} < objects(tmp_path / "new.db")


def test_several_may_bring_an_old_file_forward_at_the_same_moment(tmp_path: Path) -> None:
    for attempt in range(10):
        path = tmp_path / f"{attempt}.db"
        file_of_version_1(path, row())
        together = threading.Barrier(4)
        with ThreadPoolExecutor(4) as threads:
            loaded = [threads.submit(_load_together, path, together) for _ in range(4)]
            assert [each.result(60) for each in loaded] == [row()] * 4


def _load_together(path: Path, together: threading.Barrier) -> SessionRow | None:
    async def load() -> SessionRow | None:
        store = SQLiteStore(path)
        together.wait(10)
        try:
            return await store.load(KEY)
        finally:
            await store.aclose()

    return asyncio.run(load())


@pytest.mark.parametrize(("part", "known"), [("sessions", 2), ("leases", 1), ("values", 1), ("messages", 1)])
async def test_a_file_of_a_newer_schema_is_refused_with_both_versions(part: str, known: int, tmp_path: Path) -> None:
    """Every use says so, and nothing in the file is changed: not even the other parts are brought forward."""
    path = tmp_path / "sessions.db"
    file_of_version_1(path, row())
    newer = sqlite3.connect(path)
    newer.execute("INSERT OR REPLACE INTO coatcheck_schema VALUES (?, 7)", (part,))
    newer.commit()
    newer.close()
    before = (versions(path), objects(path))
    store = SQLiteStore(path)
    refused = pytest.raises(StoreUnavailable, match=rf"{part} .* newer coatcheck \(schema 7, this one knows {known}\)")
    with refused:
        await store.load(KEY)
    with refused:
        await store.acquire(KEY, b"holder", seconds=5)
    with refused:
        await store.add(KEY, b"value", until=4e9)
    await store.aclose()
    assert (versions(path), objects(path)) == before
