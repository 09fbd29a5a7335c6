"""
Small storms over real processes: one due token costs one request, whatever the number of calls and processes.

`./scripts/storm` runs large ones. That these would notice is shown by `test_controls.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.rig.control_plane import LoggedRequest
from tests.rig.fleet import Fleet
from tests.rig.volley import CallAnswer
from tests.rig.worker_plan import Protection
from tests.storm.crashes import LEASE_TIMES
from tests.storm.stage import LONG_LEASE, STORES, Profile, Stage, StoreName, World, log_in, reuse
from tests.storm.storm import Score, Wanted, storm

SMALL = Wanted(processes=2, calls=20, rounds=3, lease_times=LEASE_TIMES)


def raged_well(score: Score) -> bool:
    """Say what went wrong where something did."""
    assert score.success, "\n".join([score.line, *score.complaints])
    return True


@pytest.mark.spec("REF-02", "REF-03", "REF-04", "REF-23", "REF-27", "REF-29")
@pytest.mark.parametrize("store", STORES)
async def test_one_renewal_costs_one_request_over_two_processes(world: World, store: StoreName) -> None:
    """All calls at once; a process that comes late; one that is stopped with the answer; a logout meanwhile."""
    score = await storm(world, replace(SMALL, store=store))
    assert raged_well(score)
    assert score.line == "refreshes=3 ok=60 reuse=0 logouts=0"


@pytest.mark.spec("REF-02", "REF-29")
@pytest.mark.parametrize(("rotation", "store"), [("none", "postgresql"), ("grace", "valkey")])
async def test_so_it_is_where_a_refresh_token_may_come_again(world: World, rotation: Profile, store: StoreName) -> None:
    assert raged_well(await storm(world, replace(SMALL, store=store, rotation=rotation)))


@pytest.mark.spec("REF-11", "REF-29")
async def test_cookies_that_get_lost_cost_no_second_request(world: World) -> None:
    """Every answer arrives; none, twice; one; and one to a straggler with the cookie of before."""
    score = await storm(world, Wanted(processes=2, calls=12, rounds=10, store="valkey", sessions="cookie"))
    assert raged_well(score)


@pytest.mark.spec("REF-02")
async def test_two_sessions_that_share_a_grant_cost_one_request(world: World) -> None:
    score = await storm(world, Wanted(processes=2, calls=20, rounds=3, store="sqlite", sessions="shared-grant"))
    assert raged_well(score)


@pytest.mark.spec("REF-03")
async def test_a_slow_provider_does_not_cost_the_lease(world: World) -> None:
    """The answer takes three times as long as the lease lasts: heartbeats keep it."""
    plan = world.plan("sqlite", "none", lease_times=LEASE_TIMES)
    assert world.oidc is not None
    async with Fleet() as fleet:
        stage = await Stage.of(world, fleet, plan, "none", workers=2)
        [visitor] = await log_in(stage.workers[0])
        await stage.expire()
        world.oidc.fault("delay", grant_type="refresh_token", client_id=plan.client_id, ms=3000 * LEASE_TIMES[0])
        answers = await asyncio.gather(*(visitor.ask(worker) for worker in stage.workers * 3))
        await stage.drain()
    assert {answer.status for answer in answers} == {200}
    assert await stage.log.refreshes() == 1


@pytest.mark.spec("REF-04", "REF-10")
@pytest.mark.parametrize("store", STORES)
async def test_a_holder_that_was_stopped_before_sending_sends_nothing_after_its_successor(
    world: World, store: StoreName
) -> None:
    renewed, late, refreshes = await stopped_at("renewal.lease_held", world, store, "strict")
    assert (renewed.status, late.status, refreshes) == (200, 200, 1)
    assert renewed.access_token == late.access_token


async def test_control_without_the_lease_it_sends_what_its_successor_has_sent(world: World) -> None:
    *_, refreshes = await stopped_at("renewal.lease_held", world, "sqlite", "strict", without="lease")
    assert refreshes == 2


@pytest.mark.spec("REF-04")
async def test_a_holder_that_was_stopped_behind_its_mark_looks_at_the_clock_before_it_sends(world: World) -> None:
    """Where a successor may send again, only the clocks of the holder keep it from sending, too."""
    renewed, late, refreshes = await stopped_at("renewal.marked", world, "sqlite", "none")
    assert (renewed.status, late.status, refreshes) == (200, 200, 1)
    assert renewed.access_token == late.access_token


@pytest.mark.spec("REF-10")
async def test_behind_a_mark_nobody_sends_what_must_not_come_twice(world: World) -> None:
    """One clean end: the process that stands behind the mark sends nothing either, when it goes on."""
    lost, late, refreshes = await stopped_at("renewal.marked", world, "sqlite", "strict")
    assert (lost.status, lost.code, late.status, refreshes) == (401, "renewal_lost", 401, 0)


async def stopped_at(
    point: str, world: World, store: StoreName, profile: Profile, *, without: Protection | None = None
) -> tuple[CallAnswer, CallAnswer, int]:
    """
    Stop a holder at *point* until its successor has answered.

    Returns what the successor's caller got, what the holder's got, and how often the provider was asked.
    """
    lease_times = LONG_LEASE if without == "lease" else LEASE_TIMES
    plan = world.plan(store, profile, lease_times=lease_times, without=without)
    async with Fleet() as fleet:
        stage = await Stage.of(world, fleet, plan, profile, workers=2)
        holder, successor = stage.workers
        [visitor] = await log_in(successor)
        await stage.expire()
        await holder.arm(point)
        waiting = asyncio.create_task(visitor.ask(holder))
        await holder.reached(point)
        await holder.freeze()
        answer = await visitor.ask(successor)
        holder.thaw()
        await holder.release(point)
        late = await waiting
        await stage.drain()
    return answer, late, await stage.log.refreshes()


@pytest.mark.spec("REF-08")
async def test_nothing_of_a_storm_stays_in_memory(world: World) -> None:
    plan = world.plan("sqlite", "strict")
    async with Fleet() as fleet:
        stage = await Stage.of(world, fleet, plan, "strict", workers=1)
        visitors = await log_in(stage.workers[0], 5)
        await visitors[0].ask(stage.workers[0])
        before = await stage.workers[0].sizes()
        await stage.expire()
        await asyncio.gather(*(visitor.ask(stage.workers[0]) for visitor in visitors))
        await stage.drain()
        # What stays of each renewal is the name of the refresh token that it spent: a bounded number, for a day.
        assert await stage.workers[0].sizes() == {**before, "memories": before["memories"] + len(visitors)}
        assert before["flights"] == 0


def test_the_count_knows_a_refresh_token_that_comes_again() -> None:
    def request(token: str, status: int = 200) -> LoggedRequest:
        return LoggedRequest(0.0, "POST", "/token", params={"refresh_token": token}, status=status)

    assert reuse([request("a"), request("b"), request("c")], rotates=True) == 0
    assert reuse([request("a"), request("b"), request("a", 400)], rotates=True) == 1
    assert reuse([request("a"), request("a"), request("a")], rotates=False) == 0
    assert reuse([request("a"), request("b", 400)], rotates=False) == 1


def test_a_score_is_no_success_with_any_figure_amiss() -> None:
    wanted = Wanted(rounds=2, calls=3)
    right = Score(wanted, refreshes=2, ok=6)
    assert right.success
    assert right.line == "refreshes=2 ok=6 reuse=0 logouts=0"
    resurrected = replace(right, complaints=["a session came back"])
    assert resurrected.line == "refreshes=2 ok=6 reuse=0 logouts=0 but: a session came back"
    for wrong in (
        resurrected,
        replace(right, refreshes=3),
        replace(right, ok=5),
        replace(right, reuse=1),
        replace(right, logouts=1),
    ):
        assert not wrong.success
