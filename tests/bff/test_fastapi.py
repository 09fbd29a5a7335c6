"""The FastAPI dependencies, and the quickstart as it stands in the README."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, WebSocket

from coatcheck.errors import LoginRequired
from coatcheck.fastapi import CurrentUser, PageUser
from tests.bff.world import LOCAL, World, world


def fastapi() -> FastAPI:
    app = FastAPI()

    @app.get("/api/me")
    async def me(user: CurrentUser) -> dict[str, str]:
        return {"hello": user.name}

    @app.post("/api/orders")
    def order(user: CurrentUser, body: dict[str, int]) -> dict[str, object]:
        return {"user": user.sub, "body": body}

    @app.get("/page")
    async def page(user: PageUser) -> str:
        return f"page of {user.name}"

    @app.post("/page")
    async def write(user: PageUser) -> str:
        return f"written by {user.name}"

    @app.get("/late")
    async def late(user: PageUser, code: str) -> str:
        raise LoginRequired("only now it shows", code=code)

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, user: CurrentUser) -> None:
        await websocket.accept()
        await websocket.send_text(user.name)
        await websocket.close()

    @app.websocket("/page-ws")
    async def socket_of_a_page(websocket: WebSocket, user: PageUser) -> None:
        await websocket.accept()
        await websocket.send_text(user.name)
        await websocket.close()

    return app


def install(w: World) -> None:
    app = fastapi()
    w.start().install(app)
    w.serve(app)


def test_current_user_is_for_scripts() -> None:
    with world() as w:
        install(w)
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        assert browser.fetch("/api/me").json() == {"hello": "alice"}
        response = browser.fetch("/api/orders", "POST", json={"pieces": 2})
        assert response.json() == {"user": "alice", "body": {"pieces": 2}}


@pytest.mark.spec("CSR-01", "LGN-08")
def test_current_user_answers_401_and_403_and_never_redirects() -> None:
    with world() as w:
        install(w)
        browser = w.browser()
        for method in ("GET", "POST"):
            path = "/api/me" if method == "GET" else "/api/orders"
            response = browser.fetch(path, method, headers={"Accept": "text/html"})
            assert (response.status_code, response.json()["code"]) == (401, "session_missing")
            assert response.json()["login_url"] == "/bff/login"
            response = browser.fetch(path, method, csrf=False)
            assert (response.status_code, response.json()["code"]) == (403, "csrf_header_missing")


@pytest.mark.spec("CSR-02")
def test_current_user_is_not_for_the_address_bar() -> None:
    with world() as w:
        install(w)
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        assert browser.navigate("/api/me").status_code == 403


def test_page_user_logs_in_and_comes_back() -> None:
    with world() as w:
        install(w)
        page = w.browser().login("/page?a=1&b=%2F")
        assert (str(page.url), page.json()) == (f"{LOCAL}/page?a=1&b=%2F", "page of alice")


def test_page_user_makes_a_hop_when_another_site_links() -> None:
    with world() as w:
        install(w)
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        browser.page = httpx2.URL("https://news.example/")
        page = browser.click("/page?a=1")
        hop, _, end = browser.history
        assert (hop.status_code, hop.headers["cache-control"]) == (200, "no-store")
        assert (str(end.url), page.json()) == (f"{LOCAL}/page?a=1", "page of alice")


@pytest.mark.spec("CSR-01", "CSR-02")
def test_page_user_of_a_form_is_judged_like_a_call() -> None:
    with world() as w:
        install(w)
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        assert browser.fetch("/page", "POST").json() == "written by alice"
        assert browser.fetch("/page", "POST", csrf=False).status_code == 403
        assert browser.fetch("/page", csrf=False).status_code == 403  # a script is no person


def test_a_page_whose_session_ends_meanwhile_leads_to_the_login() -> None:
    with world() as w:
        install(w)
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        response = browser.navigate("/late?code=session_ended", stop_at=w.provider.issuer)
        assert browser.history[0].headers["location"] == "/bff/login?returnUrl=%2Flate%3Fcode%3Dsession_ended"
        assert response.status_code == 302


def test_a_login_that_would_not_help_is_not_begun() -> None:
    with world() as w:
        install(w)
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        response = browser.navigate("/late?code=token_expired_no_refresh_token")
        assert (response.status_code, response.headers["coatcheck-error"]) == (401, "token_expired_no_refresh_token")


@pytest.mark.spec("HDR-07")
def test_what_depends_on_the_user_says_so() -> None:
    with world() as w:
        install(w)
        response = w.logged_in(path="/bff/login?returnUrl=/page").fetch("/api/me")
        assert response.headers["vary"] == "cookie"
        assert response.headers["cache-control"] == "no-store"


@pytest.mark.spec("CSR-03")
@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        (b"http://localhost:8000", "websocket.accept"),
        (b"http://evil.example", "websocket.close"),
        (b"null", "websocket.close"),
        (None, "websocket.close"),
    ],
)
@pytest.mark.parametrize("path", ["/ws", "/page-ws"])  # Chromium sends no Sec-Fetch-* with these handshakes
def test_cross_site_websocket_hijacking_only_our_own_origin_is_let_in(
    path: str, origin: bytes | None, answer: str
) -> None:
    with world() as w:
        install(w)
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        cookie = browser.cookies.header(httpx2.URL(LOCAL), initiator=None).encode()
        headers = [(b"cookie", cookie), *([(b"origin", origin)] if origin else [])]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "server": ("127.0.0.1", 8000),
            "subprotocols": [],
        }
        w.transport.loop.run_until_complete(w.transport.apps["localhost:8000"](scope, receive, send))
        assert sent[0]["type"] == answer
        assert ("alice" in str(sent)) == (answer == "websocket.accept")
