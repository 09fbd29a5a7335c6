"""SQLite: messages between processes, by looking; who looks when, and what ends it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from coatcheck.errors import StoreUnavailable
from coatcheck.stores import SQLiteStore, sqlite_messages
from tests.rig.programs import Program
from tests.sessions.samples import NOW
from tests.stores.sqlite_samples import impatient
from tests.testing.clocks import HandClock

PUBLISH = """
import asyncio, sys
from coatcheck.stores import SQLiteStore

async def main():
    store = SQLiteStore(sys.argv[1])
    async with store.subscribe("to the child") as messages:
        print("ready", flush=True)
        await store.publish("to the parent", b"answer to " + await anext(messages))
    await store.aclose()

asyncio.run(main())
"""


async def heard(messages: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(20):
        return await anext(messages)


def looking() -> int:
    """How many tasks there are besides the test."""
    return len(asyncio.all_tasks()) - 1


async def test_another_process_hears_and_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SQLiteStore(path)
    async with store.subscribe("to the parent") as messages:
        with Program([sys.executable, "-c", PUBLISH, path]) as child:
            await asyncio.to_thread(child.wait_for, "ready")
            await store.publish("to the child", b"question")
            assert await heard(messages) == b"answer to question"
    await store.aclose()


async def test_event_loops_in_two_threads_hear_each_other(tmp_path: Path) -> None:
    store, ready = SQLiteStore(tmp_path / "store.db"), threading.Event()

    async def answer() -> None:
        async with store.subscribe("questions") as messages:
            ready.set()
            await store.publish("answers", await heard(messages))
        await store.aclose()

    other = threading.Thread(target=lambda: asyncio.run(answer()))
    async with store.subscribe("answers") as messages:
        other.start()
        assert await asyncio.to_thread(ready.wait, 20)
        await store.publish("questions", b"?")
        assert await heard(messages) == b"?"
    await asyncio.to_thread(other.join, 20)
    await store.aclose()


async def test_all_subscribers_of_a_loop_share_one_look_and_without_them_nobody_looks(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.db")
    await store.publish("channel", b"to nobody")
    assert looking() == 0
    async with store.subscribe("channel") as one:
        async with store.subscribe("channel") as two, store.subscribe("another"):
            assert looking() == 1
            await store.publish("channel", b"first")
            assert [await heard(messages) for messages in (one, two)] == [b"first"] * 2
        assert looking() == 1
        await store.publish("channel", b"second")
        assert await heard(one) == b"second"
    await asyncio.sleep(0)
    assert looking() == 0
    async with store.subscribe("channel") as again:
        await store.publish("channel", b"third")
        assert await heard(again) == b"third"
    await store.aclose()


async def test_whoever_comes_while_others_talk_misses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks, messages and beginnings of blocks in any order, with no pause between the looks."""
    monkeypatch.setattr(sqlite_messages, "_LOOK_EVERY", 0.0)
    talker, store, said = SQLiteStore(tmp_path / "store.db"), SQLiteStore(tmp_path / "store.db"), 0

    async def talk() -> None:
        nonlocal said
        for number in range(1, 201):
            await talker.publish("channel", b"%d" % number)
            said = number

    async def come_from_time_to_time() -> None:
        coming = []
        while said < 150:
            before = said
            coming.append(asyncio.create_task(expect_from(before)))
            await asyncio.sleep(0.001)
        await asyncio.gather(*coming)

    async def expect_from(before: int) -> None:
        async with store.subscribe("channel") as messages:
            begun = said  # what was said until here may be heard or not; all that is said from here on is
            first = int(await heard(messages))
            assert before < first <= begun + 2
            for number in range(first + 1, 201):
                assert int(await heard(messages)) == number

    async with asyncio.timeout(60), store.subscribe("channel"):
        await asyncio.gather(talk(), come_from_time_to_time())
    await talker.aclose()
    await store.aclose()


async def test_messages_are_removed_after_a_minute_behind_a_write(tmp_path: Path) -> None:
    clock = HandClock(NOW)
    store = SQLiteStore(tmp_path / "store.db", clock)
    for number in range(3):
        await store.publish("channel", b"%d" % number)
        clock.forward(timedelta(seconds=25))
    await store.publish("channel", b"3")
    assert await kept(store) == [b"1", b"2", b"3"]  # from 0 to 75 s; what is 50 s old stays
    async with store.subscribe("channel") as messages:
        clock.forward(timedelta(hours=1))
        assert await store.expire(clock.time(), limit=100) == 3
        assert await kept(store) == []
        await store.publish("channel", b"numbers go on when all rows are gone")
        assert await heard(messages) == b"numbers go on when all rows are gone"
    await store.aclose()


async def kept(store: SQLiteStore) -> list[bytes]:
    """Read in the writer's thread, so after everything that was handed to it before."""

    def select(connection: sqlite3.Connection) -> list[bytes]:
        return [message for (message,) in connection.execute("SELECT message FROM coatcheck_messages ORDER BY id")]

    return await store._file().write(select)


# What ends it


