"""
A whole BFF on a real server, on a bare socket from the browser's side: granian inside this loop, uvicorn in a thread.

    async with raw_upstream() as upstream, served("granian", upstream.url) as served_bff:
        answer = await served_bff.ask(b"GET /api/orders HTTP/1.1")
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from coatcheck.bff.app import BFF
from coatcheck.config.values import Listen
from coatcheck.gateway.serving import serving
from coatcheck.oauth.client import Client
from coatcheck.sessions.seal import new_key
from coatcheck.tokens.store import session_bytes
from coatcheck.tokens.values import UserToken
from tests.rig.servers import Receive, Scope, Send, free_port, serve

ServerName = Literal["granian", "uvicorn"]
SERVERS: tuple[ServerName, ...] = ("granian", "uvicorn")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back on the socket. *closed* says that the server closed the connection after it."""

    head: bytes
    body: bytes
    closed: bool

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1]) if self.head else 0

    def all(self, name: bytes) -> list[bytes]:
        lines = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip() for key, _, value in lines if key.lower() == name]


@dataclass(frozen=True, slots=True)
class ServedBFF:
    """Where it listens, and the cookie of a user who is logged in."""

    port: int
    cookie: bytes
    bff: BFF

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def head(
        self, request_line: bytes, *lines: bytes, host: bytes = b"host: shop.example", cookie: bool = True
    ) -> bytes:
        """The head of a request of our own page, then *lines* as they are."""
        own = [host, b"x-csrf: 1"] if host else [b"x-csrf: 1"]
        if cookie:
            own.append(b"cookie: " + self.cookie)
        return b"\r\n".join([request_line, *own, *lines]) + b"\r\n\r\n"

    async def ask(self, request_line: bytes, *lines: bytes, body: bytes = b"", **options: Any) -> Answer:
        """Send one request on a connection of its own, and read until the server closes it."""
        return await self.send(self.head(request_line, *lines, b"connection: close", **options) + body)

    async def send(self, data: bytes) -> Answer:
        """Send exactly these bytes."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            received, closed = b"", True
            try:
                async with asyncio.timeout(5):
                    with suppress(ConnectionError):
                        while piece := await reader.read(65536):
                            received += piece
            except TimeoutError:
                closed = False
            head, _, body = received.partition(b"\r\n\r\n")
            return Answer(head, body, closed)
        finally:
            writer.close()


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    """The application behind the BFF."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def served(
    server: ServerName,
    url: str,
    *,
    public_url: str = "https://shop.example",
    timeout: timedelta = timedelta(seconds=10),
    add: Callable[[BFF], None] | None = None,
    wrap: Callable[[BFF], Any] | None = None,
) -> AsyncIterator[ServedBFF]:
    """Serve a BFF with `/api/orders` -> *url*; *add* may add more routes, *wrap* may choose the application."""
    bff = BFF(
        Client(issuer="https://idp.example", client_id="shop", client_secret="s"),
        public_url=public_url,
        keys=[new_key()],
        sessions="memory",
    )
    bff.remote_api("/api/orders", url, timeout=timeout)
    if add is not None:
        add(bff)
    cookie = await log_in(bff)
    app = bff.wrap(_nothing_here) if wrap is None else wrap(bff)
    async with AsyncExitStack() as stack:
        if server == "granian":
            port = free_port()
            await stack.enter_async_context(serving(app, Listen("127.0.0.1", port)))
            stack.push_async_callback(bff.aclose)
        else:
            port = int(stack.enter_context(serve(app)).rpartition(":")[2])
        yield ServedBFF(port, cookie, bff)


async def log_in(bff: BFF, *, tokens: bool = True) -> bytes:
    """Begin a session without a browser, with *tokens* or without; gives the value of the `Cookie` header."""
    now = time.time()
    token = UserToken(access_token="alices-token", issued_at=now, expires_at=now + 3600, refresh_token="alices-refresh")
    handle = await bff._storage.sessions.create(
        claims={"sub": "alice"},
        iss="https://idp.example",
        sub="alice",
        sid=None,
        tokens=session_bytes(token) if tokens else b"",
        now=now,
    )
    return b"; ".join(value.partition(b";")[0] for value in handle.set_cookies())
