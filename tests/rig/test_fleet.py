"""The fleet itself: what the parent says is done, and nobody is left behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from coatcheck.sessions.seal import new_key
from tests.rig.fleet import Fleet, WorkerProcess
from tests.rig.programs import ProgramFailed
from tests.rig.volley import Call, one, spread, volley
from tests.rig.worker_plan import WorkerPlan

PUBLIC_URL = "http://localhost:8000"


def plan(folder: Path) -> WorkerPlan:
    """An application that nobody can log in to: its issuer is not there."""
    return WorkerPlan(
        public_url=PUBLIC_URL,
        issuer="http://127.0.0.1:9",
        client_id="shop",
        client_secret="s",
        keys=[new_key()],
        store=f"sqlite://{folder}/sessions.db",
        api="http://127.0.0.1:9",
    )


def alive(worker: WorkerProcess) -> bool:
    """Whether the process runs, or is stopped; a dead one is buried by the system."""
    try:
        state = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


async def test_workers_are_processes_of_their_own_and_answer(tmp_path: Path) -> None:
    async with Fleet() as fleet:
        workers = await fleet.start(plan(tmp_path), 2)
        assert len({worker.pid for worker in workers} | {os.getpid()}) == 3
        answers = await volley(spread([worker.port for worker in workers], 10, PUBLIC_URL, [""]))
        assert [answer.status for answer in answers] == [401] * 10
        assert answers[0].code == "session_missing"
    assert not any(map(alive, workers))


async def test_nobody_is_left_behind_though_the_test_fails_and_a_worker_is_stopped(tmp_path: Path) -> None:
    workers: list[WorkerProcess] = []
    with pytest.raises(ZeroDivisionError):
        async with Fleet() as fleet:
            workers += await fleet.start(plan(tmp_path), 2)
            await workers[0].freeze()
            raise ZeroDivisionError
    assert not any(map(alive, workers))


async def test_a_killed_worker_answers_nobody_and_can_be_replaced(tmp_path: Path) -> None:
    async with Fleet() as fleet:
        first, second = await fleet.start(plan(tmp_path), 2)
        await first.kill()
        assert (await one(Call(first.port, PUBLIC_URL, ""))).status == 0
        with pytest.raises(ProgramFailed, match="0 of 1 came to"):
            await first.reached("renewal.marked")
        assert (await one(Call(second.port, PUBLIC_URL, ""))).status == 401
        [third] = await fleet.start(plan(tmp_path))
        assert (await one(Call(third.port, PUBLIC_URL, ""))).status == 401


async def test_a_stopped_worker_answers_when_it_goes_on(tmp_path: Path) -> None:
    async with Fleet() as fleet:
        [worker] = await fleet.start(plan(tmp_path))
        await worker.freeze()
        asked = asyncio.create_task(one(Call(worker.port, PUBLIC_URL, "")))
        await asyncio.wait((asked,), timeout=0.2)
        assert not asked.done()
        worker.thaw()
        assert (await asked).status == 401


async def test_a_worker_says_how_much_it_remembers_and_finishes_when_told(tmp_path: Path) -> None:
    async with Fleet() as fleet:
        [worker] = await fleet.start(plan(tmp_path))
        await worker.move_clock(100)
        await worker.drain()
        assert (await worker.sizes())["flights"] == 0
        await worker.stop()
        assert worker.gone.is_set()
