"""What a test may tell the in-process authorization server to do, and what the server wrote down meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from coatcheck.errors import TransportError
from coatcheck.oauth.messages import Response

Endpoint = Literal[
    "metadata",
    "jwks",
    "authorization",
    "login",
    "token",
    "userinfo",
    "introspection",
    "revocation",
    "end_session",
]

Tampered = Literal[
    "metadata",
    "jwks",
    "authorization_response",
    "id_token_header",
    "id_token",
    "logout_token_header",
    "logout_token",
    "token",
    "userinfo",
]
"""What can be changed on its way out; `id_token` and `logout_token` are claims, before they are signed."""

Change = Callable[[dict[str, Any]], dict[str, Any]]
"""Given the members that would be sent, returns those to send instead."""


@dataclass(slots=True, kw_only=True)
class Behaviour:
    """How the server behaves while nothing goes wrong. A test may assign to the fields at any time."""

    access_token_lifetime: timedelta = timedelta(minutes=5)
    refresh_token_lifetime: timedelta = timedelta(days=14)
    code_lifetime: timedelta = timedelta(minutes=1)
    refresh_token_rotation: bool = True
    """Every refresh replaces the refresh token. Using a replaced one ends the whole grant (RFC 9700 4.14.2)."""
    refresh_token_grace: timedelta = timedelta()
    """For this long a replaced refresh token is answered with the same new tokens once more, and ends nothing."""
    refresh_tokens: Literal["offline_access", "always", "never"] = "offline_access"
    """Whether a code brings a refresh token: when the scope asks for it, or regardless of the scope."""
    id_token_on_refresh: bool = True
    send_expires_in: bool = True
    send_iss: bool = True
    """Put `iss` into authorization responses, and say so in the metadata (RFC 9207)."""
    auto_login: bool = False
    """Redirect at once, as `username`, in place of showing the login page. Browsers treat cookies differently then."""
    acr: str | None = None
    """How users authenticate, whatever is asked for. None: in the first way of the `acr_values` of the request."""
    username: str = "demo"
    """Stands in the login page's field; the `sub` of whoever logs in is what was typed there."""
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims that every user has beside those made from the username."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRequest:
    """One request and how it was answered. Secrets stay out of `repr`, the test may read them all the same."""

    at: float
    endpoint: Endpoint
    method: str
    grant_type: str | None
    client_id: str | None
    status: int | None
    """None when the connection was cut."""
    error: str | None
    headers: Mapping[str, str] = field(repr=False)
    parameters: tuple[tuple[str, str], ...] = field(repr=False)

    def values(self, name: str) -> list[str]:
        """The values of a parameter, from the query or the form."""
        return [value for key, value in self.parameters if key == name]


class Gate:
    """Holds one request until the test opens it, so that a test can look at the middle of things without sleeping."""

    def __init__(self) -> None:
        self.reached: threading.Event = threading.Event()
        """Set as soon as the request stands before the gate."""
        self._lock = threading.Lock()
        self._open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def wait_reached(self, deadline: float = 10.0) -> None:
        """Wait, without blocking the event loop, until the request stands before the gate."""
        if not await asyncio.to_thread(self.reached.wait, deadline):
            raise TimeoutError("no request came to the gate")

    def open(self) -> None:
        """Let the request, and all that come later, go on. May be called from any thread."""
        with self._lock:
            self._open = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    async def passed(self) -> None:
        """Called by the server: wait until the gate is open."""
        event = asyncio.Event()
        with self._lock:
            if not self._open:
                self._waiting.append((asyncio.get_running_loop(), event))
            else:
                event.set()
        self.reached.set()
        await event.wait()


@dataclass(slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong, a number of times."""

    endpoint: Endpoint
    grant_type: str | None = None
    times: int | None = 1
    """How many requests it meets before it is over; None for all that follow."""
    response: Response | None = None
    """Answer with this. With neither this nor *drop* the fault only delays."""
    drop: bool = False
    """Cut the connection without an answer."""
    after: bool = False
    """The server does what was asked, and only then goes wrong: the answer is lost on its way back."""
    delay: float = 0.0
    """Seconds to wait first. Tests that do not want to wait use a gate."""
    gate: Gate | None = None

    def meets(self, endpoint: Endpoint, grant_type: str | None) -> bool:
        """Whether a request runs into this fault, which is not over yet."""
        return self.times != 0 and self.endpoint == endpoint and self.grant_type in (None, grant_type)

    async def happen(self, act: Callable[[], Response]) -> Response:
        """Answer a request that meets this fault; *act* is what the server would have done."""
        self.times = None if self.times is None else self.times - 1
        done = act() if self.after else None
        if self.gate:
            await self.gate.passed()
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.drop:
            raise TransportError("the test server cut the connection", sent=True)
        return self.response or done or act()


class Script:
    """The test's side of the server: its behaviour, the faults and the tampering to come, and the log."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour: Behaviour = behaviour or Behaviour()
        self.log: list[LoggedRequest] = []
        self.faults: list[Fault] = []
        self._tampering: dict[Tampered, list[Change]] = {}

    def count(self, endpoint: Endpoint = "token", *, grant_type: str | None = None) -> int:
        """How many requests reached an endpoint, whatever became of them."""
        return sum(entry.endpoint == endpoint and grant_type in (None, entry.grant_type) for entry in self.log)

    def fail(
        self,
        endpoint: Endpoint,
        *,
        status: int = 503,
        error: str | None = None,
        html: bool = False,
        headers: Mapping[str, str] | None = None,
        grant_type: str | None = None,
        times: int | None = 1,
    ) -> None:
        """Answer with an HTTP error: an OAuth *error* as JSON, a page of *html*, or nothing but the status."""
        content_type, body = "text/plain", b""
        if html:
            content_type, body = (
                "text/html; charset=utf-8",
                b"<!doctype html><title>Sorry</title><p>Try again later.</p>",
            )
        elif error:
            content_type, body = "application/json", b'{"error": "%s"}' % error.encode()
        response = Response(status, {"content-type": content_type, **(headers or {})}, body)
        self.faults.append(Fault(endpoint=endpoint, grant_type=grant_type, times=times, response=response))

    def drop(
        self, endpoint: Endpoint, *, grant_type: str | None = None, times: int | None = 1, after: bool = False
    ) -> None:
        """Cut the connection: before the request is acted upon, or *after*, when only the answer is lost."""
        self.faults.append(Fault(endpoint=endpoint, grant_type=grant_type, times=times, drop=True, after=after))

    def hold(
        self, endpoint: Endpoint, *, grant_type: str | None = None, times: int | None = 1, after: bool = False
    ) -> Gate:
        """Keep requests waiting until the gate that is returned is opened."""
        gate = Gate()
        self.faults.append(Fault(endpoint=endpoint, grant_type=grant_type, times=times, gate=gate, after=after))
        return gate

    def tamper(self, what: Tampered, change: Change) -> None:
        """Change what is sent, from now on and after all earlier changes. `untamper` makes the server honest again."""
        self._tampering.setdefault(what, []).append(change)

    def untamper(self) -> None:
        """Forget all tampering."""
        self._tampering.clear()

    def tampered(self, what: Tampered, members: dict[str, Any]) -> dict[str, Any]:
        """Called by the server: what to send in place of *members*."""
        for change in self._tampering.get(what, ()):
            members = change(dict(members))
        return members

    def fault_for(self, endpoint: Endpoint, grant_type: str | None) -> Fault | None:
        """Called by the server: the first fault that a request meets, if any."""
        return next((fault for fault in self.faults if fault.meets(endpoint, grant_type)), None)
