"""
Logging in, against the real provider: what users of a Backend-for-Frontend know, one test for each.

T108 to T138 of the scenarios that `docs/differences.md` refers to; where we differ on purpose, the page says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from coatcheck import BFF, Client, ConfigurationError, LoginOptions, Tokens, api_user, page_user
from coatcheck.bff.answers import json_answer
from coatcheck.bff.who import current_request
from coatcheck.fastapi import CurrentUser
from coatcheck.sessions.cookie import CookiePolicy
from coatcheck.sessions.seal import new_key
from tests.bff.world import claims, session_cookie
from tests.rig.control_plane import LoggedRequest
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import serve
from tests.rig.user_agent import UserAgent
from tests.scenarios.gateway import SCOPE, Application

FRAME = {"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-User": ""}


@dataclass
class Shop:
    """An application that is registered at the provider, and may be served in several ways."""

    provider: OIDCProvider
    application: Application = field(default_factory=Application.at_free_port)

    def client(self, prefix: str = "/bff", **more: Any) -> Client:
        url = self.application.url
        registered = self.provider.add_client(
            "basic",
            redirect_uris=[f"{url}{prefix}/callback"],
            post_logout_redirect_uris=[f"{url}{prefix}/logged-out"],
        )
        return Client(
            issuer=self.provider.issuer,
            client_id=registered.client_id,
            client_secret=registered.client_secret,
            **{"scope": SCOPE, "authorization_params": {"prompt": "consent"}, **more},
        )

    def bff(self, client: Client | None = None, **options: Any) -> BFF:
        return BFF(
            client or self.client(options.get("path_prefix", "/bff")),
            public_url=self.application.url,
            keys=[new_key()],
            **{"sessions": "memory", **options},
        )

    @contextmanager
    def served(self, app: Any) -> Iterator[UserAgent]:
        with serve(app, port=self.application.port), UserAgent(self.application.url) as agent:
            yield agent

    def authorizations(self, client: Client) -> list[LoggedRequest]:
        return [entry for entry in self.provider.log(client_id=client.client_id) if entry.path == "/auth"]


async def site(scope: Any, receive: Any, send: Any) -> None:
    """`/me` for scripts, `/page` for people, everything else for anybody."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    path = current_request(scope).path
    document = "anybody"
    if path == "/me":
        document = (await api_user(scope)).sub
    elif path.startswith("/page"):
        document = (await page_user(scope)).sub
    await json_answer(f'"{document}"'.encode())(scope, receive, send)


@pytest.fixture
def shop(oidc_provider: OIDCProvider) -> Shop:
    return Shop(oidc_provider)


def lose_session(agent: UserAgent) -> None:
    for cookie in agent.cookies.all():
        if cookie.value == session_cookie(agent):
            agent.cookies.delete(cookie.name)


def test_t108_login_is_reachable_where_the_whole_application_asks_for_a_user(shop: Shop) -> None:
    async def needs_a_user(user: CurrentUser) -> None:
        assert user.sub == "alice"

    app = FastAPI(dependencies=[Depends(needs_a_user)])

    @app.get("/me")
    async def me(user: CurrentUser) -> str:
        return user.sub

    shop.bff().install(app)
    with shop.served(app) as agent:
        assert agent.fetch("/me").status_code == 401
        agent.login("/bff/login")
        assert agent.fetch("/me").json() == "alice"


def test_t109_t110_silent_login_says_whether_the_user_is_logged_in_at_the_provider(shop: Shop) -> None:
    client = shop.client(authorization_params={}, scope="openid profile")
    with shop.served(shop.bff(client, login=LoginOptions(silent=True)).wrap(site)) as agent:
        answer = agent.navigate("/bff/silent-login", headers=FRAME)
        assert answer.url.path == "/bff/silent-login-callback" and answer.url.query == b"isLoggedIn=false"
        agent.login("/bff/login")
        lose_session(agent)
        agent.page = None
        answer = agent.navigate("/bff/silent-login", headers=FRAME)
        assert answer.url.query == b"isLoggedIn=true"
        assert claims(agent.fetch("/bff/user"))["sub"] == "alice"


def test_t111_prompt_none_shows_no_page_and_is_no_failure(shop: Shop) -> None:
    client = shop.client(authorization_params={}, scope="openid profile")
    with shop.served(shop.bff(client).wrap(site)) as agent:
        landed = agent.navigate("/bff/login?prompt=none&returnUrl=/orders")
        assert (landed.status_code, landed.url.path) == (200, "/orders")
        assert session_cookie(agent) is None
        assert shop.authorizations(client)[-1].params["prompt"] == "none"


