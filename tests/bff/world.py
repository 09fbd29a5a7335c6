"""A small world without any network: an application behind a BFF, its authorization server, and browsers."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest

from coatcheck.bff import BFF, page_user
from coatcheck.bff.answers import json_answer
from coatcheck.bff.who import api_user, current_request
from coatcheck.errors import StoreUnavailable
from coatcheck.sessions.seal import new_key
from coatcheck.sessions.store import SessionRow
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import DEFAULT_CLIENT, AuthorizationServerApp, RegisteredClient
from coatcheck.transport import BACK_CHANNEL_HTTP_CLIENT
from tests.rig.user_agent import UserAgent
from tests.testing.clocks import HandClock
from tests.tokens.virtual_time import VirtualTimeLoop

ISSUER = "http://127.0.0.1:9000"
LOCAL = "http://localhost:8000"
PUBLIC = "https://shop.example"
KEY = new_key()


class InProcess(httpx2.BaseTransport):
    """Calls ASGI applications by host and port, on an event loop that this transport owns."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self.apps: dict[str, Any] = {}
        self.server: tuple[str, int] | None = ("127.0.0.1", 8000)
        """The address on which requests seem to arrive."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return self.loop.run_until_complete(self.call(request))

    async def call(self, request: httpx2.Request) -> httpx2.Response:
        app = self.apps[request.url.netloc.decode()]
        body = request.read()
        sent: list[dict[str, Any]] = []
        asked = False
        answered = asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await answered.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            # Nobody here reads a stream that has no end: it is left as soon as something of it is there.
            if len(sent) > 1 and (not message.get("more_body") or _is_stream(sent[0])):
                answered.set()

        target = request.extensions.get("target", request.url.raw_path)
        raw_path, _, query = target.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": httpx2.URL("http://x").copy_with(raw_path=raw_path).path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": self.server,
            "client": ("127.0.0.1", 50000),
        }
        await app(scope, receive, send)
        assert sent, f"no answer to {request.method} {request.url}"
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return httpx2.Response(sent[0]["status"], headers=sent[0]["headers"], content=content, request=request)

    def close(self) -> None:
        pass


def _is_stream(start: dict[str, Any]) -> bool:
    return any(name == b"content-type" and value == b"text/event-stream" for name, value in start["headers"])


async def application(scope: Any, receive: Any, send: Any) -> None:
    """What stands behind the BFF: `/api/me` for scripts, `/page` for people, everything else for anybody."""
    path = current_request(scope).path
    if path == "/api/me":
        document = (await api_user(scope)).name
    elif path.startswith("/page"):
        document = "page of " + (await page_user(scope)).name
    else:
        document = "for anybody"
    await json_answer(f'"{document}"'.encode())(scope, receive, send)


class FragileStore(MemoryStore):
    """A store that a test can break, and that counts."""

    broken = False
    loads = 0
    """How often a session was looked up."""

    async def load(self, key: bytes) -> SessionRow | None:
        self.loads += 1
        self._fail()
        return await super().load(key)

    async def create(self, row: SessionRow) -> None:
        self._fail()
        await super().create(row)

    def _fail(self) -> None:
        if self.broken:
            raise StoreUnavailable("the test broke it")


class World:
    """One BFF in front of `application`, one provider, and the browsers of a test."""

    def __init__(
        self,
        *,
        public_url: str = LOCAL,
        issuer: str = ISSUER,
        registered: Sequence[RegisteredClient] = (DEFAULT_CLIENT,),
        app: Any = None,
        **options: Any,
    ) -> None:
        self.clock = HandClock()
        self.transport = InProcess()
        self.provider = AuthorizationServerApp(issuer, clients=registered, clock=self.clock)
        self.store = FragileStore(self.clock)
        self.public_url = public_url
        self.options = options
        self.keys = [KEY]
        self.transport.apps[urlsplit(issuer).netloc] = self.provider
        self.bff = self.start(app)

    def start(self, app: Any = None) -> BFF:
        """Start the application (again), with the same keys and the same store."""
        self.back_channel = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.provider))
        options: dict[str, Any] = {
            "client": self.provider.client(),
            "public_url": self.public_url,
            "keys": self.keys,
            "sessions": self.store,
            "http_clients": {BACK_CHANNEL_HTTP_CLIENT: self.back_channel},
            "clock": self.clock,
            **self.options,
        }
        self.bff = BFF(options.pop("client"), **options)
        self.serve(self.bff.wrap(app or application))
        return self.bff

    def serve(self, app: Any, *, at: str | None = None) -> None:
        """Let *app* answer at the public URL, or under another host."""
        self.transport.apps[at or urlsplit(self.public_url).netloc] = app

    def browser(self) -> UserAgent:
        """A browser with an empty profile."""
        return UserAgent(self.public_url, transport=self.transport)

    def logged_in(self, username: str = "alice", *, path: str = "/bff/login") -> UserAgent:
        """A browser in which somebody is logged in."""
        browser = self.browser()
        response = browser.login(self.public_url + path, username=username)
        assert response.status_code == 200, response.text
        return browser

    def callback(self, browser: UserAgent, *, username: str = "alice", path: str = "/bff/login") -> str:
        """Log in at the provider and return the URL of the callback, without going there."""
        stop = self.public_url + "/bff/callback"
        response = browser.login(self.public_url + path, username=username, stop_at=stop)
        return response.headers["location"]

    def token_requests(self) -> int:
        """How often the token endpoint was asked."""
        return self.provider.count("token")

    def logins_begun(self) -> int:
        """How many authorization requests browsers have brought to the provider."""
        return len([e for e in self.provider.log if e.endpoint == "authorization" and e.values("prompt") != ["none"]])

    def revoked(self, kind: str = "refresh_token") -> list[str]:
        """The tokens of a kind that the provider was asked to revoke."""
        asked = [entry for entry in self.provider.log if entry.endpoint == "revocation"]
        return [
            token for entry in asked if entry.values("token_type_hint") == [kind] for token in entry.values("token")
        ]

    def sessions(self) -> int:
        """How many sessions the store holds."""
        return len(self.store._rows)

    def break_store(self) -> None:
        """Let the session store fail from now on."""
        self.store.broken = True

    def advance(self, seconds: float) -> None:
        """Let time pass, for the application, the provider and the store."""
        self.clock.forward(timedelta(seconds=seconds))

    def in_virtual_time(self) -> None:
        """From now on no time passes but on the clock: every wait is over as soon as nobody is busy."""
        self.transport.loop.close()
        self.transport.loop = VirtualTimeLoop(self.clock)

    def close(self) -> None:
        self.transport.loop.run_until_complete(self.bff.aclose())
        self.transport.loop.run_until_complete(self.back_channel.aclose())
        self.transport.loop.close()


@contextmanager
def world(**options: Any) -> Iterator[World]:
    """A world that ends with the block."""
    built = World(**options)
    try:
        yield built
    finally:
        built.close()


def claims(response: httpx2.Response) -> dict[str, Any]:
    """The claims of a `/bff/user` answer, by type."""
    return {claim["type"]: claim["value"] for claim in response.json()}


def query_of(url: str) -> dict[str, str]:
    """The parameters of a URL."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines at WARNING or above."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def session_cookie(browser: UserAgent) -> str | None:
    """The value of the session cookie, if the browser has one."""
    values = [c.value for c in browser.cookies.all() if re.fullmatch("__Host-Http-coatcheck-[a-z0-9]{8}", c.name)]
    return values[0] if values else None


def login_cookies(browser: UserAgent) -> list[str]:
    """The names of the correlation cookies that the browser holds."""
    return [cookie.name for cookie in browser.cookies.all() if "-login-" in cookie.name]
