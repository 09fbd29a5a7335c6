"""Logouts by the provider, in the in-process world: the endpoints, and what a provider sends there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

from coatcheck.bff import BFF
from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.errors import StoreUnavailable
from coatcheck.sessions.session import EndReason, SessionFilter
from coatcheck.testing import DEFAULT_CLIENT
from tests.bff.world import World, claims, world
from tests.oauth.logout_tokens import Mint
from tests.rig.user_agent import UserAgent

FORM = {"content-type": "application/x-www-form-urlencoded"}


class WatchedEnding:
    """What ends the sessions of *bff*, and what it was asked to do. A test may have it fail."""

    barrier: asyncio.Barrier | None = None
    """Where all have to arrive before any goes on."""

    def __init__(self, bff: BFF) -> None:
        self.asked: list[tuple[SessionFilter, EndReason, float | None, bool]] = []
        self.fault: Exception | None = None
        self._end_about = bff._ending.end_about
        bff._ending.end_about = self  # type: ignore[method-assign]

    async def __call__(
        self, who: SessionFilter, *, reason: EndReason, issued_until: float | None = None, revoke: bool = True
    ) -> int | None:
        self.asked.append((who, reason, issued_until, revoke))
        if self.fault is not None:
            raise self.fault
        if self.barrier is not None:
            await self.barrier.wait()
        return await self._end_about(who, reason=reason, issued_until=issued_until, revoke=revoke)


@contextmanager
def logouts(**options: Any) -> Iterator[tuple[World, WatchedEnding]]:
    """A world whose provider may end sessions by either channel."""
    with world(**{"logout": LogoutOptions(frontchannel=True), **options}) as w:
        yield w, WatchedEnding(w.bff)


def second_node(w: World) -> str:
    """Start another process of the same application, over the same store; its address."""
    here, address = w.public_url.partition("//")[2], "127.0.0.1:8002"
    bff, app = w.bff, w.transport.apps[here]
    WatchedEnding(w.start())
    w.serve(w.transport.apps[here], at=address)
    w.bff = bff
    w.serve(app)
    return "http://" + address


def mint(w: World, browser: UserAgent | None = None) -> Mint:
    """Makes tokens of this world's provider about the session in *browser*."""
    about = {} if browser is None else {name: claims(me(browser))[name] for name in ("sub", "sid")}
    key = w.provider.keys.newest
    return Mint(w.provider.issuer, DEFAULT_CLIENT.client_id, w.clock.time(), key.private_pem, key.kid, about)


def me(browser: UserAgent) -> httpx2.Response:
    return browser.fetch("/bff/user")


def alive(browser: UserAgent) -> bool:
    """Whether somebody is logged in there."""
    return me(browser).status_code == 200


def post(
    w: World, token: str, *, at: str | None = None, path: str = "/bff/backchannel", headers: Mapping[str, str] = FORM
) -> httpx2.Response:
    """What the provider sends."""
    content = str(httpx2.QueryParams({"logout_token": token}))
    return send(w, "POST", (at or w.public_url) + path, headers=headers, content=content)


def send(w: World, method: str, url: str, **request: Any) -> httpx2.Response:
    """One request without anything that a browser would add."""
    return w.transport.handle_request(httpx2.Request(method, url, **request))


AWAY = StoreUnavailable("the test broke it")


def revocations(w: World) -> int:
    """How many tokens were given back, those behind answers included."""
    w.transport.loop.run_until_complete(w.bff._ending.aclose())
    return w.provider.count("revocation")
