"""A remote API on a bare socket: it records every byte that arrives, and answers with the bytes it is told to."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
CHUNKED = re.compile(rb"(?im)^transfer-encoding: *chunked")
LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")


@dataclass(slots=True)
class Seen:
    """One request, as it was on the wire. *connection* counts the connections of this upstream."""

    head: bytes
    body: bytes
    connection: int

    @property
    def request_line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def target(self) -> bytes:
        return self.request_line.split(b" ")[1]

    @property
    def lines(self) -> list[tuple[bytes, bytes]]:
        pairs = (line.partition(b": ") for line in self.head.strip().split(b"\r\n")[1:])
        return [(name.lower(), value) for name, _, value in pairs]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.lines if key == name]


@dataclass(slots=True)
class RawUpstream:
    """
    *answer* is called for each request with the writer; by default it sends `OK`. Returning False closes.

    `requests` are the whole ones, `open` how many connections there are now, `closed` is set whenever one goes.
    """

    answer: Callable[[Seen, asyncio.StreamWriter], Awaitable[bool]] | None = None
    read_body: bool = True
    url: str = ""
    requests: list[Seen] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    handlers: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.handlers.add(task)
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._exchange(reader, writer, number):
                    pass
        finally:
            self.open -= 1
            self.closed.set()
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()
            self.handlers.discard(task)

    async def aclose(self) -> None:
        """End what is still going on, and wait until every socket is closed."""
        for task in self.handlers:
            task.cancel()
        if self.handlers:
            await asyncio.wait(self.handlers, timeout=5)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        seen = Seen(head, b"", number)
        self.requests.append(seen)
        self.arrived.set()
        if self.read_body:
            seen.body = await _body(reader, head)
        if self.answer is None:
            writer.write(OK)
            await writer.drain()
            return True
        going_on = asyncio.ensure_future(self.answer(seen, writer))
        # What the caller does meanwhile shows: if it goes away, so does the answer.
        gone = asyncio.ensure_future(reader.read(1)) if self.read_body else None
        waiting = {going_on, gone} if gone is not None else {going_on}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if going_on.done():
            if gone is not None:
                gone.cancel()
                with suppress(asyncio.CancelledError):
                    await gone
            return going_on.result()
        going_on.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await going_on
        return False


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if CHUNKED.search(head):
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
    length = LENGTH.search(head)
    return await reader.readexactly(int(length[1])) if length else b""


@asynccontextmanager
async def raw_upstream(
    answer: Callable[[Seen, asyncio.StreamWriter], Awaitable[bool]] | bytes | None = None,
    *,
    read_body: bool = True,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RawUpstream]:
    """Serve one on loopback. *answer* given as bytes is sent for each request, and then the connection is closed."""
    upstream = RawUpstream(_sends(answer) if isinstance(answer, bytes) else answer, read_body)
    server = await asyncio.start_server(upstream.handle, "127.0.0.1", 0, ssl=tls)
    upstream.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        await upstream.aclose()


def _sends(data: bytes) -> Callable[[Seen, asyncio.StreamWriter], Awaitable[bool]]:
    async def answer(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        await writer.drain()
        return False

    return answer
