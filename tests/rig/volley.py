"""Many requests at the same instant: every connection is open before the first byte is sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PATIENCE = 60.0
"""Seconds for one answer. Longer than any deadline of ours, so that a test sees what we answer in the end."""
_BEARER = re.compile(rb'\[\s*"authorization",\s*"Bearer ([^"]+)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One API call of a page at *public_url*, to the worker at *port*."""

    port: int
    public_url: str
    cookie: str = field(repr=False)
    path: str = "/api/orders"
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """*status* 0 says that none came. *access_token* is what the echo API received."""

    status: int
    code: str | None = None
    access_token: str | None = field(default=None, repr=False)
    set_cookie: tuple[str, ...] = field(default=(), repr=False)
    body: bytes = b""
    content_type: str | None = None
    retry_after: int | None = None


async def volley(calls: Sequence[Call]) -> list[CallAnswer]:
    """Open all connections, send everything, and wait for every answer."""
    connections = await asyncio.gather(*(_connect(call) for call in calls))
    return list(await asyncio.gather(*(_ask(call, line) for call, line in zip(calls, connections, strict=True))))


async def one(call: Call) -> CallAnswer:
    """A volley of one."""
    return (await volley([call]))[0]


def spread(ports: Sequence[int], count: int, public_url: str, cookies: Sequence[str]) -> list[Call]:
    """*count* calls, by turns to each of *ports* with each of *cookies*."""
    return [
        Call(ports[number % len(ports)], public_url, cookies[number // len(ports) % len(cookies)])
        for number in range(count)
    ]


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(call: Call) -> _Connection | None:
    try:
        return await asyncio.open_connection("127.0.0.1", call.port)
    except OSError:
        return None


async def _ask(call: Call, connection: _Connection | None) -> CallAnswer:
    if connection is None:
        return CallAnswer(0)
    reader, writer = connection
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(request_bytes(call))
            return _answer(await reader.read())
    except (OSError, TimeoutError):
        return CallAnswer(0)
    finally:
        writer.close()


def request_bytes(call: Call) -> bytes:
    """What goes over the wire."""
    lines = [
        f"{call.method} {call.path} HTTP/1.1",
        f"Host: {urlsplit(call.public_url).netloc}",
        "X-CSRF: 1",
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Mode: cors",
        "Sec-Fetch-Dest: empty",
        f"Cookie: {call.cookie}",
        "Connection: close",
    ]
    if call.method != "GET":
        lines += [f"Origin: {call.public_url}", "Content-Length: 0"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _answer(data: bytes) -> CallAnswer:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return CallAnswer(0)
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    bearer = _BEARER.search(body)
    return CallAnswer(
        status=int(status.split(" ")[1]),
        code=next(iter(_all(headers, "coatcheck-error")), None),
        access_token=bearer[1].decode() if bearer else None,
        set_cookie=tuple(_all(headers, "set-cookie")),
        body=body,
        content_type=next(iter(_all(headers, "content-type")), None),
        retry_after=next(map(int, _all(headers, "retry-after")), None),
    )


def _all(headers: Iterable[tuple[str, str]], wanted: str) -> list[str]:
    return [value for name, value in headers if name == wanted]
