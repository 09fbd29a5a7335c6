"""FastAPI parses a body before it calls a dependency: whoever may not call is refused before that."""

from __future__ import annotations

from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from coatcheck.errors import LoginRequired
from coatcheck.fastapi import CurrentUser, CurrentUserWithoutHeader, PageUser, current_user
from coatcheck.tokens.values import User
from tests.bff.world import LOCAL, World, world


async def customer(user: CurrentUser) -> User:
    return user


def orders() -> FastAPI:
    app = FastAPI()

    @app.post("/api/orders/{number}")
    async def order(number: int, user: CurrentUser, body: dict[str, int]) -> dict[str, object]:
        return {"sub": user.sub, "body": body}

    @app.post("/api/nested")
    async def nested(user: Annotated[User, Depends(customer)], body: dict[str, int]) -> str:
        return user.sub

    @app.post("/page")
    async def form(user: PageUser, body: dict[str, int]) -> str:
        return user.sub

    @app.post("/api/plain")
    async def without_header(user: CurrentUserWithoutHeader, body: dict[str, int]) -> str:
        return user.sub

    @app.post("/anybody")
    async def anybody(body: dict[str, int]) -> dict[str, int]:
        return body

    router = APIRouter()

    @router.post("/orders")
    async def included(body: dict[str, int]) -> dict[str, int]:
        return body

    app.include_router(router, prefix="/members", dependencies=[Depends(current_user)])
    below = FastAPI()

    @below.post("/orders")
    async def mounted(user: CurrentUser, body: dict[str, int]) -> str:
        return user.sub

    app.mount("/below", below)
    return app


@pytest.fixture
def shop() -> Any:
    with world() as w:
        app = orders()
        w.start().install(app)
        w.serve(app)
        yield w


PROTECTED = ("/api/orders/7", "/api/orders/seven", "/api/nested", "/page", "/members/orders", "/below/orders")
BROKEN: dict[str, Any] = {"content": b'{"pieces": ', "headers": {"content-type": "application/json"}}


@pytest.mark.spec("CSR-01", "CSR-10", "LGN-08")
@pytest.mark.parametrize("path", PROTECTED)
def test_broken_json_of_a_caller_without_header_or_login_is_403_or_401(shop: World, path: str) -> None:
    browser = shop.browser()
    for options in (BROKEN, {"json": ["of another shape"]}, {"json": {"pieces": 1}}):
        answer = browser.fetch(path, "POST", csrf=False, **options)
        assert (answer.status_code, answer.headers["coatcheck-error"]) == (403, "csrf_header_missing")
        answer = browser.fetch(path, "POST", **options)
        assert (answer.status_code, answer.json()["code"]) == (401, "session_missing")
        assert answer.json()["login_url"] == "/bff/login"


def test_without_the_header_it_is_the_browser_that_has_to_speak(shop: World) -> None:
    browser = shop.browser()
    answer = browser.fetch("/api/plain", "POST", csrf=False, **BROKEN)
    assert (answer.status_code, answer.json()["code"]) == (401, "session_missing")
    headers = {**BROKEN["headers"], "Sec-Fetch-Site": "same-site"}
    answer = browser.fetch("/api/plain", "POST", csrf=False, **{**BROKEN, "headers": headers})
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")


def test_who_may_call_is_told_what_is_wrong_with_the_body_and_else_it_arrives(shop: World) -> None:
    browser = shop.logged_in(path="/bff/login?returnUrl=/docs")
    for path in ("/api/orders/7", "/below/orders", "/members/orders"):
        assert browser.fetch(path, "POST", **BROKEN).status_code == 422
    assert browser.fetch("/api/orders/seven", "POST", json={"pieces": 1}).status_code == 422
    assert browser.fetch("/api/orders/7", "POST", json={"pieces": 1}).json() == {"sub": "alice", "body": {"pieces": 1}}
    assert browser.fetch("/below/orders", "POST", json={"pieces": 1}).json() == "alice"
    assert browser.fetch("/members/orders", "POST", json={"pieces": 1}).json() == {"pieces": 1}


def test_what_is_for_anybody_is_checked_by_fastapi_alone(shop: World) -> None:
    browser = shop.browser()
    assert browser.fetch("/anybody", "POST", csrf=False, json={"pieces": 1}).json() == {"pieces": 1}
    answer = browser.fetch("/anybody", "POST", csrf=False, **BROKEN)
    assert answer.status_code == 422


