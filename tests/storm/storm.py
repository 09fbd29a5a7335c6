"""
Storms: many calls at once, over several processes, on a token that has expired; and what the provider saw of it.

A storm over server-side sessions takes these rounds in turn. Every round makes `calls` calls and is due one refresh:

- *herd*: all calls at once, spread over all processes, on an expired token.
- *latecomer*: one process has loaded the session and stands before the lease, while the others renew and are done.
- *stopped_with_answer*: the token still works for a few seconds. The process that renews it is stopped (SIGSTOP) with
  the answer in its hands until its lease has run out, the others are called meanwhile, then it goes on (SIGCONT).
  Afterwards every process has the new token. (Only where refresh tokens must not be sent twice, else *herd*.)
- *stopped_before_sending*: one call brings a process so far that it is about to send. It is stopped until its lease has
  run out and another one has renewed; more calls wait for it meanwhile. Then it goes on.
- *herd* once more.

Leases are shorter than in production (2 s, and 3 s while a request is out), so that a stopped holder's runs out.

After each third round a second browser logs out at one process while another one is about to write its renewed
token: the session has to stay dead, and the new refresh token has to be revoked. Its calls and its one refresh are not
in the figures; that it went so is a condition of success.

Over cookie sessions the browser is unlucky in turn: every answer arrives; none does; none again; one does; and an
answer to a straggler that carries the cookie from before the renewal arrives last.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.rig.fleet import Fleet, WorkerProcess
from tests.rig.gated_store import BEFORE_LEASE
from tests.rig.programs import ProgramFailed
from tests.rig.volley import CallAnswer, spread, volley
from tests.rig.worker_plan import LeaseSeconds, Protection, SessionKind
from tests.storm.stage import PUBLIC_URL, Profile, Stage, StoreName, Visitor, World, log_in

LEASE_TIMES = (2.0, 3.0, 0.5)
"""Shorter than in production, so that a stopped holder's lease runs out while somebody watches."""
_LEFT = 20.0
"""Seconds that a stale token has left: it works for the whole round."""
_LOSES_LEASE = 0.3
_LOGOUT_AFTER = 3
_REVOKED: dict[Profile, int] = {"strict": 2, "none": 1, "grace": 0}
"""
Refresh tokens that a logout in the middle of a renewal revokes: the stored one, and the new one if there is a new one.
django-oauth-toolkit does not announce where to revoke.
"""
_SOON = 6.0
"""Seconds until somebody who has to renew stands at a checkpoint."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which storm."""

    processes: int = 4
    calls: int = 200
    rounds: int = 20
    store: StoreName = "sqlite"
    rotation: Profile = "strict"
    sessions: SessionKind = "server"
    without: Protection | None = None
    lease_times: LeaseSeconds = LEASE_TIMES


