"""
Logging out, against the real provider: what users of a Backend-for-Frontend know, one test for each.

T139 to T147 and T164 to T165 of the scenarios that `docs/differences.md` refers to; where we differ on purpose, the
page says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from coatcheck import BFF, Client, LogoutOptions
from tests.bff.world import claims, query_of, session_cookie
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.pages import forms
from tests.rig.user_agent import UserAgent
from tests.scenarios.shop import shop as browser_shop
from tests.scenarios.test_login_scenarios import Shop, site
from tests.scenarios.test_main_line import bearer

WHERE = pytest.mark.parametrize("sessions", ["memory", "cookie"])
"""On the server, and in cookies."""


@pytest.fixture
def shop(oidc_provider: OIDCProvider) -> Shop:
    return Shop(oidc_provider)


@contextmanager
def logged_in(shop: Shop, client: Client | None = None, **options: Any) -> Iterator[UserAgent]:
    """Serve the application, and log somebody in."""
    with shop.served(shop.bff(client, **options).wrap(site)) as agent:
        agent.login("/bff/login")
        assert agent.fetch("/me").json() == "alice"
        yield agent


def logout_url(agent: UserAgent) -> str:
    return str(claims(agent.fetch("/bff/user"))["bff:logout_url"])


def asks_for_a_name(agent: UserAgent) -> bool:
    """Whether the provider wants somebody who logs in to say who they are: it has no session of theirs."""
    return any("login" in form.fields for form in forms(agent.navigate("/bff/login")))


def revocations(shop: Shop, client: Client) -> int:
    return len(shop.provider.log(client_id=client.client_id, path="/token/revocation"))


@pytest.mark.spec("RPL-07")
def test_t139_t144_logout_is_reachable_anonymously_and_wants_nothing_then(shop: Shop) -> None:
    client = shop.client()
    with shop.served(shop.bff(client).wrap(site)) as agent:
        for url in ("/bff/logout", "/bff/logout?sid=anything", "/bff/logout?returnUrl=/goodbye"):
            page = agent.navigate(url)
            assert (page.status_code, str(page.url)) == (200, shop.application.url + url)
        assert shop.provider.log(client_id=client.client_id) == []


@pytest.mark.spec("RPL-02")
@WHERE
def test_t140_a_logout_ends_the_session_here_and_at_the_provider(shop: Shop, sessions: str) -> None:
    with logged_in(shop, sessions=sessions) as agent, UserAgent(shop.application.url) as thief:
        assert not asks_for_a_name(agent)
        agent.page = None
        for cookie in agent.cookies.all():
            thief.cookies.put(cookie)
        landed = agent.logout(logout_url(agent))
        assert str(landed.url) == f"{shop.application.url}/"
        assert session_cookie(agent) is None
        assert agent.fetch("/me").status_code == 401
        assert thief.fetch("/me").status_code == 401
        assert asks_for_a_name(agent)


@pytest.mark.spec("RPL-01")
@WHERE
def test_t141_without_the_sid_or_with_another_one_nothing_happens(shop: Shop, sessions: str) -> None:
    client = shop.client()
    with logged_in(shop, client, sessions=sessions) as agent:
        for query in ("", "?sid=", "?sid=anything"):
            refused = agent.navigate("/bff/logout" + query)
            assert (refused.status_code, refused.headers["coatcheck-error"]) == (400, "logout_sid_invalid")
        assert agent.fetch("/me").json() == "alice"
        assert revocations(shop, client) == 0
        assert not asks_for_a_name(agent)


@pytest.mark.spec("RPL-01")
def test_t142_t143_there_is_no_way_around_the_sid_not_even_where_the_provider_has_none(shop: Shop) -> None:
    with logged_in(shop) as agent:
        assert "sid" not in claims(agent.fetch("/bff/user"))
        assert agent.navigate("/bff/logout").status_code == 400
        assert agent.fetch("/me").json() == "alice"
        agent.logout(logout_url(agent))
        assert agent.fetch("/me").status_code == 401


@pytest.mark.spec("RPL-07")
@WHERE
def test_t145_twice_in_a_row_is_no_mistake(shop: Shop, sessions: str) -> None:
    client = shop.client()
    with logged_in(shop, client, sessions=sessions) as agent:
        url = logout_url(agent)
        agent.logout(url)
        done = revocations(shop, client)
        again = agent.navigate(url)
        assert (again.status_code, again.url.path) == (200, "/bff/logout")
        assert revocations(shop, client) == done


@pytest.mark.spec("RPL-05")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_t146_a_logout_ends_where_it_was_to_end(shop: Shop, method: str) -> None:
    with logged_in(shop) as agent:
        if method == "GET":
            landed = agent.logout(f"{logout_url(agent)}&returnUrl=/goodbye%3Fa%3D1%23part")
        else:  # a script of the page, with the header in place of the sid
            answer = agent.fetch("/bff/logout?returnUrl=/goodbye%3Fa%3D1%23part", "POST")
            assert answer.status_code == 303
            landed = agent.logout(answer.headers["location"])
        assert str(landed.url) == f"{shop.application.url}/goodbye?a=1#part"
        assert agent.fetch("/me").status_code == 401


@pytest.mark.spec("RTU-01")
def test_t147_an_absolute_return_url_is_refused_and_nobody_is_logged_out(shop: Shop) -> None:
    with logged_in(shop) as agent:
        url = logout_url(agent)
        for other in ("https://evil.example/", f"{shop.application.url}/own", "//evil.example", "/\\evil.example"):
            refused = agent.navigate(f"{url}&returnUrl={quote(other, safe='')}")
            assert (refused.status_code, refused.headers["coatcheck-error"]) == (400, "return_url_invalid")
        assert agent.fetch("/me").json() == "alice"


@WHERE
@pytest.mark.parametrize("refresh_token", [True, False])
@pytest.mark.parametrize("access_token", [True, False])
def test_t164_t165_a_logout_revokes_what_the_options_say(
    shop: Shop, sessions: str, refresh_token: bool, access_token: bool
) -> None:
    """Looked at before the browser goes on to the provider, which ends everything by itself then."""
    client = shop.client()
    options = LogoutOptions(revoke_refresh_token=refresh_token, revoke_access_token=access_token)
    bff: BFF = shop.bff(client, sessions=sessions, logout=options)
    with EchoAPI.serve() as api:
        bff.remote_api("/api", api.url)
        with shop.served(bff.wrap(site)) as agent:
            agent.login("/bff/login")
            assert agent.fetch("/api/orders").status_code == 200
            assert shop.provider.good_refresh_tokens(client.client_id) == 1
            agent.navigate(logout_url(agent), stop_at=shop.provider.issuer)
            assert shop.provider.good_refresh_tokens(client.client_id) == (not refresh_token)
            # The provider ends either with the other: a refresh token that is to stay keeps its access token.
            assert bool(shop.provider.whose(bearer(api))) == (not refresh_token)
            assert revocations(shop, client) == (1 + access_token if refresh_token else 0)


# Beyond the list


@pytest.mark.spec("RPL-04")
def test_the_provider_takes_a_logout_that_shows_no_id_token(shop: Shop) -> None:
    with logged_in(shop, logout=LogoutOptions(id_token_hint=False)) as agent:
        url = logout_url(agent) + "&returnUrl=/goodbye"
        landed = agent.logout(url)
        asked = [query_of(str(answer.url)) for answer in agent.history if answer.url.path == "/session/end"]
        assert landed.url.path == "/goodbye"
        assert all("id_token_hint" not in query for query in asked)
        assert asks_for_a_name(agent)


@pytest.mark.spec("RPL-06")
@pytest.mark.parametrize("fault", ["status", "drop"])
@WHERE
def test_a_provider_that_cannot_revoke_just_now_keeps_nobody_here(shop: Shop, fault: Any, sessions: str) -> None:
    client = shop.client()
    with logged_in(shop, client, sessions=sessions) as agent:
        details: dict[str, Any] = {"status": 500} if fault == "status" else {}
        shop.provider.fault(fault, path="/token/revocation", client_id=client.client_id, times=None, **details)
        landed = agent.logout(logout_url(agent))
        assert str(landed.url) == f"{shop.application.url}/"
        assert agent.fetch("/me").status_code == 401


@pytest.mark.spec("RPL-06")
def test_a_provider_that_announces_no_logout_leaves_a_page_that_says_so(shop: Shop) -> None:
    shop.provider.tamper(
        "/.well-known/openid-configuration", times=None, drop=["end_session_endpoint", "revocation_endpoint"]
    )
    client = shop.client()
    with logged_in(shop, client) as agent:
        page = agent.navigate(logout_url(agent))
        assert (page.status_code, page.url.path) == (200, "/bff/logout")
        assert "may still be logged in there" in page.text
        assert agent.fetch("/me").status_code == 401
        assert revocations(shop, client) == 0
        assert not asks_for_a_name(agent), "as the page says"


@pytest.mark.browser
@pytest.mark.spec("RPL-08", "RPL-03")
@pytest.mark.parametrize("clears", [True, False])
def test_a_browser_clears_what_it_is_told_to_and_shows_nothing_on_the_way_back(
    oidc_provider: OIDCProvider, page: Page, clears: bool
) -> None:
    logout = LogoutOptions(clear_site_data=("cookies", "storage") if clears else ())
    oidc_provider.config(auto_login="alice")
    with browser_shop(oidc_provider, logout=logout) as served:
        page.goto(f"{served.url}/bff/login?returnUrl=/page")
        expect(page).to_have_title("page of alice")
        page.evaluate("localStorage.setItem('draft', 'of alice'); document.cookie = 'theme=dark; Path=/'")
        user = page.evaluate("fetch('/bff/user', {headers: {'X-CSRF': '1'}}).then(r => r.json())")
        [url] = [claim["value"] for claim in user if claim["type"] == "bff:logout_url"]
        oidc_provider.config(auto_login=None)
        page.goto(served.url + url)
        assert page.url.startswith(oidc_provider.issuer)
        page.goto(served.home)
        assert served.who(page) == 401 and served.ticket(page.context) is None
        kept = page.evaluate("[localStorage.getItem('draft'), document.cookie]")
        assert kept == ([None, ""] if clears else ["of alice", "theme=dark"])
        page.evaluate("history.go(-2)")
        page.wait_for_url(f"{oidc_provider.issuer}/**")
        assert "alice" not in page.title()
