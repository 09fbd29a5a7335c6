"""A call that is on its way when its user logs out: no token leaves afterwards."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import timedelta

import pytest

from coatcheck.bff.current import CONFIRM_AFTER, CurrentRequest
from coatcheck.errors import SessionGone, StoreUnavailable
from coatcheck.sessions import CookieSessions, KeyRing, new_key
from coatcheck.sessions.cookie import parse_cookies
from coatcheck.tokens.results import AccessTokenResult
from coatcheck.tokens.retrievers import AccessTokenRetrievalContext
from tests.bff.proxy_rig import OURS, CountingStore, Ending, FixedRetriever, Rig, route
from tests.bff.raw_upstream import raw_upstream

LONG = timedelta(seconds=CONFIRM_AFTER)
SHORT = LONG - timedelta(milliseconds=1)
PIECES = (b"x" * 1000, b"y" * 1000)
UPLOAD = (*OURS, (b"content-length", b"2000"))


class SlowRetriever(FixedRetriever):
    """Has the token when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.released = asyncio.Event()

    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        self.reached.set()
        await self.released.wait()
        return await super().get_access_token(context)


async def log_out(rig: Rig) -> None:
    handle = await rig.sessions.open(parse_cookies([rig.cookie]), now=rig.clock.time())
    assert handle is not None
    await rig.sessions.end(handle)


@pytest.mark.spec("RPL-09")
async def test_a_logout_midway_through_an_upload_keeps_the_token_here() -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser, task = rig.begin("POST", "/api/orders", headers=UPLOAD, body=PIECES)
        browser.gives.clear()
        await browser.awaited.wait()
        await log_out(rig)
        rig.clock.forward(LONG)
        browser.gives.set()
        await task
        assert (browser.status, browser.code) == (401, "session_expired")
        assert b'"login_url":"/bff/login"' in browser.answer
        assert upstream.connections == 0
        assert browser.all(b"set-cookie") == [], "another tab may have logged in meanwhile"


@pytest.mark.spec("RPL-09")
async def test_a_logout_while_a_token_is_waited_for_keeps_it_here() -> None:
    retriever = SlowRetriever()
    async with raw_upstream() as upstream, route(upstream.url, retriever=retriever) as rig:
        browser, task = rig.begin("GET", "/api/orders")
        await retriever.reached.wait()
        await log_out(rig)
        rig.clock.forward(LONG)
        retriever.released.set()
        await task
        assert (browser.status, browser.code, upstream.connections) == (401, "session_expired", 0)


@pytest.mark.spec("RPL-09")
async def test_a_streamed_upload_begins_only_in_a_live_session() -> None:
    """Its token leaves with its first byte; what the remote API has accepted is not broken off."""
    retriever = SlowRetriever()
    headers = (*OURS, (b"content-length", b"%d" % (70_000 + 1000)))
    async with raw_upstream() as upstream, route(upstream.url, retriever=retriever) as rig:
        browser, task = rig.begin("POST", "/api/orders", headers=headers, body=(b"x" * 70_000, b"y" * 1000))
        await retriever.reached.wait()
        await log_out(rig)
        rig.clock.forward(LONG)
        retriever.released.set()
        await task
        assert (browser.status, browser.pieces_taken, upstream.connections) == (401, 0, 0)


@pytest.mark.spec("RPL-09")
@pytest.mark.parametrize(("takes", "loads"), [(SHORT, 1), (LONG, 2)])
async def test_only_a_slow_call_costs_a_second_look_up(takes: timedelta, loads: int) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser, task = rig.begin("POST", "/api/orders", headers=UPLOAD, body=PIECES)
        browser.gives.clear()
        await browser.awaited.wait()
        rig.clock.forward(takes)
        browser.gives.set()
        await task
        assert (browser.status, rig.store.loads, upstream.connections) == (200, loads, 1)


@pytest.mark.spec("RPL-09", "REF-08")
async def test_when_nobody_can_say_any_more_whether_the_session_lives_what_has_begun_goes_on() -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser, task = rig.begin("POST", "/api/orders", headers=UPLOAD, body=PIECES)
        browser.gives.clear()
        await browser.awaited.wait()
        rig.store.fails_with = StoreUnavailable("it went away meanwhile")
        rig.clock.forward(LONG)
        browser.gives.set()
        await task
        assert (browser.status, upstream.connections) == (200, 1)


async def test_a_slow_call_without_a_session_has_nothing_to_confirm() -> None:
    retriever = SlowRetriever()
    async with (
        raw_upstream() as upstream,
        route(upstream.url, token="client", anonymous=True, retriever=retriever) as rig,
    ):
        browser, task = rig.begin("GET", "/api/orders", login=False)
        await retriever.reached.wait()
        rig.clock.forward(LONG)
        retriever.released.set()
        await task
        assert (browser.status, rig.store.loads) == (200, 0)


@pytest.mark.spec("RPL-09")
@pytest.mark.parametrize(
    ("ended", "away", "gone"),
    [
        ("", False, False),
        ("here", False, True),
        ("elsewhere", False, True),
        ("here", True, True),
        ("elsewhere", True, False),
        ("", True, False),
    ],
)
async def test_a_session_in_cookies_is_confirmed_by_what_is_known_here_and_where_it_is_coordinated(
    ended: str, away: bool, gone: bool
) -> None:
    """While nobody can be asked it goes on, as everywhere: a short outage is noticed by nobody."""
    async with route("http://127.0.0.1:1") as rig:
        clock, store = rig.clock, CountingStore(rig.clock)
        ring, policy = KeyRing([new_key()]), rig.settings.cookies
        here, elsewhere = (CookieSessions(ring, policy, clock=clock, coordination=store) for _ in range(2))
        login = await here.create(claims={}, iss="i", sub="s", sid=None, tokens=b"t", now=clock.time())
        line = (b"cookie", login.set_cookies()[0].partition(b";")[0])
        scope = {"type": "http", "method": "GET", "query_string": b"", "headers": [*OURS, line]}
        current = CurrentRequest(
            scope, "/api", settings=rig.settings, sessions=here, tokens=rig.tokens, ending=Ending(here)
        )
        assert current.check_api() is None
        assert await current.session() is not None
        other = await elsewhere.open(parse_cookies([line]), now=clock.time())
        assert other is not None
        if ended:
            await (here.end(login) if ended == "here" else elsewhere.end(other))
        if away:
            store.get = out_of_order  # type: ignore[method-assign]
        clock.forward(LONG)
        with pytest.raises(SessionGone) if gone else nullcontext():
            await current.confirm_session()


async def out_of_order(key: bytes) -> None:
    raise StoreUnavailable("it is away")
