"""Controls: the storms of `test_storms.py` fail as soon as one protection is missing, each for its own reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.rig.worker_plan import PROTECTIONS, Protection
from tests.storm.stage import World
from tests.storm.storm import Score, Wanted, storm
from tests.storm.test_storms import SMALL


async def without(world: World, protection: Protection) -> Score:
    score = await storm(world, replace(SMALL, without=protection))
    assert not score.success
    return score


async def test_without_the_lease_both_processes_send(world: World) -> None:
    score = await without(world, "lease")
    assert score.reuse > 0


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


@pytest.mark.parametrize("protection", PROTECTIONS["cookie"])
async def test_cookie_sessions_need_both(world: World, protection: Protection) -> None:
    """A common lease, and a common place for what waits for the browser."""
    storming = Wanted(processes=2, calls=12, rounds=5, store="sqlite", sessions="cookie", without=protection)
    score = await storm(world, storming)
    assert not score.success
    assert score.reuse > 0
