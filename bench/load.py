"""A load generator: so many connections, each sends its next request when the answer to the last has come."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What came back within *seconds*. *wrong* counts answers that are not the expected 200 with 1 KiB."""

    requests: int
    wrong: int
    seconds: float
    median_ms: float
    p99_ms: float


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, waits: list[float]) -> None:
        self._request = request
        self._waits = waits
        self._received = b""
        self._sent_at = 0.0
        self.answers = 0
        self.wrong = 0
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        self._received = b""
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or (len(body) < 1024 and head.startswith(b"HTTP/1.1 200")):
            return
        self.answers += 1
        self.wrong += not (head.startswith(b"HTTP/1.1 200") and len(body) == 1024)
        self._waits.append(time.perf_counter() - self._sent_at)
        if not self.stopped:
            self._next()


async def load(port: int, request: bytes, *, connections: int, seconds: float) -> Load:
    """Send *request* over and over for *seconds*."""
    loop = asyncio.get_running_loop()
    waits: list[float] = []
    begun = time.perf_counter()
    pairs = [
        await loop.create_connection(lambda: _Connection(request, waits), "127.0.0.1", port) for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    for _, connection in pairs:
        connection.stopped = True
    took = time.perf_counter() - begun
    answers = sum(connection.answers for _, connection in pairs)
    wrong = sum(connection.wrong for _, connection in pairs)
    await asyncio.sleep(0.1)
    for transport, _ in pairs:
        transport.close()
    waits.sort()
    return Load(answers, wrong, took, waits[len(waits) // 2] * 1000, waits[int(len(waits) * 0.99)] * 1000)


if __name__ == "__main__":
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    result = asyncio.run(load(port, sys.stdin.buffer.read(), connections=connections, seconds=seconds))
    print(json.dumps(asdict(result)))
