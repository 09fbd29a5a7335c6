"""
What `session.js` does in a real browser: one stream for all tabs, and each tab is told once.

All pages stand under a Content Security Policy that allows no inline script and no other host.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import BrowserContext, Page

from coatcheck import BFF, Client
from coatcheck.sessions.seal import new_key
from tests.bff.served_bff import log_in
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import free_port, serve
from tests.scenarios.watched_shop import Streams, Watched, WatchedPages, heard, in_line, watched_shop

pytestmark = pytest.mark.browser

WARNED = re.compile("expiring (2.|30)")
LOGOUT = "fetch('/bff/logout', {method: 'POST', headers: {'X-CSRF': '1'}, redirect: 'manual'}).then(r => r.type)"


@pytest.fixture
def watched(oidc_provider: OIDCProvider) -> Iterator[Watched]:
    with watched_shop(oidc_provider) as watched:
        yield watched


@pytest.fixture
def context(page: Page) -> BrowserContext:
    """The fresh profile of `page`."""
    return page.context


@pytest.mark.spec("WSS-04", "SES-05")
def test_the_tabs_of_a_browser_share_one_stream_and_all_hear_of_a_logout(watched: Watched, context: BrowserContext):
    tabs = [watched.log_in(context), watched.open(context), watched.open(context)]
    watched.streams.are(1, opened=1)
    tabs[2].evaluate(LOGOUT)
    for tab in tabs:
        heard(tab, "ended logout")
    watched.streams.are(0, opened=1)


@pytest.mark.spec("WSS-04")
def test_the_next_tab_listens_when_the_one_that_did_is_closed(watched: Watched, context: BrowserContext):
    first, second, third = watched.log_in(context), watched.open(context), watched.open(context)
    watched.streams.are(1, opened=1)
    first.close()
    watched.streams.are(1, opened=2, asked=5)
    second.evaluate("stop()")
    watched.streams.are(1, opened=3, asked=6)
    third.request.get(f"{watched.shop.url}/revoke")
    heard(third, "ended revoked")
    heard(second)
    watched.streams.are(0, opened=3)


def test_other_browsers_have_streams_of_their_own(watched: Watched, context: BrowserContext):
    mine = watched.log_in(context)
    with context.browser.new_context() as elsewhere:  # type: ignore[union-attr]  # it has one
        other = watched.log_in(elsewhere)
        watched.streams.are(2, opened=2)
        mine.evaluate(LOGOUT)
        heard(mine, "ended logout")
        watched.streams.are(1, opened=2)
        heard(other)


@pytest.mark.spec("WSS-04", "BCL-18")
def test_a_logout_at_the_provider_is_heard(watched: Watched, context: BrowserContext):
    tabs = watched.log_in(context), watched.open(context)
    watched.streams.are(1, opened=1)
    provider = context.new_page()
    provider.goto(f"{watched.shop.provider.issuer}/session/end")
    provider.click("button[value=yes]")
    for tab in tabs:
        heard(tab, "ended backchannel_logout")


@pytest.mark.parametrize(("username", "reason"), [("alice", "replaced"), ("bob", "user_switched")])
def test_a_login_in_another_tab_ends_the_pages_of_the_old_session_and_none_of_the_new(
    username: str, reason: str, watched: Watched, context: BrowserContext
):
    old = watched.log_in(context), watched.open(context)
    new = watched.log_in(context, username)
    for tab in old:
        heard(tab, f"ended {reason}")
    watched.streams.wait_until(lambda streams: streams.open == 1)
    late = watched.open(context)
    new.evaluate(LOGOUT)
    for tab in (new, late):
        heard(tab, "ended logout")
    for tab in old:
        heard(tab, f"ended {reason}")


def test_the_old_sessions_end_is_not_taken_for_that_of_the_new_one(watched: Watched, context: BrowserContext):
    """The news may be late: the tab that listened slept, or its node heard of it late."""
    tabs = watched.log_in(context), watched.open(context)
    watched.streams.are(1, opened=1, asked=3)
    sender = context.new_page()
    sender.goto(f"{watched.shop.url}/public")
    sender.evaluate("new BroadcastChannel('coatcheck /bff/events').postMessage({session: 'old', ended: 'logout'})")
    watched.streams.wait_until(lambda streams: len(streams.asked) == 5)  # each has made sure
    for tab in tabs:
        heard(tab)
    tabs[0].evaluate(LOGOUT)
    for tab in tabs:
        heard(tab, "ended logout")


DEAF = "EventSource.prototype.addEventListener = () => {}"
"""The streams of such a page are dead: nothing arrives."""


def test_a_page_whose_stream_is_dead_hears_of_a_new_login_from_the_new_page(watched: Watched, context: BrowserContext):
    watched.log_in(context).close()
    old = context.new_page()
    old.add_init_script(DEAF)
    old.goto(watched.url)
    watched.streams.are(1, opened=2)
    watched.log_in(context, "bob")
    heard(old, "ended replaced")
    watched.streams.are(1, opened=3)


def test_a_machine_that_slept_asks_and_listens_anew(watched: Watched, context: BrowserContext):
    listening, other = watched.log_in(context), watched.open(context)
    watched.streams.are(1, opened=1)
    other.evaluate("dispatchEvent(new Event('online'))")
    listening.evaluate("Date.now = (now => () => now() + 61_000)(Date.now)")
    other.evaluate("dispatchEvent(new Event('online'))")
    watched.streams.are(1, opened=2)
    watched.shop.clock.offset = 9 * 3600
    listening.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    for tab in (listening, other):
        heard(tab, "ended expired")


@pytest.mark.spec("SES-04")
def test_all_tabs_are_warned_and_one_that_comes_late_too(watched: Watched, context: BrowserContext):
    tabs = [watched.log_in(context), watched.open(context)]
    watched.streams.are(1, opened=1)
    watched.shop.clock.offset = 3600 - 30
    for tab in tabs:
        heard(tab, WARNED)
    tabs.append(watched.open(context))
    heard(tabs[2], WARNED)
    watched.shop.clock.offset = 3600
    for tab in tabs:
        heard(tab, WARNED, "ended expired")


def test_who_is_not_logged_in_is_told_so_and_does_not_ask_again(watched: Watched, context: BrowserContext):
    tab = context.new_page()
    tab.goto(watched.url)
    heard(tab, "ended expired")
    watched.streams.are(0, opened=0)
    assert watched.streams.asked == [401]


@pytest.mark.spec("SES-12")
def test_a_store_that_is_away_ends_nothing_and_all_goes_on_when_it_is_back(watched: Watched, context: BrowserContext):
    listening = watched.log_in(context)
    watched.streams.are(1, opened=1, asked=2)
    watched.store.away = True
    late = context.new_page()
    late.goto(watched.url)
    watched.streams.wait_until(lambda streams: 503 in streams.asked)
    listening.request.get(f"{watched.shop.url}/cut")  # and the stream that was open is cut, too
    watched.streams.wait_until(lambda streams: streams.open == 0 and streams.asked.count(503) > 2)
    watched.store.away = False
    watched.streams.wait_until(lambda streams: streams.open == 1 and streams.asked.count(200) >= 4)
    in_line(late).evaluate(LOGOUT)
    for tab in (listening, late):
        heard(tab, "ended logout")


@pytest.mark.parametrize(
    ("status", "body"), [(401, "{}"), (200, "{}"), (200, "null"), (200, "<html>"), (403, "{}"), (500, "")]
)
def test_what_something_in_between_answers_ends_nothing(
    status: int, body: str, watched: Watched, context: BrowserContext
):
    """A captive portal, a proxy that wants a login of its own, a server that is just being replaced."""
    tab = watched.log_in(context)
    watched.streams.are(1, opened=1, asked=2)
    marked = {"from": "in between"}
    tab.route("**/bff/events", lambda route: route.fulfill(status=status, body=body, headers=marked))
    with tab.expect_response(lambda response: response.headers.get("from") == "in between"):
        tab.evaluate("dispatchEvent(new Event('online'))")
    tab.unroute("**/bff/events")
    tab.evaluate(LOGOUT)
    heard(tab, "ended logout")


def test_without_web_locks_each_tab_listens_for_itself(watched: Watched, context: BrowserContext):
    first = watched.log_in(context)
    watched.streams.are(1, opened=1, asked=2)
    first.close()
    context.add_init_script("delete Navigator.prototype.locks")
    tabs = context.new_page(), context.new_page()
    for tab in tabs:
        tab.goto(watched.url)
    watched.streams.are(2, opened=3, asked=6)
    tabs[0].evaluate(LOGOUT)
    for tab in tabs:
        heard(tab, "ended logout")
    watched.streams.are(0, opened=3)


LOGOUT_URL = """fetch('/bff/user', {headers: {'X-CSRF': '1'}}).then(r => r.json())
    .then(claims => claims.find(claim => claim.type === 'bff:logout_url').value)"""


@pytest.mark.spec("RPL-01")
def test_a_page_on_its_way_to_the_logout_is_not_held_up_by_it(watched: Watched, context: BrowserContext):
    """The session has ended before the browser leaves; most pages reload when they hear of an end."""
    tab, other = watched.log_in(context), watched.open(context)
    watched.streams.are(1, opened=1)
    url, told = tab.evaluate(LOGOUT_URL), list[str]()
    tab.on("console", lambda message: told.append(message.text))
    with watched.shop.provider.hold(path="/session/end", client_id=watched.shop.client.client_id):
        tab.evaluate("url => { location.href = url }", url)
        heard(other, "ended logout")
        watched.streams.are(0, opened=1)
        assert tab.url == watched.url  # there is no answer of the provider's yet
    tab.wait_for_url(f"{watched.shop.provider.issuer}/**")
    assert not [text for text in told if text.startswith("ended")]


def test_a_page_that_only_began_a_download_is_told_later(watched: Watched, context: BrowserContext):
    tab, other = watched.log_in(context), watched.open(context)
    watched.streams.are(1, opened=1)
    tab.clock.install()
    tab.evaluate("dispatchEvent(new Event('beforeunload'))")
    other.evaluate(LOGOUT)
    heard(other, "ended logout")
    watched.streams.are(0, opened=1)
    heard(tab)
    tab.clock.fast_forward(30_000)
    heard(tab, "ended logout")


GOES = "dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))"
COMES_BACK = "document.title = 'back'; dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"


def test_a_page_that_comes_back_by_the_back_button(watched: Watched, context: BrowserContext):
    """A headless browser keeps no pages for its back button, so these pages are told what others would be."""
    tab, other = watched.log_in(context), watched.open(context)
    tab.evaluate(GOES)
    watched.streams.are(1, opened=2)  # the other has taken over
    tab.evaluate("dispatchEvent(new Event('online'))")
    tab.evaluate(COMES_BACK)
    in_line(tab)
    watched.streams.are(1, opened=2)
    tab.evaluate(GOES)
    other.evaluate(LOGOUT)
    heard(other, "ended logout")
    watched.log_in(context, "bob")
    heard(tab)
    tab.evaluate(COMES_BACK)
    heard(tab, "ended replaced")


@pytest.mark.parametrize("leaves", ["by a link", "by a reload"])
def test_a_page_that_leaves_and_comes_back_without_any_cache(leaves: str, watched: Watched, context: BrowserContext):
    tab, other = watched.log_in(context), watched.open(context)
    if leaves == "by a link":
        tab.goto(f"{watched.shop.url}/public")
        watched.streams.are(1, opened=2)
        tab.go_back()
    else:
        tab.reload()
    in_line(tab)
    watched.streams.are(1, opened=2)
    tab.evaluate(LOGOUT)
    for page in (tab, other):
        heard(page, "ended logout")


def test_it_finds_the_events_beside_itself_wherever_that_is(page: Page):
    """`public_url` has a path, and the endpoints have a prefix of their own."""
    port = free_port()
    pages = WatchedPages("/shop", endpoints="auth/of/shop")
    bff = BFF(
        Client(issuer="https://idp.example", client_id="shop", client_secret="s"),
        public_url=f"http://localhost:{port}/shop",
        path_prefix="/auth/of/shop",
        keys=[new_key()],
        sessions="memory",
    )
    pages.belongs_to(bff)
    streams = Streams(bff.wrap(pages))
    with serve(streams, port=port), ThreadPoolExecutor(1) as elsewhere:  # this thread has an event loop of Playwright's
        cookies = elsewhere.submit(asyncio.run, log_in(bff, tokens=False)).result().decode()
        name, _, value = cookies.partition(";")[0].partition("=")
        cookie = {"name": name, "value": value, "domain": "localhost", "path": "/", "secure": True, "httpOnly": True}
        page.context.add_cookies([cookie])  # type: ignore[list-item]  # a dictionary of a type of its own
        page.goto(f"http://localhost:{port}/shop/watching")
        in_line(page)
        streams.are(1, opened=1, asked=2)
        page.request.get(f"http://localhost:{port}/shop/revoke")
        heard(page, "ended revoked")
