"""Pages that are opened by a link on another site: one hop of our own, and no more."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx2
import pytest

from tests.bff.world import ISSUER, LOCAL, World, world
from tests.rig.pages import refresh_target
from tests.rig.user_agent import NAVIGATION, UserAgent

ELSEWHERE = httpx2.URL("https://elsewhere.example/")


def get(w: World, browser: UserAgent, path: str, *, site: str) -> httpx2.Response:
    """One request, as a browser sends it that says where the navigation came from."""
    headers = {**NAVIGATION, "Sec-Fetch-Site": site}
    if site in ("same-origin", "none"):
        headers["Cookie"] = browser.cookies.header(httpx2.URL(LOCAL), initiator=httpx2.URL(LOCAL))
    return w.transport.handle_request(httpx2.Request("GET", LOCAL + path, headers=headers))


@pytest.mark.spec("COO-05")
@pytest.mark.parametrize("path", ["/page", "/page/7?a=1&b=%2F", "/page?bff-hop=2", "/page?x-bff-hop=1"])
def test_a_link_from_elsewhere_arrives_logged_in_at_the_very_address(path: str) -> None:
    with world() as w:
        browser = w.logged_in()
        browser.page = ELSEWHERE
        page = browser.click(path)
        assert page.json() == "page of alice"
        assert page.url.raw_path.decode() == path
        assert [answer.status_code for answer in browser.history] == [200, 302, 200]


@pytest.mark.spec("COO-05")
def test_without_a_session_it_leads_to_the_login_and_back() -> None:
    with world() as w:
        browser = w.browser()
        browser.page = ELSEWHERE
        page = browser.through_foreign_pages(browser.click("/page?a=1"))
        assert (page.json(), str(page.url)) == ("page of alice", f"{LOCAL}/page?a=1")


@pytest.mark.parametrize("query", ["", "?a=1"])
def test_a_window_without_an_origin_is_not_sent_round_for_ever(query: str) -> None:
    """There even our own hop is another site's navigation. A person is asked, and nobody is logged in or out."""
    with world() as w:
        browser = w.logged_in()
        hop = get(w, browser, f"/page{query}", site="cross-site")
        target = refresh_target(hop)
        assert target is not None
        asked = get(w, browser, target, site="cross-site")
        assert asked.status_code == 200 and refresh_target(asked) is None
        assert f'href="/page{query}"' in asked.text
        assert w.logins_begun() == 1


def test_a_marked_address_that_is_kept_loses_its_mark() -> None:
    with world() as w:
        browser = w.logged_in()
        answer = get(w, browser, "/page?a=1&bff-hop=1", site="none")
        assert (answer.status_code, answer.headers["location"]) == (302, "/page?a=1")


def test_the_mark_of_the_hop_does_not_get_into_the_login() -> None:
    with world() as w:
        browser = w.browser()
        browser.page = ELSEWHERE
        browser.click("/page?a=1", stop_at=ISSUER)
        login = next(answer for answer in browser.history if answer.url.path == "/bff/login")
        assert urlsplit(str(login.url)).query == "returnUrl=%2Fpage%3Fa%3D1"
