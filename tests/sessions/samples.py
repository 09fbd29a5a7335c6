"""What the session tests share: keys, one application, a browser's cookies, and a login."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from coatcheck.sessions import (
    CookiePolicy,
    Cookies,
    KeyRing,
    SessionHandle,
    Sessions,
    application_id,
    new_key,
    parse_cookies,
)

NOW = 1_800_000_000.0
HOUR = 3600.0
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