def test_t112_a_prompt_that_no_specification_has_is_refused(shop: Shop) -> None:
    client = shop.client()
    with shop.served(shop.bff(client).wrap(site)) as agent:
        refused = agent.navigate("/bff/login?prompt=admin")
        assert (refused.status_code, refused.headers["coatcheck-error"]) == (400, "prompt_invalid")
        assert shop.authorizations(client) == []


def test_t113_registered_prompts_are_passed_on_whatever_the_metadata_lists(shop: Shop) -> None:
    client = shop.client()
    with shop.served(shop.bff(client).wrap(site)) as agent:
        location = agent.navigate("/bff/login?prompt=create", stop_at=shop.provider.issuer).headers["location"]
        assert httpx2.URL(location).params["prompt"] == "create"


def test_t114_t119_t129_a_login_ends_where_it_was_to_end(shop: Shop) -> None:
    with shop.served(shop.bff().wrap(site)) as agent:
        assert agent.login("/bff/login").url.path == "/"
        assert agent.fetch("/me").json() == "alice"
        landed = agent.login("/bff/login?returnUrl=/page/7%3Fa%3D1%23part&prompt=login%20consent", username="bob")
        assert str(landed.url) == f"{shop.application.url}/page/7?a=1#part"
        assert agent.fetch("/me").json() == "bob"


def test_t115_the_endpoints_stand_where_the_application_wants_them(shop: Shop) -> None:
    with shop.served(shop.bff(path_prefix="/auth/v1").wrap(site)) as agent:
        agent.login("/auth/v1/login")
        assert claims(agent.fetch("/auth/v1/user"))["sub"] == "alice"
        assert agent.fetch("/bff/user").json() == "anybody"  # the application's, like any other path


@pytest.mark.parametrize("path_prefix", ["/bff/", "/", "", "/{tenant}/bff", "/bff/.*", "bff"])
def test_t116_t117_t124_other_shapes_of_that_path_stop_the_start(path_prefix: str) -> None:
    client = Client(issuer="https://idp.example", client_id="shop", client_secret="s")
    with pytest.raises(ConfigurationError, match="path of plain segments"):
        BFF(client, public_url="http://localhost:8000", keys=[new_key()], sessions="memory", path_prefix=path_prefix)


def test_t118_a_login_with_a_session_goes_to_the_provider_all_the_same(shop: Shop) -> None:
    client = shop.client()
    with shop.served(shop.bff(client).wrap(site)) as agent:
        agent.login("/bff/login")
        before = len(shop.authorizations(client))
        agent.navigate("/bff/login", stop_at=shop.provider.issuer)
        agent.login("/bff/login")
        assert len(shop.authorizations(client)) > before


@pytest.mark.spec("RTU-01")
def test_t120_an_absolute_return_url_is_refused(shop: Shop) -> None:
    client = shop.client()
    with shop.served(shop.bff(client).wrap(site)) as agent:
        for url in ("https://evil.example/", f"{shop.application.url}/own", "//evil.example", "/\\evil.example"):
            refused = agent.navigate(str(httpx2.URL("/bff/login", params={"returnUrl": url})))
            assert (refused.status_code, refused.headers["coatcheck-error"]) == (400, "return_url_invalid")
        assert shop.authorizations(client) == []


def test_t121_t122_t123_the_silent_answer_asks_no_referer_and_is_framed_by_nobody_else(shop: Shop) -> None:
    with shop.served(shop.bff(login=LoginOptions(silent=True)).wrap(site)) as agent:
        for referer in ({}, {"Referer": "https://evil.example/"}, {"Referer": shop.application.url + "/"}):
            answer = agent.navigate("/bff/silent-login-callback?isLoggedIn=true", headers={**FRAME, **referer})
            assert answer.status_code == 200
            assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
            assert answer.headers["x-frame-options"] == "SAMEORIGIN"


def test_t125_without_a_bff_there_are_no_endpoints_and_no_users(shop: Shop) -> None:
    async def me(request: Any) -> PlainTextResponse:
        with pytest.raises(RuntimeError, match=r"bff\.install"):
            await api_user(request.scope)
        return PlainTextResponse("nobody can be asked for")

    app = Starlette(routes=[Route("/me", me)])
    with shop.served(app) as agent:
        assert agent.navigate("/bff/login").status_code == 404
        assert agent.fetch("/me").text == "nobody can be asked for"


