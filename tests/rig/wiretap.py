"""
A tap on a line: everything that two programs say to each other over TCP, byte for byte.

    with Wiretap.between(free_port(), server_port) as tap:
        ...  # talk to localhost:tap.port
        tap.requests, tap.answers

It shows what no log of either side would admit to have sent, and what a browser really received.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Message:
    """One HTTP message as it was on the wire."""

    head: bytes
    body: bytes

    @property
    def lines(self) -> list[bytes]:
        """The first line, then the header lines."""
        return self.head.split(b"\r\n")

    def __bytes__(self) -> bytes:
        return self.head + b"\r\n\r\n" + self.body


class Wiretap:
    """Listens on *port*, passes everything on to *target* (on 127.0.0.1), and keeps both directions."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self._pairs: list[tuple[bytearray, bytearray]] = []
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    @classmethod
    @contextmanager
    def between(cls, port: int, target: int) -> Iterator[Self]:
        """Tap the line while inside. *target* need not listen yet."""
        tap = cls(port, target)
        try:
            yield tap
        finally:
            tap.close()

    @property
    def requests(self) -> list[Message]:
        """What clients sent."""
        return [message for said, _ in self._pairs for message in _messages(bytes(said), until_closed=False)]

    @property
    def answers(self) -> list[Message]:
        """What the server answered, in the order of the connections."""
        return [message for _, answered in self._pairs for message in _messages(bytes(answered), until_closed=True)]

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            said, answered = bytearray(), bytearray()
            self._pairs.append((said, answered))
            self._open |= {client, server}
            forward = threading.Thread(target=_pump, args=(client, server, said), daemon=True)
            back = threading.Thread(target=self._pump_back, args=(server, client, answered, forward), daemon=True)
            self._threads += [forward, back]
            forward.start()
            back.start()

    def _pump_back(
        self, server: socket.socket, client: socket.socket, kept: bytearray, forward: threading.Thread
    ) -> None:
        _pump(server, client, kept)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        forward.join(5)
        for connection in (client, server):
            self._open.discard(connection)
            connection.close()


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            kept += piece
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _messages(stream: bytes, *, until_closed: bool) -> Iterator[Message]:
    """
    Cut what was sent in one direction of a connection into messages; none of them answers a HEAD request.

    An answer that does not say how long it is goes on to the end of the connection; a request has no body then.
    """
    while stream:
        head, _, stream = stream.partition(b"\r\n\r\n")
        length = re.search(rb"(?im)^content-length: *(\d+)", head)
        if re.search(rb"(?im)^transfer-encoding: *chunked", head):
            body, stream = _unchunked(stream)
        elif length:
            body, stream = stream[: int(length[1])], stream[int(length[1]) :]
        else:
            bodyless = not until_closed or re.match(rb"HTTP/1\.1 (1\d\d|204|304) ", head) is not None
            body, stream = (b"", stream) if bodyless else (stream, b"")
        yield Message(head, body)


def _unchunked(stream: bytes) -> tuple[bytes, bytes]:
    body = b""
    while stream:
        size, _, stream = stream.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        body, stream = body + stream[:length], stream[length + 2 :]
        if not length:
            break
    return body, stream
