"""
A token endpoint that takes its time: `python -m bench.slow_provider PORT MILLISECONDS LIFETIME`.

Every refresh token is good once; a second use is counted, and `/reuse` tells how many there were. `/delay?N` changes
the delay, in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from itertools import count
from urllib.parse import parse_qs


class SlowProvider:
    """Speaks just enough HTTP for one client library on loopback."""

    def __init__(self, port: int, delay: float, lifetime: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self.delay = delay
        self._lifetime = lifetime
        self._numbers = count()
        self._seen: set[str] = set()
        self._reuse = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                answer = json.dumps(await self._answer(lines[0].split(" ")[1], body.decode())).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                    % (len(answer), answer)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, body: str) -> dict[str, object]:
        if path.startswith("/.well-known"):
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "code_challenge_methods_supported": ["S256"],
            }
        if path == "/reuse":
            return {"reuse": self._reuse, "refreshes": len(self._seen)}
        if path.startswith("/delay?"):
            self.delay = int(path.partition("?")[2]) / 1000
            return {}
        (refresh_token,) = parse_qs(body)["refresh_token"]
        self._reuse += refresh_token in self._seen
        self._seen.add(refresh_token)
        await asyncio.sleep(self.delay)
        number = next(self._numbers)
        return {
            "access_token": f"access-{number}",
            "token_type": "Bearer",
            "expires_in": self._lifetime,
            "refresh_token": f"refresh-{number}",
        }


async def serve(port: int, delay: float, lifetime: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(SlowProvider(port, delay, lifetime).handle, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]) / 1000, int(sys.argv[3])))
