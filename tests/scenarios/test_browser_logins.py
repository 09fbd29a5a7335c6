"""
Logins in a real browser, with the provider on another site: once with pages that are clicked, once redirecting only.

Both are needed: after a click the browser withholds the Strict cookie from the callback, after redirects alone it does
not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.rig.oidc_provider import OIDCProvider
from tests.scenarios.observed import Exchange
from tests.scenarios.shop import Shop, shop

pytestmark = pytest.mark.browser

LIFETIME = 16 * 60
"""Seconds, and a login under way is too old."""


@dataclass(frozen=True)
class Way:
    """What a user meets at the provider."""

    provider: OIDCProvider
    shop: Shop
    clicked: bool

    def becomes(self, username: str) -> None:
        """Say whom the provider signs in when it shows no page."""
        if not self.clicked:
            self.provider.config(auto_login=username)

    def sign_in(self, page: Page, username: str = "alice") -> None:
        """Do at the provider what there is to do: it asks for a name, then for consent, or nothing at all."""
        if self.clicked:
            page.fill("input[name=login]", username)
            page.fill("input[name=password]", "any")
            page.click("button[type=submit]")
            page.wait_for_selector("input[name=prompt][value=consent]", state="attached")
            page.click("button[type=submit]")


@pytest.fixture(params=["clicked", "redirected"])
def way(request: pytest.FixtureRequest, oidc_provider: OIDCProvider) -> Iterator[Way]:
    clicked = request.param == "clicked"
    with shop(oidc_provider, prompt="login consent" if clicked else None) as served:
        way = Way(oidc_provider, served, clicked)
        way.becomes("alice")
        yield way


@pytest.fixture
def context(page: Page) -> BrowserContext:
    """The fresh profile of `page`."""
    return page.context


def log_in(way: Way, page: Page) -> None:
    page.goto(f"{way.shop.url}/bff/login?returnUrl=/page")
    way.sign_in(page)
    landed(page, "page of alice")


def known_at_the_provider(way: Way, page: Page) -> None:
    """Let a provider that shows no page know the user beforehand: it mixes up the first logins of two tabs itself."""
    if not way.clicked:
        log_in(way, page)
        page.context.clear_cookies(domain="localhost")
        way.provider.clear_log()


def landed(page: Page, title: str) -> None:
    """Wait for the page with that title: an address alone may still be that of a hop."""
    page.wait_for_function("title => document.title === title", arg=title)


def link_on_another_site(way: Way, page: Page, url: str) -> None:
    """Stand on a page of the provider's host, which is another site, and click a link there."""
    page.goto(f"{way.provider.issuer}/.well-known/openid-configuration")
    page.evaluate(
        "url => { const a = document.createElement('a'); a.href = url; document.body.append(a); a.click() }", url
    )


def history(page: Page) -> list[str]:
    """The addresses behind the back and forward buttons."""
    entries: list[dict[str, Any]] = page.context.new_cdp_session(page).send("Page.getNavigationHistory")["entries"]
    return [entry[name] for entry in entries for name in ("url", "userTypedURL")]


def errors(exchanges: list[Exchange]) -> list[tuple[str, int | None, str | None]]:
    return [(e.path, e.status, e.error) for e in exchanges if e.error or (e.status or 0) >= 400]


@pytest.mark.spec("LGN-01")
def test_three_tabs_that_log_in_at_once_all_land_logged_in(way: Way, context: BrowserContext):
    tabs = {f"/page/{number}": context.new_page() for number in (1, 2, 3)}
    known_at_the_provider(way, tabs["/page/1"])
    mark = len(way.shop.observed.since())
    client_id = way.shop.client.client_id
    with way.provider.hold(path="/auth", client_id=client_id):
        for path, tab in tabs.items():
            tab.goto(f"{way.shop.url}/public")
            tab.evaluate("path => { location.href = '/bff/login?returnUrl=' + path }", path)
        way.provider.wait_for_request(path="/auth", client_id=client_id, count=3)
    for path, tab in reversed(tabs.items()):
        way.sign_in(tab)
        landed(tab, f"{path[-1]} of alice")
    for path, tab in tabs.items():
        assert tab.url == way.shop.url + path
        assert way.shop.who(tab) == "alice"
    assert errors(way.shop.observed.since(mark)) == []
    assert len(way.shop.authorizations()) == 3


