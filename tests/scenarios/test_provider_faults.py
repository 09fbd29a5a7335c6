"""An authorization server that fails: nobody is logged out, and with a token that still works nobody notices."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any

import pytest

from coatcheck.tokens.freshness import TokenState
from tests.rig.fleet import Fleet
from tests.rig.oidc_provider import FaultMode
from tests.rig.tcp_fault import TCPFault
from tests.rig.volley import CallAnswer
from tests.rig.worker_plan import SessionKind
from tests.storm.stage import Stage, Visitor, World, log_in

HTML = {"content-type": "text/html; charset=utf-8"}
JSON = {"content-type": "application/json"}
PAGE = "<!doctype html><title>Sorry</title>"
ASKED_FOR = 7
"""Seconds that a busy provider wants to be left alone."""
LEFT = 20.0
"""Seconds that a stale token has left."""
AT_ONCE = 6

Details = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """
    What the token endpoint does, with details of now (its own clock's). None: nobody listens there.

    *patience* is how often pages come back while it lasts. Where each attempt takes ten seconds, there is one process,
    and one fault meets tokens that still work, another one those that have expired.
    """

    name: str
    mode: FaultMode | None = "status"
    details: Callable[[float], Details] = field(default=lambda now: {})
    patience: int = 1
    workers: int = 2
    sessions: SessionKind = "server"
    meets: tuple[TokenState, ...] = (TokenState.STALE, TokenState.EXPIRED)


def refusing(status: int, error: str) -> Fault:
    return Fault(error, details=lambda now: {"status": status, "body": f'{{"error": "{error}"}}'})


def busy(name: str, retry_after: Callable[[float], str]) -> Fault:
    return Fault(name, details=lambda now: {"status": 429, "headers": {"retry-after": retry_after(now)}})


def dripping(name: str, status: int, headers: Details, meets: TokenState) -> Fault:
    details = {"status": status, "headers": headers, "body": PAGE}
    return Fault(f"{name} ({meets.value})", "drip", lambda now: details, workers=1, meets=(meets,))


FAULTS = (
    *(dripping("a page that drips", 200, HTML, state) for state in (TokenState.STALE, TokenState.EXPIRED)),
    *(dripping("an error that drips", 500, JSON, state) for state in (TokenState.STALE, TokenState.EXPIRED)),
    Fault("500", details=lambda now: {"status": 500, "headers": HTML, "body": PAGE}, patience=8),
    Fault("500, cookie sessions", details=lambda now: {"status": 500, "body": ""}, sessions="cookie"),
    busy("429 for seconds", lambda now: str(ASKED_FOR)),
    busy("429 until a date", lambda now: formatdate(now + ASKED_FOR, usegmt=True)),
    Fault("a page with 200", "garbage", lambda now: {"headers": HTML, "body": PAGE}),
    Fault("half an answer with 200", "garbage", lambda now: {"body": '{"access_token": "a'}),
    Fault("100 MB", "huge"),
    Fault("100 MB of an error", "huge", lambda now: {"status": 500}),
    Fault("a redirect", details=lambda now: {"status": 307, "headers": {"location": "/token"}}),
    Fault("nobody listens", None),
    refusing(401, "invalid_client"),
    refusing(400, "unauthorized_client"),
    refusing(400, "invalid_scope"),
    Fault("invalid_client, cookie sessions", details=refusing(401, "invalid_client").details, sessions="cookie"),
)


@pytest.mark.spec("REF-13", "REF-14", "REF-15", "REF-16", "REF-21", "REF-22")
async def test_no_fault_of_the_provider_logs_anybody_out(world: World) -> None:
    """
    Each fault meets a token that still works and one that has expired, and everybody calls again when it is over.

    An answer that begins and never ends takes ten seconds; all the others are through meanwhile.
    """
    few = asyncio.Semaphore(AT_ONCE)
    failures: dict[str, str] = {}

    async def endure(fleet: Fleet, fault: Fault) -> None:
        async with few, _Cell(world, fleet, fault) as cell:
            try:
                await cell.endure()
            except AssertionError as failed:
                failures[fault.name] = "".join(traceback.format_exception(failed)[-2:])

    async with Fleet() as fleet, asyncio.TaskGroup() as tasks:
        for fault in FAULTS:
            tasks.create_task(endure(fleet, fault))
    assert not failures, "\n".join(f"{name}: {failure}" for name, failure in failures.items())


class _Cell:
    """One application whose provider has one fault."""

    def __init__(self, world: World, fleet: Fleet, fault: Fault) -> None:
        assert world.oidc is not None
        self._provider = world.oidc
        self._fault = fault
        self._stack = ExitStack()
        self._fleet = fleet
        self._world = world
        self._plan = world.plan("sqlite", "strict", sessions=fault.sessions)
        self._proxy: TCPFault | None = None
        self._now = 0.0

    async def __aenter__(self) -> _Cell:
        if self._fault.mode is None:
            port = int(self._provider.issuer.rpartition(":")[2])
            self._proxy = self._stack.enter_context(TCPFault.before(port))
            self._plan = replace(self._plan, token_endpoint=f"http://127.0.0.1:{self._proxy.port}/token")
        self._stage = await Stage.of(self._world, self._fleet, self._plan, "strict", workers=self._fault.workers)
        self._visitors = await log_in(self._stage.workers[0], 2)
        await self._stage.expire()
        await self._ask_all({200})
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stack.close()
        await asyncio.to_thread(self._provider.clear_faults, client_id=self._plan.client_id)

    async def endure(self) -> None:
        if TokenState.STALE in self._fault.meets:
            await self._nobody_notices()
        if TokenState.EXPIRED in self._fault.meets:
            await self._everybody_is_told_when_to_come_back()

    async def _nobody_notices(self) -> None:
        renewed = await self._stage.log.refreshes()
        await self._stage.make_stale(left=LEFT)
        await self._begin()
        await self._ask_all({200})
        await self._stage.drain()
        tried = await self._stage.log.refreshes()
        assert tried > renewed or self._fault.mode is None, "nobody tried to renew"
        await self._ask_all({200})
        await self._end()
        await self._stage.advance(LEFT)

    async def _everybody_is_told_when_to_come_back(self) -> None:
        await self._stage.expire()
        for _ in range(self._fault.patience):
            await self._begin()
            refused = await self._ask_all({503})
            assert {answer.code for answer in refused} == {"token_unavailable"}
            assert {answer.content_type for answer in refused} == {"application/problem+json"}
            await self._nobody_is_logged_out()
            if self._fault.patience > 1:
                await self._stage.advance(_announced(refused))
        sent = await self._stage.log.refreshes()
        announced = _announced(await self._ask_all({503}))
        if self._fault.name.startswith("429"):
            assert await self._stage.log.refreshes() == sent, "asked again although it wants to be left alone"
            assert announced in (ASKED_FOR - 1, ASKED_FOR)
        await self._end()
        await self._stage.advance(announced)
        await self._everybody_goes_on()

    async def _everybody_goes_on(self) -> None:
        renewals = await self._stage.log.refreshes()
        # One after the other: after many failures only one request at a time tries whether it is well again.
        answers = [answer for visitor in self._visitors for answer in await self._ask(visitor)]
        assert {answer.status for answer in answers} == {200}, [(a.status, a.code, a.retry_after) for a in answers]
        assert await self._stage.log.refreshes() - renewals == len(self._visitors)

    async def _ask_all(self, statuses: set[int]) -> list[CallAnswer]:
        """Every page calls every process, one after the other for each page."""
        answers = [answer for group in await asyncio.gather(*map(self._ask, self._visitors)) for answer in group]
        assert {answer.status for answer in answers} == statuses, [(a.status, a.code) for a in answers]
        return answers

    async def _ask(self, visitor: Visitor) -> list[CallAnswer]:
        return [await visitor.ask(worker) for worker in self._stage.workers]

    async def _nobody_is_logged_out(self) -> None:
        for visitor in self._visitors:
            user = await visitor.ask(self._stage.workers[0], "/bff/user")
            assert user.status == 200
            assert b'{"type":"bff:tokens","value":"unavailable"}' in user.body.replace(b'": ', b'":'), user.body

    async def _begin(self) -> None:
        if self._proxy is not None:
            return self._proxy.cut()
        assert self._fault.mode is not None
        client_id = self._plan.client_id
        await asyncio.to_thread(self._provider.clear_faults, client_id=client_id)
        details = self._fault.details(time.time())
        await asyncio.to_thread(
            self._provider.fault,
            self._fault.mode,
            grant_type="refresh_token",
            client_id=client_id,
            times=None,
            **details,
        )

    async def _end(self) -> None:
        if self._proxy is not None:
            self._proxy.restore()
        await asyncio.to_thread(self._provider.clear_faults, client_id=self._plan.client_id)


def _announced(answers: list[CallAnswer]) -> int:
    assert all(answer.retry_after for answer in answers)
    return max(answer.retry_after or 0 for answer in answers)
