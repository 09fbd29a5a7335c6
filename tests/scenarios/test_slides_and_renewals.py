"""One process renews a session's tokens while another writes down that it was used: on every store, both are kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Literal

import pytest

from tests.rig.fleet import Fleet
from tests.rig.gated_store import BEFORE_TOUCH
from tests.rig.worker_plan import Protection
from tests.scenarios.two_nodes import Kept, wherever
from tests.storm.stage import STORES, Stage, World, log_in

DAY = 24 * 3600.0
IDLE_DAYS = 10

First = Literal["slide", "renewal"]


async def _meet(world: World, fleet: Fleet, kept: Kept, first: First, without: Protection | None = None) -> None:
    """Both processes have read the session before either writes; *first* writes first."""
    plan = replace(world.plan(kept.store, "strict", without=without), idle_days=IDLE_DAYS)
    stage = await Stage.of(world, fleet, plan, "strict", workers=2)
    renewing, sliding = stage.workers
    [visitor] = await log_in(renewing)
    await stage.advance(2 * DAY)  # the token has expired
    if first == "slide":
        await renewing.arm("renewal.before_write")
        renewal = asyncio.create_task(visitor.ask(renewing))
        await renewing.reached("renewal.before_write")
        await sliding.move_clock(9 * DAY)
        assert (await visitor.ask(sliding, "/bff/user")).status == 200
        await renewing.release("renewal.before_write")
        assert (await renewal).status == 200
        await stage.advance(7 * DAY)
    else:
        await stage.advance(7 * DAY)
        await sliding.arm(BEFORE_TOUCH)
        slide = asyncio.create_task(visitor.ask(sliding, "/bff/user"))
        await sliding.reached(BEFORE_TOUCH)
        assert (await visitor.ask(renewing)).status == 200
        await sliding.release(BEFORE_TOUCH)
        assert (await slide).status == 200
    assert await stage.log.refreshes() == 1
    await stage.advance((IDLE_DAYS - 2) * DAY)  # without the slide it would have idled away
    answers = [await visitor.ask(worker) for worker in (sliding, renewing)]
    assert [answer.status for answer in answers] == [200, 200]
    assert (await stage.log.refreshes(), await stage.log.reuse()) == (2, 0), "what was renewed is what there is"


@pytest.mark.spec("SES-06")
@pytest.mark.parametrize("first", ["slide", "renewal"])
async def test_a_slide_and_a_renewal_in_two_processes_are_both_kept(everything: World, first: First) -> None:
    await wherever(
        everything, [Kept(store) for store in STORES], lambda world, fleet, kept: _meet(world, fleet, kept, first)
    )


@pytest.mark.spec("SES-06")
async def test_control_a_slide_that_writes_all_that_it_has_read_brings_the_old_tokens_back(world: World) -> None:
    async with Fleet() as fleet:
        with pytest.raises(AssertionError, match="401"):
            await _meet(world, fleet, Kept("sqlite"), "renewal", without="parts")
