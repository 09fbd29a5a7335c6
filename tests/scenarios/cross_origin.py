"""
What pages of other origins can do with the browser of a user who is logged in: every vector at every route.

    result = campaign(provider, browser, folder)

Each shot is one (attacker, vector, route). What the browser sent and what came of it is written down on the server's
side; what the attacker's page could tell of it, in the page itself.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, BrowserContext, Error, Frame, Page

from coatcheck import BFF, LoginOptions, LogoutOptions
from coatcheck.bff.answers import Answer
from coatcheck.config.values import Listen
from coatcheck.gateway.frontend import Frontend
from coatcheck.gateway.serving import serving
from tests.rig.echo_api import EchoAPI, ReceivedRequest
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import ASGIApp, Receive, Scope, Send, serve
from tests.scenarios.observed import Exchange
from tests.scenarios.shop import Shop, shop

ATTACKER_PAGE = Path(__file__).with_name("attacker.html")

ATTACKERS = ("cross-site", "same-site", "sandboxed")
"""Another host; another port of our own host, where the Strict cookie is sent; an opaque origin on such a page."""

ROUNDS = 3
"""So many times the same address in a row, and a window goes round in circles."""

UNSEEN = (
    "fetch",
    "fetch, POST",
    "fetch, no-cors",
    "fetch, X-CSRF",
    "image",
    "script",
    "frame",
    "EventSource",
    "WebSocket",
    "prefetch",
)
"""Vectors that the user does not notice."""

TAKING_ALONG = ("link", "form, GET", "form, POST")
"""Vectors that lead a window to the application: what it shows, the user sees."""

LOGOUT_URL = """fetch('/bff/user', {headers: {'X-CSRF': '1'}}).then(r => r.json())
    .then(claims => claims.find(claim => claim.type === 'bff:logout_url').value)"""
"""What a page of our own asks for, and no other can."""

SILENT = LoginOptions(silent=True)
FRONT_CHANNEL = LogoutOptions(frontchannel=True)
"""With the endpoints that are meant for frames, too."""

LOCAL = ("/me", "/page", "/public", "/live", "/app.js")
"""The handlers of `shop`, and a file."""


@dataclass(frozen=True, slots=True)
class Route:
    """An address of the application. *name* is how the matrix calls it, *target* its path and query."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Shot:
    """One vector at one route, and everything that came of it."""

    attacker: str
    vector: str
    route: str
    exchanges: Sequence[Exchange]
    upstream: Sequence[ReceivedRequest]
    seen: str
    """What the attacker's page could tell afterwards."""

    def line(self) -> str:
        """The line of the matrix."""
        steps = [_step(exchange, first=number == 0) for number, exchange in enumerate(self.exchanges)]
        if _goes_round(self.exchanges):
            steps.append("and so on, for ever")
        tokens = ["with" if request.header("authorization") else "without" for request in self.upstream]
        came = " > ".join([*steps, *(f"upstream called {token} a token" for token in tokens)]) or "nothing is sent"
        return f"{self.attacker:<10} | {self.vector:<14} | {self.route:<26} | {self.seen:<13} | {came}"


@dataclass
class Campaign:
    """All shots, and what else was to be seen while they were fired."""

    shots: list[Shot] = field(default_factory=list)
    seen_when_logged_out: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """What the attacker's page could tell where nobody is logged in, by attacker, vector and route."""
    strays: list[Exchange] = field(default_factory=list)
    """Requests that a redirect led on to, from a vector that the user does not notice."""
    messages: list[str] = field(default_factory=list)
    """What the attacker's pages were told by `postMessage`."""
    users: list[object] = field(default_factory=list)
    """Who was logged in after each attacker."""
    logins: int = 0
    """How many logins browsers have brought to the provider: two before it all, and those of shots."""
    after_the_right_sid: object = None
    """Who was logged in after a page of our own site had found out the `sid` of the very session, and used it."""


def routes(served: Shop, finished: str) -> list[Route]:
    """All endpoints that this BFF has, all remote APIs, and a handler of each kind. *finished*: an attacker's login."""
    endpoints = served.bff._desk.endpoints
    remote = served.bff._desk.remote_apis.paths()
    return [
        *(Route(path, path) for path in endpoints),
        Route("/bff/callback, finished", finished),
        Route("/bff/logout, another's sid", f"/bff/logout?sid={'A' * 24}"),
        Route("/bff/unknown", "/bff/unknown"),
        *(Route(path, f"{path}/1") for path in remote),
        *(Route(path, path) for path in LOCAL),
    ]


