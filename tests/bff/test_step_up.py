"""Step-up: a stronger or more recent login for one request, by the user who is logged in (RFC 9470)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from coatcheck import LoginOptions, StepUpRequired, User
from coatcheck.bff import api_user, page_user
from coatcheck.bff.answers import json_answer
from coatcheck.bff.who import current_request
from tests.bff.world import ISSUER, World, claims, query_of, session_cookie, warnings, world

OPTIONS = LoginOptions(acr_values=["phr", "phrh"], max_age=[0, 300])


def check(user: User) -> None:
    if user.claims.get("acr") != "phr":
        raise StepUpRequired("transfers are for users with a passkey", acr_values=["phr"], max_age=600)


async def transfers(scope: Any, receive: Any, send: Any) -> None:
    """`/api/...` for scripts, `/page...` for people: both want a user who authenticated with a passkey."""
    path = current_request(scope).path
    if path.startswith(("/page", "/api")):
        check(await (page_user(scope) if path.startswith("/page") else api_user(scope)))
    await json_answer(b'"done"')(scope, receive, send)


@pytest.fixture
def w() -> Iterator[World]:
    with world(login=OPTIONS, app=transfers) as w:
        yield w


@pytest.mark.spec("OAU-36")
def test_a_script_is_told_where_the_user_has_to_go(w: World) -> None:
    browser = w.logged_in()
    response = browser.fetch("/api/transfer", "POST")
    assert (response.status_code, response.headers["coatcheck-error"]) == (401, "step_up_required")
    assert response.json()["login_url"] == "/bff/login?acr_values=phr&max_age=300"
    browser.login(response.json()["login_url"])
    assert browser.fetch("/api/transfer", "POST").json() == "done"


@pytest.mark.spec("OAU-36")
def test_a_page_goes_there_and_comes_back(w: World) -> None:
    browser = w.logged_in()
    page = browser.login("/page/transfer?to=bob")
    assert (page.url.path, page.url.query, page.json()) == ("/page/transfer", b"to=bob", "done")
    sent = [entry for entry in w.provider.log if entry.endpoint == "authorization"][-1]
    assert (sent.values("acr_values"), sent.values("max_age")) == (["phr"], ["300"])


@pytest.mark.spec("LGN-05", "LGN-04")
def test_a_step_up_has_a_new_ticket_and_the_old_one_is_worthless(w: World) -> None:
    browser = w.logged_in()
    old = next(cookie for cookie in browser.cookies.all() if cookie.value == session_cookie(browser))
    browser.login("/bff/login?acr_values=phr")
    assert session_cookie(browser) != old.value and w.sessions() == 1
    copy = w.browser()
    copy.cookies.put(old)
    assert copy.fetch("/bff/user").status_code == 401
    assert claims(browser.fetch("/bff/user"))["acr"] == "phr"


@pytest.mark.spec("IDT-16")
def test_a_provider_that_ignores_the_wish_strengthens_nothing(w: World, caplog: pytest.LogCaptureFixture) -> None:
    browser = w.logged_in()
    session = session_cookie(browser)
    w.provider.behaviour.acr = "pwd"
    page = browser.login("/bff/login?acr_values=phr%20phrh")
    assert (page.status_code, page.headers["coatcheck-error"]) == (403, "step_up_failed")
    assert session_cookie(browser) == session and browser.fetch("/bff/user").status_code == 200
    assert any("acr is 'pwd'" in line for line in warnings(caplog))


@pytest.mark.spec("IDT-15")
def test_an_old_authentication_is_no_recent_one(w: World) -> None:
    browser = w.logged_in()
    w.provider.tamper("id_token", lambda members: {**members, "auth_time": members["auth_time"] - 3600})
    page = browser.login("/bff/login?max_age=300")
    assert (page.status_code, page.headers["coatcheck-error"]) == (403, "step_up_failed")


@pytest.mark.spec("OAU-35")
def test_another_user_does_not_complete_a_step_up(w: World) -> None:
    browser = w.logged_in("alice")
    session = session_cookie(browser)
    page = browser.login("/bff/login?acr_values=phr", username="mallory")
    assert (page.status_code, page.headers["coatcheck-error"]) == (403, "step_up_failed")
    assert session_cookie(browser) == session
    assert claims(browser.fetch("/bff/user"))["sub"] == "alice"


@pytest.mark.spec("OAU-35")
def test_cross_user_session_fixation_a_step_up_ends_in_the_browser_that_began_it(w: World) -> None:
    attacker, victim = w.logged_in("mallory"), w.logged_in("alice")
    url = w.callback(attacker, username="mallory", path="/bff/login?acr_values=phr")
    page = victim.click(url, stop_at=w.public_url + "/bff/login")
    assert (page.status_code, page.headers["coatcheck-error"]) == (400, "login_lost")
    assert claims(victim.fetch("/bff/user"))["sub"] == "alice"
    attacker.navigate("/")
    assert "acr" not in claims(attacker.fetch("/bff/user"))


@pytest.mark.spec("OAU-35")
@pytest.mark.parametrize("sessions", ["server", "cookie"])
def test_a_step_up_of_a_session_that_has_ended_begins_none(sessions: str) -> None:
    with world(login=OPTIONS, app=transfers, **({"sessions": "cookie"} if sessions == "cookie" else {})) as w:
        _step_up_after_logout(w)


def _step_up_after_logout(w: World) -> None:
    browser = w.logged_in("alice")
    logout = claims(browser.fetch("/bff/user"))["bff:logout_url"]
    url = w.callback(browser, path="/bff/login?acr_values=phr")  # one tab
    browser.navigate(logout, stop_at=ISSUER)  # another one
    page = browser.click(url)
    assert (page.status_code, page.headers["coatcheck-error"]) == (403, "step_up_failed")
    assert session_cookie(browser) is None and w.sessions() == 0


@pytest.mark.spec("OAU-35")
def test_no_query_parameter_chooses_a_session(w: World) -> None:
    attacker = w.logged_in("mallory")
    planted = session_cookie(attacker)
    victim = w.browser()
    page = victim.login(f"/bff/login?sid={planted}&session={planted}&ticket={planted}", username="alice")
    assert page.status_code == 200
    assert session_cookie(victim) != planted
    assert claims(attacker.fetch("/bff/user"))["sub"] == "mallory"


def test_cookie_sessions_step_up_too() -> None:
    with world(login=OPTIONS, app=transfers, sessions="cookie") as w:
        browser = w.logged_in()
        assert browser.login("/page").json() == "done"
        assert browser.login("/bff/login?acr_values=phrh", username="mallory").status_code == 403
        assert claims(browser.fetch("/bff/user"))["sub"] == "alice"


def test_a_step_up_that_no_login_may_ask_for_is_said_to_the_developer(caplog: pytest.LogCaptureFixture) -> None:
    with world(app=transfers) as w:
        response = w.logged_in().fetch("/api/transfer")
        assert (response.status_code, response.json().get("login_url")) == (401, None)
        assert any(line.startswith("step_up_not_allowed") and "phr" in line for line in warnings(caplog))


def test_a_login_without_a_session_may_ask_for_more_at_once(w: World) -> None:
    browser = w.browser()
    browser.login("/bff/login?acr_values=phrh")
    assert claims(browser.fetch("/bff/user"))["acr"] == "phrh"
    assert query_of(w.callback(w.browser(), path="/bff/login?acr_values=phr"))["code"]


@pytest.mark.spec("COO-11")
def test_a_page_that_no_login_can_satisfy_does_not_go_round_for_ever() -> None:
    async def never_content(scope: Any, receive: Any, send: Any) -> None:
        if current_request(scope).path.startswith("/page"):
            await page_user(scope)
            raise StepUpRequired(max_age=300)
        await json_answer(b"null")(scope, receive, send)

    with world(login=OPTIONS, app=never_content) as w:
        w.provider.behaviour.auto_login = True
        browser = w.browser()
        page = browser.navigate("/page")
        assert (page.status_code, page.headers["coatcheck-error"]) == (400, "login_loop")
        assert w.token_requests() == 3


@pytest.mark.spec("OAU-29")
def test_a_page_cannot_loosen_what_the_settings_ask_for() -> None:
    with world() as w:
        client = replace(w.provider.client(), authorization_params={"max_age": "60"})
    with world(login=OPTIONS, client=client) as w:
        for asked, sent in (("300", "60"), ("0", "0")):
            response = w.browser().navigate(f"/bff/login?max_age={asked}", stop_at=ISSUER)
            assert query_of(response.headers["location"])["max_age"] == sent
