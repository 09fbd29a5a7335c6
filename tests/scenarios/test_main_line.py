"""The whole main job, against two real providers: log in, call, be renewed, log out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rig.echo_api import EchoAPI
from tests.rig.user_agent import UserAgent
from tests.scenarios.gateway import Application, gateway
from tests.scenarios.waiting import ACCESS_TOKEN_TTL, until_expired


def bearer(api: EchoAPI) -> str:
    """The access token that the API received last."""
    authorization = api.last.header("authorization")
    assert authorization is not None
    scheme, _, token = authorization.partition(" ")
    assert scheme == "Bearer"
    return token


@pytest.mark.spec("OAU-31", "REF-05")
def test_a_user_logs_in_calls_an_api_is_renewed_and_logs_out(oidc_provider, tmp_path: Path):
    application = Application.at_free_port()
    client = oidc_provider.add_client("basic", **application.addresses, x_access_token_ttl=ACCESS_TOKEN_TTL)
    with (
        EchoAPI.serve() as api,
        gateway(
            tmp_path, application, issuer=oidc_provider.issuer, client=client, apis={"/api/orders": api.url}
        ) as program,
        UserAgent(application.url) as agent,
    ):
        assert agent.fetch("/api/orders/7").status_code == 401
        landed = agent.login("/bff/login?returnUrl=/api/orders/shown", username="alice")
        assert str(landed.url) == f"{application.url}/api/orders/shown"

        assert agent.fetch("/api/orders/7?full=1").status_code == 200
        assert api.last.target == "/7?full=1"
        first = bearer(api)
        assert oidc_provider.whose(first)["sub"] == "alice"
        assert oidc_provider.log(client_id=client.client_id, grant_type="refresh_token") == []

        until_expired()
        assert agent.fetch("/api/orders/7").status_code == 200
        second = bearer(api)
        assert second != first
        assert oidc_provider.whose(second)["sub"] == "alice"
        assert len(oidc_provider.log(client_id=client.client_id, grant_type="refresh_token")) == 1

        claims = {claim["type"]: claim["value"] for claim in agent.fetch("/bff/user").json()}
        assert claims["sub"] == "alice"
        logged_out = agent.logout(claims["bff:logout_url"])
        assert str(logged_out.url).startswith(application.url)
        requests_before = len(api.requests)
        assert agent.fetch("/api/orders/7").status_code == 401
        assert len(api.requests) == requests_before
        assert oidc_provider.whose(second) == {}, "the refresh token was revoked, and the access token with it"
    assert program.returncode == 0, program.output


def test_the_same_line_with_django_oauth_toolkit(django_provider, tmp_path: Path):
    django_provider.config(access_token_ttl=ACCESS_TOKEN_TTL)
    application = Application.at_free_port()
    client = django_provider.add_client(**application.addresses)
    with (
        EchoAPI.serve() as api,
        gateway(
            tmp_path,
            application,
            issuer=django_provider.issuer,
            client=client,
            apis={"/api/orders": api.url},
            scope="openid profile email",
        ),
        UserAgent(application.url) as agent,
    ):
        assert agent.fetch("/api/orders").status_code == 401
        agent.login(username="alice")
        assert agent.fetch("/api/orders").status_code == 200
        first = bearer(api)

        until_expired()
        assert agent.fetch("/api/orders").status_code == 200
        assert bearer(api) != first
        assert len(django_provider.log(client_id=client.client_id, grant_type="refresh_token")) == 1

        claims = {claim["type"]: claim["value"] for claim in agent.fetch("/bff/user").json()}
        assert claims["sub"] == "alice"
        agent.logout(claims["bff:logout_url"])
        assert agent.fetch("/api/orders").status_code == 401


@pytest.mark.browser
@pytest.mark.spec("LGN-01", "COO-05", "OAU-24")
def test_the_same_line_in_chromium(oidc_provider, browser, tmp_path: Path):
    application = Application.at_free_port()
    client = oidc_provider.add_client("basic", **application.addresses, x_access_token_ttl=ACCESS_TOKEN_TTL)
    pages = tmp_path / "dist"
    pages.mkdir()
    (pages / "index.html").write_text("<!doctype html><title>shop</title><h1>Shop</h1>")
    call = "fetch('/api/orders', {headers: {'X-CSRF': '1'}}).then(r => r.status)"
    with (
        EchoAPI.serve() as api,
        gateway(
            tmp_path,
            application,
            issuer=oidc_provider.issuer,
            client=client,
            apis={"/api/orders": api.url},
            frontend=pages,
        ),
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.goto(application.url)
        assert page.evaluate(call) == 401
        page.goto(f"{application.url}/bff/login?returnUrl=/")
        page.fill("input[name=login]", "alice")
        page.fill("input[name=password]", "x")
        page.click("button[type=submit]")
        page.click("button[type=submit]")
        page.wait_for_url(f"{application.url}/")
        assert page.title() == "shop"

        assert page.evaluate(call) == 200
        first = bearer(api)
        assert oidc_provider.whose(first)["sub"] == "alice"
        until_expired()
        assert page.evaluate(call) == 200
        assert bearer(api) != first
        assert len(oidc_provider.log(client_id=client.client_id, grant_type="refresh_token")) == 1

        logout_url = page.evaluate(
            "fetch('/bff/user', {headers: {'X-CSRF': '1'}}).then(r => r.json())"
            ".then(claims => claims.find(claim => claim.type === 'bff:logout_url').value)"
        )
        page.goto(application.url + logout_url)
        page.click("button[value=yes]")
        page.wait_for_url(f"{application.url}/**")
        assert page.evaluate(call) == 401
