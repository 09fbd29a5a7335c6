"""
What strangers leave behind: logins that nobody finishes, and callbacks that nobody began.

    python -m bench.anonymous_logins             # 100,000 of each, over sessions in memory, SQLite and cookies: minutes
    python -m bench.anonymous_logins 2000 --store memory

Nothing may grow: neither rows nor values of the store, nor tasks, nor the memory of the process beyond what it takes to
run at all; and no garbage may cost a call to the authorization server. The application and the provider are called in
this process, without a network.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2

from coatcheck import BACK_CHANNEL_HTTP_CLIENT, BFF, new_key
from coatcheck.bff.answers import ASGIApp, json_answer
from coatcheck.testing import AuthorizationServerApp

STORES = ("memory", "sqlite", "cookie")
WARM_UP = 500
GARBAGE: tuple[Callable[[int], dict[str, str]], ...] = (
    lambda n: {"state": f"{n:043d}", "code": "c", "iss": "http://127.0.0.1:9000"},
    lambda n: {"state": f"{n:043d}.2", "error": "access_denied"},
    lambda n: {"code": "c"},
    lambda n: {"state": "x" * 3000},
)


async def main(count: int, store: str, folder: Path) -> bool:
    """Print one line; True when nothing grew."""
    provider = AuthorizationServerApp("http://127.0.0.1:9000")
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=provider)) as http:
        bff = BFF(
            provider.client(),
            public_url="http://localhost:8000",
            keys=[new_key()],
            sessions=f"sqlite://{folder / 'sessions.db'}" if store == "sqlite" else store,
            http_clients={BACK_CHANNEL_HTTP_CLIENT: http},
        )
        app = bff.wrap(json_answer(b"null"))
        await knock(app, WARM_UP)
        before, calls = measured(), len(provider.log)
        began = time.perf_counter()
        await knock(app, count)
        seconds = time.perf_counter() - began
        after = measured()
        await bff.aclose()
    grown = {name: after[name] - before[name] for name in before}
    print(
        f"{store}: {count} logins begun and {count} garbage callbacks in {seconds:.0f} s: "
        f"calls to the provider {len(provider.log) - calls}, tasks {grown['tasks']:+d}, "
        f"entries in containers {grown['entries']:+d}, peak RSS {grown['rss_kb'] / 1024:+.1f} MB"
    )
    return len(provider.log) == calls and grown["tasks"] == 0 and grown["entries"] < WARM_UP


async def knock(app: ASGIApp, count: int) -> None:
    """Begin *count* logins, each in a browser of its own, and send *count* answers that belong to none."""
    for number in range(count):
        assert await status_of(app, "/bff/login", "") == 302
        query = urlencode(GARBAGE[number % len(GARBAGE)](number))
        assert await status_of(app, "/bff/callback", query) == 400


async def status_of(app: ASGIApp, path: str, query: str) -> int:
    """Send one request, as a stranger without cookies does."""
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost:8000"), (b"accept", b"text/html"), (b"sec-fetch-mode", b"navigate")],
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
    }
    await app(scope, receive, send)
    return status


def measured() -> dict[str, int]:
    """Tasks, the entries of all containers that the process knows of, and the most memory that it ever had."""
    gc.collect()
    entries = sum(len(thing) for thing in gc.get_objects() if isinstance(thing, dict | list | set | frozenset))
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"tasks": len(asyncio.all_tasks()), "entries": entries, "rss_kb": rss}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Begin logins that nobody finishes, and see that nothing grows.")
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--store", choices=STORES, action="append")
    arguments = parser.parse_args()
    logging.getLogger("coatcheck").setLevel(logging.ERROR)  # each refusal writes a line; here they are the point
    good = True
    for chosen in arguments.store or STORES:
        with tempfile.TemporaryDirectory() as made:
            good &= asyncio.run(main(arguments.count, chosen, Path(made)))
    sys.exit(0 if good else 1)
