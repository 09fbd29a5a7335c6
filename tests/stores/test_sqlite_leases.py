"""SQLite: processes that want the same lease, and holders that die, fall asleep or never come back."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from coatcheck.coordination import Lease, SentMark
from coatcheck.errors import LeaseLost, StoreUnavailable
from coatcheck.stores import SQLiteStore
from tests.sessions.samples import HOUR, NOW
from tests.stores import lease_holder
from tests.stores.lease_holder import MARK
from tests.stores.sqlite_samples import KEY, held, impatient
from tests.testing.clocks import HandClock

US, THEM = b"u" * 16, b"t" * 16

# Processes


@pytest.mark.spec("REF-02", "REF-29")
def test_four_processes_are_never_inside_together(tmp_path: Path) -> None:
    """Each reads a number, adds one and writes it back, with no other protection than the lease."""
    path, number, times = tmp_path / "store.db", tmp_path / "number", 40
    number.write_text("0")
    processes = [_program("count", path, str(times), str(number)) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert number.read_text() == str(4 * times)


@pytest.mark.spec("REF-25", "REF-29")
def test_a_killed_holder_is_followed_when_its_lease_ran_out_and_its_mark_is_there(tmp_path: Path) -> None:
    path, seconds = tmp_path / "store.db", 0.5
    with _holding(path, seconds) as (process, marked_at):
        process.kill()
        process.wait(10)
        lease, taken_at, asked = asyncio.run(_take_over(path))
    assert lease == Lease(KEY, US, MARK)
    assert taken_at >= marked_at + seconds, "the lease was given while the dead holder had it"
    assert taken_at < marked_at + seconds + 5
    assert asked > 1
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.spec("REF-04", "REF-29")
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals")
def test_a_holder_that_wakes_up_too_late_can_do_nothing(tmp_path: Path) -> None:
    """The attack of the sleeper: a process stops for a while, as under a debugger, a paging host or a moved machine."""
    path = tmp_path / "store.db"
    with _holding(path, 0.2) as (process, _):
        process.send_signal(signal.SIGSTOP)
        lease, _, _ = asyncio.run(_take_over(path))
        assert lease.mark == MARK
        process.send_signal(signal.SIGCONT)
        assert _tell(process) == "lost"
        assert asyncio.run(_ask(path, THEM)) is None, "the sleeper released the lease of its successor"
        assert asyncio.run(_ask(path, US)) == Lease(KEY, US, MARK), "the sleeper changed the mark of its successor"


def test_a_holder_that_is_in_time_goes_on(tmp_path: Path) -> None:
    """Control: what is refused above works as long as the lease runs."""
    with _holding(tmp_path / "store.db", 60) as (process, _):
        assert _tell(process) == "sent"


def _program(what: str, path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, lease_holder.__file__, what, str(path), KEY.hex(), *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


@contextmanager
def _holding(path: Path, seconds: float) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """A process that has the lease and has marked it, and the instant before it did."""
    process = _program("hold", path, str(seconds))
    try:
        assert process.stdout is not None
        yield process, float(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def _tell(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go on\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


async def _take_over(path: Path) -> tuple[Lease, float, int]:
    """Ask for the lease as a waiter does; return it, the instant, and how often it took."""
    store, until = SQLiteStore(path), time.monotonic() + 20
    for asked in range(1, 100_000):
        lease = await store.acquire(KEY, US, seconds=60)
        if lease is not None:
            taken_at = time.time()
            await store.aclose()
            return lease, taken_at, asked
        assert time.monotonic() < until
        await asyncio.sleep(0.005)
    raise AssertionError("it never got the lease")


async def _ask(path: Path, holder: bytes) -> Lease | None:
    store = SQLiteStore(path)
    try:
        return await store.acquire(KEY, holder, seconds=60)
    finally:
        await store.aclose()


# Waiting


async def test_who_waits_for_a_lease_takes_no_write_lock(tmp_path: Path) -> None:
    """Else a crowd that asks every few milliseconds would keep the holder from writing what it renewed."""
    path = tmp_path / "store.db"
    store = impatient(path)
    await store.acquire(KEY, THEM, seconds=60)
    with held(path, "BEGIN IMMEDIATE"):
        for _ in range(100):
            assert await store.acquire(KEY, US, seconds=60) is None
        with pytest.raises(StoreUnavailable):  # control: whatever does take it fails
            await store.acquire(bytes(32), US, seconds=60)
    await store.aclose()


async def test_asking_for_a_held_lease_does_not_suspend(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.db")
    await store.acquire(KEY, THEM, seconds=60)
    asking = store.acquire(KEY, US, seconds=60)
    with pytest.raises(StopIteration) as done:
        asking.send(None)
    assert done.value.value is None
    await store.aclose()


# On the disk


async def test_a_mark_is_in_the_file_when_it_is_written(tmp_path: Path) -> None:
    """Another program sees it, though the store that wrote it was not closed."""
    path = tmp_path / "store.db"
    store = SQLiteStore(path)
    await store.acquire(KEY, US, seconds=60)
    await store.mark_sent(KEY, US, MARK, seconds=60, until=4e9)
    other = sqlite3.connect(path)
    found = other.execute("SELECT sent_at, sends, mark_until FROM coatcheck_leases WHERE key = ?", (KEY,)).fetchall()
    other.close()
    assert found == [(MARK.sent_at, MARK.sends, 4e9)]
    await store.aclose()


async def test_lease_times_are_on_the_clock_of_the_store(tmp_path: Path) -> None:
    clock = HandClock(NOW)
    store = SQLiteStore(tmp_path / "store.db", clock)
    await store.acquire(KEY, THEM, seconds=5)
    clock.forward(timedelta(seconds=4.9))
    assert await store.acquire(KEY, US, seconds=5) is None
    await store.extend(KEY, THEM, seconds=5)
    clock.forward(timedelta(seconds=4.9))
    assert await store.acquire(KEY, US, seconds=5) is None
    clock.forward(timedelta(seconds=0.2))
    with pytest.raises(LeaseLost):
        await store.extend(KEY, THEM, seconds=5)
    assert await store.acquire(KEY, US, seconds=5) == Lease(KEY, US)
    await store.aclose()


async def test_what_is_over_goes_and_what_may_still_matter_stays(tmp_path: Path) -> None:
    """Values that have ended, leases that nothing is left of; not a lease that runs, and not a mark before its end."""
    clock = HandClock(NOW)
    store = SQLiteStore(tmp_path / "store.db", clock)
    running, marked, forgotten, left = (bytes([number]) * 32 for number in range(4))
    await store.acquire(running, US, seconds=2 * HOUR)
    for key, until in ((marked, NOW + 3 * HOUR), (forgotten, NOW + HOUR / 2)):
        await store.acquire(key, US, seconds=60)
        await store.mark_sent(key, US, SentMark(NOW), seconds=20, until=until)
        await store.release(key, US, mark=SentMark(NOW))
    await store.acquire(left, US, seconds=60)
    await store.add(b"short", b"", until=NOW + HOUR / 2)
    await store.add(b"long", b"", until=NOW + 2 * HOUR)
    clock.forward(timedelta(hours=1))
    await store.add(b"another", b"", until=NOW + 2 * HOUR)  # the clean-up comes with a write
    assert await _keys(store, "leases") == {running, marked}
    assert await _keys(store, "values") == {b"long", b"another"}
    assert await store.acquire(running, THEM, seconds=5) is None
    assert await store.acquire(marked, THEM, seconds=5) == Lease(marked, THEM, SentMark(NOW))
    await store.aclose()


@pytest.mark.spec("SES-10")
async def test_expire_removes_at_most_so_many_and_says_how_many(tmp_path: Path) -> None:
    clock = HandClock(NOW)
    store = SQLiteStore(tmp_path / "store.db", clock)
    for number in range(10):
        await store.add(bytes([number]), b"", until=NOW + 1 + number)
        await store.acquire(bytes([number]), US, seconds=1)
    clock.forward(timedelta(seconds=5))
    assert [await store.expire(clock.time(), limit=7) for _ in range(4)] == [7, 7, 1, 0]
    assert await _keys(store, "leases") == set()
    assert await _keys(store, "values") == {bytes([number]) for number in range(5, 10)}
    await store.aclose()


async def _keys(store: SQLiteStore, part: str) -> set[bytes]:
    """Read in the writer's thread, so after everything that was handed to it before."""

    def select(connection: sqlite3.Connection) -> set[bytes]:
        return {key for (key,) in connection.execute(f"SELECT key FROM coatcheck_{part}")}

    return await store._file().write(select)
