"""SQLite: what is on the disk, how it is kept small, and what happens when the file does not cooperate."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from coatcheck.coordination import SentMark
from coatcheck.errors import ConfigurationError, SessionGone, StoreUnavailable
from coatcheck.sessions import ReplacePart, Touch
from coatcheck.stores import SQLiteStore
from tests.sessions.samples import HOUR, NOW, Browser, log_in, opened, server_side, ticket_of
from tests.stores.sqlite_samples import KEY, held, impatient, row
from tests.testing.clocks import HandClock

# On the disk


@pytest.mark.spec("LOG-01", "SES-02")
async def test_no_secret_and_no_name_is_in_the_files(tmp_path: Path) -> None:
    """Looked for in the database, its log and its index while they are open, when most of it is still in the log."""
    path = tmp_path / "sessions.db"
    sessions, browser = server_side(SQLiteStore(path)), Browser()
    handle = await log_in(
        sessions,
        browser,
        sub="CANARY-subject",
        claims={"email": "CANARY-claim@example.com"},
        tokens=b'{"access_token":"CANARY-access","refresh_token":"CANARY-refresh"}',
    )
    await handle.replace_tokens(b'{"refresh_token":"CANARY-renewed"}', version=1)
    await opened(sessions, browser, now=NOW + HOUR / 2)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["sessions.db", "sessions.db-shm", "sessions.db-wal"]
    content = b"".join(file.read_bytes() for file in files)
    for secret in (b"CANARY", b"idp.example.com", b"sid-1", ticket_of(browser).encode(), b"access_token"):
        assert secret not in content
    assert b"coatcheck_sessions" in content  # the right files were read
    await sessions.aclose()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
async def test_file_and_folder_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SQLiteStore(tmp_path / "new" / "sessions.db")
        await store.create(row())
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "new").iterdir()}
    assert modes == {"sessions.db": 0o600, "sessions.db-shm": 0o600, "sessions.db-wal": 0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    await store.aclose()


async def test_sessions_outlive_the_process_that_made_them(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "sessions.db")
    await store.create(row())
    await store.aclose()
    again = SQLiteStore(tmp_path / "sessions.db")
    assert await again.load(KEY) == row()
    await again.aclose()


async def test_a_relative_path_stays_where_it_was_when_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("sessions.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await store.create(row())
    assert (tmp_path / "sessions.db").exists()
    await store.aclose()


@pytest.mark.parametrize("name", ["", ":memory:", "file:sessions.db?mode=memory"])
def test_a_path_that_names_no_file_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="memory store"):
        SQLiteStore(name)


async def test_writes_are_durable_and_in_a_write_ahead_log(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "sessions.db")
    await store.create(row())
    database = store._file()

    def settings(connection: sqlite3.Connection) -> tuple[object, object, object]:
        values = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        return values[0], values[1], connection.isolation_level

    assert await database.write(settings) == ("wal", 2, None)
    assert database._reader is not None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database._reader.execute("DELETE FROM coatcheck_sessions")
    await store.aclose()


# Cleaning up


@pytest.mark.spec("SES-10")
async def test_dead_rows_are_deleted_in_small_batches(tmp_path: Path) -> None:
    clock = HandClock(NOW)
    store = SQLiteStore(tmp_path / "sessions.db", clock)
    await store.create(row())
    for number in range(250):
        await store.create(row(number.to_bytes(32, "big")))
    clock.forward(timedelta(minutes=30))
    await store.update(KEY, Touch(clock.time()))
    assert await count(store) == 251
    clock.forward(timedelta(minutes=30))
    left = []
    for _ in range(4):
        await store.update(KEY, Touch(clock.time()))
        left.append(await count(store))
    assert left == [151, 51, 1, 1]
    assert await store.load(KEY) is not None
    await store.aclose()


async def test_cleaning_happens_at_most_once_a_minute(tmp_path: Path) -> None:
    clock = HandClock(NOW)
    store = SQLiteStore(tmp_path / "sessions.db", clock)
    await store.create(row())
    await store.create(replace(row(bytes(32)), expires_at=NOW + 30))
    clock.forward(timedelta(seconds=59))
    await store.update(KEY, Touch(clock.time()))
    assert await count(store) == 2
    clock.forward(timedelta(seconds=1))
    await store.update(KEY, Touch(clock.time()))
    assert await count(store) == 1
    await store.aclose()


async def count(store: SQLiteStore) -> int:
    """Counted in the writer's thread, so after everything that was handed to it before."""

    def rows(connection: sqlite3.Connection) -> int:
        found: int = connection.execute("SELECT count(*) FROM coatcheck_sessions").fetchone()[0]
        return found

    database = store._file()
    return await database.write(rows)


async def test_a_closed_store_opens_again_on_the_next_use(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "sessions.db")
    await store.aclose()
    await store.create(row())
    await store.aclose()
    await store.aclose()
    assert await store.load(KEY) == row()
    await store.aclose()
    assert not (tmp_path / "sessions.db-wal").exists()


