"""
One process of `bench.renewal`: a `Tokens` over a shared store, driven by lines of JSON on its standard input.

    python -m bench.renewal_worker STORE_URL ISSUER KEY

Each line is a command, each answer one line: `login` makes the session, `load` opens it for so many callers, `go` has
them all ask at one instant of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from coatcheck.coordination import SentMark
from coatcheck.oauth.client import Client
from coatcheck.sessions import CookiePolicy, KeyRing, ServerSideSessions, SessionHandle, parse_cookies
from coatcheck.stores import open_store
from coatcheck.tokens import Tokens, User, UserToken, UserTokenRequestParameters

LIFETIME = 300.0
FOR_LONG = timedelta(days=30)


class OffsetClock:
    """The machine's clocks, moved on by hand: tokens expire without anybody waiting."""

    def __init__(self) -> None:
        self.offset = 0.0

    def time(self) -> float:
        return time.time() + self.offset

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


class Stopwatch:
    """A coordination store that notes how long its operations take and, on demand, writes no mark."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.seconds: dict[str, list[float]] = {}
        self.marks = True

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        operation = getattr(self._store, name)

        async def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return await operation(*arguments, **named)
            finally:
                self.seconds.setdefault(name, []).append(time.perf_counter() - began)

        return timed

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        if self.marks:
            await self.__getattr__("mark_sent")(key, holder, mark, seconds=seconds, until=until)


class Worker:
    """The state between two commands."""

    def __init__(self, url: str, issuer: str, key: str) -> None:
        self.clock = OffsetClock()
        ring = KeyRing([key])
        self._store = Stopwatch(open_store(url, clock=self.clock))
        store: Any = self._store
        self.sessions = ServerSideSessions(
            store, ring, CookiePolicy("benchben"), clock=self.clock, lifetime=FOR_LONG, idle_timeout=FOR_LONG
        )
        client = Client(issuer=issuer, client_id="bench", client_secret="secret of the bench", rotation="strict")
        self.tokens = Tokens(client, coordination=store, keys=ring, clock=self.clock)
        self.users: list[User] = []

    async def login(self, refresh_token: str, lifetime: float = LIFETIME) -> dict[str, Any]:
        """Make a session with a fresh token; returns its cookie."""
        now = self.clock.time()
        token = UserToken(
            access_token=f"access of {refresh_token}",
            issued_at=now,
            expires_at=now + lifetime,
            refresh_token=refresh_token,
        )
        handle = await self.sessions.create(
            claims={}, iss="bench", sub="user", sid=None, tokens=self.tokens.session_bytes(token), now=now
        )
        line, *_ = handle.set_cookies()
        return {"cookie": line.decode().partition(";")[0]}

    async def load(self, cookie: str, callers: int) -> dict[str, Any]:
        """Open the session once for each caller, as each request does."""
        self.users = [await self._user(cookie) for _ in range(callers)]
        return {}

    async def go(self, at: float) -> dict[str, Any]:
        """Have all loaded callers ask at the instant *at*; returns when the last one was answered."""
        await asyncio.sleep(at - time.monotonic())
        tokens = await asyncio.gather(*(self.tokens.user_token(user) for user in self.users))
        return {"last": time.monotonic() - at, "tokens": sorted({token.access_token for token in tokens})}

    async def forward(self, seconds: float) -> dict[str, Any]:
        """Move the clock on."""
        self.clock.offset += seconds
        return {}

    async def fresh(self, cookie: str, calls: int) -> dict[str, Any]:
        """Time the session load and the fresh token of so many requests; counts what the store was asked."""
        loads, asks = [], []
        self._store.seconds.clear()
        for _ in range(calls):
            began = time.perf_counter()
            user = await self._user(cookie)
            loaded = time.perf_counter()
            await self.tokens.user_token(user)
            asks.append(time.perf_counter() - loaded)
            loads.append(loaded - began)
        operations = {name: len(times) / calls for name, times in self._store.seconds.items()}
        return {"load": statistics.median(loads), "ask": statistics.median(asks), "operations": operations}

    async def alone(self, cookie: str, marks: bool) -> dict[str, Any]:
        """Renew for one caller, with or without the sent mark, and say how long each operation of the store took."""
        self._store.marks = marks
        self.clock.offset += LIFETIME
        user = await self._user(cookie)
        self._store.seconds.clear()
        began = time.perf_counter()
        await self.tokens.user_token(user)
        took = time.perf_counter() - began
        self._store.marks = True
        return {"took": took, "operations": {name: sum(times) for name, times in self._store.seconds.items()}}

    async def crowd(self, cookies: list[str], seconds: float, pause: float) -> dict[str, Any]:
        """Let every user call once per *pause* for *seconds*; returns the latencies of all calls."""
        ends = time.monotonic() + seconds
        latencies: list[float] = []

        async def one(cookie: str, delay: float) -> None:
            await asyncio.sleep(delay)
            while time.monotonic() < ends:
                began = time.perf_counter()
                await self.tokens.user_token(await self._user(cookie), UserTokenRequestParameters())
                latencies.append(time.perf_counter() - began)
                await asyncio.sleep(pause)

        await asyncio.gather(*(one(cookie, pause * i / len(cookies)) for i, cookie in enumerate(cookies)))
        return {"latencies": latencies}

    async def _user(self, cookie: str) -> User:
        cookies = parse_cookies([(b"cookie", cookie.encode())])
        handle: SessionHandle | None = await self.sessions.open(cookies, now=self.clock.time(), slide=False)
        if handle is None:
            raise LookupError("the session is gone")
        return User("bench", "user", session=handle)


async def serve(worker: Worker) -> None:
    """Answer commands until the input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer = await getattr(worker, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)
    await worker.tokens.aclose()


if __name__ == "__main__":
    asyncio.run(serve(Worker(*sys.argv[1:4])))