def test_t126_t127_t128_a_bff_is_put_in_front_once(shop: Shop) -> None:
    bff, app = shop.bff(), Starlette(routes=[Route("/", lambda request: PlainTextResponse("home"))])
    bff.install(app)
    with pytest.raises(ConfigurationError, match="installed already"):
        bff.install(app)
    with shop.served(app) as agent:
        assert agent.login("/bff/login").text == "home"
        assert session_cookie(agent)


def test_t130_t131_settings_can_be_read_outside_of_a_request(shop: Shop) -> None:
    bff = shop.bff()
    assert bff.redirect_uri == shop.application.redirect_uri
    assert bff.post_logout_redirect_uri == shop.application.post_logout_redirect_uri
    assert len(bff.application_id) == 8 and bff.development


async def test_t132_a_job_gets_a_token_of_the_client_without_any_request(oidc_provider: OIDCProvider) -> None:
    registered = oidc_provider.add_client("svc")
    client = Client(
        issuer=oidc_provider.issuer, client_id=registered.client_id, client_secret=registered.client_secret, scope=""
    )
    async with Tokens(client) as tokens:
        token = await tokens.client_token()
    assert oidc_provider.whose(token.access_token)["client_id"] == registered.client_id


@pytest.mark.spec("COO-01", "COO-02")
def test_t133_to_t138_no_setting_takes_anything_off_a_cookie(shop: Shop) -> None:
    with shop.served(shop.bff(same_site="Lax").wrap(site)) as agent:
        agent.login("/bff/login")
        lines = [line for answer in agent.history for line in answer.headers.get_list("set-cookie")]
        ours = [line.split("; ") for line in lines if "coatcheck" in line]
        assert ours
        for name, *attributes in ours:
            assert name.startswith("__Host-Http-coatcheck-")
            assert {"Path=/", "Secure", "HttpOnly"} <= set(attributes)
            assert not any(attribute.startswith("Domain") for attribute in attributes)
    for wrong in ({"same_site": "None"}, {"application_id": "a; Domain=example.org"}):
        with pytest.raises(ConfigurationError):
            CookiePolicy(**{"application_id": "abcdefgh", **wrong})  # type: ignore[arg-type]


# Beyond the list: what these logins can do that those could not


@pytest.mark.spec("OAU-36", "LGN-05", "OAU-35")
def test_a_remote_api_that_wants_a_recent_login_gets_one(shop: Shop) -> None:
    with EchoAPI.serve() as api:
        bff = shop.bff(login=LoginOptions(max_age=[0, 300]))
        bff.remote_api("/api", api.url)
        with shop.served(bff.wrap(site)) as agent:
            agent.login("/bff/login")
            old = session_cookie(agent)
            demand = 'Bearer error="insufficient_user_authentication", max_age=60'
            refused = agent.fetch(f"/api/status/401?challenge={quote(demand)}")
            assert (refused.status_code, refused.headers["coatcheck-error"]) == (401, "step_up_required")
            assert refused.json()["login_url"] == "/bff/login?max_age=0"
            landed = agent.login(refused.json()["login_url"])
            assert landed.status_code == 200
            assert session_cookie(agent) not in (None, old)
            assert agent.fetch("/api/orders").status_code == 200


@pytest.mark.spec("OAU-16", "COO-04", "OAU-26")
def test_a_real_provider_answers_by_a_form(shop: Shop) -> None:
    client = shop.client()
    with shop.served(shop.bff(client, login=LoginOptions(response_mode="form_post")).wrap(site)) as agent:
        landed = agent.login("/bff/login?returnUrl=/orders")
        assert landed.url.path == "/orders"
        assert [answer.request.method for answer in agent.history if answer.url.path == "/bff/callback"] == ["POST"]
        assert agent.fetch("/me").json() == "alice"


@pytest.mark.spec("LGN-10")
def test_a_provider_that_is_away_for_a_moment_costs_one_more_click(shop: Shop) -> None:
    with shop.served(shop.bff().wrap(site)) as agent:
        shop.provider.fault("status", status=503)
        page = agent.login("/bff/login")
        assert (page.status_code, page.headers["coatcheck-error"]) == (503, "login_unavailable")
        assert [cookie.name for cookie in agent.cookies.all() if "coatcheck" in cookie.name] == []
        assert 'href="/bff/login"' in page.text
        shop.provider.clear_faults()
        assert agent.login("/bff/login").status_code == 200
        assert agent.fetch("/me").json() == "alice"
