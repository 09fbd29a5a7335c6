"""A site beside ours on the same host pushes our cookies out of the browser: one new login at worst, and no loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.rig.oidc_provider import OIDCProvider
from tests.scenarios.neighbours import Host, Sibling, cookies, through_the_provider, two_on_one_host

pytestmark = pytest.mark.browser


@pytest.fixture
def host(oidc_provider: OIDCProvider, tmp_path: Path) -> Iterator[Host]:
    with two_on_one_host(oidc_provider, tmp_path, "two ports") as host:
        yield host


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser profile."""
    with browser.new_context() as context:
        context.set_default_timeout(20_000)
        yield context


def logins_begun(provider: OIDCProvider, host: Host) -> int:
    """How often the provider was asked: once by the check of the registration, and then by browsers."""
    return len(provider.log(client_id=host.shop.client.client_id, path="/auth")) - 1


def to_the_second_login(page: Page) -> None:
    """Through the provider's pages, whose answer finds no login, and to those that come after that."""
    with page.expect_response(lambda response: "again=1" in response.url):
        through_the_provider(page)
    page.wait_for_selector("input[name=prompt][value=consent]", state="attached")


@pytest.mark.spec("COO-11")
def test_a_session_that_was_pushed_out_costs_one_new_login(
    host: Host, context: BrowserContext, oidc_provider: OIDCProvider
) -> None:
    page, shop = context.new_page(), host.shop
    shop.log_in(page)
    with Sibling.served() as sibling:
        sibling.flood(page)
    assert shop.session_cookie not in cookies(context)
    assert shop.user(page) == 401
    shop.log_in(page)
    assert logins_begun(oidc_provider, host) == 2
    assert isinstance(shop.user(page), dict)
    page.reload()
    assert isinstance(shop.user(page), dict)


@pytest.mark.spec("COO-11")
def test_a_login_whose_cookie_was_pushed_out_is_begun_once_more(
    host: Host, context: BrowserContext, oidc_provider: OIDCProvider
) -> None:
    page, other, shop = context.new_page(), context.new_page(), host.shop
    shop.begin_login(page)
    with Sibling.served() as sibling:
        sibling.flood(other)
    assert shop.logins_under_way(context) == set()
    to_the_second_login(page)
    shop.finish_login(page)
    assert isinstance(shop.user(page), dict)
    assert logins_begun(oidc_provider, host) == 2


@pytest.mark.spec("COO-11")
def test_a_flood_at_every_login_ends_on_a_page_that_does_not_stay(
    host: Host, context: BrowserContext, oidc_provider: OIDCProvider
) -> None:
    page, other, shop = context.new_page(), context.new_page(), host.shop
    with Sibling.served() as sibling:
        shop.begin_login(page)
        sibling.flood(other)
        to_the_second_login(page)
        sibling.flood(other)
        assert shop.logins_under_way(context) == set()
        with page.expect_response(lambda response: response.status == 400) as refused:
            through_the_provider(page)
        assert refused.value.headers["coatcheck-error"] == "login_lost"
        page.wait_for_selector("text=Log in")
    assert logins_begun(oidc_provider, host) == 2, "and it does not begin a third by itself"
    page.click("text=Log in")
    page.wait_for_selector("button[type=submit]")
    shop.finish_login(page)
    assert isinstance(shop.user(page), dict)
