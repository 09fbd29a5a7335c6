"""Several processes remove what is over from one store, while others use what is not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from coatcheck.sessions import SessionRow
from coatcheck.stores.urls import Store, open_store
from tests.rig.postgresql import PostgreSQL
from tests.rig.programs import ROOT
from tests.stores import cleaner
from tests.stores.cleaner import USED
from tests.stores.sqlite_samples import row

HOUR = 3600.0
CLEANERS, USERS, ROUNDS = 2, 2, 40


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = open_store(url)
    try:
        yield store
    finally:
        await store.aclose()


def dead_rows(now: float) -> list[SessionRow]:
    """Three hundred that have reached their end, and as many that nobody used for too long."""
    over = [replace(row(b"o" * 30 + number.to_bytes(2, "big")), expires_at=now) for number in range(300)]
    idle = [replace(row(b"i" * 30 + number.to_bytes(2, "big")), seen_at=now - HOUR) for number in range(300)]
    return [
        replace(each, created_at=now - HOUR, sub_key=each.key) for two in zip(over, idle, strict=True) for each in two
    ]


@pytest.mark.spec("SES-10")
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_processes_that_clean_hinder_neither_each_other_nor_who_is_logged_in(
    kind: str, tmp_path: Path, postgresql: PostgreSQL
) -> None:
    """Nobody meets a deadlock, what is in use stays, and no row is removed twice."""
    url = f"sqlite://{tmp_path}/sessions.db" if kind == "sqlite" else postgresql.fresh_database()
    now = time.time()
    used = [replace(row(key), created_at=now, seen_at=now, expires_at=now + HOUR) for key in USED]
    dead = dead_rows(now)
    async with opened(url) as store:
        await asyncio.gather(*(store.create(each) for each in used + dead))
        removed = await asyncio.to_thread(at_once, [(url, "clean")] * CLEANERS + [(url, "use")] * USERS)
        assert removed[CLEANERS:] == [ROUNDS] * USERS
        assert sum(removed[:CLEANERS]) <= len(dead) + USERS * ROUNDS
        await store.expire(time.time(), limit=10_000)
        assert [await store.load(each.key) for each in dead] == [None] * len(dead)
        assert await store.find("abcdefgh", [each.sub_key for each in dead]) == []
        left = [await store.load(key) for key in USED]
        assert [each is not None and each.seen_at >= now for each in left] == [True] * len(USED)


def at_once(commands: list[tuple[str, str]]) -> list[int]:
    """Run `cleaner.py` in several processes from the same moment on; the number that each prints."""
    with ExitStack() as stack:
        running = []
        for url, what in commands:
            command = [sys.executable, "-m", cleaner.__name__, url, what, str(ROUNDS)]
            pipe = subprocess.PIPE
            running.append(
                stack.enter_context(
                    subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
                )
            )
        for process in running:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        outputs = []
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in running:
            printed, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
            outputs.append(int(printed.split()[-1]))
        return outputs
