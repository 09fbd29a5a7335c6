from __future__ import annotations

from datetime import timedelta

from coatcheck.sessions import ServerSideSessions
from coatcheck.stores import MemoryStore
from tests.sessions.samples import POLICY, RING, Browser, log_in
from tests.testing.clocks import HandClock


async def test_dead_sessions_do_not_pile_up() -> None:
    """Nobody opens them any more, and still they go: a few at every login."""
    clock = HandClock()
    store = MemoryStore(clock)
    sessions = ServerSideSessions(store, RING, POLICY, clock=clock)
    largest = 0
    for _ in range(1000):
        await log_in(sessions, Browser(), now=clock.time())
        clock.forward(timedelta(minutes=1))
        largest = max(largest, len(store._rows))
    assert largest < 100


async def test_live_sessions_stay_whatever_else_is_cleaned_up() -> None:
    clock = HandClock()
    store = MemoryStore(clock)
    sessions = ServerSideSessions(store, RING, POLICY, clock=clock, idle_timeout=timedelta(hours=8))
    browser = Browser()
    await log_in(sessions, browser, now=clock.time())
    for _ in range(100):
        await log_in(sessions, Browser(), now=clock.time())
        clock.forward(timedelta(minutes=4))
    assert await sessions.open(browser.cookies(), now=clock.time()) is not None
