"""Everything that reaches an application, and what became of it, written down outside of the BFF."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from tests.rig.servers import ASGIApp, Message, Receive, Scope, Send

KEY = "observed"
"""Where the ASGI scope carries the `Exchange`, so that a handler can add what it learned."""


@dataclass(slots=True)
class Exchange:
    """One request (or WebSocket handshake) and its answer."""

    method: str
    """`WS` for a handshake."""
    target: str
    """Path and query as on the wire."""
    site: str | None
    """What the browser says: `Sec-Fetch-Site`."""
    referer: str | None
    with_session: bool
    """Whether the browser sent a session cookie."""
    status: int | None = None
    error: str | None = None
    """The value of `Coatcheck-Error`."""
    location: str | None = None
    refreshes: bool = False
    """Whether the page leads on by itself (`<meta http-equiv="refresh">`)."""
    cookies: list[str] = field(default_factory=list)
    """What the answer does to cookies: `session set`, `login set`, `session deleted`, `login deleted`, `other set`."""
    user: str | None = None
    """Who is calling, as a handler of the application has learned."""
    done: bool = False

    @classmethod
    def of(cls, scope: Scope) -> Self:
        lines: dict[str, str] = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        return cls(
            method="WS" if scope["type"] == "websocket" else scope["method"],
            target=scope["path"] + query,
            site=lines.get("sec-fetch-site"),
            referer=lines.get("referer"),
            with_session=_SESSION.search(lines.get("cookie", "")) is not None,
        )

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def from_elsewhere(self) -> bool:
        """Whether a page of another origin has started it: neither one of ours nor a person at the address bar."""
        return self.site not in ("same-origin", "none")

    @property
    def leads_on(self) -> bool:
        """Whether the browser of a navigation goes on to another address by itself."""
        return self.location is not None or self.refreshes

    def note(self, message: Message) -> None:
        """Read what the answer says."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
                for name, value in message.get("headers", ()):
                    self._note_header(name.lower(), value.decode("latin-1"))
            case "http.response.body":
                self.refreshes |= b'http-equiv="refresh"' in message.get("body", b"")
            case "websocket.accept":
                self.status = 101
            case "websocket.close" if self.status is None:
                self.status = 403  # what servers answer to a handshake that the application does not accept

    def _note_header(self, name: bytes, value: str) -> None:
        if name == b"coatcheck-error":
            self.error = value
        elif name == b"location":
            self.location = value
        elif name == b"set-cookie":
            what = "session" if _SESSION.match(value) else "login" if _LOGIN.match(value) else "other"
            self.cookies.append(f"{what} {'deleted' if 'max-age=0' in value.lower() else 'set'}")


class Observed:
    """An ASGI application that is *app*, and keeps an `Exchange` for each of its requests."""

    def __init__(self, app: ASGIApp) -> None:
        self.exchanges: list[Exchange] = []
        self._app = app
        self._changed = threading.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        exchange = Exchange.of(scope)

        async def send_and_note(message: Message) -> None:
            exchange.note(message)
            await send(message)

        with self._changed:
            self.exchanges.append(exchange)
        try:
            await self._app({**scope, KEY: exchange}, receive, send_and_note)
        finally:
            with self._changed:
                exchange.done = True
                self._changed.notify_all()

    def since(self, mark: int = 0) -> list[Exchange]:
        """Those after the first *mark*, oldest first."""
        with self._changed:
            return self.exchanges[mark:]

    def wait_until(self, condition: Callable[[list[Exchange]], bool], *, mark: int = 0, seconds: float = 20) -> None:
        """Wait until *condition* holds of the exchanges after the first *mark*."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.exchanges[mark:]), seconds), self.exchanges[mark:]


_SESSION = re.compile(r"(?:^|; )__Host-Http-coatcheck-[a-z0-9]{8}(?:-\d+)?=")
_LOGIN = re.compile(r"__Host-Http-coatcheck-[a-z0-9]{8}-login-")
