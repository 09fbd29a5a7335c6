"""Answers of the provider that get lost on the way: nobody knows whether the refresh token is spent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import pytest

from tests.rig.django_provider import DjangoProvider
from tests.rig.fleet import Fleet
from tests.rig.tcp_fault import TCPFault
from tests.rig.volley import volley
from tests.rig.worker_plan import SessionKind, WorkerPlan
from tests.storm.stage import Profile, Stage, Visitor, World, log_in

LEFT = 20.0
"""Seconds that a stale token has left."""

Loss = Literal["drop", "after", "drip", "hang"]
LOSSES: tuple[Loss, ...] = ("drop", "after", "drip", "hang")
"""
The connection breaks before the provider has seen the request; after it has acted; the answer, good JSON to all
appearances, begins and does not end; there is none within ten seconds.
"""


class Losing:
    """One application, and the answers of its provider that are to be lost."""

    def __init__(self, world: World, plan: WorkerPlan) -> None:
        assert world.oidc is not None
        self._provider = world.oidc
        self._client_id = plan.client_id

    async def lose(self, loss: Loss, *, times: int = 1) -> None:
        """Lose the next *times* answers to a refresh."""
        details: dict[Loss, tuple[Any, dict[str, Any]]] = {
            "drip": ("drip", {"body": '{"access_token": "'}),
            "hang": ("delay", {"ms": 12_000}),
        }
        mode, more = details.get(loss, (loss, {}))
        await asyncio.to_thread(
            self._provider.fault,
            mode,
            grant_type="refresh_token",
            client_id=self._client_id,
            times=times,
            **more,
        )


async def ask_all(visitor: Visitor, stage: Stage, path: str = "/api/orders") -> list[tuple[int, str | None]]:
    """Call every process, one after the other."""
    answers = [await visitor.ask(worker, path) for worker in stage.workers]
    return [(answer.status, answer.code) for answer in answers]


async def renewed(world: World, fleet: Fleet, plan: WorkerPlan, profile: Profile) -> tuple[Stage, Visitor]:
    """An application of two processes and somebody whose token has just been renewed."""
    stage = await Stage.of(world, fleet, plan, profile, workers=2)
    [visitor] = await log_in(stage.workers[0])
    await stage.expire()
    assert await ask_all(visitor, stage) == [(200, None)] * 2
    return stage, visitor


@pytest.mark.spec("REF-10", "REF-14", "REF-21")
async def test_strict_goes_on_with_the_token_that_works_then_ends_in_one_clean_logout(world: World) -> None:
    """Whatever became of the answer, it is not sent again: neither while the access token works, nor afterwards."""

    async def lose(fleet: Fleet, loss: Loss, sessions: SessionKind) -> None:
        plan = world.plan("sqlite", "strict", sessions=sessions)
        stage, visitor = await renewed(world, fleet, plan, "strict")
        before = await stage.log.refreshes()
        await stage.make_stale(left=LEFT)
        await Losing(world, plan).lose(loss)
        for _ in range(2):
            assert await ask_all(visitor, stage) == [(200, None)] * 2
            await stage.drain()
        assert await ask_all(visitor, stage, "/bff/user") == [(200, None)] * 2
        assert await stage.log.refreshes() == before + 1
        await stage.advance(LEFT)
        cookie = visitor.cookie
        answers = await volley([visitor.call(worker) for worker in stage.workers * 2])
        assert {answer.status for answer in answers} == {401}
        assert "renewal_lost" in {answer.code for answer in answers}, [answer.code for answer in answers]
        assert all(b'"login_url"' in answer.body for answer in answers)
        for answer in answers:
            visitor.receive(answer)
        assert visitor.cookie == "", "the browser still has the cookie of the session"
        late = await volley([replace(visitor.call(worker), cookie=cookie) for worker in stage.workers])
        assert {answer.status for answer in late} == {401}, "it is over for the old cookie as well"
        assert await stage.log.refreshes() == before + 1
        assert await stage.log.reuse() == 0
        assert (await log_in(stage.workers[0]))[0].cookie, "a login helps"

    async with Fleet() as fleet, asyncio.TaskGroup() as tasks:
        for loss in LOSSES:
            tasks.create_task(_named(lose(fleet, loss, "server"), f"{loss}, server sessions"))
        tasks.create_task(_named(lose(fleet, "after", "cookie"), "after, cookie sessions"))


@pytest.mark.spec("REF-10")
async def test_control_without_the_mark_it_is_sent_again(world: World) -> None:
    """What the test above would see if nobody wrote down what was sent."""
    plan = replace(world.plan("sqlite", "strict"), without="mark")
    async with Fleet() as fleet:
        stage, visitor = await renewed(world, fleet, plan, "strict")
        await stage.make_stale(left=LEFT)
        await Losing(world, plan).lose("after")
        await ask_all(visitor, stage)
        await stage.drain()
        await stage.advance(LEFT)
        await ask_all(visitor, stage)
    assert await stage.log.reuse() > 0


@pytest.mark.spec("REF-10")
async def test_strict_ends_at_once_where_the_access_token_has_expired(world: World) -> None:
    async def lose(fleet: Fleet, loss: Loss) -> None:
        plan = world.plan("sqlite", "strict")
        stage, visitor = await renewed(world, fleet, plan, "strict")
        await stage.expire()
        await Losing(world, plan).lose(loss)
        assert await ask_all(visitor, stage) == [(401, "renewal_lost"), (401, "session_missing")]
        assert (await stage.log.refreshes(), await stage.log.reuse()) == (2, 0)

    async with Fleet() as fleet, asyncio.TaskGroup() as tasks:
        for loss in LOSSES[:2]:
            tasks.create_task(_named(lose(fleet, loss), loss))


@pytest.mark.spec("REF-10")
async def test_none_sends_again_and_nobody_notices(world: World) -> None:
    async def lose(fleet: Fleet, loss: Loss, sessions: SessionKind) -> None:
        plan = world.plan("sqlite", "none", sessions=sessions)
        stage, visitor = await renewed(world, fleet, plan, "none")
        for losses, statuses in ((1, {200}), (2, {200, 503})):
            await stage.expire()
            await Losing(world, plan).lose(loss, times=losses)
            first = await visitor.ask(stage.workers[0])
            assert first.status in statuses
            await stage.advance(first.retry_after or 0)
            assert await ask_all(visitor, stage) == [(200, None)] * 2
        assert await stage.log.refreshes() == 1 + 2 + 3

    async with Fleet() as fleet, asyncio.TaskGroup() as tasks:
        for loss in LOSSES[:2]:
            for sessions in ("server", "cookie"):
                tasks.create_task(_named(lose(fleet, loss, sessions), f"{loss}, {sessions} sessions"))


@contextmanager
def behind_a_proxy(
    world: World, provider: DjangoProvider, sessions: SessionKind
) -> Iterator[tuple[TCPFault, WorkerPlan]]:
    """An application that reaches its provider, which calls itself as it is called, by a proxy."""
    world.django = provider
    plan = world.plan("sqlite", "grace", sessions=sessions)
    with TCPFault.before(int(provider.origin.rpartition(":")[2])) as proxy:
        path = provider.issuer.removeprefix(provider.origin)
        yield proxy, replace(plan, issuer=f"http://127.0.0.1:{proxy.port}{path}")


@pytest.mark.spec("REF-10")
@pytest.mark.parametrize("sessions", ["server", "cookie"])
async def test_grace_sends_once_more_and_nobody_notices(
    world: World, django_provider: DjangoProvider, sessions: SessionKind
) -> None:
    """django-oauth-toolkit acts, and gives a refresh token that it has rotated its successor once more."""
    with behind_a_proxy(world, django_provider, sessions) as (proxy, plan):
        async with Fleet() as fleet:
            stage, visitor = await renewed(world, fleet, plan, "grace")
            await stage.expire()
            proxy.cut_answers(times=1)
            assert await ask_all(visitor, stage) == [(200, None)] * 2
            assert (await stage.log.refreshes(), await stage.log.most_uses()) == (3, 2)
            await stage.expire()
            assert await ask_all(visitor, stage) == [(200, None)] * 2, "the grant lives"
            assert (await stage.log.refreshes(), await stage.log.most_uses()) == (4, 2)


@pytest.mark.spec("REF-10")
async def test_grace_does_not_send_a_third_time(world: World, django_provider: DjangoProvider) -> None:
    with behind_a_proxy(world, django_provider, "server") as (proxy, plan):
        async with Fleet() as fleet:
            stage, visitor = await renewed(world, fleet, plan, "grace")
            await stage.expire()
            proxy.cut_answers(times=2)
            assert await ask_all(visitor, stage) == [(401, "renewal_lost"), (401, "session_missing")]
    assert (await stage.log.refreshes(), await stage.log.most_uses()) == (3, 2)


async def _named(test: Any, name: str) -> None:
    try:
        await test
    except AssertionError as failed:
        failed.add_note(name)
        raise