async def test_closing_the_store_is_told_to_its_subscribers(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.db")
    async with store.subscribe("channel") as messages:
        await store.publish("channel", b"before")
        assert await heard(messages) == b"before"
        await store.aclose()
        assert looking() == 0
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="was closed"):
                await heard(messages)
        async with store.subscribe("channel") as again:
            await store.publish("channel", b"after")
            assert await heard(again) == b"after"
    await store.aclose()


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an open file cannot be removed")
@pytest.mark.parametrize("replaced_by", ["nothing yet", "a file of another process", "a folder"])
async def test_a_file_that_is_removed_or_replaced_is_told(replaced_by: str, tmp_path: Path) -> None:
    """The numbers in the new file begin again, and who only listens would go on with the old one for ever."""
    path = tmp_path / "store.db"
    ours, theirs = SQLiteStore(path), SQLiteStore(path)
    await theirs.publish("channel", b"one")
    await theirs.publish("channel", b"two")
    async with ours.subscribe("channel") as messages:
        for file in list(tmp_path.iterdir()):
            file.unlink()
        if replaced_by == "a file of another process":
            await theirs.publish("channel", b"a new one")
        elif replaced_by == "a folder":
            path.mkdir()
        with pytest.raises(StoreUnavailable, match=r"store\.db was replaced"):
            await heard(messages)
        if replaced_by == "a folder":
            with pytest.raises(StoreUnavailable, match="does not answer"):
                async with ours.subscribe("channel"):
                    pass
            path.rmdir()
        async with ours.subscribe("channel") as again:
            await theirs.publish("channel", b"in the new file")
            assert await heard(again) == b"in the new file"
    await ours.aclose()
    await theirs.aclose()


async def test_who_comes_before_the_old_look_notices_looks_into_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SQLiteStore(path)
    await store.publish("channel", b"one")
    await store.publish("channel", b"two")
    async with store.subscribe("channel") as old:
        for file in list(tmp_path.iterdir()):
            file.unlink()
        async with store.subscribe("channel") as new:
            await store.publish("channel", b"in the new file")
            assert await heard(new) == b"in the new file"
        # The new file may be where the old one was on the disk: then its numbers tell.
        with pytest.raises(StoreUnavailable, match=r"was replaced|older state"):
            await heard(old)
    await store.aclose()


async def test_a_restored_file_is_told(tmp_path: Path) -> None:
    """Restored into the file that is open, as `sqlite3 store.db '.restore backup.db'` does."""
    path, backup = tmp_path / "store.db", tmp_path / "backup.db"
    store = SQLiteStore(path)
    await store.publish("channel", b"before the backup")
    with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    await store.publish("channel", b"after it")
    async with store.subscribe("channel") as messages:
        with sqlite3.connect(backup) as source, sqlite3.connect(path) as target:
            source.backup(target)
        source.close()
        target.close()
        with pytest.raises(StoreUnavailable, match="restored from an older state"):
            await heard(messages)
    async with store.subscribe("channel") as messages:
        await store.publish("channel", b"after the restore")
        assert await heard(messages) == b"after the restore"
    await store.aclose()


async def test_a_connection_that_breaks_is_opened_anew_and_nothing_is_missed(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.db")
    async with store.subscribe("channel") as messages:
        file = store._file()
        assert file._reader is not None
        file._reader.close()
        await store.publish("channel", b"still there")
        assert await heard(messages) == b"still there"
    await store.aclose()


async def test_a_file_that_somebody_holds_is_told(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = impatient(path)
    async with store.subscribe("channel") as messages:
        store._file().hold_still()  # as for the moment of a fork: nothing is open
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("PRAGMA locking_mode = exclusive")
        other.execute("BEGIN EXCLUSIVE")
        store._file().go_on()
        with pytest.raises(StoreUnavailable, match="locked"):
            await heard(messages)
        with pytest.raises(StoreUnavailable, match="locked"):
            async with store.subscribe("channel"):
                pass
        other.execute("ROLLBACK")
        other.close()
        async with store.subscribe("channel") as again:
            await store.publish("channel", b"free again")
            assert await heard(again) == b"free again"
    await store.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_fork_disturbs_neither_parent_nor_child(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.db")
    async with store.subscribe("to the parent") as messages, store.subscribe("ready") as ready:
        pid = await asyncio.to_thread(forked, lambda: asyncio.run(answer_the_parent(store)))
        assert await heard(ready) == b"the child listens"
        await store.publish("to the child", b"question")
        assert await heard(messages) == b"question"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    await store.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_runs_its_parents_event_loop_looks_for_itself(tmp_path: Path) -> None:
    """As a server that makes the loop, uses the store and then forks its workers."""
    store, loop = SQLiteStore(tmp_path / "store.db"), asyncio.new_event_loop()

    async def hear_oneself() -> None:
        async with store.subscribe("channel") as messages:
            await store.publish("channel", b"heard")
            assert await heard(messages) == b"heard"

    block = store.subscribe("channel")
    loop.run_until_complete(block.__aenter__())
    pid = forked(lambda: loop.run_until_complete(hear_oneself()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    loop.run_until_complete(hear_oneself())
    loop.run_until_complete(block.__aexit__(None, None, None))
    loop.run_until_complete(store.aclose())
    loop.close()


async def answer_the_parent(store: SQLiteStore) -> None:
    async with store.subscribe("to the child") as messages:
        await store.publish("ready", b"the child listens")
        await store.publish("to the parent", await heard(messages))


def forked(work: Callable[[], object]) -> int:
    """Do *work* in a child; the child's process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads are running: that is what is tried here
        pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as fault:
            os.write(2, f"{fault!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return pid
