"""The answer of the authorization server in a form: no code in any URL, and no answer by any other way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from coatcheck import LoginOptions
from tests.bff.world import ISSUER, LOCAL, PUBLIC, World, claims, login_cookies, session_cookie, world
from tests.rig.pages import forms
from tests.rig.user_agent import UserAgent

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def w() -> Iterator[World]:
    # https, because browsers keep no SameSite=None cookie of plain http.
    with world(login=LoginOptions(response_mode="form_post"), public_url=PUBLIC) as w:
        yield w


def answer_page(w: World, browser: UserAgent) -> dict[str, str]:
    """Log in at the provider; the fields of the form that it wants to send us."""
    page = browser.navigate(f"{w.public_url}/bff/login")
    form = forms(page)[0]
    form.fill("alice")
    (answer,) = forms(browser.submit(form))
    assert answer.action == f"{w.public_url}/bff/callback"
    return answer.fields


def post(browser: UserAgent, fields: dict[str, str], *, query: str = "", content_type: str = FORM, **more: Any) -> Any:
    return browser.fetch(
        f"{PUBLIC}/bff/callback{query}",
        "POST",
        csrf=False,
        initiator=ISSUER,
        headers={"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Content-Type": content_type},
        **({"data": fields} | more),
    )


@pytest.mark.spec("OAU-16", "OAU-26")
def test_a_login_by_form_ends_in_a_session(w: World) -> None:
    browser = w.browser()
    page = browser.login(f"{PUBLIC}/bff/login?returnUrl=/orders")
    assert str(page.url) == f"{PUBLIC}/orders"
    hop = browser.history[-2]
    assert (hop.request.method, hop.status_code, hop.url.query) == ("POST", 200, b"")
    assert all("code=" not in str(answer.url) for answer in browser.history)
    assert claims(browser.fetch("/bff/user"))["sub"] == "alice"
    assert login_cookies(browser) == []


@pytest.mark.spec("COO-04")
def test_the_correlation_cookie_may_come_with_another_sites_form(w: World) -> None:
    browser = w.browser()
    (line,) = browser.navigate("/bff/login", stop_at=ISSUER).headers.get_list("set-cookie")
    assert set(line.split("; ")[1:]) == {"Path=/", "Secure", "HttpOnly", "SameSite=None", "Max-Age=900"}
    fields = answer_page(w, browser)
    deleted, *_ = [line for line in post(browser, fields).headers.get_list("set-cookie") if "-login-" in line]
    assert set(deleted.split("; ")[1:]) == {"Path=/", "Secure", "HttpOnly", "SameSite=None", "Max-Age=0"}


@pytest.mark.spec("OAU-16")
def test_response_mode_downgrade_a_code_in_the_query_is_refused(w: World) -> None:
    browser = w.browser()
    fields = answer_page(w, browser)
    url = httpx2.URL(f"{PUBLIC}/bff/callback", params=fields)
    response = browser.navigate(str(url))
    assert (response.status_code, response.headers["coatcheck-error"]) == (400, "login_response_invalid")
    assert (w.token_requests(), session_cookie(browser)) == (0, None)


@pytest.mark.spec("OAU-15")
@pytest.mark.parametrize("name", ["code", "state", "iss"])
def test_parameter_pollution_query_and_form_are_one_set(w: World, name: str) -> None:
    browser = w.browser()
    fields = answer_page(w, browser)
    response = post(browser, fields, query=f"?{name}={fields[name]}")
    assert (response.status_code, response.headers["coatcheck-error"]) == (400, "login_response_invalid")
    assert w.token_requests() == 0


@pytest.mark.spec("OAU-06", "LGN-03")
def test_login_csrf_the_attackers_form_does_not_log_the_victim_in(w: World) -> None:
    fields = answer_page(w, w.browser())
    victim = w.browser()
    response = post(victim, fields)
    assert (response.status_code, response.headers["coatcheck-error"]) == (400, "login_lost")
    assert (w.token_requests(), session_cookie(victim)) == (0, None)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"content_type": "text/plain", "content": b"state=x"}, "form_refused"),
        ({"content_type": "application/json", "content": b"{}"}, "form_refused"),
        ({"content": b"state=" + b"x" * 70_000}, "body_too_large"),
        ({"content": b"&".join([b"a=b"] * 101)}, "form_refused"),
        ({"content": b"\xff\xfe\x00"}, "login_response_invalid"),
        ({"content": b""}, "login_response_invalid"),
    ],
)
def test_what_is_no_small_form_is_refused(w: World, more: dict[str, Any], code: str) -> None:
    browser = w.browser()
    answer_page(w, browser)
    if "content" in more:
        more = {**more, "data": None}
    response = post(browser, {}, **more)
    assert response.headers["coatcheck-error"] == code
    assert 400 <= response.status_code < 500
    assert w.token_requests() == 0


def test_without_the_option_the_callback_takes_no_form() -> None:
    with world() as w:
        response = w.browser().fetch(f"{LOCAL}/bff/callback", "POST", initiator=ISSUER)
        assert (response.status_code, response.headers["allow"]) == (405, "GET")


@pytest.mark.spec("OAU-16")
def test_a_post_that_brings_its_answer_in_the_query_is_refused(w: World) -> None:
    browser = w.browser()
    fields = answer_page(w, browser)
    response = post(browser, {}, query=f"?{urlencode(fields)}")
    assert (response.status_code, response.headers["coatcheck-error"]) == (400, "login_response_invalid")
    assert w.token_requests() == 0