async def test_a_use_during_the_close_is_a_fault_of_the_store(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "sessions.db")
    await store.create(row())
    database = store._file()
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="was closed"):
        await database.read(lambda connection: None)


async def test_a_read_does_not_suspend_once_the_file_is_open(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "sessions.db")
    await store.create(row())
    await store.load(KEY)
    loading = store.load(KEY)
    with pytest.raises(StopIteration) as done:
        loading.send(None)
    assert done.value.value == row()
    await store.aclose()


# Faults


Use = Callable[[SQLiteStore], Awaitable[object]]
MARK, HOLDER = SentMark(NOW), bytes(16)
READS: list[Use] = [
    lambda store: store.load(KEY),
    lambda store: store.find("abcdefgh", [KEY]),
    lambda store: store.get(KEY),
    lambda store: store.subscribe("channel").__aenter__(),
]
WRITES: list[Use] = [
    lambda store: store.create(row(bytes(32))),
    lambda store: store.update(KEY, Touch(NOW)),
    lambda store: store.update(KEY, ReplacePart("tokens", b"", 1)),
    lambda store: store.delete(KEY),
    lambda store: store.revoke("abcdefgh", [KEY]),
    lambda store: store.expire(NOW, limit=1),
    lambda store: store.acquire(KEY, HOLDER, seconds=5),
    lambda store: store.mark_sent(KEY, HOLDER, MARK, seconds=5, until=NOW),
    lambda store: store.extend(KEY, HOLDER, seconds=5),
    lambda store: store.release(KEY, HOLDER, mark=None),
    lambda store: store.add(KEY, b"", until=NOW),
    lambda store: store.replace(KEY, b"", version=1, until=NOW),
    lambda store: store.discard(KEY),
    lambda store: store.publish("channel", b""),
]


@pytest.mark.spec("SES-12")
@pytest.mark.parametrize("use", READS + WRITES)
async def test_every_fault_of_the_file_is_the_stores_with_its_cause(use: Use, tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "garbage.db").write_bytes(b"this is no database" * 100)
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "folder.db", tmp_path / "garbage.db", tmp_path / "file" / "sessions.db"):
        store = SQLiteStore(path)
        with pytest.raises(StoreUnavailable, match=str(path)) as caught:
            await use(store)
        assert isinstance(caught.value.__cause__, (sqlite3.Error, OSError))
        await store.aclose()


@pytest.mark.spec("SES-12")
@pytest.mark.parametrize("use", WRITES)
async def test_a_locked_file_is_a_fault_of_the_store(use: Use, tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    store = impatient(path)
    await store.create(row())
    with held(path, "BEGIN IMMEDIATE"), pytest.raises(StoreUnavailable, match="locked") as caught:
        await use(store)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert await store.load(KEY) == row()
    await store.aclose()


@pytest.mark.spec("SES-12")
async def test_the_store_recovers_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    path.mkdir()
    store = SQLiteStore(path)
    with pytest.raises(StoreUnavailable):
        await store.create(row())
    path.rmdir()
    await store.create(row())
    assert await store.load(KEY) == row()
    await store.aclose()


@pytest.mark.spec("SES-12")
async def test_a_connection_that_breaks_is_opened_anew(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "sessions.db")
    await store.create(row())
    await store.load(KEY)
    database = store._file()
    assert database._reader is not None and database._writer is not None
    database._reader.close()
    assert await store.load(KEY) == row()
    database._writer.close()
    with pytest.raises(StoreUnavailable):
        await store.update(KEY, Touch(NOW + 1))
    await store.update(KEY, Touch(NOW + 2))
    await store.aclose()


async def test_a_write_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "sessions.db")
    await store.create(row())

    def delete_and_fail(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM coatcheck_sessions")
        raise SessionGone("in the middle")

    with pytest.raises(SessionGone):
        await store._file().write(delete_and_fail)
    assert await store.load(KEY) == row()
    await store.update(KEY, Touch(NOW + 1))
    await store.aclose()


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an open file cannot be removed")
@pytest.mark.spec("REF-04")
@pytest.mark.parametrize("replaced_by", ["nothing yet", "a file of another process"])
async def test_a_file_that_is_removed_or_replaced_splits_nobody_off(replaced_by: str, tmp_path: Path) -> None:
    """Who goes on with a file that has no name any more would hold the same lease as who has the new one."""
    path = tmp_path / "sessions.db"
    ours, theirs = SQLiteStore(path), SQLiteStore(path)
    await ours.create(row())
    assert await ours.load(KEY) == row()
    for file in list(tmp_path.iterdir()):
        file.unlink()
    if replaced_by != "nothing yet":
        assert await theirs.acquire(KEY, b"theirs", seconds=5.0)
        assert await ours.acquire(KEY, b"ours", seconds=5.0) is None
    else:
        assert await ours.acquire(KEY, b"ours", seconds=5.0)
        assert await theirs.acquire(KEY, b"theirs", seconds=5.0) is None
    assert await ours.load(KEY) is None
    await ours.aclose()
    await theirs.aclose()
