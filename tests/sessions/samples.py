"""What the session tests share: keys, one application, a browser's cookies, and a login."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from coatcheck.sessions import (
    Change,
    CookiePolicy,
    Cookies,
    KeyRing,
    ServerSideSessions,
    SessionHandle,
    SessionRow,
    Sessions,
    SessionStore,
    application_id,
    new_key,
    parse_cookies,
)
from coatcheck.stores import MemoryStore, SQLiteStore
from tests.testing.clocks import HandClock

NOW = 1_800_000_000.0
HOUR = 3600.0
TENTH = HOUR / 10
"""Uses that are closer together than this are not written down, when the idle time is an hour."""
ISSUER = "https://idp.example.com"
POLICY = CookiePolicy(application_id(ISSUER, "shop", "https://shop.example.com"))
OTHER_POLICY = CookiePolicy(application_id(ISSUER, "shop", "https://shop.example.com/admin"))
KEY = new_key()
RING = KeyRing([KEY])


class Browser:
    """Keeps the cookies it is given, deletes those it is told to, and sends all of them."""

    def __init__(self) -> None:
        self.jar: dict[str, str] = {}

    def receive(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            pair, _, attributes = line.decode("ascii").partition(";")
            name, _, value = pair.partition("=")
            if "Max-Age=0" in attributes:
                self.jar.pop(name, None)
            else:
                self.jar[name] = value

    def cookies(self) -> Cookies:
        header = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        return parse_cookies([(b"host", b"shop.example.com"), (b"cookie", header.encode())])


async def log_in(
    sessions: Sessions,
    browser: Browser,
    *,
    sub: str = "ada",
    claims: Mapping[str, Any] | None = None,
    tokens: bytes = b"the tokens",
    now: float = NOW,
    replaces: SessionHandle | None = None,
) -> SessionHandle:
    """Begin a session of *sub* and hand the browser its cookies."""
    handle = await sessions.create(
        claims={"name": "Ada"} if claims is None else claims,
        iss=ISSUER,
        sub=sub,
        sid="sid-1",
        tokens=tokens,
        now=now,
        replaces=replaces,
    )
    browser.receive(handle.set_cookies())
    return handle


async def opened(sessions: Sessions, browser: Browser, *, now: float = NOW, slide: bool = True) -> SessionHandle:
    """Open the session that the browser presents; it must be there."""
    handle = await sessions.open(browser.cookies(), now=now, slide=slide)
    assert handle is not None
    browser.receive(handle.set_cookies())
    return handle


def server_side(store: SessionStore | None = None) -> ServerSideSessions:
    """Sessions of POLICY under RING, in memory if nowhere else."""
    return ServerSideSessions(store or MemoryStore(), RING, POLICY, clock=HandClock(NOW))


class Recording(MemoryStore):
    """Remembers what it was asked, and can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[bytes] = []
        self.changes: list[Change] = []
        self.rows = self._rows
        self.update_fault: Exception | None = None

    async def load(self, key: bytes) -> SessionRow | None:
        self.loaded.append(key)
        return await super().load(key)

    async def update(self, key: bytes, change: Change) -> None:
        self.changes.append(change)
        if self.update_fault is not None:
            raise self.update_fault
        await super().update(key, change)


def ticket_of(browser: Browser) -> str:
    """The ticket that the browser keeps."""
    return browser.jar[POLICY.session]


@asynccontextmanager
async def sqlite_nodes(folder: Path) -> AsyncIterator[tuple[ServerSideSessions, ServerSideSessions]]:
    """Two nodes that share nothing but the file."""
    nodes = tuple(server_side(SQLiteStore(folder / "sessions.db")) for _ in range(2))
    try:
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            await node.aclose()
