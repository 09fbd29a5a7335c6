"""Tests of your own, with a real OpenID provider inside them: no network, no mocks."""

import asyncio
from collections.abc import Iterator

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from coatcheck import BFF, ClientToken, Tokens, TokenUnavailable, new_key
from coatcheck.fastapi import CurrentUser
from coatcheck.testing import AuthorizationServerApp, running_authorization_server


@pytest.fixture
def authorization_server() -> Iterator[AuthorizationServerApp]:
    with running_authorization_server() as server:  # a loopback port and a thread of its own
        yield server


def application(authorization_server: AuthorizationServerApp) -> FastAPI:
    app = FastAPI()
    bff = BFF(authorization_server.client(), public_url="https://shop.test", keys=[new_key()], sessions="memory")
    bff.install(app)

    @app.get("/api/me")
    async def me(user: CurrentUser) -> dict[str, str]:
        return {"hello": user.sub, "token": (await bff.tokens.user_token(user)).access_token}

    return app


def log_in(browser: TestClient) -> None:
    """Go the way of a browser: our login, the provider, our callback. `auto_login` stands for the person."""
    there = browser.get("/bff/login", follow_redirects=False)
    back = httpx2.get(there.headers["location"])
    assert browser.get(back.headers["location"]).status_code == 200


def test_a_user_logs_in(authorization_server: AuthorizationServerApp) -> None:
    authorization_server.behaviour.auto_login = True
    script = {"X-CSRF": "1"}
    with TestClient(application(authorization_server), base_url="https://shop.test", headers=script) as browser:
        assert browser.get("/api/me").status_code == 401
        log_in(browser)
        me = browser.get("/api/me").json()
        assert me["hello"] == "demo"
        assert authorization_server.introspect(me["token"])["sub"] == "demo"


def test_ten_jobs_share_one_token(authorization_server: AuthorizationServerApp) -> None:
    async def ten_jobs() -> list[ClientToken]:
        async with Tokens(authorization_server.client()) as tokens:
            return await asyncio.gather(*(tokens.client_token() for _ in range(10)))

    tokens = asyncio.run(ten_jobs())
    assert len({token.access_token for token in tokens}) == 1
    assert authorization_server.count("token", grant_type="client_credentials") == 1


def test_an_outage_of_the_provider(authorization_server: AuthorizationServerApp) -> None:
    authorization_server.fail("token", status=503, html=True, times=None)

    async def one_job() -> None:
        async with Tokens(authorization_server.client()) as tokens:
            await tokens.client_token()

    with pytest.raises(TokenUnavailable):
        asyncio.run(one_job())
