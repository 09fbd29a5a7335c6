"""`/bff/login`: what is sent to the authorization server, and what a browser cannot change about it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from tests.bff.world import ISSUER, LOCAL, PUBLIC, World, login_cookies, query_of, session_cookie, warnings, world

NAVIGATE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"}


def begin(w: World, query: str = "", *, headers: dict[str, str] | None = None) -> httpx2.Response:
    """One request for `/bff/login`, by a person at the address bar."""
    request = httpx2.Request(
        "GET", f"{w.public_url}/bff/login{query}", headers={"Accept": "text/html", **NAVIGATE, **(headers or {})}
    )
    return w.transport.handle_request(request)


@pytest.mark.spec("OAU-01")
def test_the_authorization_request_is_for_a_code_with_pkce() -> None:
    with world() as w:
        response = begin(w)
        assert response.status_code == 302
        location = response.headers["location"]
        assert location.startswith(f"{ISSUER}/authorize?")
        asked = query_of(location)
        assert asked["response_type"] == "code"
        assert asked["redirect_uri"] == f"{LOCAL}/bff/callback"
        assert asked["code_challenge_method"] == "S256"
        assert set(asked) == {
            "response_type",
            "client_id",
            "redirect_uri",
            "scope",
            "state",
            "nonce",
            "code_challenge",
            "code_challenge_method",
        }


def test_nothing_repeats_from_one_login_to_the_next() -> None:
    with world() as w:
        one, two = query_of(begin(w).headers["location"]), query_of(begin(w).headers["location"])
        assert all(one[name] != two[name] for name in ("state", "nonce", "code_challenge"))


INJECTED = [
    "client_id=evil",
    "redirect_uri=https://evil.example/cb",
    "scope=admin",
    "state=fixed",
    "nonce=fixed",
    "code_challenge=x&code_challenge_method=plain",
    "response_type=token",
    "response_mode=fragment",
    "request=x",
    "request_uri=https://evil.example/r",
    "resource=https://evil.example",
    "claims={}",
    "audience=https://evil.example",
    "id_token_hint=x",
    "display=popup",
    "registration={}",
    "dpop_jkt=x",
    "target_link_uri=https://evil.example",
]


@pytest.mark.spec("OAU-29")
@pytest.mark.parametrize("injected", INJECTED)
@pytest.mark.parametrize("way", ["plain", "in the return URL"])
def test_parameter_injection_the_browser_adds_nothing_to_the_request(injected: str, way: str) -> None:
    with world() as w:
        fair = query_of(begin(w).headers["location"])
        query = f"?{injected}" if way == "plain" else f"?returnUrl={quote('/&' + injected.replace('//', '/'), safe='')}"
        response = begin(w, query)
        assert response.status_code == 302
        asked = query_of(response.headers["location"])
        assert set(asked) == set(fair)
        random = {"state", "nonce", "code_challenge"}
        assert {name: asked[name] for name in asked if name not in random} == {
            name: fair[name] for name in fair if name not in random
        }
        assert all(len(asked[name]) == 43 for name in random)


@pytest.mark.spec("OAU-29")
@pytest.mark.parametrize("prompt", ["login", "none", "consent", "select_account", "create", "login consent"])
def test_known_prompts_are_passed_on(prompt: str) -> None:
    with world() as w:
        assert query_of(begin(w, f"?prompt={quote(prompt)}").headers["location"])["prompt"] == prompt


@pytest.mark.spec("OAU-29")
@pytest.mark.parametrize("prompt", ["admin", "none login", "login&scope=admin", "LOGIN", " login"])
def test_unknown_prompts_are_refused(prompt: str) -> None:
    with world() as w:
        response = begin(w, f"?prompt={quote(prompt, safe='')}")
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, "prompt_invalid")


@pytest.mark.spec("RTU-01")
@pytest.mark.parametrize(
    "query",
    [
        "returnUrl=https://evil.example",
        "returnUrl=//evil.example",
        "returnUrl=/a&returnUrl=/b",
        "returnUrl=/bff/logout",
    ],
)
def test_open_redirect_a_bad_return_url_is_refused_at_the_start(query: str) -> None:
    with world() as w:
        response = begin(w, f"?{query}")
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, "return_url_invalid")
        assert "set-cookie" not in response.headers


@pytest.mark.spec("OAU-18")
@pytest.mark.parametrize(
    "header",
    [
        {"Host": "evil.example"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Proto": "http", "X-Forwarded-Port": "81"},
        {"Forwarded": "host=evil.example;proto=http"},
        {"X-Forwarded-Prefix": "/evil"},
    ],
)
def test_host_header_injection_changes_no_redirect_uri(header: dict[str, str]) -> None:
    with world(public_url=PUBLIC) as w:
        response = begin(w, "?hop=1", headers=header)
        assert query_of(response.headers["location"])["redirect_uri"] == f"{PUBLIC}/bff/callback"


@pytest.mark.spec("OAU-18")
def test_the_token_request_repeats_the_redirect_uri() -> None:
    with world(public_url=PUBLIC) as w:
        w.logged_in()
        sent = next(request for request in w.provider.log if request.endpoint == "token")
        assert sent.values("redirect_uri") == [f"{PUBLIC}/bff/callback"]


def test_wrong_host_leads_to_the_same_path_at_the_public_url(caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        w.serve(w.transport.apps["localhost:8000"], at="127.0.0.1:8000")
        browser = w.browser()
        page = browser.login("http://127.0.0.1:8000/bff/login?returnUrl=/page")
        assert str(page.url) == f"{LOCAL}/page"
        browser.login("http://127.0.0.1:8000/bff/login")
        (line,) = warnings(caplog)  # once per host
        assert "127.0.0.1:8000" in line and LOCAL in line and "public_url" in line


def test_a_proxy_that_rewrites_the_host_does_not_make_a_loop() -> None:
    with world(public_url=PUBLIC) as w:
        response = begin(w, "?returnUrl=/a", headers={"Host": "backend:8080"})
        assert response.headers["location"] == f"{PUBLIC}/bff/login?returnUrl=%2Fa&hop=1"
        again = begin(w, "?returnUrl=/a&hop=1", headers={"Host": "backend:8080"})
        assert again.headers["location"].startswith(ISSUER)


@pytest.mark.parametrize("host", ["shop.example", "shop.example:443", "SHOP.example"])
def test_the_public_host_needs_no_detour(host: str) -> None:
    with world(public_url=PUBLIC) as w:
        assert begin(w, headers={"Host": host}).headers["location"].startswith(ISSUER)


@pytest.mark.spec("OAU-27")
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Dest": "object"},
        {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    ],
)
def test_a_login_begins_neither_in_a_frame_nor_by_fetch(headers: dict[str, str]) -> None:
    with world() as w:
        response = begin(w, headers=headers)
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, "navigation_required")


@pytest.mark.spec("COO-04")
def test_the_correlation_cookie_is_lax_and_short_lived() -> None:
    with world() as w:
        (line,) = begin(w).headers.get_list("set-cookie")
        name, *attributes = line.split("; ")
        assert name.startswith("__Host-Http-coatcheck-") and "-login-" in name
        assert set(attributes) == {"Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Max-Age=900"}


@pytest.mark.spec("LGN-02", "COO-04")
def test_two_hundred_logins_do_not_fill_the_jar() -> None:
    with world() as w:
        browser = w.browser()
        for _ in range(200):
            browser.navigate("/bff/login", stop_at=ISSUER)
        assert len(login_cookies(browser)) == 7
        header = browser.cookies.header(httpx2.URL(LOCAL), initiator=None)
        assert len(header) < 6500


@pytest.mark.spec("LGN-02")
def test_long_return_urls_leave_room_for_fewer_logins() -> None:
    with world() as w:
        browser = w.browser()
        locations = [
            browser.navigate(f"/bff/login?returnUrl=/{'a' * 1990}", stop_at=ISSUER).headers["location"]
            for _ in range(10)
        ]
        header = browser.cookies.header(httpx2.URL(LOCAL), initiator=None)
        assert len(header) < 6500
        assert browser.through_foreign_pages(browser.click(locations[-1])).status_code == 200
        assert session_cookie(browser)


@pytest.mark.spec("LGN-02")
def test_the_oldest_login_goes_first() -> None:
    with world() as w:
        browser = w.browser()
        names: list[str] = []
        for _ in range(8):
            browser.navigate("/bff/login", stop_at=ISSUER)
            names += [name for name in login_cookies(browser) if name not in names]
            w.advance(1)
        assert login_cookies(browser) == names[1:]


@pytest.mark.parametrize(
    "query", ["again=1&again=2", "hop=1&hop=2", "again=", "x=1&x=2", "&".join(["a=b"] * 500), "%ff=%ff"]
)
def test_odd_parameters_harm_nothing(query: str) -> None:
    with world() as w:
        assert begin(w, f"?{query}").headers["location"].startswith(ISSUER)


def test_only_get_begins_a_login() -> None:
    with world() as w:
        response = w.browser().fetch("/bff/login", "POST")
        assert (response.status_code, response.headers["allow"]) == (405, "GET")


@pytest.mark.spec("MET-08")
@pytest.mark.parametrize("public_url", [LOCAL, PUBLIC])
def test_a_provider_that_is_down_is_explained(public_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with world(public_url=public_url) as w:
        w.provider.drop("metadata", times=None)
        response = begin(w)
        assert response.status_code == 503
        assert response.headers["coatcheck-error"] == "login_unavailable"
        (line,) = warnings(caplog)
        assert line.startswith("login_unavailable (503): ") and ISSUER in line
        trace_id = line.rpartition("trace_id=")[2].rstrip("]")
        assert trace_id in response.text
        assert (ISSUER in response.text) == (public_url == LOCAL)  # reasons stand on pages in development mode only


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_a_script_gets_problem_json(accept: str) -> None:
    with world() as w:
        request = httpx2.Request("GET", f"{LOCAL}/bff/login?returnUrl=x", headers={"Accept": accept})
        response = w.transport.handle_request(request)
        assert response.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = response.json()
        assert (document["status"], document["code"]) == (400, "return_url_invalid")
