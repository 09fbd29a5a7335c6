"""
What becomes of a session whose renewal dies: one process is killed (SIGKILL) at a checkpoint, another one takes over.

A cell of the table is a checkpoint, a store and a rotation profile. In a cell, several sessions renew in one process,
all of them stop at the checkpoint, and the process is killed. Then every session calls the second process.

- *survived*: 200 with a new token, and another renewal works later on.
- *re-login*: one clean end, 401 with `renewal_lost` or `session_ended`, which stays so and sends nothing more.
- *else*: any other answer; and every session of a cell in which a refresh token came more often than its provider
  allows.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tests.rig.fleet import Fleet, WorkerProcess
from tests.rig.worker_plan import LeaseSeconds, Protection
from tests.storm.stage import Profile, Stage, StoreName, Visitor, World, log_in

Point = Literal["lease_held", "marked", "answered", "before_write", "written"]
POINTS: tuple[Point, ...] = ("lease_held", "marked", "answered", "before_write", "written")

LEASE_TIMES = (1.0, 1.5, 0.25)
"""Short: each cell waits until the lease of a dead process has run out."""
_CLEAN_ENDS = ("renewal_lost", "session_ended")
_MOST_USES = {"strict": 1, "grace": 2}
"""How often one refresh token may come. Where nothing rotates, every renewal sends the same."""
_AT_A_BLOW = 10
"""Renewals that die with one process."""
_PATIENCE = 30.0
"""Seconds until a session has to be renewed, or has ended."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the table."""

    point: Point
    store: StoreName
    profile: Profile


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the sessions of a cell. *remarks* say what *other* was."""

    survived: int = 0
    relogin: int = 0
    other: int = 0
    remarks: tuple[str, ...] = ()

    def __add__(self, more: Tally) -> Tally:
        return Tally(
            self.survived + more.survived,
            self.relogin + more.relogin,
            self.other + more.other,
            self.remarks + more.remarks,
        )

    @property
    def kills(self) -> int:
        return self.survived + self.relogin + self.other

    def __str__(self) -> str:
        return f"{self.survived}/{self.relogin}/{self.other}"


async def crash(
    world: World,
    fleet: Fleet,
    cell: Cell,
    *,
    kills: int,
    lease_times: LeaseSeconds | None = LEASE_TIMES,
    without: Protection | None = None,
) -> Tally:
    """Kill a process with *kills* renewals at the checkpoint of *cell*, and see what is left."""
    plan = world.plan(cell.store, cell.profile, lease_times=lease_times, without=without)
    stage = await Stage.of(world, fleet, plan, cell.profile, workers=2)
    victim, successor = stage.workers
    sessions = await log_in(successor, kills)
    await stage.expire()
    checkpoint = f"renewal.{cell.point}"
    await victim.arm(checkpoint, count=kills)
    unanswered = [asyncio.create_task(session.ask(victim)) for session in sessions]
    await victim.reached(checkpoint, count=kills)
    await victim.kill()
    await asyncio.gather(*unanswered)
    ends = await asyncio.gather(*(_end(session, successor) for session in sessions))
    sent = await stage.log.refreshes()
    ends = await asyncio.gather(*map(_and_again, sessions, ends, [successor] * kills))
    sent_again = await stage.log.refreshes() - sent
    await stage.expire()
    ends = await asyncio.gather(*map(_and_again, sessions, ends, [successor] * kills))
    await successor.stop()
    if sent_again:
        return tally([f"{sent_again} refreshes after the end"] * kills)
    limit, uses = _MOST_USES.get(cell.profile), await stage.log.most_uses()
    if limit is not None and uses > limit:
        return tally([f"a refresh token came {uses} times"] * kills)
    return tally(ends)


def tally(ends: Iterable[str]) -> Tally:
    """Count how sessions ended: `survived`, `re-login`, or anything else."""
    counted = Counter(ends)
    others = {end: count for end, count in counted.items() if end not in ("survived", "re-login")}
    remarks = tuple(f"{count} x {end}" for end, count in others.items())
    return Tally(counted["survived"], counted["re-login"], sum(others.values()), remarks)


async def _end(session: Visitor, successor: WorkerProcess) -> str:
    """Call until there is an answer that stays."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        answer = await session.ask(successor)
        if answer.status != 503 or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.1)  # as a page would that was told to come back
    if answer.status == 200:
        return "survived"
    if answer.status == 401 and answer.code in _CLEAN_ENDS:
        return "re-login"
    return f"{answer.status} {answer.code}"


async def _and_again(session: Visitor, end: str, successor: WorkerProcess) -> str:
    """What has ended stays so, and what lives goes on, at once and one token lifetime later."""
    answer = await session.ask(successor)
    if end == "survived" and answer.status != 200:
        return f"survived, but later {answer.status} {answer.code}"
    if end == "re-login" and answer.status != 401:
        return f"ended, but later {answer.status} {answer.code}"
    return end


async def table(
    world: World, cells: Sequence[Cell], *, kills: int, at_once: int = 3, results: Results | None = None
) -> dict[Cell, Tally]:
    """Go through *cells*, a few at a time; with *results*, only through what these lack."""
    results = results or Results(None)
    few = asyncio.Semaphore(at_once)

    async def fill(fleet: Fleet, cell: Cell) -> None:
        async with few:
            while (missing := kills - results.of(cell).kills) > 0:
                results.add(cell, await crash(world, fleet, cell, kills=min(missing, _AT_A_BLOW)))

    async with Fleet() as fleet:
        await asyncio.gather(*(fill(fleet, cell) for cell in cells))
    return {cell: results.of(cell) for cell in cells}


class Results:
    """Tallies by cell, appended to a file as they come, so that a long run can go on where it was cut off."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._tallies: dict[Cell, Tally] = {}
        if file is not None and file.exists():
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                tallied = Tally(**{**entry["tally"], "remarks": tuple(entry["tally"]["remarks"])})
                self._keep(Cell(**entry["cell"]), tallied)

    def of(self, cell: Cell) -> Tally:
        """What is known about *cell*."""
        return self._tallies.get(cell, Tally())

    def add(self, cell: Cell, tallied: Tally) -> None:
        """Add what came of one more process."""
        self._keep(cell, tallied)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as file:
                file.write(json.dumps({"cell": asdict(cell), "tally": asdict(tallied)}) + "\n")

    def _keep(self, cell: Cell, tallied: Tally) -> None:
        self._tallies[cell] = self.of(cell) + tallied
