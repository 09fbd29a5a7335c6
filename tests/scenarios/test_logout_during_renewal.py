"""A session that ends while its token is renewed somewhere stays ended, and what the renewal brought is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from tests.rig.control_plane import RegisteredClient
from tests.rig.fleet import Fleet
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.volley import volley
from tests.rig.worker_plan import SessionKind, WorkerPlan
from tests.scenarios.stored import count_sessions, delete_sessions
from tests.scenarios.two_nodes import TOKEN_TTL, register, until
from tests.storm.stage import TOKEN_LIFETIME, Stage, StoreName, Visitor, World, log_in

Delay = Literal["at the provider", "before the write"]
DELAYS: tuple[Delay, ...] = ("at the provider", "before the write")
"""Where the renewal is when the session ends: the provider has not acted yet; or it has, and nothing is written."""

AT_ONCE = 6


@dataclass(frozen=True, slots=True)
class Case:
    """A store (None: the memory of the only process), what is kept in it, and where the renewal is delayed."""

    store: StoreName | None
    sessions: SessionKind
    delay: Delay


STORES: tuple[StoreName, ...] = ("sqlite", "postgresql", "valkey")
LOGOUTS = [
    *(Case(None, "server", delay) for delay in DELAYS),
    *(Case(store, sessions, delay) for store in STORES for sessions in ("server", "cookie") for delay in DELAYS),
]
DELETIONS = [Case(store, "server", delay) for store in STORES for delay in DELAYS]


@pytest.mark.spec("REF-23")
async def test_a_logout_elsewhere_wins_over_a_renewal_that_is_under_way(everything: World) -> None:
    await _all_of(everything, LOGOUTS, _logged_out)


@pytest.mark.spec("REF-23", "BCL-19", "SES-05")
async def test_a_logout_at_the_provider_wins_over_a_renewal_that_is_under_way(everything: World) -> None:
    """The other process is told, and nobody waits: neither the provider for the renewal, nor the other way round."""
    await _all_of(everything, LOGOUTS, _told_by_the_provider)


@pytest.mark.spec("REF-23")
async def test_a_deleted_row_does_not_come_back_by_a_renewal_that_is_under_way(everything: World) -> None:
    """An administrator deletes sessions by hand: nobody is there to revoke the tokens but whoever renews them."""
    await _all_of(everything, DELETIONS, _deleted)


@pytest.mark.spec("REF-23")
async def test_control_without_the_compare_and_swap_the_session_comes_back(world: World) -> None:
    """What the tests above would see if a late write won."""
    async with Fleet() as fleet:
        ending = _Ending(world, fleet, Case("sqlite", "server", "before the write"))
        ending.plan = replace(ending.plan, without="cas")
        with pytest.raises(AssertionError, match=r"200"):
            await ending.end_by(_logged_out)


async def _all_of(world: World, cases: list[Case], end: Callable[[_Ending, Visitor], Awaitable[None]]) -> None:
    few = asyncio.Semaphore(AT_ONCE)

    async def go(fleet: Fleet, case: Case) -> None:
        async with few:
            try:
                await _Ending(world, fleet, case).end_by(end)
            except AssertionError as failed:
                failed.add_note(f"{case}")
                raise

    async with Fleet() as fleet:
        async with asyncio.TaskGroup() as tasks:
            for case in cases:
                tasks.create_task(go(fleet, case))
        assert "refused the newest refresh token" not in fleet.output, "a logout is no theft"


async def _logged_out(ending: _Ending, visitor: Visitor) -> None:
    out = await visitor.ask(ending.other, "/bff/logout", "POST")
    assert out.status == 303
    assert visitor.cookie == ""


async def _told_by_the_provider(ending: _Ending, visitor: Visitor) -> None:
    client = RegisteredClient(ending.plan.client_id, None)
    told = await asyncio.to_thread(ending.provider.backchannel_logout, client, sub="alice")
    assert told == {"delivered": True}


async def _deleted(ending: _Ending, visitor: Visitor) -> None:
    await asyncio.to_thread(ending.delete_rows)


class _Ending:
    """One application whose only session ends while one of its processes renews the token."""

    def __init__(self, world: World, fleet: Fleet, case: Case) -> None:
        assert world.oidc is not None
        self.provider: OIDCProvider = world.oidc
        self._world = world
        self._fleet = fleet
        self._case = case
        self.plan: WorkerPlan = world.plan(case.store or "sqlite", "strict", sessions=case.sessions)
        if case.store is None:
            self.plan = replace(self.plan, store="memory")

    async def end_by(self, end: Callable[[_Ending, Visitor], Awaitable[None]]) -> None:
        workers = 1 if self._case.store is None else 2
        self._stage = await Stage.of(self._world, self._fleet, self.plan, "strict", workers=workers)
        self.holder, self.other = self._stage.workers[0], self._stage.workers[-1]
        await register(self.provider, self.plan, self.other, by_sid=False)
        [visitor] = await log_in(self.holder)
        await self._stage.advance(TOKEN_TTL + 1)
        assert await self._good_refresh_tokens() == 1
        cookie = visitor.cookie
        async with self._delayed():
            waiting = [asyncio.create_task(visitor.ask(self.holder)) for _ in range(2)]
            await self._under_way()
            await end(self, visitor)
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [401, 401]
        await self._stage.drain()
        await self._is_over(visitor, cookie)
        await self._stage.advance(TOKEN_LIFETIME)
        await self._is_over(visitor, cookie)
        await self._nothing_is_left_at_the_provider(end)

    async def _is_over(self, visitor: Visitor, cookie: str) -> None:
        """Whatever still has the cookie of the session gets nowhere, anywhere."""
        calls = [
            replace(visitor.call(worker, path), cookie=cookie)
            for worker in self._stage.workers
            for path in ("/api/orders", "/bff/user")
        ]
        assert {answer.status for answer in await volley(calls)} == {401}
        if self._case.sessions == "server" and self._case.store is not None:
            assert await asyncio.to_thread(count_sessions, self._world, self.plan.store) == 0
        assert await self._stage.log.refreshes() == 1

    async def _nothing_is_left_at_the_provider(self, end: object) -> None:
        await until(lambda: self.provider.good_refresh_tokens(self.plan.client_id) == 0)
        if end is _told_by_the_provider:
            return  # what is revoked by itself depends on whether the renewal came first
        came_too_late = self._case.delay == "before the write" or end is _deleted
        new = await self._stage.log.revoked() - {await self._used()}
        assert len(new) == came_too_late, "the new refresh token was not revoked by itself"

    async def _used(self) -> str:
        [refresh] = await asyncio.to_thread(
            self.provider.log, client_id=self.plan.client_id, grant_type="refresh_token"
        )
        return str(refresh.params["refresh_token"])

    async def _good_refresh_tokens(self) -> int:
        return await asyncio.to_thread(self.provider.good_refresh_tokens, self.plan.client_id)

    @asynccontextmanager
    async def _delayed(self) -> AsyncIterator[None]:
        client_id = self.plan.client_id
        if self._case.delay == "before the write":
            await self.holder.arm("renewal.before_write")
            yield
            await self.holder.release("renewal.before_write")
            return
        await asyncio.to_thread(
            self.provider.fault, "hold", grant_type="refresh_token", client_id=client_id, times=None
        )
        try:
            yield
        finally:
            await asyncio.to_thread(self.provider.clear_faults, client_id=client_id)
            await asyncio.to_thread(self.provider.release, client_id=client_id)

    async def _under_way(self) -> None:
        if self._case.delay == "before the write":
            return await self.holder.reached("renewal.before_write")
        await asyncio.to_thread(
            self.provider.wait_for_request, grant_type="refresh_token", client_id=self.plan.client_id
        )

    def delete_rows(self) -> None:
        """Delete all sessions by the store's own means."""
        assert count_sessions(self._world, self.plan.store) == 1
        delete_sessions(self._world, self.plan.store)
