"""A remote API that costs next to nothing: 1 KiB of JSON for every request, over kept-alive connections."""

from __future__ import annotations

import asyncio
import sys

BODY = b'{"orders":[' + b",".join(b'{"id":%d,"total":12.5}' % number for number in range(10, 55)) + b"]}"
BODY += b" " * (1024 - len(BODY))
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1024\r\n\r\n" + BODY


class Upstream(asyncio.Protocol):
    """Counts the ends of heads; the requests of the benchmark have no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        heads = data.count(b"\r\n\r\n")
        self._rest = data[data.rfind(b"\r\n\r\n") + 4 :] if heads else data
        if heads:
            self._transport.write(ANSWER * heads)


async def serve(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
