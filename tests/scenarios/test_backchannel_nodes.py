"""A logout at the provider reaches every node, and what only looks like one reaches none."""

from __future__ import annotations

import asyncio

import pytest

from coatcheck.sessions.endings import LOOK_EVERY
from tests.oauth.logout_tokens import MALFORMED
from tests.rig.fleet import Fleet
from tests.scenarios.stored import forget_small_values
from tests.scenarios.two_nodes import ALIVE, EVERYWHERE, GONE, Kept, Listener, TwoNodes, all_closed, wherever
from tests.storm.stage import World

AT_MOST = 1.0
"""Seconds from the user's confirmation at the provider to the end of the last event stream."""


@pytest.mark.spec("BCL-19", "SES-05")
async def test_whoever_logs_out_at_the_provider_is_logged_out_at_both_nodes_within_a_second(everything: World) -> None:
    """
    By the provider's own logout, whichever node it tells; the pages that listen hear of it, too.

    A machine that is busy elsewhere may stand still for a moment, so of two logouts the quicker one counts. Without
    the message it would be five seconds at least.
    """
    took: dict[Kept, list[float]] = {}

    async def tell(world: World, fleet: Fleet, kept: Kept) -> None:
        nodes = await TwoNodes.of(world, fleet, kept)
        for told in (nodes.first, nodes.second):
            await nodes.register(told)
            visitor = await nodes.log_in()
            streams = [await Listener.at(node, visitor) for node in nodes.stage.workers]
            confirmed = await nodes.leave(visitor)
            last = await all_closed(streams, b"backchannel_logout")
            assert await nodes.statuses(visitor.cookie) == GONE
            took.setdefault(kept, []).append(last - confirmed)
        assert await nodes.statuses((await nodes.log_in()).cookie) == ALIVE

    await wherever(everything, EVERYWHERE, tell)
    for kept, seconds in took.items():
        print(f"{kept}: event streams closed after {max(seconds):.3f} s at most")
    assert max(min(seconds) for seconds in took.values()) < AT_MOST


@pytest.mark.spec("SES-05")
async def test_control_without_messages_the_other_node_hears_nothing_and_serves_nobody_all_the_same(
    world: World,
) -> None:
    async with Fleet() as fleet:
        nodes = await TwoNodes.of(world, fleet, Kept("sqlite"), without="messages")
        visitor = await nodes.log_in()
        told, other = [asyncio.create_task((await Listener.at(n, visitor)).closed()) for n in nodes.stage.workers]
        await nodes.leave(visitor)
        done, waiting = await asyncio.wait((told, other), timeout=AT_MOST)
        assert (done, waiting) == ({told}, {other})
        assert await nodes.statuses(visitor.cookie) == GONE
        other.cancel()


@pytest.mark.spec("BCL-19")
async def test_cookies_are_over_for_a_node_that_has_heard_nothing_when_it_looks_again(everything: World) -> None:
    """Nobody listens there, so no message arrives: it asks by itself, `LOOK_EVERY` seconds after it has asked last."""

    async def tell(world: World, fleet: Fleet, kept: Kept) -> None:
        nodes = await TwoNodes.of(world, fleet, kept)
        visitor = await nodes.log_in()
        await nodes.leave(visitor)
        assert (await nodes.statuses(visitor.cookie))[:2] == [401, 401], "the node that was told"
        await nodes.stage.advance(LOOK_EVERY)
        assert await nodes.statuses(visitor.cookie) == GONE

    await wherever(everything, [kept for kept in EVERYWHERE if kept.sessions == "cookie"], tell)


@pytest.mark.spec("BCL-03", "BCL-05", "BCL-06", "BCL-09", "BCL-10", "BCL-11", "BCL-15", "BCL-17")
async def test_no_malformed_token_ends_anything_at_either_node(everything: World) -> None:
    """But for what is wrong with them, the provider's own key signed them, and they are about this session."""

    async def tell(world: World, fleet: Fleet, kept: Kept) -> None:
        nodes = await TwoNodes.of(world, fleet, kept)
        visitor = await nodes.log_in()
        mint = await nodes.mint(sub="alice", sid=await nodes.sid(visitor))
        for name, (_, make) in MALFORMED.items():
            assert await nodes.post(make(mint)) == [400, 400], name
        assert await nodes.statuses(visitor.cookie) == ALIVE
        assert await nodes.post(mint.token()) == [200, 400], "but for that, it is good, once"
        await nodes.stage.advance(LOOK_EVERY)
        assert await nodes.statuses(visitor.cookie) == GONE

    assert len(MALFORMED) >= 30
    await wherever(everything, [Kept("postgresql"), Kept("valkey", "cookie")], tell)


@pytest.mark.spec("BCL-07", "BCL-08", "BCL-20")
async def test_replay_after_a_new_login_ends_nothing_with_and_without_the_memory(everything: World) -> None:
    async def tell(world: World, fleet: Fleet, kept: Kept) -> None:
        nodes = await TwoNodes.of(world, fleet, kept)
        old = await nodes.log_in()
        token = (await nodes.mint(sub="alice")).token()
        assert await nodes.post(token) == [200, 400]
        await nodes.stage.advance(LOOK_EVERY)
        assert await nodes.statuses(old.cookie) == GONE
        await asyncio.to_thread(nodes.provider.wait_for_another_second)
        new = await nodes.log_in(nodes.second)
        assert await nodes.post(token) == [400, 400], "it is remembered"
        await asyncio.to_thread(forget_small_values, world, nodes.stage.plan.store)
        assert await nodes.post(token) == [200, 400], "and now it was not"
        await nodes.stage.advance(LOOK_EVERY)
        assert await nodes.statuses(new.cookie) == ALIVE, "it began after the token was issued"
        assert await nodes.statuses(old.cookie) == GONE
        await nodes.told()
        await nodes.stage.advance(LOOK_EVERY)
        assert await nodes.statuses(new.cookie) == GONE

    await wherever(everything, EVERYWHERE, tell)