@dataclass
class Score:
    """What came of it. *complaints* are conditions beside the figures that did not hold."""

    wanted: Wanted
    refreshes: int = 0
    ok: int = 0
    reuse: int = 0
    logouts: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The figures; where they are right and something else is not, what that is."""
        figures = f"refreshes={self.refreshes} ok={self.ok} reuse={self.reuse} logouts={self.logouts}"
        return f"{figures} but: {self.complaints[0]}" if self.complaints and self._figures_right else figures

    @property
    def success(self) -> bool:
        """Exactly one refresh for each round, every call answered, nothing else."""
        return self._figures_right and not self.complaints

    @property
    def _figures_right(self) -> bool:
        due = (self.wanted.rounds, self.wanted.rounds * self.wanted.calls, 0, 0)
        return (self.refreshes, self.ok, self.reuse, self.logouts) == due


async def storm(world: World, wanted: Wanted, *, seed: int = 1) -> Score:
    """Start the processes, let it rage, and count."""
    plan = world.plan(
        wanted.store, wanted.rotation, sessions=wanted.sessions, lease_times=wanted.lease_times, without=wanted.without
    )
    async with Fleet() as fleet:
        stage = await Stage.of(world, fleet, plan, wanted.rotation, workers=wanted.processes)
        raging = _Storm(stage, wanted, random.Random(seed))
        await raging.rage()
        if not raging.score.success:
            raging.score.complaints += [f"log: {line[:200]}" for line in fleet.output.splitlines()[-5:]]
        return raging.score


_Round = Callable[[], Awaitable[None]]


class _Storm:
    def __init__(self, stage: Stage, wanted: Wanted, chance: random.Random) -> None:
        self.stage = stage
        self.wanted = wanted
        self.chance = chance
        self.score = Score(wanted)
        self.workers = stage.workers
        self.token: str | None = None
        """The access token of the last round."""
        self.visitors: list[Visitor] = []
        self.leavers: list[Visitor] = []

    async def rage(self) -> None:
        rounds: tuple[_Round, ...]
        if self.wanted.sessions == "server":
            third = self.stopped_with_answer if self.wanted.rotation == "strict" else self.herd
            rounds = (self.herd, self.latecomer, third, self.stopped_before_sending, self.herd)
        elif self.wanted.sessions == "cookie":
            rounds = (self.all_arrive, self.none_arrives, self.none_arrives, self.one_arrives, self.straggler)
        else:
            rounds = (self.herd,)
        kinds = [rounds[number % len(rounds)] for number in range(self.wanted.rounds)]
        self.visitors = await log_in(self.workers[0], 2 if self.wanted.sessions == "shared-grant" else 1)
        if self.wanted.sessions == "server":
            self.leavers = await log_in(self.workers[0], len(kinds[_LOGOUT_AFTER - 1 :: len(rounds)]))
        for number, kind in enumerate(kinds, start=1):
            before = await self.stage.log.refreshes()
            ok = self.score.ok
            try:
                await kind()
            except ProgramFailed as failed:
                self._complain(f"round {number} ({kind.__name__}) could not be finished: {failed}")
                break
            await self.stage.drain()
            refreshes = await self.stage.log.refreshes() - before
            self.score.refreshes += refreshes
            if refreshes != 1 or self.score.ok - ok != self.wanted.calls:
                self._complain(f"round {number} ({kind.__name__}): refreshes={refreshes} ok={self.score.ok - ok}")
            if self.score.logouts:
                self._complain("nothing can be renewed any more; the rest was left out")
                break
            if self.wanted.sessions == "server" and number % len(rounds) == _LOGOUT_AFTER:
                await self._logout_while_renewing()
        await self._look_who_is_left()
        self.score.reuse = await self.stage.log.reuse()

    # Rounds over a store.

    async def herd(self) -> None:
        await self.stage.expire()
        self._count(await self._volley(self.workers, self.wanted.calls))

    async def latecomer(self) -> None:
        late, others = self._one_and_others()
        share = self.wanted.calls // len(self.workers)
        await self.stage.expire()
        await late.arm(BEFORE_LEASE, count=1_000)
        waiting = asyncio.create_task(self._volley([late], share))
        await late.reached(BEFORE_LEASE, seconds=_SOON)
        answers = await self._volley(others, self.wanted.calls - share)
        await late.release(BEFORE_LEASE)
        self._count(answers + await waiting)

    async def stopped_with_answer(self) -> None:
        holder, others = self._one_and_others()
        share = self.wanted.calls // len(self.workers)
        after = len(self.workers)
        await self.stage.make_stale(left=_LEFT)
        await holder.arm("renewal.answered")
        answers = await self._volley([holder], share)
        await holder.reached("renewal.answered", seconds=_SOON)
        await holder.freeze()
        try:
            await asyncio.sleep(max(self.wanted.lease_times) + _LOSES_LEASE)  # the clock of a lease is a database's
            answers += await self._volley(others, self.wanted.calls - share - after)
            await asyncio.gather(*(worker.drain() for worker in others))
        finally:
            holder.thaw()
        await holder.release("renewal.answered")
        await holder.drain()
        self._count(answers, new=False)
        self._count(await self._volley(self.workers, after))

    async def stopped_before_sending(self) -> None:
        holder, others = self._one_and_others()
        share = self.wanted.calls // len(self.workers)
        await self.stage.expire()
        await holder.arm("renewal.lease_held")
        waiting = [asyncio.create_task(self._volley([holder], 1))]
        await holder.reached("renewal.lease_held", seconds=_SOON)
        await holder.freeze()
        try:
            waiting.append(asyncio.create_task(self._volley([holder], share - 1)))
            answers = await self._volley(others, self.wanted.calls - share)
        finally:
            holder.thaw()
        await holder.release("renewal.lease_held")
        self._count([*answers, *await waiting[0], *await waiting[1]])

    async def _logout_while_renewing(self) -> None:
        leaver = self.leavers.pop()
        holder, others = self._one_and_others()
        await self.stage.expire()
        revoked = await self.stage.log.revoked()
        before = await self.stage.log.refreshes()
        await holder.arm("renewal.before_write")
        waiting = asyncio.create_task(leaver.ask(holder))
        await holder.reached("renewal.before_write", seconds=_SOON)
        cookie = leaver.cookie
        out = await leaver.ask(others[0], "/bff/logout", "POST")
        await holder.release("renewal.before_write")
        last = await waiting
        after = await volley(spread([worker.port for worker in self.workers], len(self.workers), PUBLIC_URL, [cookie]))
        await self.stage.drain()
        if out.status >= 400:
            self._complain(f"logout during a renewal: answered {out.status} {out.code}")
        if {answer.status for answer in [last, *after]} != {401}:
            self._complain(f"the session of a logout lives: {last.status}, then {[answer.status for answer in after]}")
        if await self.stage.log.refreshes() - before != 1:
            self._complain("logout during a renewal: not one refresh")
        if len(await self.stage.log.revoked() - revoked) != _REVOKED[self.wanted.rotation]:
            self._complain("logout during a renewal: the new refresh token was not revoked")

    # Rounds over cookies.

    async def all_arrive(self) -> None:
        for answer in await self._cookie_herd():
            self.visitors[0].receive(answer)

    async def none_arrives(self) -> None:
        await self._cookie_herd()

    async def one_arrives(self) -> None:
        answers = await self._cookie_herd()
        self.visitors[0].receive(self.chance.choice([answer for answer in answers if answer.set_cookie] or answers))

    async def straggler(self) -> None:
        old = self.visitors[0].cookie
        for answer in await self._cookie_herd(leave=1):
            self.visitors[0].receive(answer)
        await self.visitors[0].ask(self.workers[-1])  # a request with the new cookie: the browser has it
        late = await volley(spread([self.workers[0].port], 1, PUBLIC_URL, [old]))
        self._count(late, new=False)
        self.visitors[0].receive(late[0])

    async def _cookie_herd(self, *, leave: int = 0) -> list[CallAnswer]:
        await self.stage.expire()
        answers = await self._volley(self.workers, self.wanted.calls - leave)
        self.chance.shuffle(answers)
        self._count(answers)
        return answers

    # Counting.

    async def _volley(self, workers: Sequence[WorkerProcess], calls: int) -> list[CallAnswer]:
        cookies = [visitor.cookie for visitor in self.visitors]
        return await volley(spread([worker.port for worker in workers], calls, PUBLIC_URL, cookies))

    def _count(self, answers: Sequence[CallAnswer], *, new: bool = True) -> None:
        """Everybody has an answer by one and the same token: the one of this round, or (not *new*) of the last."""
        statuses = Counter(answer.status for answer in answers)
        self.score.ok += statuses[200]
        self.score.logouts += statuses[401]
        others = {(a.status, a.code) for a in answers if a.status not in (200, 401)}
        if others:
            self._complain(f"answers: {dict(statuses)} {others}")
        tokens = {answer.access_token for answer in answers if answer.status == 200}
        if len(tokens) > 1:
            self._complain(f"{len(tokens)} different access tokens in one round")
        elif new and self.token in tokens:
            self._complain("an expired access token was sent to the remote API")
        elif not new and self.token is not None and tokens - {self.token}:
            self._complain("another access token than the one that is still valid")
        if new:
            self.token = next(iter(tokens), None)

    async def _look_who_is_left(self) -> None:
        for visitor in self.visitors:
            for worker in self.workers:
                if (await visitor.ask(worker)).status != 200:
                    self.score.logouts += 1

    def _one_and_others(self) -> tuple[WorkerProcess, list[WorkerProcess]]:
        one = self.chance.choice(self.workers)
        return one, [worker for worker in self.workers if worker is not one]

    def _complain(self, complaint: str) -> None:
        self.score.complaints.append(complaint)
