"""The shop with a page that watches its session, and the streams of events that its server has open."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

from coatcheck import BFF
from coatcheck.bff.answers import Answer
from coatcheck.clock import Clock
from coatcheck.errors import StoreUnavailable
from coatcheck.sessions.store import SessionRow
from coatcheck.stores import MemoryStore
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import ASGIApp, Receive, Scope, Send, serve
from tests.scenarios.shop import Shop, shop

POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'"
"""A page under this runs no inline script and talks to nobody else."""

PAGE = "<!doctype html><title>watching</title><ol></ol><script type=module src=watching.js></script>"
MODULE = """
import { watchSession } from "./ENDPOINTS/session.js";
const note = (...words) => {
  console.log(...words);
  document.querySelector("ol").append(Object.assign(document.createElement("li"), { textContent: words.join(" ") }));
};
document.addEventListener("securitypolicyviolation", ({ violatedDirective }) => note("violation", violatedDirective));
const { request } = LockManager.prototype;
LockManager.prototype.request = function (...all) {
  document.title = "in line";
  return request.apply(this, all);
};
window.stop = watchSession({
  onExpiring: (seconds) => note("expiring", seconds),
  onEnded: (reason) => note("ended", reason),
});
"""
"""The title says when a tab knows of its session, and listens or waits for its turn."""
SECONDS = 20.0


class Streams:
    """An ASGI application that is *app*, and counts its streams of events, and what pages ask about their session."""

    def __init__(self, app: ASGIApp) -> None:
        self.open = 0
        self.opened = 0
        self.asked: list[int] = []
        """The statuses of the answers to `fetch`."""
        self._app = app
        self._changed = threading.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/events"):
            await self._app(scope, receive, send)
            return
        is_stream = (b"accept", b"text/event-stream") in scope["headers"]
        status = 0

        async def send_and_count(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._count(1 if is_stream and status == 200 else 0)
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        finally:
            if is_stream:
                self._count(-1 if status == 200 else 0)
            else:
                with self._changed:
                    self.asked.append(status)
                    self._changed.notify_all()

    def _count(self, change: int) -> None:
        with self._changed:
            self.open += change
            self.opened += max(0, change)
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[Streams], bool]) -> None:
        """Wait until *condition* holds of what was counted."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), SECONDS), (self.open, self.opened, self.asked)

    def are(self, count: int, *, opened: int, asked: int = 0) -> None:
        """
        Wait until *count* streams are open, after *opened* since the beginning; no more have been opened.

        A page asks as it begins, and when its stream has opened. Who ends the session right now waits until all have
        *asked*: a question that is under way may be answered first, and its answer does not say why.
        """
        self.wait_until(lambda it: (it.open, it.opened) == (count, opened) and len(it.asked) >= asked)


class FlakyStore(MemoryStore):
    """A session store that can be away."""

    away = False

    async def load(self, key: bytes) -> SessionRow | None:
        if self.away:
            raise StoreUnavailable("the store is away")
        return await super().load(key)


class WatchedPages:
    """
    `/watching` and its script, below *path*; and two things that are done in the server's own event loop.

    *endpoints* is where those of the BFF are, below *path*, too.
    """

    def __init__(self, path: str = "", *, endpoints: str = "bff") -> None:
        self.bff: BFF | None = None
        self._path = path
        self._module = MODULE.replace("ENDPOINTS", endpoints)

    def belongs_to(self, bff: BFF) -> None:
        self.bff = bff

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.bff is not None and scope["type"] == "http"
        kind, body = b"text/plain", ""
        match scope["path"].removeprefix(self._path):
            case "/watching":
                kind, body = b"text/html", PAGE
            case "/watching.js":
                kind, body = b"text/javascript", self._module
            case "/revoke":
                body = str(await self.bff.sessions.revoke(sub="alice"))
            case "/cut":
                await self.bff._live.aclose()  # the streams end without a word
        headers = ((b"content-type", kind), (b"content-security-policy", POLICY.encode()))
        await Answer(200, headers, body.encode())(scope, receive, send)


@dataclass
class Watched:
    """What one test plays with."""

    shop: Shop
    streams: Streams
    store: FlakyStore

    @property
    def url(self) -> str:
        return f"{self.shop.url}/watching"

    def log_in(self, context: BrowserContext, username: str = "alice") -> Page:
        """A tab of a profile, in which somebody logs in and watches."""
        context.clear_cookies(domain="127.0.0.1")
        self.shop.provider.config(auto_login=username)
        tab = context.new_page()
        tab.goto(f"{self.shop.url}/bff/login?prompt=login&returnUrl=/watching")
        return in_line(tab)

    def open(self, context: BrowserContext) -> Page:
        """Another tab that watches."""
        tab = context.new_page()
        tab.goto(self.url)
        return in_line(tab)


def in_line(tab: Page) -> Page:
    """Wait until a tab listens, or waits for its turn to."""
    expect(tab).to_have_title("in line", timeout=SECONDS * 1000)
    return tab


@contextmanager
def watched_shop(provider: OIDCProvider) -> Iterator[Watched]:
    """Serve it."""
    pages, counted, stores = WatchedPages(), list[Streams](), list[FlakyStore]()

    def counting(app: ASGIApp, port: int) -> Any:
        counted.append(Streams(app))
        return serve(counted[0], port=port)

    def store(clock: Clock) -> FlakyStore:
        stores.append(FlakyStore(clock))
        return stores[0]

    with shop(provider, add=pages.belongs_to, rest=pages, server=counting, store=store, backchannel=True) as served:
        yield Watched(served, counted[0], stores[0])


def heard(tab: Page, *news: str | re.Pattern[str]) -> None:
    """Wait until a page has heard this. (Whatever evaluates text in the page, its policy stops.)"""
    expect(tab.locator("li")).to_have_text(list(news), timeout=SECONDS * 1000)
