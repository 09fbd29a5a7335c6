"""Silent login: what begins it, what it answers, and who may hear it. The browser's part is in tests/scenarios."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

import httpx2
import pytest

from coatcheck import LoginOptions
from tests.bff.world import ISSUER, LOCAL, World, claims, login_cookies, query_of, session_cookie, world
from tests.rig.user_agent import UserAgent

FRAME = {"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-User": ""}


@pytest.fixture
def w() -> Iterator[World]:
    with world(login=LoginOptions(silent=True)) as w:
        yield w


def ask(browser: UserAgent) -> httpx2.Response:
    """What a hidden frame does; the page with the message."""
    return browser.navigate("/bff/silent-login", headers=FRAME)


def told(answer: httpx2.Response) -> dict[str, str]:
    assert answer.url.path == "/bff/silent-login-callback"
    return query_of(str(answer.url))


def leave(w: World, browser: UserAgent) -> None:
    """Forget the session here, not at the provider."""
    for cookie in browser.cookies.all():
        if cookie.value == session_cookie(browser):
            browser.cookies.delete(cookie.name)


def test_nobody_is_logged_in_anywhere(w: World) -> None:
    browser = w.browser()
    assert told(ask(browser)) == {"isLoggedIn": "false"}
    assert session_cookie(browser) is None and login_cookies(browser) == []


def test_who_is_logged_in_at_the_provider_is_logged_in_here(w: World) -> None:
    browser = w.logged_in()
    leave(w, browser)
    assert told(ask(browser)) == {"isLoggedIn": "true"}
    assert claims(browser.fetch("/bff/user"))["sub"] == "alice"


def test_the_answer_is_about_this_question_and_not_about_the_session_here(w: World) -> None:
    browser = w.logged_in()
    w.provider.behaviour.acr = "weak"
    for cookie in browser.cookies.all():
        if cookie.name == "test_authorization_server":  # the user has logged out at the provider
            browser.cookies.delete(cookie.name)
    assert told(ask(browser)) == {"isLoggedIn": "false"}
    assert browser.fetch("/bff/user").status_code == 200


def test_an_outage_is_not_mistaken_for_no(w: World) -> None:
    w.provider.drop("metadata", times=None)
    assert told(ask(w.browser())) == {"isLoggedIn": "false", "error": "login_unavailable"}


@pytest.mark.parametrize("fault", ["token", "jwks"])
def test_a_login_that_fails_on_the_way_says_so(w: World, fault: str) -> None:
    browser = w.logged_in()
    leave(w, browser)
    w.advance(3600)
    w.provider.fail(fault, status=500, times=None)  # type: ignore[arg-type]  # an endpoint
    w.start()
    assert told(ask(browser)) == {"isLoggedIn": "false", "error": "login_unavailable"}


def test_a_lost_silent_login_is_not_restarted_in_the_frame(w: World) -> None:
    browser = w.logged_in()
    answer = browser.navigate("/bff/silent-login", headers=FRAME, stop_at=LOCAL + "/bff/callback")
    for name in login_cookies(browser):
        browser.cookies.delete(name)
    assert told(browser.navigate(answer.headers["location"], headers=FRAME)) == {
        "isLoggedIn": "false",
        "error": "login_lost",
    }


@pytest.mark.spec("OAU-27")
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Purpose": "prefetch"},
    ],
)
def test_another_sites_frame_begins_nothing(w: World, headers: dict[str, str]) -> None:
    response = w.browser().navigate("/bff/silent-login", headers={**FRAME, **headers})
    assert (response.status_code, response.headers["coatcheck-error"]) == (400, "navigation_required")


@pytest.mark.spec("SMG-02", "HDR-02", "HDR-03")
def test_the_message_has_one_script_and_pages_of_ours_alone_may_frame_it(w: World) -> None:
    page = ask(w.browser())
    (script,) = re.findall("<script>(.*?)</script>", page.text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.headers["content-security-policy"]
    assert policy.startswith(
        f"default-src 'none'; script-src 'sha256-{digest}'; frame-ancestors 'self'; base-uri 'none'"
    )
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    assert page.headers["cache-control"] == "no-store"
    assert "location.origin)" in script  # the one origin that the message goes to
    assert "true" not in page.text.replace("=== 'true'", "")  # nothing of the request is in the page


def test_the_silent_request_says_so_to_the_provider(w: World) -> None:
    ask(w.browser())
    sent = [entry for entry in w.provider.log if entry.endpoint == "authorization"][-1]
    assert sent.values("prompt") == ["none"]


@pytest.mark.spec("OAU-27")
def test_only_a_silent_login_ends_in_a_frame(w: World) -> None:
    browser = w.browser()
    url = w.callback(browser)
    response = browser.navigate(url, headers=FRAME)
    assert (response.status_code, response.headers["coatcheck-error"]) == (400, "navigation_required")
    assert response.headers["x-frame-options"] == "DENY"
    assert session_cookie(browser) is None


@pytest.mark.parametrize("path", ["/bff/silent-login", "/bff/silent-login-callback"])
def test_it_is_off_by_default(path: str) -> None:
    with world() as w:
        assert w.browser().navigate(path).status_code == 404
        assert ISSUER  # nothing was sent there
        assert w.provider.log == []


@pytest.mark.spec("SMG-02", "OAU-35", "LGN-06")
def test_a_silent_login_does_not_change_the_user_of_a_live_session(w: World) -> None:
    """Somebody else has logged in at the provider meanwhile: the page still shows the first user's."""
    browser = w.logged_in("alice")
    session = session_cookie(browser)
    for cookie in browser.cookies.all():
        if cookie.name == "test_authorization_server":
            browser.cookies.delete(cookie.name)
    w.provider.behaviour.auto_login, w.provider.behaviour.username = True, "mallory"
    other = w.browser()
    other.login()
    for cookie in other.cookies.all():
        if cookie.name == "test_authorization_server":
            browser.cookies.put(cookie)
    assert told(ask(browser)) == {"isLoggedIn": "false", "error": "step_up_failed"}
    assert session_cookie(browser) == session
    assert claims(browser.fetch("/bff/user"))["sub"] == "alice"
    assert w.provider.count("revocation") == 0