@pytest.mark.spec("OAU-24")
def test_no_entry_of_the_history_and_no_referer_has_code_or_state(way: Way, page: Page):
    page.goto(way.shop.home)
    page.click("#page")
    way.sign_in(page)
    landed(page, "page of alice")
    came_back = [e for e in way.shop.observed.since() if "code=" in e.target]
    assert [e.path for e in came_back] == ["/bff/callback"]
    urls = history(page)
    assert way.shop.home in urls
    assert urls[-2:] == [page.url, page.url]
    assert [url for url in urls if url.startswith(way.shop.url) and ("code=" in url or "state=" in url)] == []
    referers = [e.referer for e in way.shop.observed.since() if e.referer]
    assert [referer for referer in referers if "code=" in referer or "state=" in referer] == []


@pytest.mark.spec("OAU-24", "LGN-01")
def test_back_and_forward_after_a_login_meet_no_error_of_ours(way: Way, page: Page):
    page.goto(way.shop.home)
    page.click("#page")
    way.sign_in(page)
    landed(page, "page of alice")
    begun = len(way.shop.authorizations())
    steps = len(history(page)) // 2 - 2  # the first is about:blank
    assert steps == (3 if way.clicked else 1)
    for _ in range(steps):
        page.go_back()
    assert page.url == way.shop.home
    assert way.shop.who(page) == "alice"
    for _ in range(steps):
        page.go_forward()
    assert page.title() == "page of alice"
    assert errors(way.shop.observed.since()) == []
    assert len(way.shop.authorizations()) == begun


@pytest.mark.spec("OAU-24")
def test_a_callback_that_is_opened_again_leads_home_and_keeps_the_user(way: Way, page: Page):
    """A browser that restores its tabs, or a bookmark: the answer of the provider arrives a second time."""
    log_in(way, page)
    (callback,) = [e.target for e in way.shop.observed.since() if e.path == "/bff/callback"]
    mark = len(way.shop.observed.since())
    begun = len(way.shop.authorizations())
    page.goto(way.shop.url + callback)
    landed(page, "home")
    assert way.shop.who(page) == "alice"
    assert [e.path for e in way.shop.observed.since(mark)] == ["/bff/callback", "/bff/login", "/", "/me"]
    assert len(way.shop.authorizations()) == begun
    assert [url for url in history(page) if "/bff/callback" in url] == []


@pytest.mark.parametrize("forgotten_by", ["application", "browser"])
def test_a_login_page_that_was_left_open_for_too_long_ends_in_a_login_all_the_same(
    forgotten_by: str, way: Way, page: Page
):
    leave_open(way, page, forgotten_by)
    way.sign_in(page)  # the late answer is lost; the second login begins by itself
    if way.clicked:
        way.sign_in(page)
    landed(page, "home")
    assert way.shop.who(page) == "alice"
    assert errors(way.shop.observed.since()) == [("/bff/callback", 400, "login_lost")]
    assert len(way.shop.authorizations()) == 2
    assert way.shop.redeemed() == 1


def test_a_login_page_that_was_left_open_leads_home_when_another_tab_has_logged_in(way: Way, page: Page):
    known_at_the_provider(way, page)
    mark = len(way.shop.observed.since())
    leave_open(way, page, "application", other_tab=page.context.new_page())
    way.sign_in(page)
    landed(page, "home")
    assert way.shop.who(page) == "alice"
    assert errors(way.shop.observed.since(mark)) == [("/bff/callback", 400, "login_lost")]
    assert len(way.shop.authorizations()) == 2
    assert way.shop.redeemed() == 1


def leave_open(way: Way, page: Page, forgotten_by: str, *, other_tab: Page | None = None) -> None:
    """Begin a login, and let more than its life pass at the provider. Meanwhile the user may log in in *other_tab*."""
    page.goto(way.shop.home)
    if forgotten_by == "application":
        way.shop.clock.offset = -LIFETIME
    client_id = way.shop.client.client_id
    way.provider.fault("hold", path="/auth", client_id=client_id)
    page.evaluate("() => { location.href = '/bff/login?returnUrl=/page' }")
    way.provider.wait_for_request(path="/auth", client_id=client_id)
    way.shop.clock.offset = 0.0
    if other_tab is not None:
        log_in(way, other_tab)
    if forgotten_by == "browser":  # as it does at the end of Max-Age
        page.context.clear_cookies(domain="localhost")
    way.provider.release(client_id=client_id)


