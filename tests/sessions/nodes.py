"""Processes that share a coordination store, and browsers between them: what the tests of cookie sessions need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from coatcheck.coordination import ExpiringValue
from coatcheck.errors import StoreUnavailable
from coatcheck.sessions import CookieSessions, KeyRing, SessionHandle
from coatcheck.sessions.pending import PendingTokens
from coatcheck.stores import MemoryStore
from tests.sessions.samples import HOUR, NOW, POLICY, RING, Browser, log_in
from tests.testing.clocks import HandClock

MINUTE = timedelta(minutes=1)
LIFETIME = 8 * HOUR


class Watched(MemoryStore):
    """Counts what it is asked, can be down, and has things happen before and after it does what it is asked."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.asked: list[str] = []
        self.down = False
        self.before: dict[str, Callable[[], Awaitable[object]]] = {}
        self.after: dict[str, Callable[[], Awaitable[object]]] = {}
        self.ends: dict[bytes, float] = {}
        self.gate: asyncio.Event | None = None
        """Where every look waits."""

    async def _ask(self, what: str) -> None:
        self.asked.append(what)
        before = self.before.pop(what, None)
        if before is not None:
            await before()
        if self.down:
            raise StoreUnavailable("the store is down")

    async def _answer(self, what: str) -> None:
        after = self.after.pop(what, None)
        if after is not None:
            await after()

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        await self._ask("add")
        added = await super().add(key, value, until=until)
        if added:
            self.ends[key] = until
        await self._answer("add")
        return added

    async def get(self, key: bytes) -> ExpiringValue | None:
        await self._ask("get")
        if self.gate is not None:
            await self.gate.wait()
        found = await super().get(key)
        await self._answer("get")
        return found

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        await self._ask("replace")
        await super().replace(key, value, version=version, until=until)
        self.ends[key] = until


class Nodes:
    """Processes that share a clock and a coordination store, and the browsers between them."""

    def __init__(self, ring: KeyRing = RING) -> None:
        self.clock = HandClock(NOW)
        self.store = Watched(self.clock)
        self.a, self.b = self.process(ring), self.process(ring)

    def process(self, ring: KeyRing = RING) -> CookieSessions:
        return CookieSessions(ring, POLICY, clock=self.clock, coordination=self.store)

    async def log_in(self, *, tokens: bytes = b"1") -> Browser:
        browser = Browser()
        await log_in(self.a, browser, tokens=tokens, now=self.clock.time())
        return browser

    async def open(self, sessions: CookieSessions, browser: Browser, *, slide: bool = True) -> SessionHandle | None:
        return await sessions.open(browser.cookies(), now=self.clock.time(), slide=slide)

    async def opened(self, sessions: CookieSessions, browser: Browser) -> SessionHandle:
        handle = await self.open(sessions, browser)
        assert handle is not None
        return handle

    async def renew(self, sessions: CookieSessions, browser: Browser, tokens: bytes) -> SessionHandle:
        """Have a request renew; what its answer carries is the caller's to deliver, or to lose."""
        handle = await self.opened(sessions, browser)
        _, version = await handle.tokens(reload=True)
        await handle.replace_tokens(tokens, version=version)
        return handle

    async def background(self) -> None:
        """Let what is done behind the back of the requests come to its end."""
        for sessions in (self.a, self.b):
            await sessions.aclose()

    @property
    def ends_in(self) -> float:
        """Seconds until nothing is left of the session that has the store for itself."""
        return max(self.store.ends.values()) - self.clock.time()

    async def tokens_end_in(self, browser: Browser) -> float:
        """Seconds for which the newest tokens of the session of *browser* go on waiting."""
        handle = await self.process().open(browser.cookies(), now=self.clock.time(), slide=False)
        assert handle is not None
        room = PendingTokens(self.store, RING.bound_to(POLICY.application_id), POLICY.application_id)
        waiting = await room.get(handle.session.id)
        assert waiting is not None
        arrived = None if waiting.tokens is not None else waiting.generation
        return self.store.ends[room._key(handle.session.id, arrived)] - self.clock.time()


async def held(browser: Browser, nodes: Nodes) -> tuple[bytes, int]:
    """What the cookies of *browser* hold, as a process sees it that knows of nothing else."""
    fresh = CookieSessions(RING, POLICY, clock=nodes.clock, coordination=MemoryStore(nodes.clock))
    handle = await fresh.open(browser.cookies(), now=nodes.clock.time(), slide=False)
    assert handle is not None
    return await handle.tokens()


async def renewed_meanwhile(nodes: Nodes, browser: Browser) -> None:
    """Another process renews, and its answer is lost."""
    await nodes.renew(nodes.a, browser, b"3")
