"""
A very small HTTP/1.1 server for loopback: one function from request to response, behind a real port.

The core of coatcheck brings no web server, and a test of a worker should not have to install one. This one reads whole
requests and writes whole responses, which is all that an authorization server or a sample API needs. It is made for
tests and for the demo: it binds loopback only, and knows no TLS, no streaming and no upgrades.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from urllib.parse import urlsplit

from coatcheck.errors import TransportError
from coatcheck.oauth.messages import Request, Response

Answer = Callable[[Request], Awaitable[Response]]
"""One request in, one response out. Raises TransportError to cut the connection without an answer."""

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
START_DEADLINE = 30.0

logger: logging.Logger = logging.getLogger("coatcheck.testing")


def loopback_socket(port: int = 0) -> socket.socket:
    """Bind a listening socket to 127.0.0.1; port 0 means any free one. `socket_origin` says which it became."""
    return socket.create_server(("127.0.0.1", port), backlog=512)


def socket_origin(listener: socket.socket) -> str:
    """`http://127.0.0.1:PORT` of a socket from `loopback_socket`."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def serving(answer: Answer, listener: socket.socket | None = None) -> AsyncIterator[str]:
    """Serve *answer* in the running event loop; yields the origin. Leaving cuts the connections that are still open."""
    listener = listener or loopback_socket()
    origin = socket_origin(listener)
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(_converse(answer, origin, reader, writer))
        connections.add(conversation)
        try:
            await conversation
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, asyncio.CancelledError):
            pass  # the peer left, spoke something else than HTTP, or the server is stopping: nobody to answer
        finally:
            connections.discard(conversation)
            writer.transport.abort()

    server = await asyncio.start_server(connected, sock=listener, limit=MAX_HEAD_BYTES)
    try:
        yield origin
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


@contextmanager
def serving_in_thread(answer: Answer, listener: socket.socket | None = None) -> Iterator[str]:
    """Serve *answer* from a thread with an event loop of its own, for tests that block; yields the origin."""
    listener = listener or loopback_socket()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    started = threading.Event()

    async def main() -> None:
        async with serving(answer, listener):
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="coatcheck-testing", daemon=True)
    thread.start()
    if not started.wait(START_DEADLINE):
        raise RuntimeError("the server did not start")
    try:
        yield socket_origin(listener)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(START_DEADLINE)


async def _converse(answer: Answer, origin: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request after the other until the peer, or `Connection: close`, ends the connection."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, headers = _read_head(head)
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = Request(method, origin + target, headers, await _read_body(reader, headers))
        try:
            response = await answer(request)
        except TransportError:
            return
        except Exception:
            logger.exception("%s %s failed", method, urlsplit(target).path)
            response = Response(500, {"content-type": "text/plain"}, b"internal error; see the log\n")
        close = headers.get("connection", "").lower() == "close"
        writer.write(_write_head(response, close=close) + (b"" if method == "HEAD" else response.body))
        await writer.drain()
        if close:
            return


def _read_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    request_line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = request_line.split(" ")
    if not target.startswith("/") or not version.startswith("HTTP/1."):
        raise ValueError("not a request in origin form")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        separator = "; " if name == "cookie" else ", "
        headers[name] = headers[name] + separator + value.strip() if name in headers else value.strip()
    return method, target, headers


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return b"".join([chunk async for chunk in _chunks(reader)])
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY_BYTES:
        raise ValueError("the body is too large")
    return await reader.readexactly(length)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    total = 0
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        total += size
        if total > MAX_BODY_BYTES:
            raise ValueError("the body is too large")
        chunk = await reader.readexactly(size + 2)
        if not size:
            return
        yield chunk[:-2]


def _write_head(response: Response, *, close: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {_reason(response.status)}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += [f"content-length: {len(response.body)}"]
    lines += ["connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Status"
