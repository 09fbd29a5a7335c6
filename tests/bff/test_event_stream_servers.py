"""Streams of events on real servers and bare sockets: who goes away is noticed. And nobody gets a WebSocket."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from coatcheck.bff.live import Watch
from tests.bff.raw_upstream import raw_upstream
from tests.bff.served_bff import SERVERS, ServedBFF, ServerName, served

pytestmark = pytest.mark.parametrize("server", SERVERS)

OWN_PAGE = (b"sec-fetch-site: same-origin", b"accept: text/event-stream")
NOWHERE = "http://127.0.0.1:9"


def watching(bff: ServedBFF) -> list[Watch]:
    """The streams in the registry, in whichever event loop."""
    return [watch for hub in list(bff.bff._live._hubs.values()) for watch in list(hub._watches)]


async def until_watching(bff: ServedBFF, count: int) -> None:
    async with asyncio.timeout(10):
        while len(watching(bff)) != count:
            await asyncio.sleep(0.005)


async def test_a_client_that_goes_away_is_noticed(server: ServerName) -> None:
    async with served(server, NOWHERE) as bff:
        streams = []
        for _ in range(3):
            reader, writer = await bff.connect()
            writer.write(bff.head(b"GET /bff/events HTTP/1.1", *OWN_PAGE))
            assert b"200" in await reader.readline()
            await reader.readuntil(b"retry: 2000\n\n")
            streams.append(writer)
        await until_watching(bff, 3)
        streams[0].close()
        await until_watching(bff, 2)
        streams[1].transport.abort()  # a reset, as of a browser that was killed
        await until_watching(bff, 1)
        streams[2].close()
        await until_watching(bff, 0)
        for writer in streams:
            with suppress(ConnectionError):
                await writer.wait_closed()


HANDSHAKE = (
    b"connection: Upgrade",
    b"upgrade: websocket",
    b"sec-websocket-version: 13",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.mark.spec("WSS-02", "PRX-29")
@pytest.mark.parametrize("path", [b"/api/orders", b"/bff/user", b"/bff/login", b"/bff/events", b"/bff/nothing"])
@pytest.mark.parametrize("origin", [b"https://shop.example", b"https://evil.example"])
async def test_a_websocket_is_refused_before_the_upgrade(server: ServerName, path: bytes, origin: bytes) -> None:
    """Even to a page of ours."""
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        site = b"same-origin" if origin == b"https://shop.example" else b"cross-site"
        own = (b"host: shop.example", b"cookie: " + bff.cookie, b"origin: " + origin, b"sec-fetch-mode: websocket")
        head = b"\r\n".join([b"GET " + path + b" HTTP/1.1", *own, b"sec-fetch-site: " + site, *HANDSHAKE])
        reader, writer = await bff.connect()
        writer.write(head + b"\r\n\r\n")
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        status = int(answer.split(b" ", 2)[1])
        # Here uvicorn has no library for WebSockets: it does not even see a handshake, and answers the GET.
        assert status == 403 or (server == "uvicorn" and path in GETS and status == GETS[path])
        assert b"upgrade:" not in answer.lower() and b"sec-websocket" not in answer.lower()
        assert upstream.connections == 0


GETS = {b"/bff/login": 400, b"/bff/events": 200, b"/bff/nothing": 404}
"""What the same request is answered that asks for no upgrade."""
