"""
APIs of the application itself, in FastAPI, in Starlette and in plain ASGI, against the real provider.

T168 to T181 of the scenarios that `docs/differences.md` refers to: the same requests and answers, whatever the
application is made with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from coatcheck import BFF, LoginRequired, api_access_token, api_session, api_user, page_user
from coatcheck.bff.answers import Answer, json_answer
from coatcheck.bff.who import current_request
from coatcheck.fastapi import CurrentSession, CurrentUser, CurrentUserWithoutHeader, PageUser, UserAccessToken
from coatcheck.oauth import Client
from coatcheck.sessions.seal import new_key
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.user_agent import UserAgent
from tests.scenarios.test_login_scenarios import Shop


def made_with_fastapi() -> FastAPI:
    app = FastAPI()

    async def me(user: CurrentUser, request: Request) -> dict[str, str]:
        return {"sub": user.sub, "body": (await request.body()).decode()}

    for method in ("GET", "PUT", "POST", "DELETE"):
        app.add_api_route("/api/me", me, methods=[method], operation_id=f"me_{method}")

    @app.get("/api/picture")
    async def picture(user: CurrentUserWithoutHeader) -> dict[str, str]:
        return {"sub": user.sub}

    @app.get("/api/session")
    async def session(session: CurrentSession, token: UserAccessToken) -> dict[str, Any]:
        assert token.refresh_token is None and token.id_token is None
        return {"sub": session.sub, "left": session.expires_at - session.created_at, "token": token.access_token}

    @app.get("/api/forbidden")
    async def forbidden(user: CurrentUser) -> None:
        raise HTTPException(403, f"not for {user.sub}")

    @app.get("/api/challenge")
    async def challenge() -> None:
        raise LoginRequired("the handler wants one")

    @app.get("/page")
    async def page(user: PageUser) -> dict[str, str]:
        return {"sub": user.sub}

    @app.get("/anybody")
    async def anybody() -> str:
        return "anybody"

    @app.websocket("/live")
    async def live(socket: WebSocket, user: CurrentUser) -> None:
        raise AssertionError("nobody gets here")

    return app


def made_with_starlette() -> Starlette:
    async def me(request: Any) -> JSONResponse:
        user = await api_user(request.scope)
        return JSONResponse({"sub": user.sub, "body": (await request.body()).decode()})

    async def picture(request: Any) -> JSONResponse:
        return JSONResponse({"sub": (await api_user(request.scope, csrf=False)).sub})

    async def session(request: Any) -> JSONResponse:
        session, token = await api_session(request.scope), await api_access_token(request.scope)
        left = session.expires_at - session.created_at
        return JSONResponse({"sub": session.sub, "left": left, "token": token.access_token})

    async def forbidden(request: Any) -> PlainTextResponse:
        user = await api_user(request.scope)
        return PlainTextResponse(f"not for {user.sub}", status_code=403)

    async def challenge(request: Any) -> None:
        raise LoginRequired("the handler wants one")

    async def page(request: Any) -> JSONResponse:
        return JSONResponse({"sub": (await page_user(request.scope)).sub})

    async def anybody(request: Any) -> JSONResponse:
        return JSONResponse("anybody")

    api = Starlette(
        routes=[
            Route("/me", me, methods=["GET", "PUT", "POST", "DELETE"]),
            Route("/picture", picture),
            Route("/session", session),
            Route("/forbidden", forbidden),
            Route("/challenge", challenge),
        ]
    )
    return Starlette(routes=[Mount("/api", api), Route("/page", page), Route("/anybody", anybody)])


async def made_by_hand(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    answer = Answer(403, ((b"content-length", b"0"),))
    match current_request(scope).path:
        case "/api/me":
            sub, body, more = (await api_user(scope)).sub, b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            answer = json_answer(f'{{"sub": "{sub}", "body": "{body.decode()}"}}'.encode())
        case "/api/picture":
            answer = json_answer(f'{{"sub": "{(await api_user(scope, csrf=False)).sub}"}}'.encode())
        case "/api/session":
            session, token = await api_session(scope), await api_access_token(scope)
            left = session.expires_at - session.created_at
            text = f'{{"sub": "{session.sub}", "left": {left}, "token": "{token.access_token}"}}'
            answer = json_answer(text.encode())
        case "/api/forbidden":
            await api_user(scope)
        case "/api/challenge":
            raise LoginRequired("the handler wants one")
        case "/page":
            answer = json_answer(f'{{"sub": "{(await page_user(scope)).sub}"}}'.encode())
        case _:
            answer = json_answer(b'"anybody"')
    await answer(scope, receive, send)


@pytest.fixture(params=["fastapi", "starlette", "asgi"])
def visitor(request: pytest.FixtureRequest, oidc_provider: OIDCProvider) -> Iterator[UserAgent]:
    """A browser in which nobody is logged in."""
    shop = Shop(oidc_provider)
    bff = shop.bff()
    if request.param == "asgi":
        app: Any = bff.wrap(made_by_hand)
    else:
        app = made_with_fastapi() if request.param == "fastapi" else made_with_starlette()
        bff.install(app)
    with shop.served(app) as agent:
        yield agent


@pytest.fixture
def alice(visitor: UserAgent) -> UserAgent:
    """A browser in which alice is logged in."""
    visitor.login("/bff/login?returnUrl=/page")
    return visitor


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of a refusal of ours; never a redirect, never a page."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert "location" not in answer.headers and answer.headers["cache-control"] == "no-store"
    assert answer.json()["code"] == answer.headers["coatcheck-error"]
    return answer.status_code, answer.json()["code"]


def test_t168_t174_a_user_calls_and_the_body_arrives(alice: UserAgent) -> None:
    assert alice.fetch("/api/me").json() == {"sub": "alice", "body": ""}
    for method in ("PUT", "POST"):
        assert alice.fetch("/api/me", method, content="all of it").json() == {"sub": "alice", "body": "all of it"}


@pytest.mark.spec("CSR-09")
def test_t169_t172_an_api_may_do_without_the_header(alice: UserAgent) -> None:
    assert alice.fetch("/api/picture", csrf=False).json() == {"sub": "alice"}
    assert alice.navigate("/api/picture").json() == {"sub": "alice"}  # a person opens the download
    for site in ("cross-site", "same-site"):
        assert refusal(alice.fetch("/api/picture", headers={"Sec-Fetch-Site": site})) == (403, "cross_site")
    cookie = alice.cookies.header(alice.base_url, initiator=alice.base_url)
    silent = httpx2.get(f"{str(alice.base_url).rstrip('/')}/api/picture", headers={"Cookie": cookie}, trust_env=False)
    assert refusal(silent) == (403, "csrf_header_missing")  # nothing says that a page of ours asks


@pytest.mark.spec("LGN-08")
@pytest.mark.parametrize("mode", ["cors", "same-origin", "no-cors", "websocket", None])
@pytest.mark.parametrize("accept", ["application/json", "text/html", "*/*"])
def test_t170_t176_who_is_not_logged_in_is_told_so_and_never_redirected(
    visitor: UserAgent, mode: str | None, accept: str
) -> None:
    headers = {"Accept": accept, **({"Sec-Fetch-Mode": mode} if mode else {})}
    answer = visitor.fetch("/api/me", headers=headers)
    assert refusal(answer) == (401, "session_missing")
    assert answer.json()["login_url"] == "/bff/login"
    assert refusal(visitor.fetch("/api/me", "PUT", content="x", headers=headers)) == (401, "session_missing")
    assert refusal(visitor.fetch("/page", headers=headers))[0] == 401


@pytest.mark.spec("CSR-01", "CSR-10")
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_t171_without_the_header_it_is_403_which_no_page_takes_for_a_lost_session(
    alice: UserAgent, method: str
) -> None:
    assert refusal(alice.fetch("/api/me", method, csrf=False)) == (403, "csrf_header_missing")
    assert refusal(alice.fetch("/api/me", method, headers={"Sec-Fetch-Site": "same-site"})) == (403, "cross_site")


def test_t173_what_is_for_anybody_is_for_anybody(visitor: UserAgent) -> None:
    assert visitor.fetch("/anybody", csrf=False).json() == "anybody"


@pytest.mark.spec("LGN-08")
def test_t175_t179_a_page_goes_to_the_login_and_comes_back(visitor: UserAgent) -> None:
    answer = visitor.navigate("/page", stop_at=f"{str(visitor.base_url).rstrip('/')}/bff/login")
    assert (answer.status_code, answer.headers["location"]) == (302, "/bff/login?returnUrl=%2Fpage")
    assert visitor.login("/page").json() == {"sub": "alice"}


def test_t177_t181_a_handlers_own_403_stands(alice: UserAgent) -> None:
    answer = alice.fetch("/api/forbidden")
    assert answer.status_code == 403 and "coatcheck-error" not in answer.headers


def test_t178_a_handler_that_wants_a_login_gets_401_for_a_script(alice: UserAgent) -> None:
    assert refusal(alice.fetch("/api/challenge"))[0] == 401


def test_the_session_and_the_token_are_values_for_the_handler(alice: UserAgent, oidc_provider: OIDCProvider) -> None:
    answer = alice.fetch("/api/session").json()
    assert (answer["sub"], answer["left"]) == ("alice", 8 * 3600)
    assert oidc_provider.whose(answer["token"])["sub"] == "alice"
    assert refusal(alice.fetch("/api/session", csrf=False)) == (403, "csrf_header_missing")


@pytest.mark.spec("CSR-01")
def test_t180_a_rule_for_the_whole_application_does_not_get_in_the_way(oidc_provider: OIDCProvider) -> None:
    shop = Shop(oidc_provider)

    async def members_only(user: CurrentUser) -> None:
        if user.sub != "alice":
            raise HTTPException(403)

    app = FastAPI(dependencies=[Depends(members_only)])

    @app.get("/api/me")
    async def me(user: CurrentUser) -> str:
        return user.sub

    shop.bff().install(app)
    with shop.served(app) as agent:
        assert refusal(agent.fetch("/api/me")) == (401, "session_missing")
        agent.login("/bff/login")
        assert agent.fetch("/api/me").json() == "alice"
        agent.login("/bff/login?prompt=login%20consent", username="bob")
        assert agent.fetch("/api/me").status_code == 403


def test_the_openapi_document_says_what_an_operation_needs() -> None:
    bff = BFF(
        Client(issuer="https://idp.example", client_id="shop", client_secret="s"),
        public_url="https://shop.example",
        keys=[new_key()],
        sessions="memory",
        csrf_header=("X-Requested-By", "shop"),
    )
    app = made_with_fastapi()
    bff.install(app)
    document = app.openapi()
    schemes = document["components"]["securitySchemes"]
    assert schemes["coatcheck_session"] | {"description": ""} == {
        "type": "apiKey",
        "in": "cookie",
        "name": f"__Host-Http-coatcheck-{bff.application_id}",
        "description": "",
    }
    assert schemes["coatcheck_csrf_header"]["name"] == "X-Requested-By"
    assert set(schemes) == {"coatcheck_session", "coatcheck_csrf_header"}
    cookie: list[dict[str, list[str]]] = [{"coatcheck_session": []}]
    both: list[dict[str, list[str]]] = [{"coatcheck_session": [], "coatcheck_csrf_header": []}]
    for path, security in {"/api/me": both, "/api/session": both, "/page": cookie, "/api/picture": cookie}.items():
        assert document["paths"][path]["get"]["security"] == security
        assert document["paths"][path]["get"].get("parameters", []) == []
    assert "security" not in document["paths"]["/anybody"]["get"]
    assert app.openapi() == document
