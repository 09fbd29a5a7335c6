"""SQLite: several processes, threads and event loops on one file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path

import pytest

from coatcheck.errors import StoreUnavailable
from coatcheck.sessions import SessionRow, Touch
from coatcheck.stores import SQLiteStore
from tests.sessions.samples import NOW
from tests.stores import increment
from tests.stores.increment import increment_once
from tests.stores.sqlite_samples import KEY, held, impatient, row


@pytest.mark.spec("SES-06")
def test_two_processes_lose_no_increment(tmp_path: Path) -> None:
    path, times = tmp_path / "sessions.db", 150
    asyncio.run(_create(path, row(tokens=b"0")))
    command = [sys.executable, increment.__file__, str(path), KEY.hex(), str(times)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    after = asyncio.run(_load(path))
    assert after is not None
    assert (after.tokens, after.tokens_version) == (b"%d" % (2 * times), 1 + 2 * times)
    assert after.seen_at > NOW


def test_two_openers_may_make_the_file_at_the_same_moment(tmp_path: Path) -> None:
    """Switching to the write-ahead log fails at once when another does the same, however long one would wait."""
    for attempt in range(20):
        path, together, faults = tmp_path / f"{attempt}.db", threading.Barrier(4), list[BaseException]()

        async def first_use(path: Path = path, together: threading.Barrier = together) -> None:
            store = SQLiteStore(path)
            together.wait(10)
            assert await store.load(KEY) is None
            await store.aclose()

        _in_threads(first_use, 4, faults)
        assert faults == []


def test_event_loops_in_different_threads_share_a_store(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "sessions.db")
    asyncio.run(_create_and_close(store, row(tokens=b"0")))
    faults: list[BaseException] = []

    async def work() -> None:
        for _ in range(20):
            await increment_once(store, KEY)
        await store.aclose()

    _in_threads(work, 3, faults)
    assert faults == []
    after = asyncio.run(_load(tmp_path / "sessions.db"))
    assert after is not None and after.tokens == b"60"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_forked_while_a_thread_writes_open_the_file_for_themselves(tmp_path: Path) -> None:
    """As a server that loads the application, uses it and then forks: children inherit the object, open or not."""
    store = SQLiteStore(tmp_path / "sessions.db")
    asyncio.run(_create_and_close(store, row(tokens=b"0")))
    enough, by_the_parent = threading.Event(), 0

    async def parent() -> None:
        nonlocal by_the_parent
        while not enough.is_set() or by_the_parent < 20:
            await increment_once(store, KEY)
            by_the_parent += 1
        await store.aclose()

    writing = threading.Thread(target=lambda: asyncio.run(parent()))
    writing.start()
    statuses = [_fork_and_increment(store, 3) for _ in range(8)]
    enough.set()
    writing.join(60)
    assert statuses == [0] * 8
    after = asyncio.run(_load(tmp_path / "sessions.db"))
    assert after is not None and int(after.tokens) == by_the_parent + 8 * 3


def _fork_and_increment(store: SQLiteStore, times: int) -> int:
    async def child() -> None:
        for _ in range(times):
            await increment_once(store, KEY)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads are running: that is what is tried here
        pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(child())
        except BaseException as fault:
            os.write(2, f"{fault!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def test_a_read_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    store = impatient(tmp_path / "sessions.db")
    await store.create(row())
    await store.load(KEY)
    with held(tmp_path / "sessions.db", "BEGIN IMMEDIATE"):
        assert await store.load(KEY) == row()
        with pytest.raises(StoreUnavailable):
            await store.update(KEY, Touch(NOW + 1))
    await store.update(KEY, Touch(NOW + 1))
    await store.aclose()


async def test_a_write_waits_for_the_writer_before_it(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "sessions.db")
    await store.create(row())
    with held(tmp_path / "sessions.db", "BEGIN IMMEDIATE"):
        waiting = asyncio.ensure_future(store.update(KEY, Touch(NOW + 1)))
        assert await store.load(KEY) == row()
        assert not waiting.done()
    await waiting
    after = await store.load(KEY)
    assert after is not None and after.seen_at == NOW + 1
    await store.aclose()


async def test_writes_that_wait_behind_each_other_give_up_together(tmp_path: Path) -> None:
    """Each with a patience of its own, the twentieth request would wait twenty times as long as the first."""
    store = SQLiteStore(tmp_path / "sessions.db", busy_timeout=timedelta(seconds=0.2))
    await store.create(row())
    began = time.monotonic()
    with held(tmp_path / "sessions.db", "BEGIN IMMEDIATE"):
        touches = [store.update(KEY, Touch(NOW + number)) for number in range(20)]
        results = await asyncio.gather(*touches, return_exceptions=True)
    assert time.monotonic() - began < 2
    assert {type(result) for result in results} == {StoreUnavailable}
    await store.update(KEY, Touch(NOW + 1))
    await store.aclose()


async def test_the_write_ahead_log_does_not_stay_as_long_as_it_ever_was(tmp_path: Path) -> None:
    path, log = tmp_path / "sessions.db", tmp_path / "sessions.db-wal"
    store = SQLiteStore(path)
    await store.create(row(tokens=bytes(20_000_000)))
    assert log.stat().st_size > 20_000_000
    for number in range(2):  # the first begins the log anew
        await store.update(KEY, Touch(NOW + 1 + number))
    assert log.stat().st_size <= 16 * 1024 * 1024
    await store.aclose()


def _in_threads(work: Callable[[], Coroutine[None, None, None]], count: int, faults: list[BaseException]) -> None:
    """Run *work* in event loops of *count* threads and collect what went wrong."""

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


async def _create(path: Path, what: SessionRow) -> None:
    await _create_and_close(SQLiteStore(path), what)


async def _create_and_close(store: SQLiteStore, what: SessionRow) -> None:
    await store.create(what)
    await store.aclose()


async def _load(path: Path) -> SessionRow | None:
    store = SQLiteStore(path)
    try:
        return await store.load(KEY)
    finally:
        await store.aclose()
