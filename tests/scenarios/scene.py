"""A running coatcheck in which something goes wrong: the real provider, a real API, a browser, and every warning."""

from __future__ import annotations

import gc
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx2

from coatcheck import BFF, Client, LoginOptions
from coatcheck.sessions.seal import new_key
from coatcheck.tokens.retrievers import AccessTokenRetriever
from tests.bff.certificates import make_certificates
from tests.rig.control_plane import RegisteredClient
from tests.rig.cookie_jar import CookieJar
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import Receive, Scope, Send, serve
from tests.rig.user_agent import UserAgent
from tests.scenarios.gateway import SCOPE, Application

PUBLIC_URL = "https://app.example.com"
"""Where a `production` scene is, as far as its browser knows."""


class MovableClock:
    """The system's clock, wrong by `offset` seconds."""

    def __init__(self) -> None:
        self.offset = 0.0

    def time(self) -> float:
        return time.time() + self.offset

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


class Warnings(logging.Handler):
    """Whatever anybody in this process says at WARNING or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Listen at the root, and see to it that nobody is silenced; what nobody awaited is reported, too."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
            gc.collect()
        finally:
            root.removeHandler(self)


@dataclass
class Scene:
    """What a mistake is made with. `serve` may be called more than once: a restart keeps address and sessions."""

    provider: OIDCProvider
    api: EchoAPI
    folder: Path
    application: Application = field(default_factory=Application.at_free_port)
    clock: MovableClock = field(default_factory=MovableClock)
    keys: list[str] = field(default_factory=lambda: [new_key()])
    cookies: CookieJar = field(default_factory=CookieJar)
    """The browser's. They outlive a restart of the server."""
    placeholders: dict[str, str] = field(default_factory=dict)
    """What is different in each run, and how the page calls it."""

    @property
    def database(self) -> Path:
        return self.folder / "sessions.db"

    def register(self, preset: str = "basic", **metadata: object) -> RegisteredClient:
        """Register this application at the provider, correctly unless *metadata* says otherwise."""
        metadata.setdefault("redirect_uris", [self.application.redirect_uri, f"{PUBLIC_URL}/bff/callback"])
        client = self.provider.add_client(preset, **metadata)  # type: ignore[arg-type]  # redirect_uris is among them
        self.placeholders[client.client_id] = "<client_id>"
        return client

    @contextmanager
    def serve(
        self,
        client: RegisteredClient,
        *,
        issuer: str | None = None,
        secret: str | None = None,
        scope: str = SCOPE,
        api_url: str | None = None,
        sessions: str | None = None,
        retriever: AccessTokenRetriever | None = None,
        timeout: timedelta = timedelta(seconds=30),
        login: LoginOptions = LoginOptions(),  # noqa: B008  # a frozen value
        production: bool = False,
    ) -> Iterator[UserAgent]:
        """Serve an application behind a BFF; gives a browser."""
        issuer = issuer or self.provider.issuer
        api_url = api_url or self.api.url
        public_url = PUBLIC_URL if production else self.application.url
        self.placeholders |= {self.provider.issuer: "<issuer>", public_url: "<public_url>", api_url: "<remote_api>"}
        if not issuer.startswith(self.provider.issuer):
            self.placeholders[issuer] = "<issuer>"
        bff = BFF(
            Client(
                issuer=issuer,
                client_id=client.client_id,
                client_secret=secret or client.client_secret,
                scope=scope,
                authorization_params={"prompt": "consent"},
            ),
            public_url=public_url,
            keys=self.keys,
            sessions=sessions or f"sqlite://{self.database}",
            clock=self.clock,
            login=login,
        )
        bff.remote_api("/api/orders", api_url, retriever=retriever, timeout=timeout)
        with serve(bff.wrap(_page), port=self.application.port):
            transport = BehindTLS(self.application.url) if production else None
            with UserAgent(public_url, transport=transport) as agent:
                agent.cookies = self.cookies
                yield agent

    def shown(self, line: str) -> str:
        """The line as every run shows it."""
        for value in sorted(self.placeholders, key=len, reverse=True):
            line = line.replace(value, self.placeholders[value])
        line = re.sub(r"\b[0-9a-f]{32}\b", "<trace_id>", line)
        line = re.sub(r"/\S+/(\w+\.py):\d+", r"<folder>/\1:<line>", line)
        line = re.sub(r"(?<![\d.])\d+ (?=s\b|characters)", "<n> ", line)
        return line.replace(str(self.folder), "<folder>")


class BehindTLS(httpx2.BaseTransport):
    """A proxy that ends TLS for `PUBLIC_URL` in front of *inner*. Other addresses are reached directly."""

    def __init__(self, inner: str) -> None:
        self._inner = httpx2.URL(inner)
        self._network = httpx2.HTTPTransport(trust_env=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if f"{request.url.scheme}://{request.url.host}" == PUBLIC_URL:
            url = request.url.copy_with(scheme="http", host=self._inner.host, port=self._inner.port)
            request = httpx2.Request(
                request.method, url, headers=request.headers.raw, content=request.read(), extensions=request.extensions
            )
        return self._network.handle_request(request)

    def close(self) -> None:
        self._network.close()


@contextmanager
def untrusted_tls_server(folder: Path) -> Iterator[str]:
    """A server whose certificate nobody here knows; its base URL."""
    context: ssl.SSLContext = make_certificates().server_context(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_shake_hands, args=(listener, context), daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        thread.join(5)


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.settimeout(5)
        with connection, suppress(OSError):
            context.wrap_socket(connection, server_side=True).close()


async def _page(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"the application's own page"})


def codes(response: httpx2.Response) -> tuple[int, str | None]:
    """What a browser can tell of an answer: its status, and our code if it has one."""
    return response.status_code, response.headers.get("coatcheck-error")
