"""A logout in the middle of a login, or of a slow answer: what comes late brings no session back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest

from coatcheck.sessions.endings import LOOK_EVERY
from tests.rig.fleet import Fleet
from tests.rig.user_agent import UserAgent
from tests.rig.volley import CallAnswer, one
from tests.scenarios.stored import count_sessions
from tests.scenarios.two_nodes import ALIVE, EVERYWHERE, GONE, TOKEN_TTL, Kept, TwoNodes, until, wherever
from tests.storm.stage import PUBLIC_URL, FrontDoor, Visitor, World

# A login


@asynccontextmanager
async def login_under_way(nodes: TwoNodes, agent: UserAgent) -> AsyncIterator[asyncio.Task[httpx2.Response]]:
    """At the first node; the provider has issued the tokens, and its answer is on the way until the block ends."""
    client_id, grant_type = nodes.client.client_id, "authorization_code"
    await asyncio.to_thread(nodes.provider.fault, "keep", grant_type=grant_type, client_id=client_id)
    login = asyncio.create_task(asyncio.to_thread(agent.login, "/bff/login?prompt=login&returnUrl=/nothing-here"))
    try:
        await until(
            lambda: any(last.kept for last in nodes.provider.log(client_id=client_id, grant_type=grant_type)[-1:])
        )
        yield login
    finally:
        await asyncio.to_thread(nodes.provider.release, client_id=client_id)


async def _told(nodes: TwoNodes, agent: UserAgent, logout_url: str) -> None:
    """The provider says that the user has left, and keeps the tokens."""
    await nodes.told(nodes.second)


async def _left(nodes: TwoNodes, agent: UserAgent, logout_url: str) -> None:
    """The user logs out at the provider, in another tab."""
    await nodes.leave(Visitor(agent))


async def _logged_out(nodes: TwoNodes, agent: UserAgent, logout_url: str) -> None:
    """The user logs out of the session before, in another tab, and the provider tells it to the other node."""
    with UserAgent(PUBLIC_URL, transport=FrontDoor(nodes.first.port)) as tab:
        tab.cookies = agent.cookies
        await asyncio.to_thread(tab.logout, logout_url)


LOGOUTS: tuple[Callable[[TwoNodes, UserAgent, str], Awaitable[None]], ...] = (_left, _logged_out, _told)
"""The last is about all sessions of the user that began by then: those of a test that would follow, too."""


@pytest.mark.spec("BCL-20")
async def test_a_login_whose_user_was_logged_out_meanwhile_ends_without_a_session(everything: World) -> None:
    async def tell(world: World, fleet: Fleet, kept: Kept) -> None:
        nodes = await TwoNodes.of(world, fleet, kept)
        for log_out in LOGOUTS:
            await nodes.register(nodes.second)
            visitor = await nodes.log_in()
            before = visitor.cookie
            logout_url = await nodes.logout_url(visitor)
            with UserAgent(PUBLIC_URL, transport=FrontDoor(nodes.first.port)) as agent:
                agent.cookies = visitor.agent.cookies
                async with login_under_way(nodes, agent) as login:
                    await log_out(nodes, agent, logout_url)
                answer = await login
            note = f"{kept}, {log_out.__name__}"
            assert (answer.status_code, answer.headers.get("coatcheck-error")) == (400, "login_ended"), note
            assert visitor.cookie in ("", before), note
            await nodes.stage.advance(LOOK_EVERY)
            assert await nodes.statuses(before) == GONE, note
            if kept.sessions == "server":
                await nodes.no_refresh_token_is_left()
                assert await asyncio.to_thread(count_sessions, world, nodes.stage.plan.store) == 0, note

    await wherever(everything, EVERYWHERE, tell)


@pytest.mark.spec("BCL-20")
async def test_control_a_logout_that_the_node_of_the_login_cannot_see_ends_no_login(world: World) -> None:
    """What the test above would see if who was logged out were not written down for all nodes."""
    async with Fleet() as fleet:
        nodes = await TwoNodes.of(world, fleet, Kept("sqlite"), without="pending")
        with UserAgent(PUBLIC_URL, transport=FrontDoor(nodes.first.port)) as agent:
            async with login_under_way(nodes, agent) as login:
                await nodes.told(nodes.second)
            assert (await login).status_code == 404, "the page behind the login"
        assert await nodes.statuses(Visitor(agent).cookie) == ALIVE


# A slow answer


async def _by_the_provider(nodes: TwoNodes, visitor: Visitor) -> None:
    await nodes.told(nodes.second)


async def _by_the_user(nodes: TwoNodes, visitor: Visitor) -> None:
    """In another tab, whose cookies are the same."""
    assert (await visitor.ask(nodes.second, "/bff/logout", "POST")).status == 303


@pytest.mark.spec("RPL-09", "SES-05")
@pytest.mark.parametrize("log_out", [_by_the_provider, _by_the_user])
async def test_a_slow_answer_brings_no_session_back(
    everything: World, log_out: Callable[[TwoNodes, Visitor], Awaitable[None]]
) -> None:
    """
    One answer streams, and one has not begun; the token was renewed for both, so they would write it into cookies.
    """

    async def tell(world: World, fleet: Fleet, kept: Kept) -> None:
        nodes = await TwoNodes.of(world, fleet, kept)
        visitor = await nodes.log_in()
        await nodes.stage.advance(TOKEN_TTL + 1)
        before, heard = visitor.cookie, len(world.api.requests)
        slow = [asyncio.create_task(_ask(nodes, visitor, path)) for path in ("stream?count=2", "late")]
        await asyncio.to_thread(world.api.wait_until, lambda api: len(api.requests) == heard + 2)
        await log_out(nodes, visitor)
        world.api.next_chunk(2)
        answers = await asyncio.gather(*slow)
        assert [answer.status for answer in answers] == [200, 200], "it was asked for before"
        assert await nodes.stage.log.refreshes() == 1
        for answer in answers:
            visitor.receive(answer)
        await nodes.stage.advance(LOOK_EVERY)
        for cookie in {before, visitor.cookie, *(_cookies(answer) for answer in answers)}:
            assert await nodes.statuses(cookie) == GONE
        if kept.sessions == "server" or log_out is _by_the_user:
            await nodes.no_refresh_token_is_left()
        if kept.sessions == "server":
            assert await asyncio.to_thread(count_sessions, world, nodes.stage.plan.store) == 0

    await wherever(everything, EVERYWHERE, tell)


async def _ask(nodes: TwoNodes, visitor: Visitor, path: str) -> CallAnswer:
    return await one(visitor.call(nodes.first, f"/api/orders/{path}"))


def _cookies(answer: CallAnswer) -> str:
    """What a thief of the answer would send."""
    return "; ".join(line.partition(";")[0] for line in answer.set_cookie)