@pytest.mark.spec("COO-05")
def test_a_link_on_another_site_reaches_a_page_after_one_login_and_then_without_any(way: Way, page: Page):
    """The Strict cookie is withheld from such a link; a redirect to the login would go round for ever."""
    link_on_another_site(way, page, f"{way.shop.url}/page")
    way.sign_in(page)
    landed(page, "page of alice")
    assert len(way.shop.authorizations()) == 1

    mark = len(way.shop.observed.since())
    link_on_another_site(way, page, f"{way.shop.url}/page/2")
    landed(page, "2 of alice")
    first, marked, second = way.shop.observed.since(mark)
    assert (first.site, first.with_session, first.user) == ("cross-site", False, None)
    assert (marked.site, marked.with_session, marked.user) == ("same-origin", True, None)
    assert (second.site, second.with_session, second.user) == ("same-origin", True, "alice")
    assert len(way.shop.authorizations()) == 1


@pytest.mark.spec("LGN-04", "LGN-06")
def test_a_session_that_was_fixed_before_the_login_is_dead_after_it(way: Way, page: Page):
    """The attacker is a user, too: the cookie that they plant is valid, and they keep a copy of it."""
    way.becomes("mallory")
    with way.shop.agent() as attacker:
        attacker.login("/bff/login?returnUrl=/page", username="mallory")
        name = way.shop.bff._settings.cookies.session
        planted = attacker.cookies.get(name)
        assert planted is not None
        page.context.add_cookies(
            [
                {
                    "name": name,
                    "value": planted.value,
                    "domain": "localhost",
                    "path": "/",
                    "secure": True,
                    "httpOnly": True,
                }
            ]
        )
        way.becomes("alice")
        page.goto(way.shop.home)
        assert way.shop.who(page) == "mallory"
        log_in(way, page)
        assert way.shop.who(page) == "alice"
        assert way.shop.ticket(page.context) not in (None, planted.value)
        assert attacker.fetch("/me").status_code == 401


@pytest.mark.spec("LGN-03")
@pytest.mark.parametrize("opened_by", ["link", "address bar"])
def test_the_finished_login_of_an_attacker_logs_nobody_else_in(opened_by: str, way: Way, page: Page):
    way.becomes("mallory")
    with way.shop.agent() as attacker:
        stopped = attacker.login("/bff/login", username="mallory", stop_at=f"{way.shop.url}/bff/callback")
    finished = stopped.headers["location"]
    assert "code=" in finished
    way.becomes("alice")
    if opened_by == "link":
        link_on_another_site(way, page, finished)
    else:
        page.goto(finished)
    # A login of their own begins; where the provider shows no page, it ends at once.
    if way.clicked:
        page.wait_for_selector("input[name=login]")
        assert way.shop.ticket(page.context) is None
        way.sign_in(page)
    landed(page, "home")
    assert way.shop.who(page) == "alice"
    assert way.shop.redeemed() == 1, "the attacker's code was not"


@pytest.mark.spec("OAU-25")
@pytest.mark.parametrize("drop", [(), ("code",), ("code", "state", "iss")], ids=["copied", "code", "everything"])
def test_no_later_url_has_what_the_provider_delivers_in_a_fragment(drop: tuple[str, ...], way: Way, page: Page):
    """A downgrade to response_mode=fragment. Browsers hand a fragment on to where a redirect leads (Fetch 4.4)."""
    later: list[str] = []
    way.provider.tamper("redirect", fragment=["code", "state", "iss"], drop=list(drop))
    page.goto(f"{way.shop.url}/bff/login?returnUrl=/page")
    page.on("framenavigated", lambda frame: later.append(frame.url))
    way.sign_in(page)
    if drop:  # nothing can be made of such an answer: the user begins again
        page.wait_for_selector("text=Log in")
        assert (urlsplit(page.url).path, way.shop.redeemed()) == ("/bff/callback", 0)
        assert "code=" not in page.url
        later.clear()
        page.click("text=Log in")
        way.sign_in(page)
    landed(page, "home" if drop else "page of alice")
    assert way.shop.who(page) == "alice"
    assert [url for url in later if "#" in url and urlsplit(url).path != "/bff/callback"] == []
    assert "#" not in "".join(history(page)[-2:])
