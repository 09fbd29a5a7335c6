"""Random histories of processes that crash, stop and fail: the invariants of the coordinator hold in each of them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from random import Random, seed
from typing import Any

import pytest

from tests.rig.worker_plan import Protection
from tests.testing.clocks import HandClock
from tests.tokens.faulty_world import Process
from tests.tokens.renewal_model import PARAMETERS, PROFILES, World
from tests.tokens.virtual_time import VirtualTimeLoop

HISTORIES = int(os.environ.get("COATCHECK_MODEL_HISTORIES", "50"))
"""Histories for each kind of store."""
FIRST = int(os.environ.get("COATCHECK_MODEL_FIRST", "0"))
"""The number of the first one: the same number is the same history, always and everywhere."""
HISTORIES_OF_A_CONTROL = 60
"""Histories within which a missing protection has to be found."""

Step = tuple[Any, ...]
"""The name of a method of `History`, and its arguments."""
MakeStep = Callable[[Random], Step]


def step(name: str, *choices: Sequence[Any]) -> MakeStep:
    return lambda random: (name, *(random.choice(each) for each in choices))


PROCESSES = (0, 1, 2)
USERS = ("alice", "alice", "bob")
POINTS = ("now", "lease_held", "marked", "answered", "before_write", "written")
FAULTS = ("refuses", "unheard", "hangs")
OPERATIONS = (1, 2, 5, 10**9)
ANSWERS = ("lost", "never", "error", "not_sent", "slow", "too_slow")
EVERYDAY = (
    step("call", PROCESSES, USERS, tuple(PARAMETERS), (1, 1, 2, 5)),
    step("rush", USERS, (280.0, 296.0, 296.0)),
    step("time_passes", (0.01, 0.12, 0.5, 2.0)),
    step("time_passes", (0.12, 6.0, 13.0, 25.0, 90.0)),
)
TROUBLES = {
    "kills": (
        step("is_killed", PROCESSES, POINTS),
        step("is_caught", ("is_killed",), PROCESSES, USERS, POINTS[2:]),
        step("goes_on", PROCESSES),
    ),
    "stops": (
        step("is_stopped", PROCESSES, POINTS),
        step("is_caught", ("is_stopped",), PROCESSES, USERS, POINTS[1:]),
        step("goes_on", PROCESSES),
    ),
    "deploys": (step("is_deployed", PROCESSES),),
    "provider": (step("provider_fails", ANSWERS),),
    "coordination": (step("coordination_fails", FAULTS, OPERATIONS), step("stores_are_well_again")),
    "sessions": (step("session_store_fails", FAULTS, OPERATIONS), step("stores_are_well_again")),
    "users": (step("logs_out", PROCESSES, USERS), step("logs_in", USERS)),
    "ends": (step("provider_ends_the_grant", USERS),),
    "rollback": (step("replica_catches_up"), step("replica_is_promoted")),
}
"""By what they have in common. A history has one or two kinds: with all at once everything would have an excuse."""


def steps_of(random: Random) -> list[Step]:
    kinds = {"kills"} if random.random() < 0.2 else {"stops"} if random.random() < 0.25 else set()
    kinds |= set(random.sample(sorted(TROUBLES), 1 if kinds else random.choice((1, 2, 2))))
    troubles = [trouble for kind in sorted(kinds) for trouble in TROUBLES[kind]]
    return [random.choice(EVERYDAY if random.random() < 0.65 else troubles)(random) for _ in range(30)]


class History:
    """Two or three processes, two users whose tokens have just expired, and what happens to them."""

    def __init__(self, kind: str, profile: str, number: int, without: Protection | None) -> None:
        self._loop = VirtualTimeLoop(HandClock())
        self._loop.set_exception_handler(self._unnoticed)
        self._complaints: list[str] = []
        self.world = World(kind, profile, number, self._loop.hands, without)

    def live(self, steps: list[Step]) -> None:
        try:
            self._do(self._begin())
            for name, *arguments in steps:
                self._do(getattr(self, name)(*arguments))
            self._do(self.world.calm())
        finally:
            self._end()

    async def _begin(self) -> None:
        for sub in ("alice", "bob"):
            await self.world.log_in(sub)
        await asyncio.sleep(296.0)

    async def call(self, number: int, sub: str, parameters: str, times: int) -> None:
        process = self._process(number)
        for _ in range(times if process.serves else 0):
            self.world.begin_call(process, sub, PARAMETERS[parameters])

    async def rush(self, sub: str, seconds: float) -> None:
        """Time passes, and then everybody wants a token at the same time."""
        await asyncio.sleep(seconds)
        for number in PROCESSES:
            await self.call(number, sub, "login", 2)

    async def time_passes(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def is_killed(self, number: int, point: str) -> None:
        process = self._process(number)
        process.at(point, process.kill)

    async def is_stopped(self, number: int, point: str) -> None:
        process = self._process(number)
        process.at(point, process.stop)

    async def is_caught(self, how: str, number: int, sub: str, point: str) -> None:
        """In the middle of a renewal; and by the time that its lease has run out, others want the token."""
        await asyncio.sleep(296.0)
        await getattr(self, how)(number, point)
        await self.call(number, sub, "login", 1)
        await asyncio.sleep(7.0)
        await self.rush(sub, 6.0)

    async def goes_on(self, number: int) -> None:
        """Wake a process that was stopped, or start one in the place of the one that was killed."""
        process = self._process(number)
        process.wake()
        if process.killed:
            self.world.replace(process)

    async def is_deployed(self, number: int) -> None:
        process = self._process(number)
        if process.serves:
            self.world.replace(process)
            self.world.begin_ending(process)

    async def provider_fails(self, answer: str) -> None:
        self.world.answers.append(answer)

    async def coordination_fails(self, fault: str, operations: int) -> None:
        self.world.coordination_faults.begin(fault, operations)

    async def session_store_fails(self, fault: str, operations: int) -> None:
        self.world.session_faults.begin(fault, operations)

    async def stores_are_well_again(self) -> None:
        self.world.coordination_faults.end()
        self.world.session_faults.end()

    async def logs_out(self, number: int, sub: str) -> None:
        process = self._process(number)
        if process.serves:
            self.world.begin_logout(process, sub)

    async def logs_in(self, sub: str) -> None:
        await self.world.log_in(sub)

    async def provider_ends_the_grant(self, sub: str) -> None:
        self.world.revoke_at_the_provider(sub)

    async def replica_catches_up(self) -> None:
        self.world.take_snapshot()

    async def replica_is_promoted(self) -> None:
        self.world.roll_back()

    def _process(self, number: int) -> Process:
        return self.world.processes[number % len(self.world.processes)]

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        async def done_and_checked() -> None:
            await work
            await asyncio.sleep(0)
            await self.world.check()

        self._loop.run_until_complete(done_and_checked())
        assert not self._complaints, self._complaints

    def _end(self) -> None:
        self.world.over = True
        for _ in range(100):
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left))
        self._loop.close()

    def _unnoticed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._complaints.append(f"{context.get('message')}: {context.get('exception')!r}")


@dataclass(frozen=True)
class Plan:
    """A history before it happens."""

    profile: str
    processes: int
    steps: list[Step]

    @classmethod
    def number(cls, number: int) -> Plan:
        random = Random(number)
        return cls(random.choice(PROFILES), random.choice((2, 3)), steps_of(random))

    def failure(self, kind: str, without: Protection | None = None) -> str:
        """Carry it out and say what went wrong; nothing, if all ended well."""
        seed(0)  # of the back-off
        try:
            History(kind, self.profile, self.processes, without).live(self.steps)
        except AssertionError as error:
            return str(error) or "an assertion"
        return ""

    def shortened(self, kind: str) -> Plan:
        """Leave out what does not matter for the failure."""
        plan, size = self, len(self.steps) // 2
        while size:
            for start in range(len(plan.steps) - size, -1, -size):
                fewer = replace(plan, steps=plan.steps[:start] + plan.steps[start + size :])
                if fewer.failure(kind):
                    plan = fewer
            size //= 2
        return plan


@pytest.mark.spec("REF-36", "REF-02", "REF-04", "REF-10", "REF-28")
@pytest.mark.parametrize("kind", ["sessions", "table", "cookies"])
def test_the_invariants_hold_in_every_history(kind: str) -> None:
    for number in range(FIRST, FIRST + HISTORIES):
        plan = Plan.number(number)
        if plan.failure(kind):
            short = plan.shortened(kind)
            pytest.fail(f"{short.failure(kind)}\nhistory {number} over {kind}: {short}")


@pytest.mark.spec("REF-36")
@pytest.mark.parametrize("without", ["lease", "reread", "mark", "cas"])
def test_a_protection_that_is_missing_is_found(without: Protection) -> None:
    failures = (Plan.number(number).failure("sessions", without) for number in range(HISTORIES_OF_A_CONTROL))
    first = next(filter(None, failures), "nothing")
    assert re.match(r"I[1-7]: ", first), f"without {without} was found: {first}"
