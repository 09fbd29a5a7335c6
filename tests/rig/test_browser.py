"""The browser starts, and the small user agent agrees with it about cookies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.rig.oidc_provider import OIDCProvider
from tests.rig.relying_party import RelyingParty
from tests.rig.servers import serve
from tests.rig.user_agent import UserAgent

pytestmark = pytest.mark.browser


@pytest.fixture
def party(oidc_provider: OIDCProvider) -> Iterator[RelyingParty]:
    party = RelyingParty(oidc_provider.issuer)
    with serve(party, host="localhost", lifespan="off") as party.base_url:
        party.client = oidc_provider.add_client("basic", redirect_uris=party.redirect_uri)
        yield party


def sign_in(page: Page, base_url: str) -> None:
    page.goto(f"{base_url}/login")
    page.fill("input[name=login]", "alice")
    page.fill("input[name=password]", "any")
    page.click("button[type=submit]")
    page.wait_for_selector("input[name=prompt][value=consent]", state="attached")
    page.click("button[type=submit]")
    page.wait_for_selector("#cookies")


def test_a_strict_cookie_survives_the_hop_but_not_a_second_login(party: RelyingParty, page: Page) -> None:
    """At the callback of a login whose page was clicked, a Strict cookie is not sent; after the hop it is."""
    sign_in(page, party.base_url)
    in_chromium = dict(party.cookies_seen)
    with UserAgent(party.base_url) as agent:
        agent.login("/login")
    in_user_agent = dict(party.cookies_seen)

    assert in_chromium["/"] == in_user_agent["/"] == "__Host-session=yes"
    assert in_chromium["/callback"] == in_user_agent["/callback"] == ""


def test_a_provider_that_only_redirects_leaves_the_strict_cookie_in_place(
    party: RelyingParty, page: Page, oidc_provider: OIDCProvider
) -> None:
    oidc_provider.config(auto_login="alice")
    page.goto(f"{party.base_url}/login")
    page.wait_for_selector("#cookies")
    page.goto(f"{party.base_url}/login")
    page.wait_for_selector("#cookies")
    in_chromium = dict(party.cookies_seen)
    with UserAgent(party.base_url) as agent:
        agent.navigate("/login")
        agent.navigate("/login")

    assert in_chromium["/callback"] == party.cookies_seen["/callback"] == "__Host-session=yes"


def test_secure_cookies_are_kept_over_plain_http_on_loopback(party: RelyingParty, page: Page) -> None:
    page.goto(f"{party.base_url}/login-by-redirect")
    in_chromium = party.cookies_seen["/"]
    with UserAgent(party.base_url) as agent:
        agent.navigate("/login-by-redirect")

    assert in_chromium == party.cookies_seen["/"] == "__Host-session=yes"
