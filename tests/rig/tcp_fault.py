"""
A network that fails on command: a proxy between a client and any server on this machine, TLS or not.

    with TCPFault.before(valkey.port) as fault:
        store = RedisStore(valkey.fresh_url(port=fault.port))
        fault.cut()
        ...
        fault.restore()

It works in a thread of its own, so that asynchronous and synchronous tests, and other processes, may use it. A mode
holds for the connections that live and for those that come; a method returns when the mode holds.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, TypeVar

T = TypeVar("T")
Mode = Literal["pass", "cut", "hang", "cut answers"]

_HOST = "127.0.0.1"
_CHUNK = 65_536


class TCPFault:
    """The proxy. Connect to 127.0.0.1:`port` instead of to the server."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._mode: Mode = "pass"
        self._delay = 0.0
        self._answers_to_cut: int | None = None
        self._afterwards: Mode = "pass"
        self._relays: set[_Relay] = set()
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()
        # Bound and never listening: while the proxy refuses connections, the port stays its own.
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self.accepted = 0
        """Connections so far."""
        self.answers_cut = 0
        """How often a server's answer was thrown away."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-fault", daemon=True)

    @classmethod
    @contextmanager
    def before(cls, port: int, host: str = _HOST) -> Iterator[TCPFault]:
        """Stand before the server at *port* until the block ends."""
        fault = cls((host, port))
        fault._thread.start()
        fault._do(fault._listen)
        try:
            yield fault
        finally:
            fault._do(fault._close)
            fault._loop.call_soon_threadsafe(fault._loop.stop)
            fault._thread.join(10)
            fault._loop.close()
            fault._reserved.close()

    @property
    def connections(self) -> int:
        """How many connections live."""
        return len(self._relays)

    def restore(self) -> None:
        """Let everything pass at once, as in the beginning. A connection that lost something meanwhile is reset."""
        self._do(self._enter, "pass")

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._do(self._enter, "cut")

    def hang(self) -> None:
        """Accept everything and pass nothing on, either way: what arrives is lost, and nobody is told."""
        self._do(self._enter, "hang")

    def cut_answers(self, *, times: int | None = None, then: Literal["pass", "cut"] = "pass") -> None:
        """
        Pass requests on, but throw the server's answer away and reset the connection.

        So the work is done, and the client cannot know. After *times* answers everything passes again, or all is cut.
        """
        self._answers_to_cut = times
        self._afterwards = then
        self._do(self._enter, "cut answers")

    def delay(self, seconds: float) -> None:
        """Let everything pass, each piece *seconds* later, either way."""
        self._do(self._enter, "pass", seconds)

    def lead_to(self, port: int, host: str = _HOST) -> None:
        """Take new connections to another server, as an address does after a failover. Those that live stay."""
        self._server = (host, port)

    def _do(self, act: Callable[..., object], *arguments: object) -> None:
        async def run() -> None:
            done = act(*arguments)
            if asyncio.iscoroutine(done):
                await done

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _enter(self, mode: Mode, delay: float = 0.0) -> None:
        self._mode, self._delay = mode, delay
        if mode == "cut":
            self._stop_listening()
        elif self._listener is None:
            self._listen()
        for relay in list(self._relays):
            if mode == "cut" or (relay.lost_something and mode != "hang"):
                relay.reset()

    def _listen(self) -> None:
        # Not asyncio's server: closed between the acceptance of a connection and its first step, it loses that one.
        self._listener = _bound(self.port)
        self._listener.listen(1024)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:  # it was reset while it waited
            return
        self.accepted += 1
        client.setblocking(False)
        task = self._loop.create_task(self._serve(client))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            from_server, to_server = await asyncio.open_connection(*self._server)
        except OSError:
            return _reset(writer)
        relay = _Relay(self, writer, to_server)
        self._relays.add(relay)
        if self._mode == "cut":  # meanwhile
            relay.reset()
        try:
            await asyncio.gather(
                relay.pump(reader, to_server, answers=False), relay.pump(from_server, writer, answers=True)
            )
        finally:
            self._relays.discard(relay)
            to_server.close()
            writer.close()

    async def _close(self) -> None:
        self._enter("cut")
        self._delay = 0.0
        while self._serving:  # each has been reset, or will be in its next step
            await asyncio.wait(self._serving)
        await asyncio.sleep(0)  # the transports close themselves in the next round

    def _cut_this_answer(self) -> bool:
        if self._mode != "cut answers":
            return False
        self.answers_cut += 1
        if self._answers_to_cut is not None:
            self._answers_to_cut -= 1
            if self._answers_to_cut <= 0:
                self._enter(self._afterwards)
        return True


class _Relay:
    """One connection to the proxy and its counterpart to the server."""

    def __init__(self, fault: TCPFault, to_client: asyncio.StreamWriter, to_server: asyncio.StreamWriter) -> None:
        self.lost_something = False
        self._fault = fault
        self._writers = to_client, to_server

    def reset(self) -> None:
        for writer in self._writers:
            _reset(writer)

    async def pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(OSError):
            while chunk := await source.read(_CHUNK):
                if not await self._passes(answers):
                    continue
                target.write(chunk)
                await target.drain()
            if await self._passes(answers=False) and target.can_write_eof():
                target.write_eof()

    async def _passes(self, answers: bool) -> bool:
        if self._fault._delay:
            await asyncio.sleep(self._fault._delay)
        if self._fault._mode == "hang":
            self.lost_something = True
        elif answers and self._fault._cut_this_answer():
            self.reset()
            return False
        return not self.lost_something


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((_HOST, port))
    return bound


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, as a machine does that has forgotten the connection."""
    found = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
