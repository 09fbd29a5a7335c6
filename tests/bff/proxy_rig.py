"""
One route of a BFF without the rest of it: a real forwarder, real sessions in memory, and a browser made of messages.

    async with raw_upstream() as upstream, route(upstream.url) as rig:
        answer = await rig.call("GET", "/api/orders/1")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from coatcheck.bff.csrf import CSRFRules
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.forwarder import Forwarder, PyreqwestForwarder
from coatcheck.bff.paths import canonical_path
from coatcheck.bff.proxy import RemoteAPI
from coatcheck.bff.public_url import parse_public_url
from coatcheck.bff.settings import Settings
from coatcheck.codec import decode_object
from coatcheck.oauth.client import Client
from coatcheck.sessions.cookie import CookiePolicy
from coatcheck.sessions.seal import KeyRing, new_key
from coatcheck.sessions.server_side import ServerSideSessions
from coatcheck.sessions.session import EndReason
from coatcheck.sessions.sessions import SessionHandle, Sessions
from coatcheck.sessions.store import SessionRow
from coatcheck.stores.memory import MemoryStore
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.results import AccessTokenResult, BearerTokenResult
from coatcheck.tokens.retrievers import AccessTokenRetrievalContext, AccessTokenRetriever
from coatcheck.tokens.store import session_bytes
from coatcheck.tokens.values import TokenType, UserToken
from coatcheck.transport import Send
from tests.testing.clocks import HandClock

Message = MutableMapping[str, Any]
Line = tuple[bytes, bytes]

PUBLIC_URL = "https://shop.example"
OURS: tuple[Line, ...] = ((b"x-csrf", b"1"),)
"""What a script of our own page sends along."""


class FixedRetriever:
    """Answers *result* (or raises it) and remembers what it was asked."""

    def __init__(self, result: AccessTokenResult | Exception | None = None) -> None:
        self.result = result if result is not None else BearerTokenResult("the-users-token")
        self.asked: list[AccessTokenRetrievalContext] = []

    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        self.asked.append(context)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class CountingStore(MemoryStore):
    """Counts the look-ups, and can fail."""

    loads = 0
    fails_with: Exception | None = None

    async def load(self, key: bytes) -> SessionRow | None:
        self.loads += 1
        if self.fails_with is not None:
            raise self.fails_with
        return await super().load(key)


@dataclass(slots=True)
class Browser:
    """The browser's end of one request, as ASGI has it. `leave()` closes its connection."""

    body: tuple[bytes, ...] = ()
    stays_silent: bool = False
    sent: list[Message] = field(default_factory=list)
    pieces_taken: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    got: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    takes: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, the browser takes no more of the answer."""
    gives: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, the browser gives no more of its body than the first piece; `awaited` says that more is waited for."""
    awaited: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.takes.set()
        self.gives.set()

    async def receive(self) -> Message:
        taken = self.pieces_taken
        if taken and not self.gives.is_set():
            self.awaited.set()
            await self.gives.wait()
        if taken < max(1, len(self.body)):
            self.pieces_taken += 1
            body = self.body[taken] if self.body else b""
            more = self.stays_silent or taken + 1 < len(self.body)
            return {"type": "http.request", "body": body, "more_body": more}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.start":
            self.started.set()
        elif message.get("body"):
            self.got.put_nowait(message["body"])
            await self.takes.wait()

    def leave(self) -> None:
        self.left.set()

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> list[Line]:
        headers: list[Line] = self.sent[0]["headers"]
        return headers

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    @property
    def whole(self) -> bool:
        """Whether the answer was brought to its end."""
        return bool(self.sent) and self.sent[-1]["type"] == "http.response.body" and not self.sent[-1].get("more_body")

    @property
    def answer(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def code(self) -> str | None:
        """The code of a refusal of ours; it must stand in the header and in the body alike."""
        codes = self.all(b"coatcheck-error")
        if not codes:
            return None
        document = decode_object(self.answer)
        assert (self.all(b"content-type"), document["status"]) == ([b"application/problem+json"], self.status)
        assert [document["code"].encode()] == codes
        return codes[0].decode()


@dataclass(slots=True)
class Rig:
    """The route, what it stands on, and a user who is logged in."""

    api: RemoteAPI
    settings: Settings
    sessions: ServerSideSessions
    store: CountingStore
    clock: HandClock
    cookie: Line
    forwarder: Forwarder
    tokens: Tokens

    def begin(
        self,
        method: str,
        target: str,
        *,
        headers: tuple[Line, ...] = OURS,
        body: tuple[bytes, ...] = (),
        login: bool = True,
        stays_silent: bool = False,
        scope: Mapping[str, Any] | None = None,
    ) -> tuple[Browser, asyncio.Task[None]]:
        """Start one request. *target* is the path and query as on the wire."""
        path, _, query = target.partition("?")
        canonical = canonical_path(path.encode())
        assert canonical is not None
        whole_scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": canonical,
            "raw_path": path.encode(),
            "query_string": query.encode("latin-1"),
            "headers": [*((self.cookie,) if login else ()), *headers],
            "client": ("203.0.113.7", 40000),
            **(scope or {}),
        }
        current = self.current(whole_scope, canonical)
        browser = Browser(body, stays_silent)
        task = asyncio.ensure_future(self.api.handle(whole_scope, browser.receive, browser.send, current))
        return browser, task

    def current(self, scope: dict[str, Any], path: str) -> CurrentRequest:
        """What the middleware would know of a request."""
        return CurrentRequest(
            scope,
            path,
            settings=self.settings,
            sessions=self.sessions,
            tokens=self.tokens,
            ending=Ending(self.sessions),
        )

    async def call(self, method: str, target: str, **options: Any) -> Browser:
        """The same, to its end."""
        browser, task = self.begin(method, target, **options)
        await asyncio.wait_for(task, 20)
        return browser


