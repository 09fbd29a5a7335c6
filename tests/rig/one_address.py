"""
One address in front of several servers, as a load balancer has: each request goes to the next, or to a chosen one.

    with OneAddress.before(first.port, second.port) as address:
        agent.fetch("/api/orders")        # by turns
        address.choose(1)
        agent.fetch("/api/orders")        # at the second, as all that follow

A connection carries one request: it is closed after the answer, so whoever calls again is routed again.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

_HOST = "127.0.0.1"
_LONGEST_HEAD = 65_536
_CONNECTION = re.compile(rb"\r\n(?:connection|keep-alive):[^\r\n]*", re.IGNORECASE)


class OneAddress:
    """The address is 127.0.0.1:`port`."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._turns = itertools.cycle(range(len(ports)))
        self._chosen: int | None = None
        self.served: list[tuple[int, str]] = []
        """Which server got each request, and its path."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="one-address", daemon=True)

    @classmethod
    @contextmanager
    def before(cls, *ports: int, port: int = 0) -> Iterator[OneAddress]:
        """Listen at *port* (0: a free one) until the block ends."""
        address = cls(ports)
        address._thread.start()
        asyncio.run_coroutine_threadsafe(address._listen(port), address._loop).result(10)
        try:
            yield address
        finally:
            asyncio.run_coroutine_threadsafe(address._close(), address._loop).result(10)
            address._loop.call_soon_threadsafe(address._loop.stop)
            address._thread.join(10)
            address._loop.close()

    def choose(self, server: int | None) -> None:
        """Bring all requests from now on to this *server* (0 is the first); None has them go by turns again."""
        self._chosen = server

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, _HOST, port, limit=_LONGEST_HEAD)
        self.port = self._server.sockets[0].getsockname()[1]
        self._serving: set[asyncio.Task[None]] = set()

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of the two has left, or the test is over
        finally:
            self._serving.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        server = next(self._turns) if self._chosen is None else self._chosen
        self.served.append((server, head.split(b" ", 2)[1].decode().partition("?")[0]))
        from_server, to_server = await asyncio.open_connection(_HOST, self._ports[server])
        try:
            to_server.write(_CONNECTION.sub(b"", head[:-4]) + b"\r\nConnection: close\r\n\r\n")
            upload = asyncio.create_task(_pump(reader, to_server))
            try:
                await _pump(from_server, writer)
            finally:
                upload.cancel()
        finally:
            to_server.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(_LONGEST_HEAD):
            target.write(piece)
            await target.drain()
