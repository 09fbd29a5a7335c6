"""After a login in a real browser: what the address bar, other sites, and the window that began it know of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request, expect

from coatcheck import BFF, Client, LoginOptions, page_user
from coatcheck.sessions.seal import new_key
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import Receive, Scope, Send, serve
from tests.scenarios.gateway import Application

pytestmark = pytest.mark.browser

PAGES = {
    "/orders": '<title>orders</title><a href="{elsewhere}/partner">partner</a><img src="{elsewhere}/pixel">',
    "/opener": "<title>opener</title><script>addEventListener('message', e => document.title = e.data)</script>",
    "/asking": "<script>addEventListener('message', e => document.title = e.data.isLoggedIn)</script>"
    '<title>asking</title><iframe src="/bff/silent-login"></iframe>',
    "/done": "<title>done</title><script>opener.postMessage('logged in', location.origin)</script>",
}


@dataclass
class Shop:
    """An application with pages of its own, another site that they link to, and what the browser asked them for."""

    application: Application
    elsewhere: EchoAPI
    requests: list[Request] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = PAGES.get(scope["path"])
        if scope["path"] == "/orders":
            await page_user(scope)
        text = (page or "").format(elsewhere=self.elsewhere.url).encode()
        headers = [(b"content-type", b"text/html"), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200 if page else 404, "headers": headers})
        await send({"type": "http.response.body", "body": text})


@pytest.fixture
def shop(oidc_provider: OIDCProvider, echo_api: EchoAPI, page: Page) -> Iterator[Shop]:
    shop = Shop(Application.at_free_port(), echo_api)
    client = oidc_provider.add_client("basic", redirect_uris=shop.application.redirect_uri)
    bff = BFF(
        Client(issuer=oidc_provider.issuer, client_id=client.client_id, client_secret=client.client_secret),
        public_url=shop.application.url,
        keys=[new_key()],
        sessions="memory",
        login=LoginOptions(silent=True),
    )
    page.context.on("request", lambda request: shop.requests.append(request))
    with serve(bff.wrap(shop), host="localhost", port=shop.application.port):
        yield shop


def sign_in(page: Page) -> None:
    page.fill("input[name=login]", "alice")
    page.fill("input[name=password]", "any")
    page.click("button[type=submit]")
    page.wait_for_selector("input[name=prompt][value=consent]", state="attached")
    page.click("button[type=submit]")


def referers(shop: Shop) -> list[tuple[str, str]]:
    """Which other origin was told where its request came from, and what."""
    told = [(request, request.all_headers().get("referer")) for request in shop.requests]
    return [
        (request.url, referer)
        for request, referer in told
        if referer and urlsplit(referer).netloc != urlsplit(request.url).netloc
    ]


@pytest.mark.spec("HDR-08")
def test_nothing_of_a_login_stays_in_the_address_bar_or_goes_to_another_site(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.application.url}/orders?customer=7")
    sign_in(page)
    page.wait_for_url("**/orders?customer=7")
    assert page.url == f"{shop.application.url}/orders?customer=7"
    assert page.evaluate("document.referrer") == ""
    page.click("a")
    page.wait_for_url("**/partner")
    assert {request.target for request in shop.elsewhere.requests} >= {"/partner", "/pixel"}
    assert [told for told in referers(shop) if urlsplit(told[1]).query] == []


@pytest.mark.spec("HDR-08")
def test_a_page_that_refuses_a_login_tells_nobody_of_it(shop: Shop, page: Page) -> None:
    """It stands at the callback, with the code in its address, and has a link that leads to the provider."""
    page.goto(f"{shop.application.url}/bff/callback?code=c0de&state=x.2")
    expect(page.locator("code")).to_contain_text("login_lost")
    page.click("a.button")
    page.wait_for_selector("input[name=login]")
    assert not [told for request in shop.requests if "c0de" in (told := request.all_headers().get("referer", ""))]


@pytest.mark.spec("HDR-05")
def test_a_login_in_a_window_can_tell_the_page_that_opened_it(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.application.url}/opener")
    with page.context.expect_page() as opened:
        page.evaluate("void (window.popup = open('/bff/login?returnUrl=/done'))")
    sign_in(opened.value)
    expect(page).to_have_title("logged in")


@pytest.mark.spec("HDR-05")
def test_a_page_that_says_something_lets_go_of_the_window_that_opened_it(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.application.url}/opener")
    with page.context.expect_page() as opened:
        page.evaluate("void (window.popup = open('/bff/callback?code=c0de&state=x.2'))")
    expect(opened.value.locator("h1")).to_contain_text("too long ago")
    assert opened.value.evaluate("opener") is None
    page.wait_for_function("window.popup.closed")


@pytest.mark.spec("HDR-02")
def test_a_silent_login_passes_through_its_frame_though_the_redirects_on_the_way_may_not_be_framed(
    shop: Shop, page: Page
) -> None:
    page.goto(f"{shop.application.url}/asking")
    expect(page).to_have_title("false")
    [begin] = [request for request in shop.requests if request.url.endswith("/bff/silent-login")]
    answer = begin.response()
    assert answer is not None and (answer.status, answer.headers["x-frame-options"]) == (302, "DENY")


@pytest.mark.spec("HDR-04")
def test_what_to_quote_is_selected_by_one_click(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.application.url}/bff/callback?code=c0de&state=x.2")
    page.click("code")
    code, trace_id = page.evaluate("getSelection().toString()").split()
    assert (code, len(trace_id)) == ("login_lost", 32)


@pytest.mark.spec("HDR-03")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_our_pages_ask_for_nothing_and_look_as_meant(shop: Shop, page: Page, scheme: str) -> None:
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # playwright names the two words
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(f"{shop.application.url}/bff/logout")
    assert len(shop.requests) == 1
    assert not [line for line in refused if "Content Security Policy" in line]
    colours = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    light = [sum(map(int, colour[4:-1].split(", "))) > 384 for colour in colours]
    assert light == ([True, False] if scheme == "light" else [False, True])
    assert page.evaluate("document.documentElement.scrollWidth") == 360
