"""Whatever overtakes what: no refresh token is used twice while a cookie session goes from process to process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from coatcheck.errors import CookieOutdated, SessionGone
from coatcheck.sessions import CookieSessions, SessionHandle
from coatcheck.sessions.pending import STRAGGLING
from tests.sessions.nodes import Nodes
from tests.sessions.samples import POLICY, RING, Browser, log_in

IDLE = timedelta(hours=100)
SLIDE = IDLE.total_seconds() / 10
TRAVEL = 10.0
"""Seconds that the head of an answer may take to the browser, once it was sent."""


@dataclass
class Answer:
    lines: list[bytes]
    sent_at: float


class OneBrowser(RuleBasedStateMachine):
    """
    One browser and three processes that may be started anew. Requests take any time, answers overtake each other.

    The tokens of generation *n* are `b"n"`, and a renewal uses them up. The lease that makes renewals wait for each
    other is not what is tested here, so one renewal is one step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.nodes = Nodes()
        self.processes = [self.process() for _ in range(3)]
        self.browser = Browser()
        self.requests: list[tuple[SessionHandle, float]] = []
        self.answers: list[Answer] = []
        self.used: set[bytes] = set()

    def teardown(self) -> None:
        self.do(self.settle())
        self.runner.close()

    def process(self) -> CookieSessions:
        clock, store = self.nodes.clock, self.nodes.store
        return CookieSessions(RING, POLICY, clock=clock, coordination=store, lifetime=10 * IDLE, idle_timeout=IDLE)

    def do(self, work: Coroutine[None, None, None]) -> None:
        self.runner.run(self.then_settle(work))

    async def then_settle(self, work: Coroutine[None, None, None]) -> None:
        await work
        await self.settle()

    async def settle(self) -> None:
        for process in self.processes:
            await process.aclose()

    @initialize()
    def a_login(self) -> None:
        self.do(self.logged_in())

    async def logged_in(self) -> None:
        await log_in(self.processes[0], self.browser, tokens=b"1", now=self.nodes.clock.time())

    @rule(process=st.integers(0, 2))
    def the_browser_sends_a_request(self, process: int) -> None:
        self.do(self.opened(process))

    async def opened(self, process: int) -> None:
        now = self.nodes.clock.time()
        handle = await self.processes[process].open(self.browser.cookies(), now=now)
        assert handle is not None
        self.requests.append((handle, now))

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 1000))
    def a_request_renews(self, which: int) -> None:
        self.do(self.renewed(*self.requests[which % len(self.requests)]))

    async def renewed(self, handle: SessionHandle, began: float) -> None:
        try:
            tokens, version = await handle.tokens(reload=True)
        except CookieOutdated:
            assert self.nodes.clock.time() - began >= STRAGGLING, "a request was refused that was not held up"
            return
        assert tokens not in self.used, "a refresh token was used twice"
        self.used.add(tokens)
        await handle.replace_tokens(b"%d" % (version + 1), version=version)

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 1000), lost=st.sampled_from([False, False, True]))
    def a_request_is_answered(self, which: int, lost: bool) -> None:
        self.do(self.answered(self.requests.pop(which % len(self.requests))[0], lost))

    async def answered(self, handle: SessionHandle, lost: bool) -> None:
        lines = handle.set_cookies()
        if lines and not lost:
            self.answers.append(Answer(lines, self.nodes.clock.time()))

    @precondition(lambda self: self.answers)
    @rule(which=st.integers(0, 1000))
    def an_answer_arrives(self, which: int) -> None:
        self.browser.receive(self.answers.pop(which % len(self.answers)).lines)

    @rule(seconds=st.sampled_from([1.0, 5.0, 20.0, 40.0, 61.0, SLIDE + 1]))
    def time_passes(self, seconds: float) -> None:
        now = self.nodes.clock.time() + seconds
        for answer in [answer for answer in self.answers if answer.sent_at + TRAVEL < now]:
            self.answers.remove(answer)
            self.browser.receive(answer.lines)
        self.requests = [each for each in self.requests if now - each[1] < IDLE.total_seconds() / 4]
        self.nodes.clock.forward(timedelta(seconds=seconds))

    @rule(process=st.integers(0, 2))
    def a_process_is_started_anew(self, process: int) -> None:
        ended = self.processes[process]
        self.requests = [each for each in self.requests if each[0]._sessions is not ended]  # type: ignore[attr-defined]
        self.processes[process] = self.process()

    @precondition(lambda self: self.requests)
    @rule(process=st.integers(0, 2))
    def a_logout_ends_every_renewal(self, process: int) -> None:
        """And then everything begins anew."""
        self.do(self.logged_out(process))

    async def logged_out(self, process: int) -> None:
        now = self.nodes.clock.time()
        leaving = await self.processes[process].open(self.browser.cookies(), now=now)
        assert leaving is not None
        await self.processes[process].end(leaving)
        for handle, _ in self.requests:
            if handle.session.id == leaving.session.id:
                with pytest.raises(SessionGone):
                    await handle.tokens(reload=True)
                assert handle.set_cookies() == []
        self.browser, self.requests, self.answers = Browser(), [], []
        self.used.clear()
        await self.logged_in()


TestOneBrowser = pytest.mark.spec("REF-05", "REF-11", "REF-23")(OneBrowser.TestCase)
TestOneBrowser.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
