"""Nobody but a page of ours with a live session can have a token renewed, however due it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from coatcheck.bff.answers import json_answer
from coatcheck.bff.who import api_user, page_user
from coatcheck.sessions.seal import new_key
from tests.bff.world import World, world
from tests.rig.echo_api import EchoAPI

LONGER_THAN_A_TOKEN = 400
OURS = {"X-CSRF": "1", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
EVIL = "https://evil.example"

kinds = pytest.mark.parametrize("options", [{}, {"sessions": "cookie"}], ids=["store", "cookie"])


@contextmanager
def due(**options: Any) -> Iterator[tuple[World, str]]:
    """An application that uses tokens, and the cookies of a browser whose token has expired."""
    with EchoAPI.serve() as api, world(**options) as w:
        w.bff.remote_api("/api/orders", api.url)
        browser = w.logged_in()

        async def mine(scope: Any, receive: Any, send: Any) -> None:
            user = await (page_user(scope) if scope["path"] == "/page" else api_user(scope))
            await w.bff.tokens.user_token(user)
            await json_answer(b"{}")(scope, receive, send)

        w.serve(w.bff.wrap(mine))
        w.advance(LONGER_THAN_A_TOKEN)
        kept = [cookie for cookie in browser.cookies.all() if not cookie.name.endswith("-logins")]
        yield w, "; ".join(f"{cookie.name}={cookie.value}" for cookie in kept)


def attempt(w: World, path: str, headers: Mapping[str, str], *, method: str = "GET") -> httpx2.Response:
    """Send what an attacker makes somebody's browser send, or sends: byte for byte, with whatever cookie."""
    return w.transport.handle_request(httpx2.Request(method, w.public_url + path, headers=headers))


@pytest.mark.spec("REF-37")
@kinds
@pytest.mark.parametrize("path", ["/api/orders", "/mine", "/page"])
def test_a_page_of_ours_has_its_token_renewed(options: dict[str, Any], path: str) -> None:
    """The control for the tests below: the same application, the same cookie, and a request that is allowed."""
    with due(**options) as (w, cookie):
        before = w.token_requests()
        mode = {"Sec-Fetch-Mode": "navigate"} if path == "/page" else {}
        assert attempt(w, path, {**OURS, **mode, "Cookie": cookie}).status_code == 200
        assert w.token_requests() == before + 1


FORGERIES: dict[str, dict[str, str]] = {
    "no header": {},
    "another value": {"X-CSRF": "0"},
    "from another site": {**OURS, "Sec-Fetch-Site": "cross-site"},
    "from a sibling": {**OURS, "Sec-Fetch-Site": "same-site"},
    "of another origin": {**OURS, "Origin": EVIL},
    "of no origin": {**OURS, "Origin": "null"},
    "a link": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    "an image": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "a form": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Origin": EVIL},
}


@pytest.mark.spec("REF-37", "CSR-01", "CSR-02", "CSR-03")
@kinds
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_request_that_carries_the_cookie_causes_no_renewal(options: dict[str, Any], forgery: str) -> None:
    with due(**options) as (w, cookie):
        before = w.token_requests()
        headers = {**FORGERIES[forgery], "Cookie": cookie}
        for path in ("/api/orders", "/mine", "/bff/user"):
            for method in ("POST",) if forgery == "a form" else ("GET", "POST", "OPTIONS", "DELETE"):
                assert attempt(w, path, headers, method=method).status_code >= 400
        assert w.token_requests() == before


def _damaged(cookie: str) -> str:
    return cookie[:-1] + ("A" if cookie[-1] != "A" else "B")


def _without_its_end(cookie: str) -> str:
    return cookie[: len(cookie) - 20]


def _made_up(cookie: str) -> str:
    name, _, value = cookie.partition("=")
    return f"{name}={'A' * len(value)}"


def _none(_cookie: str) -> str:
    return "theme=dark"


DAMAGES = pytest.mark.parametrize("damage", [_damaged, _without_its_end, _made_up, _none])


@pytest.mark.spec("REF-37")
@kinds
@DAMAGES
def test_a_cookie_that_was_damaged_or_made_up_causes_no_renewal(
    options: dict[str, Any], damage: Callable[[str], str]
) -> None:
    with due(**options) as (w, cookie):
        before = w.token_requests()
        for path in ("/api/orders", "/mine", "/bff/user"):
            assert attempt(w, path, {**OURS, "Cookie": damage(cookie)}).status_code == 401
        assert w.token_requests() == before


@pytest.mark.spec("REF-37")
@kinds
def test_a_ticket_of_another_application_causes_no_renewal(options: dict[str, Any]) -> None:
    with due(**options) as (w, _), due(**options, keys=[new_key()]) as (other, foreign_cookie):
        before = w.token_requests(), other.token_requests()
        for path in ("/api/orders", "/mine"):
            assert attempt(w, path, {**OURS, "Cookie": foreign_cookie}).status_code == 401
        assert (w.token_requests(), other.token_requests()) == before


@pytest.mark.spec("REF-37")
@kinds
def test_asking_who_is_there_causes_no_renewal(options: dict[str, Any]) -> None:
    """A page asks every minute or so; it must not keep tokens alive that nobody uses."""
    with due(**options) as (w, cookie):
        before = w.token_requests()
        for _ in range(3):
            assert attempt(w, "/bff/user", {**OURS, "Cookie": cookie}).status_code == 200
        assert w.token_requests() == before


@pytest.mark.spec("REF-37")
@kinds
@pytest.mark.parametrize("path", ["/api/orders", "/mine", "/bff/user"])
@pytest.mark.parametrize("origin", [EVIL, "http://localhost:8000"])
def test_a_websocket_handshake_causes_no_renewal(options: dict[str, Any], path: str, origin: str) -> None:
    """From another site never; and from our own page only where an application takes it and asks for a token."""
    with due(**options) as (w, cookie):
        before = w.token_requests()
        sent = w.transport.loop.run_until_complete(_handshake(w, path, cookie=cookie, origin=origin))
        if (path, origin) == ("/mine", "http://localhost:8000"):
            assert w.token_requests() == before + 1, "the control"
        else:
            assert [message["type"] for message in sent] == ["websocket.close"]
            assert w.token_requests() == before


async def _handshake(w: World, path: str, *, cookie: str, origin: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost:8000"), (b"origin", origin.encode()), (b"cookie", cookie.encode())],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
    }
    await w.transport.apps[urlsplit(w.public_url).netloc](scope, receive, send)
    return sent