class Ending:
    """Ends sessions, and tells nobody."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def end(self, handle: SessionHandle, *, reason: EndReason) -> None:
        await self._sessions.end(handle)


@asynccontextmanager
async def route(
    url: str,
    *,
    path: str = "/api/orders",
    token: TokenType | str = TokenType.USER,
    retriever: AccessTokenRetriever | None = None,
    anonymous: bool = False,
    csrf: bool = True,
    timeout: timedelta = timedelta(seconds=5),
    public_url: str = PUBLIC_URL,
    back_channel: Send | None = None,
    forwarder: Callable[[], Forwarder] = PyreqwestForwarder,
    default_retriever: bool = False,
) -> AsyncIterator[Rig]:
    """Build a route to *url*, log a user in, and close everything in the end."""
    clock = HandClock()
    public = parse_public_url(public_url)
    policy = CookiePolicy("testtest")
    settings = Settings(
        public_url=public,
        issuer="https://idp.example",
        client_id="shop",
        csrf=CSRFRules(public.origin.encode()),
        cookies=policy,
        development=False,
        clock=clock,
    )
    store = CountingStore(clock)
    sessions = ServerSideSessions(store, KeyRing([new_key()]), policy, clock=clock)
    tokens = Tokens(
        Client(issuer="https://idp.example", client_id="shop", client_secret="s"), clock=clock, send=back_channel
    )
    way_out = forwarder()
    api = RemoteAPI(
        path,
        url,
        tokens=tokens,
        forwarder=way_out,
        settings=settings,
        token=token,
        retriever=None if default_retriever else retriever or FixedRetriever(),
        anonymous=anonymous,
        csrf=csrf,
        timeout=timeout,
    )
    try:
        cookie = await _log_in(sessions, clock)
        yield Rig(api, settings, sessions, store, clock, cookie, way_out, tokens)
    finally:
        await way_out.aclose()
        await tokens.aclose()


async def _log_in(sessions: ServerSideSessions, clock: HandClock) -> Line:
    now = clock.time()
    token = UserToken(access_token="alices-token", issued_at=now, expires_at=now + 600, refresh_token="r")
    handle = await sessions.create(
        claims={"sub": "alice", "name": "Alice"},
        iss="https://idp.example",
        sub="alice",
        sid=None,
        tokens=session_bytes(token),
        now=now,
    )
    set_cookie, *_ = handle.set_cookies()
    return (b"cookie", set_cookie.partition(b";")[0])
