"""
Controls: the storms of `test_storms.py` fail as soon as one protection is missing, each for its own reason.

Nothing here is left to chance: who has to meet is brought to the same place by checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.rig.fleet import Fleet
from tests.rig.worker_plan import Protection, SessionKind
from tests.storm.meeting import both_send, one_sends
from tests.storm.stage import LONG_LEASE, Stage, World, log_in
from tests.storm.storm import Score, Wanted, storm
from tests.storm.test_storms import SMALL

SESSION_KINDS: tuple[SessionKind, ...] = ("server", "cookie", "shared-grant")


async def without(world: World, protection: Protection, wanted: Wanted = SMALL) -> Score:
    score = await storm(world, replace(wanted, without=protection))
    assert not score.success
    return score


@pytest.mark.parametrize("sessions", SESSION_KINDS)
async def test_without_the_lease_both_processes_send(world: World, sessions: SessionKind) -> None:
    """They stand before the sending at the same time."""
    plan = world.plan("sqlite", "strict", sessions=sessions, lease_times=LONG_LEASE, without="lease")
    async with Fleet() as fleet:
        stage = await Stage.of(world, fleet, plan, "strict", workers=2)
        [visitor] = await log_in(stage.workers[0])
        await stage.expire()
        await both_send(stage, visitor)
        assert (await stage.log.refreshes(), await stage.log.reuse() > 0) == (2, True)


@pytest.mark.spec("REF-02", "REF-03")
@pytest.mark.parametrize("sessions", SESSION_KINDS)
async def test_with_the_lease_the_second_process_never_gets_there(world: World, sessions: SessionKind) -> None:
    plan = world.plan("sqlite", "strict", sessions=sessions, lease_times=LONG_LEASE)
    async with Fleet() as fleet:
        stage = await Stage.of(world, fleet, plan, "strict", workers=2)
        [visitor] = await log_in(stage.workers[0])
        await stage.expire()
        assert [answer.status for answer in await one_sends(stage, visitor)] == [200, 200]
        assert (await stage.log.refreshes(), await stage.log.reuse()) == (1, 0)


async def test_without_the_lease_a_storm_counts_too_many(world: World) -> None:
    """Its fourth round stops a process that is about to send until another one has sent."""
    score = await without(world, "lease", replace(SMALL, rounds=4, rotation="none", lease_times=LONG_LEASE))
    assert score.refreshes > 4
    assert any("(stopped_before_sending): refreshes=2" in complaint for complaint in score.complaints)


async def test_without_looking_again_a_latecomer_sends_what_is_spent(world: World) -> None:
    score = await without(world, "reread")
    assert score.reuse > 0


async def test_without_the_mark_a_successor_sends_what_a_stopped_holder_has_sent(world: World) -> None:
    score = await without(world, "mark")
    assert score.reuse > 0
    assert any("stopped_with_answer" in complaint for complaint in score.complaints)


async def test_without_compare_and_swap_a_logout_is_undone(world: World) -> None:
    score = await without(world, "cas")
    assert any("the session of a logout lives" in complaint for complaint in score.complaints)


async def test_without_a_common_place_for_what_waits_for_the_browser_each_process_renews(world: World) -> None:
    """Every call of a herd brings the old cookie, and both processes get some of them."""
    score = await without(world, "pending", Wanted(processes=2, calls=12, rounds=2, store="sqlite", sessions="cookie"))
    assert score.reuse > 0
