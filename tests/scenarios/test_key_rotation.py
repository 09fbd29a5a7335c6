"""The seal key is replaced, in three rolling restarts, while everybody works: nobody is logged out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from coatcheck.sessions.seal import new_key
from tests.rig.fleet import Fleet, WorkerProcess
from tests.rig.postgresql import PostgreSQL
from tests.rig.user_agent import UserAgent
from tests.rig.valkey import Valkey
from tests.rig.worker_plan import SessionKind
from tests.scenarios.load import Load
from tests.storm.meeting import one_sends
from tests.storm.stage import LONG_LEASE, PUBLIC_URL, Stage, StoreName, Visitor, World, log_in

OLD, NEW = new_key(), new_key()
DEPLOYS = ((OLD, NEW), (NEW, OLD), (NEW,))
"""Append, move first, drop."""

TOKEN_LIFETIME = 90
"""Seconds. Clocks run ahead of the provider's by six of them, and an id_token of ten minutes ago ends no login."""
PAGES = 2
"""Visitors who have a page open all the time."""
NO_ANSWER = 0
"""The process is being restarted, and the page asks again."""
PATHS = ("/api/orders", "/bff/user")


@dataclass(frozen=True, slots=True)
class Case:
    """What is kept where."""

    store: StoreName
    sessions: SessionKind = "server"


CASES = (Case("sqlite"), Case("postgresql"), Case("valkey"), Case("valkey", "cookie"))


@pytest.fixture
def everything(world: World, postgresql: PostgreSQL, valkey: Valkey) -> World:
    """The world with every store."""
    world.postgresql, world.valkey = postgresql, valkey
    return world


async def over_each(world: World, story: Callable[[Rotation], Awaitable[None]]) -> None:
    """Let *story* happen over each store, side by side."""
    async with Fleet() as fleet, asyncio.TaskGroup() as tasks:
        for case in CASES:
            tasks.create_task(_happen(world, fleet, case, story))


async def _happen(world: World, fleet: Fleet, case: Case, story: Callable[[Rotation], Awaitable[None]]) -> None:
    try:
        await story(await Rotation.of(world, fleet, case))
    except AssertionError as failed:
        failed.add_note(f"{case}")
        raise


class Rotation:
    """One application on two processes, which are restarted with other keys one at a time."""

    def __init__(self, world: World, fleet: Fleet, stage: Stage) -> None:
        assert world.oidc is not None
        self._provider = world.oidc
        self._fleet = fleet
        self.in_cookies = stage.plan.sessions == "cookie"
        self.stage = stage

    @classmethod
    async def of(cls, world: World, fleet: Fleet, case: Case, *, keys: tuple[str, ...] = (OLD,)) -> Rotation:
        assert world.oidc is not None
        world.oidc.config(access_token_ttl=TOKEN_LIFETIME)
        plan = world.plan(case.store, "strict", sessions=case.sessions, lease_times=LONG_LEASE)
        return cls(world, fleet, await Stage.of(world, fleet, replace(plan, keys=keys), "strict", workers=2))

    async def restart(self, place: int, *keys: str) -> WorkerProcess:
        return await self.stage.restart(self._fleet, place, replace(self.stage.plan, keys=keys))

    async def expire(self) -> None:
        """Let every token run out."""
        await self.stage.drain()
        await self.stage.advance(TOKEN_LIFETIME + 1)

    async def begin_login(self, worker: WorkerProcess) -> tuple[Visitor, str]:
        """Log in at the provider only; also where its answer is to be taken to."""
        with UserAgent(PUBLIC_URL) as agent:
            visitor = Visitor(agent)
        back = await visitor.navigate(
            worker, "/bff/login?returnUrl=/nothing-here", stop_at=f"{PUBLIC_URL}/bff/callback"
        )
        return visitor, back.headers["location"]

    async def logout_url(self, visitor: Visitor, worker: WorkerProcess) -> str:
        """The link that a page shows."""
        answer = await visitor.ask(worker, "/bff/user")
        assert answer.status == 200
        claims: dict[str, str] = {claim["type"]: claim["value"] for claim in json.loads(answer.body)}
        return claims["bff:logout_url"]

    async def log_out(self, visitor: Visitor, url: str, worker: WorkerProcess) -> None:
        """Follow the link at *worker*: to the provider, and with no session left."""
        away = await visitor.navigate(worker, url, stop_at=self._provider.issuer)
        assert away.headers["location"].startswith(self._provider.issuer), f"{away.status_code} {away.text[:300]}"
        assert visitor.cookie == ""

    async def statuses(self, visitor: Visitor, path: str = "/api/orders") -> list[int]:
        """What each process answers."""
        return [(await visitor.ask(worker, path)).status for worker in self.stage.workers]


@pytest.mark.spec("STO-05", "REF-02")
async def test_three_deploys_log_nobody_out(everything: World) -> None:
    """Pages call both processes all the time, tokens fall due in every mixture of rings, people come and go."""
    await over_each(everything, _three_deploys)