def add_remote_apis(bff: BFF, url: str) -> None:
    """One of each kind."""
    bff.remote_api("/api/orders", url)
    bff.remote_api("/api/files", url, csrf=False)
    bff.remote_api("/api/anybody", url, token="user_or_none", anonymous=True, csrf=False)
    bff.remote_api("/api/weather", url, token="none", csrf=False)


def campaign(provider: OIDCProvider, browser: Browser, folder: Path) -> Campaign:
    """Serve everything, fire every shot, and stop."""
    (folder / "app.js").write_text("window.application = 1")
    static = Frontend(folder, "app.js", reserved=())
    provider.config(auto_login="alice")
    with (
        EchoAPI.serve() as api,
        serve(_attackers_site, lifespan="off") as site,
        shop(
            provider,
            add=lambda bff: add_remote_apis(bff, api.url),
            rest=static,
            server=_by_granian,
            login=SILENT,
            logout=FRONT_CHANNEL,
        ) as served,
        browser.new_context() as victim,
        browser.new_context() as stranger,
    ):
        return _Range(served, api, urlsplit(site).port or 0, Campaign()).run(victim, stranger)


@dataclass
class _Range:
    served: Shop
    api: EchoAPI
    port: int
    result: Campaign
    fired: int = 0

    def run(self, victim: BrowserContext, stranger: BrowserContext) -> Campaign:
        with self.served.agent() as agent:
            stopped = agent.login("/bff/login", username="mallory", stop_at=f"{self.served.url}/bff/callback")
        finished = stopped.headers["location"].removeprefix(self.served.url)
        targets = routes(self.served, finished)
        home = victim.new_page()
        home.goto(f"{self.served.url}/bff/login?returnUrl=/page")
        home.wait_for_function("document.title === 'page of alice'")
        for attacker in ATTACKERS:
            page = victim.new_page()
            there = self._stand(page, attacker)
            self.result.shots += self._unseen(there, attacker, targets)
            self.result.shots += self._taking_along(there, attacker, targets)
            home.goto(self.served.home)
            right = Route("/bff/logout, right sid", home.evaluate(LOGOUT_URL))
            if attacker != "same-site":
                self.result.shots += self._unseen(there, attacker, [right])
                self.result.shots += self._taking_along(there, attacker, [right])
            self.result.messages += there.evaluate("learned")
            self.result.users.append(self.served.who(home))
            elsewhere = self._stand(stranger.new_page(), attacker)
            for shot in self._unseen(elsewhere, attacker, targets):
                self.result.seen_when_logged_out[shot.attacker, shot.vector, shot.route] = shot.seen
        there = self._stand(victim.new_page(), "same-site")
        leaked = Route("/bff/logout, right sid", home.evaluate(LOGOUT_URL))
        there.evaluate("fire", [["image", self._url(leaked, self._number())]])
        self.result.after_the_right_sid = self.served.who(home)
        self.result.logins = len(self.served.authorizations())
        return self.result

    def _stand(self, page: Page, attacker: str) -> Frame:
        """Open the attacker's page; gives the frame in which it can do something."""
        host = "127.0.0.1" if attacker == "cross-site" else "localhost"
        if attacker != "sandboxed":
            page.goto(f"http://{host}:{self.port}/")
            return page.main_frame
        page.goto(f"http://{host}:{self.port}/around")
        (inner,) = page.main_frame.child_frames
        inner.wait_for_load_state()
        return inner

    def _unseen(self, there: Frame, attacker: str, targets: Sequence[Route]) -> list[Shot]:
        """All at once: each request carries the number of its shot."""
        shots = [(self._number(), vector, route) for vector in UNSEEN for route in targets]
        mark, upstream = len(self.served.observed.since()), len(self.api.requests)
        aimed = [[vector, self._url(route, number)] for number, vector, route in shots]
        seen: list[str] = there.evaluate("fire", aimed)
        self.served.observed.wait_until(lambda exchanges: all(exchange.done for exchange in exchanges), mark=mark)
        exchanges, requests = self.served.observed.since(mark), self.api.requests[upstream:]
        self.result.strays += [exchange for exchange in exchanges if _shot_of(exchange.target) is None]
        return [
            Shot(
                attacker,
                vector,
                route.name,
                [exchange for exchange in exchanges if _shot_of(exchange.target) == number],
                [request for request in requests if _shot_of(request.target) == number],
                what,
            )
            for (number, vector, route), what in zip(shots, seen, strict=True)
        ]

    def _taking_along(self, there: Frame, attacker: str, targets: Sequence[Route]) -> Iterator[Shot]:
        """One after the other: whatever arrives until the window comes to rest belongs to the shot."""
        for vector in TAKING_ALONG:
            for route in targets:
                mark, upstream = len(self.served.observed.since()), len(self.api.requests)
                with there.page.expect_popup() as opened:
                    there.evaluate("openWindow()")
                number = self._number()
                there.evaluate("([vector, url]) => navigate(vector, url)", [vector, self._url(route, number)])
                self._come_to_rest(opened.value, mark)
                exchanges = self.served.observed.since(mark)
                seen = there.evaluate("look()")
                there.evaluate("other.close()")
                yield Shot(attacker, vector, route.name, exchanges, self.api.requests[upstream:], seen)

    def _come_to_rest(self, window: Page, mark: int) -> None:
        """Wait until *window* shows what it is going to show: an error page where its sandbox forbids ours (COOP)."""
        try:
            window.wait_for_url(lambda url: url != "about:blank", wait_until="commit")
        except Error as error:
            assert "ERR_BLOCKED_BY_RESPONSE" in error.message
            return
        if not window.url.startswith("chrome-error:"):
            self.served.observed.wait_until(_at_rest, mark=mark)

    def _number(self) -> int:
        self.fired += 1
        return self.fired

    def _url(self, route: Route, number: int) -> str:
        return f"{self.served.url}{route.target}{'&' if '?' in route.target else '?'}shot={number}"


