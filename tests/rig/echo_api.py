"""
A remote API that answers with what it received, and keeps it for the test to look at.

    ANY  /...                      200, JSON: method, target (as on the wire), headers, body (text) and its length
    ANY  /status/418               that status, same body; ?challenge=... is sent back as WWW-Authenticate
    GET  /bytes?size=1000          so many bytes
    GET  /stream?count=3           chunks "0\\n", "1\\n" ...; all but the first wait for `next_chunk` (unless &free=1)
    GET  /events?count=3           the same as text/event-stream
    GET  /hang                     no answer until the caller goes away
    ANY  /late                     as the first, but when `next_chunk` lets it go
    GET  /roles                    {"roles": ["buyer", "seller"]}
    GET  /cookies                  sets two cookies
    GET  /redirect?to=URL          302
    GET  /cut                      promises 100 bytes, sends 10 and closes
    POST /early                    answers 413 without reading the body
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs

from tests.rig.servers import Receive, Scope, Send, serve

JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain")


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as the API got it."""

    method: str
    target: str
    """Path and query exactly as on the wire."""
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The header's value; None where it is missing. A test that wants to see repetitions looks at `headers`."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]


class EchoAPI:
    """The application. `url` is where it is served, `requests` what it got, `gone` how many callers left early."""

    url: str = ""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.gone = 0
        self.pulled = 0
        """Chunks of `/stream` and `/events` that were sent."""
        self._changed = threading.Condition()
        self._allowed = 0

    @classmethod
    @contextmanager
    def serve(cls) -> Iterator[Self]:
        """Serve one on loopback."""
        api = cls()
        with serve(api, lifespan="off") as api.url:
            yield api

    @property
    def last(self) -> ReceivedRequest:
        """The newest request."""
        with self._changed:
            return self.requests[-1]

    def next_chunk(self, count: int = 1) -> None:
        """Let that many more chunks of `/stream` or `/events` go."""
        with self._changed:
            self._allowed += count

    def wait_until(self, condition: Callable[[EchoAPI], bool], *, seconds: float = 10) -> None:
        """Wait until *condition* holds of this API: `api.wait_until(lambda api: api.gone == 1)`."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), seconds), (
                f"waited {seconds} s in vain: {len(self.requests)} requests, {self.gone} gone, {self.pulled} pulled"
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/early":
            await _answer(send, 413, [TEXT, (b"connection", b"close")], b"too large")
            return
        request = await _read(scope, receive)
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        match scope["path"].split("/")[1:]:
            case ["hang"]:
                await self._until_gone(receive)
            case ["stream"]:
                await self._chunks(send, receive, query, "text/plain", "{}\n")
            case ["events"]:
                await self._chunks(send, receive, query, "text/event-stream", "data: {}\n\n")
            case ["late"]:
                while not self._take():
                    await asyncio.sleep(0.005)
                await _answer(send, 200, [JSON], _echo(request))
            case ["bytes"]:
                await _answer(send, 200, [TEXT], b"x" * int(query["size"]))
            case ["roles"]:
                await _answer(send, 200, [JSON], b'{"roles": ["buyer", "seller"]}')
            case ["cookies"]:
                await _answer(send, 200, [TEXT, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")], b"set")
            case ["redirect"]:
                await _answer(send, 302, [(b"location", query["to"].encode())], b"")
            case ["cut"]:
                await send(_start(200, [TEXT, (b"content-length", b"100")]))
                await send({"type": "http.response.body", "body": b"x" * 10, "more_body": False})
            case ["status", code]:
                challenge = [(b"www-authenticate", query["challenge"].encode())] if "challenge" in query else []
                await _answer(send, int(code), [JSON, *challenge], _echo(request))
            case _:
                await _answer(send, 200, [JSON], _echo(request))

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        with self._changed:
            self.gone += 1
            self._changed.notify_all()

    async def _chunks(self, send: Send, receive: Receive, query: dict[str, str], media_type: str, form: str) -> None:
        await send(_start(200, [(b"content-type", media_type.encode())]))
        watch = asyncio.ensure_future(self._until_gone(receive))
        try:
            for number in range(int(query.get("count", 3))):
                while number and "free" not in query and not self._take() and not watch.done():
                    await asyncio.sleep(0.005)
                if watch.done():
                    return
                await send({"type": "http.response.body", "body": form.format(number).encode(), "more_body": True})
                with self._changed:
                    self.pulled += 1
                    self._changed.notify_all()
            await send({"type": "http.response.body", "body": b""})
        finally:
            watch.cancel()

    def _take(self) -> bool:
        """One of the chunks that were let go."""
        with self._changed:
            if not self._allowed:
                return False
            self._allowed -= 1
            return True


async def _read(scope: Scope, receive: Receive) -> ReceivedRequest:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return ReceivedRequest(
        method=scope["method"],
        target=(scope["raw_path"] + query).decode("latin-1"),
        headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        body=body,
    )


def _echo(request: ReceivedRequest) -> bytes:
    return json.dumps(
        {
            "method": request.method,
            "target": request.target,
            "headers": [list(pair) for pair in request.headers],
            "body": request.body.decode("utf-8", "replace"),
            "length": len(request.body),
        }
    ).encode()


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send(_start(status, [*headers, (b"content-length", str(len(body)).encode())]))
    await send({"type": "http.response.body", "body": body})


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> dict[str, object]:
    return {"type": "http.response.start", "status": status, "headers": headers}