async def _three_deploys(rotation: Rotation) -> None:
    workers = rotation.stage.workers
    pages = await log_in(workers[0], PAGES)
    for keys in DEPLOYS:
        if OLD not in keys:  # by now every session that the old key has sealed is at its end
            pages = await log_in(workers[0], PAGES)
        leavers = await log_in(workers[1], 2)
        async with Load(pages, workers, paths=PATHS) as load:
            await deploy(rotation, keys, load, leavers)
        assert set(load.statuses) <= {200, NO_ANSWER}, load.refusals()
    assert await rotation.stage.log.reuse() == 0


async def deploy(rotation: Rotation, keys: tuple[str, ...], load: Load, leavers: list[Visitor]) -> None:
    """Restart one process after the other. Two log in across the two rings, and *leavers* log out across them."""
    stage = rotation.stage
    refreshes = await stage.log.refreshes()
    before = stage.workers[1]
    first, to_first = await rotation.begin_login(before)
    link = await rotation.logout_url(leavers[0], before)
    await rotation.expire()
    after = await rotation.restart(0, *keys)
    await load.everybody(200)
    assert await stage.log.refreshes() == refreshes + PAGES, "each was renewed once while a process restarted"
    await first.navigate(after, to_first)
    await rotation.log_out(leavers[0], link, after)
    second, to_second = await rotation.begin_login(after)
    link = await rotation.logout_url(leavers[1], after)
    await second.navigate(before, to_second)
    await rotation.log_out(leavers[1], link, before)
    arrived = [first, second]
    assert [await rotation.statuses(visitor) for visitor in arrived] == [[200, 200]] * 2
    await rotation.expire()
    await load.everybody(200)
    assert await stage.log.refreshes() == refreshes + 2 * PAGES, "each was renewed once by processes of different rings"
    await rotation.restart(1, *keys)
    await load.everybody(200)
    assert [await rotation.statuses(visitor) for visitor in arrived] == [[200, 200]] * 2
    assert await stage.log.refreshes() == refreshes + 2 * PAGES + 2


@pytest.mark.spec("STO-05", "REF-02")
async def test_rings_of_neighbouring_deploys_meet_in_one_lease(world: World) -> None:
    async with Fleet() as fleet, asyncio.TaskGroup() as tasks:
        for before, after in pairwise(((OLD,), *DEPLOYS)):
            tasks.create_task(_meet(world, fleet, before, after))


async def _meet(world: World, fleet: Fleet, before: tuple[str, ...], after: tuple[str, ...]) -> None:
    rotation = await Rotation.of(world, fleet, Case("sqlite"), keys=before)
    [visitor] = await log_in(rotation.stage.workers[0])
    await rotation.restart(1, *after)
    await rotation.expire()
    assert [answer.status for answer in await one_sends(rotation.stage, visitor)] == [200, 200]
    assert (await rotation.stage.log.refreshes(), await rotation.stage.log.reuse()) == (1, 0)


@pytest.mark.spec("STO-05")
async def test_control_with_the_new_key_first_at_once_somebody_is_refused(everything: World) -> None:
    """Without the first step there are processes that cannot open what others seal."""
    await over_each(everything, _new_key_first)


async def _new_key_first(rotation: Rotation) -> None:
    refused = 401 if rotation.in_cookies else 503
    [visitor] = await log_in(rotation.stage.workers[0])
    await rotation.restart(0, NEW, OLD)
    await rotation.expire()
    assert await rotation.statuses(visitor) == [200, refused], "renewed by a process that seals with the new key"
    [visitor] = await log_in(rotation.stage.workers[0])
    assert await rotation.statuses(visitor, "/bff/user") == [200, refused]


@pytest.mark.spec("STO-05")
async def test_a_key_that_is_dropped_too_early_can_be_put_back(everything: World) -> None:
    """A stored session is opened by the key of its login, whoever renewed its tokens since; a cookie moves on."""
    await over_each(everything, _dropped_too_early)


async def _dropped_too_early(rotation: Rotation) -> None:
    active, away = await log_in(rotation.stage.workers[0], 2)
    for place in (0, 1):
        await rotation.restart(place, NEW, OLD)
    await rotation.expire()
    assert await rotation.statuses(active) == [200, 200]
    dropped = await rotation.restart(0, NEW)
    cookies = active.cookie, away.cookie
    answers = [await visitor.ask(dropped, path) for visitor in (active, away) for path in PATHS]
    found = [(answer.status, answer.code) for answer in answers]
    if rotation.in_cookies:
        assert found == [(200, None)] * 2 + [(401, "session_expired")] * 2
    else:
        assert found == [(503, "store_unavailable")] * 4
    assert (active.cookie, away.cookie) == cookies, "nobody told the browser to forget them"
    await rotation.restart(0, NEW, OLD)
    assert [await rotation.statuses(visitor) for visitor in (active, away)] == [[200, 200]] * 2