def _at_rest(exchanges: Sequence[Exchange]) -> bool:
    """Whether a window has come to where it stays, or goes round in circles and has been stopped."""
    if not exchanges or not all(exchange.done for exchange in exchanges):
        return False
    return not exchanges[-1].leads_on or _goes_round(exchanges)


def _goes_round(exchanges: Sequence[Exchange]) -> bool:
    """Whether a page leads to itself, over and over."""
    return len(exchanges) == ROUNDS and len({exchange.target for exchange in exchanges}) == 1


def _shot_of(target: str) -> int | None:
    found = _SHOT.search(unquote(target))
    return int(found.group(1)) if found else None


def _step(exchange: Exchange, *, first: bool) -> str:
    """What one request was, and its answer."""
    words = [exchange.method + ("+cookie" if exchange.with_session else "")]
    if not first:
        words.append(exchange.path)
    words.append(str(exchange.status))
    if exchange.error:
        words.append(exchange.error)
    if exchange.refreshes:
        words.append("hop")
    if exchange.user:
        words.append(f"as {exchange.user}")
    words += [f"({change})" for change in exchange.cookies]
    return " ".join(words)


async def _attackers_site(scope: Scope, receive: Receive, send: Send) -> None:
    """The attacker's page, and a page that has it in a sandbox."""
    around = b"<!doctype html><iframe sandbox='allow-scripts allow-forms allow-popups' src='/'></iframe>"
    body = around if scope["path"] == "/around" else ATTACKER_PAGE.read_bytes()
    await Answer(200, ((b"content-type", b"text/html; charset=utf-8"),), body)(scope, receive, send)


class _Patience:
    """An application that is *app*, but stops a window that keeps coming back with the number of one shot."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._times: Counter[tuple[str, bytes]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and b"shot=" in scope["query_string"]:
            shot = (scope["path"], scope["query_string"])
            self._times[shot] += 1
            if self._times[shot] > ROUNDS:
                await Answer(200, ((b"content-type", b"text/plain"),), b"enough")(scope, receive, send)
                return
        await self._app(scope, receive, send)


@contextmanager
def _by_granian(app: ASGIApp, port: int) -> Iterator[None]:
    """Serve *app*, WebSockets included, by the gateway's server in a thread."""
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def run() -> None:
        async with serving(_Patience(app), Listen("127.0.0.1", port)):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(20), "granian did not start"
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


_SHOT = re.compile(r"[?&]shot=(\d+)")