@pytest.mark.spec("CSR-01")
@pytest.mark.parametrize(("header", "status"), [((), 403), (((b"x-csrf", b"1"),), 401)])
@pytest.mark.parametrize("path", ["/api/orders/7", "/members/orders", "/below/orders"])
def test_nothing_is_read_of_the_body_of_a_call_that_is_refused(
    shop: World, path: str, header: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"1000000000"), *header],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
    }
    shop.transport.loop.run_until_complete(shop.transport.apps["localhost:8000"](scope, receive, send))
    assert sent[0]["status"] == status


def test_an_early_refusal_is_logged_once(shop: World, caplog: pytest.LogCaptureFixture) -> None:
    shop.browser().fetch("/api/orders/7", "POST", csrf=False, json={"pieces": 1})
    assert [record.code for record in caplog.records if hasattr(record, "code")] == ["csrf_header_missing"]


def test_handlers_of_the_application_for_403_and_http_errors_do_not_take_ours() -> None:
    app = orders()

    async def own(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("the application's own", status_code=418)

    for kind in (401, 403, 500, HTTPException):
        app.add_exception_handler(kind, own)
    with world() as w:
        w.start().install(app)
        w.serve(app)
        answer = w.browser().fetch("/api/orders/7", "POST", json={"pieces": 1})
        assert (answer.status_code, answer.json()["code"]) == (401, "session_missing")
        assert w.browser().fetch("/api/orders/7", "POST", csrf=False, json={"pieces": 1}).status_code == 403
        assert w.browser().fetch("/nowhere").status_code == 418


def test_a_store_that_is_away_is_503_and_the_handler_is_not_called(shop: World) -> None:
    browser = shop.logged_in(path="/bff/login?returnUrl=/docs")
    shop.break_store()
    answer = browser.fetch("/api/orders/7", "POST", json={"pieces": 1})
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")


def test_a_test_that_overrides_who_is_calling_needs_no_login() -> None:
    app = orders()
    app.dependency_overrides[current_user] = lambda: User("https://idp.example", "carol")
    with world() as w:
        w.start().install(app)
        w.serve(app)
        answer = httpx2.Client(transport=w.transport, base_url=LOCAL).post("/api/orders/7", json={"pieces": 1})
        assert answer.json() == {"sub": "carol", "body": {"pieces": 1}}


@pytest.mark.parametrize("path", ["/api/orders/7", "/members/orders", "/api/me"])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("wrap", [True, False])
def test_a_handler_of_the_application_for_our_errors_is_asked_with_a_body_and_without(
    path: str, waits: bool, wrap: bool
) -> None:
    app = orders()

    @app.post("/api/me")
    async def me(user: CurrentUser) -> str:
        return user.sub

    def answer(request: Request, error: LoginRequired) -> PlainTextResponse:
        return PlainTextResponse(error.code, status_code=418)

    async def answer_later(request: Request, error: LoginRequired) -> PlainTextResponse:
        return answer(request, error)

    app.add_exception_handler(LoginRequired, answer_later if waits else answer)  # type: ignore[arg-type]
    with world() as w:
        bff = w.start()
        if wrap:
            w.serve(bff.wrap(app))
        else:
            bff.install(app)
            w.serve(app)
        response = w.browser().fetch(path, "POST", json={"pieces": 1})
        assert (response.status_code, response.text) == (418, "session_missing")
        response = w.browser().fetch(path, "POST", csrf=False, json={"pieces": 1})
        assert (response.status_code, response.json()["code"]) == (403, "csrf_header_missing")


class ReadsFirst:
    """Middleware that reads the body before any route is known, and hands on a scope of its own."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()

        async def again() -> Any:
            return message

        await self._app(dict(scope), again, send)


@pytest.mark.spec("CSR-01")
def test_where_no_route_is_known_in_time_the_dependency_checks_all_the_same() -> None:
    app = orders()
    app.add_middleware(ReadsFirst)
    with world() as w:
        w.start().install(app)
        w.serve(app)
        browser = w.logged_in(path="/bff/login?returnUrl=/docs")
        for path in ("/api/orders/7", "/members/orders", "/below/orders"):
            assert browser.fetch(path, "POST", json={"pieces": 1}).status_code == 200
            for body in ({"pieces": 1}, {"pieces": "many"}):
                response = browser.fetch(path, "POST", csrf=False, json=body)
                assert (response.status_code, response.json()["code"]) == (403, "csrf_header_missing")
                assert w.browser().fetch(path, "POST", json=body).status_code == 401
            assert browser.fetch(path, "POST", csrf=False, **BROKEN).status_code == 422  # and the handler not reached
