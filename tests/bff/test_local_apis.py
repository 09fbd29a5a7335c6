"""Local APIs at their edges: mounted applications, methods, browsers that say nothing, tokens that cannot be had."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from coatcheck import LoginRequired, TokenUnavailable, api_user
from coatcheck.bff.answers import json_answer
from coatcheck.bff.who import current_request
from coatcheck.fastapi import CurrentSession, CurrentUser, PageUser, UserAccessToken
from tests.bff.world import World, world


def below() -> FastAPI:
    """An application of its own, with everything that has to work when it is mounted in another one."""
    app = FastAPI()

    async def me(user: CurrentUser) -> str:
        return user.sub

    for method in ("GET", "HEAD", "OPTIONS", "POST", "DELETE"):
        app.add_api_route("/me", me, methods=[method], operation_id=method)

    @app.get("/page")
    async def page(user: PageUser) -> str:
        return user.sub

    @app.get("/token")
    async def token(token: UserAccessToken, session: CurrentSession) -> dict[str, Any]:
        return {"token": token.access_token, "kept": [token.refresh_token, token.id_token], "dead_at": session.dead_at}

    @app.get("/away")
    async def away() -> None:
        raise TokenUnavailable("the provider is away")

    return app


def serve(w: World, app: Any, *, wrap: bool = False) -> None:
    bff = w.start()
    if wrap:
        w.serve(bff.wrap(app))
    else:
        bff.install(app)
        w.serve(app)


@pytest.mark.spec("LGN-08", "CSR-01")
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("around", ["fastapi", "starlette", "twice", "later"])
def test_a_mounted_application_answers_as_the_one_around_it(around: str, wrap: bool) -> None:
    app: Any = FastAPI() if around != "starlette" else Starlette(routes=[Mount("/sub", below())])
    if around == "twice":
        middle = FastAPI()
        middle.mount("/sub", below())
        app.mount("", middle)
    elif around == "fastapi":
        app.mount("/sub", below())
    with world() as w:
        serve(w, app, wrap=wrap)
        if around == "later":
            app.mount("/sub", below())
        browser = w.browser()
        assert browser.fetch("/sub/me").json()["code"] == "session_missing"
        assert browser.fetch("/sub/me", csrf=False).json()["code"] == "csrf_header_missing"
        assert browser.fetch("/sub/away").json()["code"] == "token_unavailable"
        assert browser.login("/sub/page?a=1").json() == "alice"
        assert browser.fetch("/sub/me").json() == "alice"
        security = browser.fetch("/sub/openapi.json").json()["paths"]["/me"]["get"]["security"]
        assert security == [{"coatcheck_session": [], "coatcheck_csrf_header": []}]


@pytest.mark.spec("LGN-08")
@pytest.mark.parametrize(
    ("method", "mode", "accept"),
    [
        *itertools.product(
            ("GET", "HEAD", "POST"),
            ("navigate", "cors", "same-origin", "no-cors", "websocket", None),
            ("text/html,*/*;q=0.8", "application/json", "*/*", None),
        )
    ],
)
def test_only_the_navigation_to_a_page_leads_to_the_login(method: str, mode: str | None, accept: str | None) -> None:
    """A browser without Fetch Metadata navigates with `text/html` among what it accepts; nobody else is guessed at."""
    app = FastAPI()

    async def page(user: PageUser) -> str:
        return user.sub

    app.add_api_route("/page", page, methods=["GET", "HEAD", "POST"])
    app.add_api_route("/api", api, methods=["GET", "HEAD", "POST"])
    headers = {name: value for name, value in (("Sec-Fetch-Mode", mode), ("Accept", accept)) if value}
    with world() as w:
        serve(w, app)
        to_login = (302, "/bff/login?returnUrl=%2Fpage")
        says_so = method != "POST" and mode == "navigate"
        looks_so = method != "POST" and mode is None and "text/html" in (accept or "")
        assert bare(w, "/page", method, headers) == (to_login if says_so or looks_so else (403, None))
        # Only a script can send the header. Where the browser says that it navigates, that counts for more.
        assert bare(w, "/page", method, {**headers, "X-CSRF": "1"}) == (to_login if says_so else (401, None))
        assert bare(w, "/api", method, {**headers, "X-CSRF": "1"}) == (401, None)
        assert bare(w, "/api", method, headers) == (403, None)


async def api(user: CurrentUser) -> str:
    return user.sub


def bare(w: World, path: str, method: str, headers: dict[str, str]) -> tuple[int, str | None]:
    """Status and `Location` of the answer to a request with no other headers than *headers*."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
    }
    w.transport.loop.run_until_complete(w.transport.apps["localhost:8000"](scope, receive, send))
    location = dict(sent[0]["headers"]).get(b"location")
    return sent[0]["status"], location.decode() if location else None


@pytest.mark.spec("CSR-01", "CSR-10")
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
def test_every_method_needs_header_and_login(method: str) -> None:
    with world() as w:
        serve(w, below())
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        assert browser.fetch("/me", method).status_code == 200
        assert browser.fetch("/me", method, csrf=False).headers["coatcheck-error"] == "csrf_header_missing"
        assert w.browser().fetch("/me", method).headers["coatcheck-error"] == "session_missing"


def test_the_access_token_comes_alone_and_is_renewed_when_due() -> None:
    with world() as w:
        serve(w, below())
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        first = browser.fetch("/token").json()
        assert first["kept"] == [None, None]
        assert first["dead_at"] == pytest.approx(w.clock.time() + 3600)
        w.advance(3300)
        browser.fetch("/me")
        w.advance(600)
        assert browser.fetch("/token").json()["token"] != first["token"]


def test_a_token_that_cannot_be_had_is_503_and_one_that_only_a_login_brings_401() -> None:
    with world() as w:
        serve(w, below())
        browser = w.logged_in(path="/bff/login?returnUrl=/page")
        for seconds in (3300, 600):
            w.advance(seconds)
            browser.fetch("/me")
        w.provider.fail("token", status=503, times=None)
        answer = browser.fetch("/token")
        assert (answer.status_code, answer.json()["code"]) == (503, "token_unavailable")
        assert "retry-after" in answer.headers
        assert browser.fetch("/token", csrf=False).status_code == 403
        assert browser.fetch("/me").status_code == 200  # nobody was logged out


def test_a_handler_may_catch_that_nobody_is_logged_in() -> None:
    async def greeting(scope: Any, receive: Any, send: Any) -> None:
        try:
            name = (await api_user(scope, csrf=False)).name
        except LoginRequired:
            name = "stranger"
        await json_answer(f'"{name} at {current_request(scope).path}"'.encode())(scope, receive, send)

    with world() as w:
        w.serve(w.start().wrap(greeting))
        assert w.browser().fetch("/hello").json() == "stranger at /hello"
        assert w.logged_in().fetch("/hello").json() == "alice at /hello"
        assert w.browser().fetch("/hello", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
