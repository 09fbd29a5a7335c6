"""
What is compared, each served by granian in one worker: `python -m bench.candidates NAME PORT UPSTREAM_URL FOLDER`.

`bare` is the least that a proxy can do on the same stack: hop-by-hop headers off, a token on, streamed both ways. The
others are whole BFFs with a user who is logged in and whose token is fresh; the `Cookie` line is written to FOLDER.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels
from pyreqwest.client import Client as HTTPClient
from pyreqwest.client import ClientBuilder

from coatcheck.bff.app import BFF
from coatcheck.oauth.client import Client
from coatcheck.sessions.seal import new_key
from coatcheck.tokens.store import session_bytes
from coatcheck.tokens.values import UserToken

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SESSIONS = {"memory": "memory", "sqlite": "sqlite://{folder}/sessions.db", "cookie": "cookie"}
NAMES = ("bare", *SESSIONS)

ACCESS_TOKEN = "eyJhbGciOiJFUzI1NiJ9." + "a" * 779
"""800 bytes: a JWT of ordinary size."""

CLAIMS = {
    "iss": "https://idp.example",
    "sub": "248289761001",
    "name": "Jane Doe",
    "given_name": "Jane",
    "family_name": "Doe",
    "preferred_username": "j.doe",
    "email": "janedoe@example.com",
    "email_verified": True,
    "zoneinfo": "Europe/Berlin",
    "groups": ["sales", "managers"],
}

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length"}
)


def bare(url: str) -> ASGIApp:
    """No session, no check, no watch: what the stack itself costs."""
    clients: list[HTTPClient] = []

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if not clients:
            clients.append(_client())
        headers = [(n.decode(), v.decode()) for n, v in scope["headers"] if n not in _HOP_BY_HOP and n != b"cookie"]
        headers.append(("authorization", "Bearer " + ACCESS_TOKEN))
        query: bytes = scope["query_string"]
        target = url + scope["path"].removeprefix("/api/orders") + ("?" + query.decode() if query else "")
        request = clients[0].request(scope["method"], target).headers(headers).streamed_read_buffer_limit(0)
        async with request.build_streamed() as response:
            kept = [(n.encode(), v.encode()) for n, v in response.headers.items() if n != "connection"]
            await send({"type": "http.response.start", "status": response.status, "headers": kept})
            left = int(response.get_header("content-length") or -1)
            reader = response.body_reader
            while (piece := await reader.read_chunk()) is not None:
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece.to_bytes(), "more_body": left != 0})
                if left == 0:
                    return
            await send({"type": "http.response.body", "body": b""})

    return app


def _client() -> HTTPClient:
    return (
        ClientBuilder()
        .follow_redirects(False)
        .referer(False)
        .no_proxy()
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .read_timeout(timedelta(seconds=30))
        .build()
    )


def coatcheck_app(name: str, url: str, folder: Path) -> ASGIApp:
    """A BFF with one route; writes the cookie of somebody who is logged in to FOLDER/cookie."""
    bff = BFF(
        Client(issuer="https://idp.example", client_id="shop", client_secret="s"),
        public_url="https://shop.example",
        keys=[new_key()],
        sessions=SESSIONS[name].format(folder=folder),
    )
    bff.remote_api("/api/orders", url)
    (folder / "cookie").write_bytes(asyncio.run(_log_in(bff)))
    return bff.wrap(bare(url))


async def _log_in(bff: BFF) -> bytes:
    now = time.time()
    token = UserToken(
        access_token=ACCESS_TOKEN,
        issued_at=now,
        expires_at=now + 3600,
        refresh_token="r" * 200,
        id_token="i" * 900,
        scope="openid profile offline_access orders.read",
    )
    handle = await bff._storage.sessions.create(
        claims=CLAIMS, iss="https://idp.example", sub="248289761001", sid="s1", tokens=session_bytes(token), now=now
    )
    lines = handle.set_cookies()
    await bff.aclose()
    return b"; ".join(line.partition(b";")[0] for line in lines)


def main(name: str, port: str, url: str, folder: str) -> None:
    """Serve one candidate until killed."""

    def load(*_: object) -> ASGIApp:
        return bare(url) if name == "bare" else coatcheck_app(name, url, Path(folder))

    server = Granian(
        name, address="127.0.0.1", port=int(port), interface=Interfaces.ASGI, workers=1, log_level=LogLevels.error
    )
    server.serve(target_loader=load, wrap_loader=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
