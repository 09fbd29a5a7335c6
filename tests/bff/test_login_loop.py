"""A browser that never brings its session back is not sent around for ever."""

from __future__ import annotations

import httpx2
import pytest

from tests.bff.world import ISSUER, World, session_cookie, warnings, world
from tests.rig.user_agent import UserAgent


def lose_session(browser: UserAgent) -> None:
    """What a jar that overflows does, or an extension."""
    for cookie in browser.cookies.all():
        if cookie.value == session_cookie(browser):
            browser.cookies.delete(cookie.name)


def go_around(w: World, browser: UserAgent, *, until: int = 10) -> int:
    """Visit a page that needs a user, as a browser without the session's cookie, until it is not sent on any more."""
    for turn in range(until):
        lose_session(browser)
        if browser.navigate("/page", stop_at=ISSUER).status_code == 400:
            return turn
        browser.login("/page")
    return until


@pytest.mark.spec("COO-11")
def test_three_logins_in_a_minute_without_a_session_end_in_a_page(caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        w.provider.behaviour.auto_login = True
        browser = w.browser()
        assert go_around(w, browser) == 3
        page = browser.navigate("/page")
        assert (page.status_code, page.headers.get("coatcheck-error")) == (200, None)  # it was told; a new try may help
        line = next(line for line in warnings(caplog) if line.startswith("login_loop"))
        assert "/page" in line and "cookie" in line


@pytest.mark.spec("COO-11")
def test_the_page_that_ends_the_loop_leads_on() -> None:
    with world() as w:
        browser = w.browser()
        for _ in range(3):
            browser.login("/page")
            lose_session(browser)
        told = browser.navigate("/page?a=1")
        link = "/bff/login?returnUrl=%2Fpage%3Fa%3D1"
        assert told.status_code == 400 and f'href="{link}"' in told.text
        landed = browser.through_foreign_pages(browser.click(link))
        assert (landed.url.path, landed.status_code) == ("/page", 200)


@pytest.mark.spec("COO-11")
def test_a_minute_later_nothing_is_held_against_the_browser() -> None:
    with world() as w:
        browser = w.browser()
        for _ in range(10):
            lose_session(browser)
            assert browser.login("/page").status_code == 200
            w.advance(21)


@pytest.mark.spec("COO-11")
def test_logging_out_and_in_again_is_no_loop() -> None:
    with world() as w:
        browser = w.browser()
        for _ in range(6):
            browser.login("/bff/login")
            url = {claim["type"]: claim["value"] for claim in browser.fetch("/bff/user").json()}["bff:logout_url"]
            browser.logout(url)


def test_logging_in_again_with_a_session_is_no_loop() -> None:
    with world() as w:
        browser = w.browser()
        for _ in range(6):
            assert browser.login("/bff/login?prompt=login").status_code == 200


@pytest.mark.parametrize("value", ["9-1", "x", "3", "3-", "-1800000000", "3-99999999999", "3-1800000000-1"])
def test_what_others_put_into_the_count_harms_nothing(value: str) -> None:
    with world() as w:
        request = httpx2.Request(
            "GET",
            w.public_url + "/bff/login",
            headers={"Cookie": f"__Host-Http-coatcheck-{w.bff.application_id}-logins={value}"},
        )
        assert w.transport.handle_request(request).headers["location"].startswith(ISSUER)
