"""The answers that we make ourselves, as plain values that are ASGI applications: redirects, JSON, refusals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from coatcheck.bff.own_headers import OURS, Headers, Send
from coatcheck.bff.problems import Problem, problem_body, problem_headers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Awaiting it as an ASGI application sends it; a WebSocket handshake it refuses."""

    status: int
    headers: Headers = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    def with_cookies(self, set_cookies: list[bytes]) -> Answer:
        """The same answer that also sets cookies. Ours are `no-store` already, as such an answer must be."""
        return Answer(self.status, (*self.headers, *((b"set-cookie", value) for value in set_cookies)), self.body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        body = b"" if scope.get("method") == "HEAD" else self.body
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": body})


class AnswerInstead(Exception):
    """Raised by a dependency that has the answer already: the handler is not called."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"answered with status {answer.status}")
        self.answer = answer


def redirect(location: str, *, status: int = 302) -> Answer:
    """Send the browser to *location*: a checked return URL, or a URL made by us. 303 after a POST."""
    return Answer(status, (*OURS, (b"location", location.encode("ascii")), (b"content-length", b"0")))


def json_answer(body: bytes, *, status: int = 200) -> Answer:
    """Answer with JSON that depends on the cookie."""
    headers = (
        *OURS,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"vary", b"cookie"),
    )
    return Answer(status, headers, body)


def problem_answer(problem: Problem, *, trace_id: str) -> Answer:
    """Refuse a call with problem+json."""
    body = problem_body(problem, trace_id=trace_id)
    headers = problem_headers(problem, content_type=b"application/problem+json", length=len(body))
    return Answer(problem.status, tuple(headers), body)
