"""Neither ports nor paths keep cookies apart: two applications on one host live side by side in one browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from coatcheck.bff.transactions import MAX_ATTEMPTS
from tests.rig.oidc_provider import OIDCProvider
from tests.scenarios.neighbours import LAYOUTS, Host, Layout, Neighbour, Sibling, cookies, two_on_one_host

pytestmark = pytest.mark.browser

LOGINS = MAX_ATTEMPTS + 2


@pytest.fixture(params=LAYOUTS)
def host(request: pytest.FixtureRequest, oidc_provider: OIDCProvider, tmp_path: Path) -> Iterator[Host]:
    with two_on_one_host(oidc_provider, tmp_path, request.param) as host:
        yield host


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser profile."""
    with browser.new_context() as context:
        context.set_default_timeout(20_000)
        yield context


def sessions_kept(host: Host, context: BrowserContext) -> list[Neighbour]:
    """Those whose session cookie the browser has."""
    return [each for each in (host.shop, host.billing) if each.session_cookie in cookies(context)]


@pytest.mark.spec("COO-14", "COO-02")
def test_logins_in_two_tabs_do_not_disturb_each_other_and_a_logout_ends_its_own(
    host: Host, context: BrowserContext
) -> None:
    shop, billing = host.shop, host.billing
    one, two = context.new_page(), context.new_page()
    shop.begin_login(one)
    billing.begin_login(two)
    assert (len(shop.logins_under_way(context)), len(billing.logins_under_way(context))) == (1, 1)
    shop.finish_login(one)
    billing.finish_login(two)
    assert sessions_kept(host, context) == [shop, billing]
    assert not shop.logins_under_way(context) | billing.logins_under_way(context)
    assert shop.session_cookie != billing.session_cookie
    for tab in (one, two):
        for neighbour in (shop, billing):
            claims = neighbour.user(tab)
            assert isinstance(claims, dict) and claims["sub"] == "alice"

    shop.log_out(one)
    assert sessions_kept(host, context) == [billing]
    assert shop.user(one) == 401
    claims = billing.user(one)
    assert isinstance(claims, dict) and claims["sub"] == "alice"


@pytest.mark.spec("COO-14", "LGN-02")
def test_logins_left_open_at_one_push_out_none_of_the_other(host: Host, context: BrowserContext) -> None:
    """At most seven are kept of each, and the oldest go first."""
    shop, billing = host.shop, host.billing
    waiting, restless = context.new_page(), context.new_page()
    billing.begin_login(waiting)
    billings = billing.logins_under_way(context)
    first: set[str] = set()
    for number in range(LOGINS):
        shop.begin_login(restless)
        first = first or shop.logins_under_way(context)
        assert len(shop.logins_under_way(context)) == min(number + 1, MAX_ATTEMPTS)
    assert not first & shop.logins_under_way(context)
    assert billing.logins_under_way(context) == billings
    billing.finish_login(waiting)
    assert len(shop.logins_under_way(context)) == MAX_ATTEMPTS
    shop.finish_login(restless)
    assert isinstance(shop.user(restless), dict)
    assert isinstance(billing.user(restless), dict)


@pytest.mark.spec("COO-14", "SES-11")
@pytest.mark.parametrize("sessions", ["sqlite", "cookie"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_session_of_one_under_the_others_name_is_none(
    oidc_provider: OIDCProvider, context: BrowserContext, tmp_path: Path, layout: Layout, sessions: str
) -> None:
    """They have the same keys and the same store; only who a session was made for tells it from the other's."""
    with two_on_one_host(oidc_provider, tmp_path, layout, sessions=sessions) as host, Sibling.served() as sibling:
        page, shop, billing = context.new_page(), host.shop, host.billing
        shop.log_in(page)
        shops = cookies(context)
        planted = {name.replace(shop.session_cookie, billing.session_cookie): value for name, value in shops.items()}
        assert planted and not set(planted) & set(shops)
        sibling.plant(page, planted)
        assert cookies(context) == shops | planted
        assert billing.user(page) == 401
        assert isinstance(shop.user(page), dict), "and it has not ended the real one"
        billing.log_in(page)
        assert isinstance(billing.user(page), dict)
        assert isinstance(shop.user(page), dict)
