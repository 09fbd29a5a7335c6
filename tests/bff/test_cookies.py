"""What browsers are given to keep: every cookie, on every answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from coatcheck.bff.answers import Answer
from tests.bff.world import LOCAL, PUBLIC, World, session_cookie, world
from tests.rig.user_agent import UserAgent

HOUR = 3600


class Recorder(UserAgent):
    """A browser that remembers every answer."""

    answers: list[httpx2.Response]

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        response = super()._send(request)
        self.answers.append(response)
        return response


def everything(w: World) -> list[httpx2.Response]:
    """Every kind of answer that the application gives: a whole day of one browser."""
    browser = Recorder(w.public_url, transport=w.transport)
    browser.answers = []
    browser.navigate("/page?before=login", stop_at=w.provider.issuer)
    browser.login("/bff/login?returnUrl=/page")
    browser.navigate("/bff/callback?state=x&code=y", stop_at=w.public_url + "/bff/login")
    for path in ("/bff/user", "/api/me", "/", "/bff/nothing", "/page", "/bff/login?returnUrl=x", "/bff/diagnostics"):
        browser.fetch(path)
        browser.fetch(path, csrf=False)
    w.advance(HOUR / 2)
    browser.fetch("/api/me")
    browser.fetch("/", target="//ambiguous")
    browser.navigate("/page")
    url = {claim["type"]: claim["value"] for claim in browser.fetch("/bff/user").json()}["bff:logout_url"]
    browser.navigate("/bff/logout")
    browser.logout(url)
    browser.navigate("/bff/logout")
    browser.fetch("/bff/user")
    own = [answer for answer in browser.answers if str(answer.url).startswith(w.public_url)]
    assert len(own) >= 30
    return own


def cookies_of(answers: list[httpx2.Response]) -> Iterator[tuple[str, str, set[str]]]:
    for answer in answers:
        for line in answer.headers.get_list("set-cookie"):
            pair, *attributes = line.split("; ")
            name, _, value = pair.partition("=")
            yield name, value, set(attributes)


WAYS: list[dict[str, Any]] = [{}, {"public_url": PUBLIC}, {"sessions": "cookie"}]


@pytest.mark.spec("COO-01", "COO-02")
@pytest.mark.parametrize("options", WAYS)
def test_every_cookie_is_secure_http_only_and_bound_to_the_host(options: dict[str, Any]) -> None:
    # The ASGI scope says "http", as it does behind every TLS proxy.
    with world(**options) as w:
        cookies = list(cookies_of(everything(w)))
        assert len(cookies) >= 4
        for name, value, attributes in cookies:
            assert name.startswith("__Host-Http-coatcheck-")
            assert {"Secure", "HttpOnly", "Path=/"} <= attributes
            assert not [attribute for attribute in attributes if attribute.startswith("Domain")]
            assert value.replace("-", "").replace("_", "").isalnum() or not value


@pytest.mark.spec("COO-03")
def test_the_session_cookie_is_strict_unless_lax_is_chosen() -> None:
    for same_site in ("Strict", "Lax"):
        with world(same_site=same_site) as w:
            session = [attributes for name, _, attributes in cookies_of(everything(w)) if "-login" not in name]
            assert session
            assert all(f"SameSite={same_site}" in attributes for attributes in session)


@pytest.mark.spec("COO-04")
@pytest.mark.parametrize("answer", ["code", "error", "refused"])
def test_the_correlation_cookie_goes_with_success_and_with_failure(answer: str) -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        if answer == "error":
            url = url.replace("code=", "error=access_denied&ignored=")
        if answer == "refused":
            w.provider.fail("token", status=400, times=None, error="invalid_grant")
        browser.click(url)
        (deletion,) = [
            attributes for name, value, attributes in cookies_of(browser.history) if "-login-" in name and not value
        ]
        assert deletion == {"Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Max-Age=0"}


@pytest.mark.spec("COO-05")
@pytest.mark.parametrize("auto_login", [False, True])
def test_no_login_loop_with_a_strict_cookie(auto_login: bool) -> None:
    with world() as w:
        w.provider.behaviour.auto_login = auto_login
        browser = w.browser()
        page = browser.login("/page")
        assert (page.status_code, page.text) == (
            200,
            f'"page of {w.provider.behaviour.username if auto_login else "alice"}"',
        )
        assert w.logins_begun() == 1


@pytest.mark.spec("COO-05")
def test_a_link_from_another_site_arrives_logged_in_by_one_hop() -> None:
    with world() as w:
        browser = w.logged_in()
        browser.page = httpx2.URL("https://news.example/")
        page = browser.click("/page?article=7")
        assert [answer.status_code for answer in browser.history] == [200, 302, 200]
        assert (str(page.url), page.text) == (f"{LOCAL}/page?article=7", '"page of alice"')
        assert w.logins_begun() == 1


@pytest.mark.spec("COO-07")
@pytest.mark.parametrize("options", [{}, {"sessions": "cookie"}])
def test_cookie_tossing_two_session_cookies_are_none_and_are_cleared(options: dict[str, Any]) -> None:
    with world(**options) as w:
        browser = w.logged_in()
        own = next(cookie for cookie in browser.cookies.all() if cookie.value == session_cookie(browser))
        browser.cookies.put(replace(own, path="/api", value="planted"))
        response = browser.fetch("/api/me")
        assert response.status_code == 401
        (name, value, attributes), *_ = cookies_of([response])
        assert (name, value) == (own.name, "") and "Max-Age=0" in attributes


def test_a_single_cookie_that_leads_nowhere_is_left_alone() -> None:
    # The answer might arrive after the answer that brought a new cookie, in another tab.
    with world() as w:
        browser = w.logged_in()
        w.advance(HOUR + 1)
        response = browser.fetch("/api/me")
        assert response.status_code == 401
        assert "set-cookie" not in response.headers


def names_of(browser: UserAgent, *, domain: str = "localhost") -> set[str]:
    """The names of the application's cookies, but for those that only logins have."""
    return {c.name for c in browser.cookies.all() if c.domain == domain and "-login" not in c.name}


KINDS: dict[str, dict[str, Any]] = {"store": {}, "cookie": {"sessions": "cookie"}}


@pytest.mark.spec("COO-15")
@pytest.mark.parametrize("auto_login", [False, True], ids=["page", "redirect"])
@pytest.mark.parametrize(("before", "after"), [("cookie", "store"), ("store", "cookie")])
def test_a_login_leaves_nothing_of_the_kind_of_session_that_was_before(
    before: str, after: str, auto_login: bool
) -> None:
    """The cookies keep their name. Behind a page of the provider the callback does not even see the old ones."""
    with world(**KINDS[before]) as w:
        w.provider.behaviour.auto_login, w.provider.behaviour.username = auto_login, "alice"
        w.provider.behaviour.claims |= {"about": "x" * 2500}
        browser = w.logged_in()
        names = {name for name in names_of(browser) if name.startswith("__Host-Http-")}
        assert len(names) == (3 if before == "cookie" else 1)
        name = min(names)
        others = [f"{name[:-8]}abcdefgh", f"{name[:-8]}abcdefgh.1", f"{name}9", "theirs"]
        own = browser.cookies.get(name)
        assert own is not None
        for other in others:
            browser.cookies.put(replace(own, name=other, value="1"))

        w.options = KINDS[after]
        w.start()
        refused = browser.fetch("/api/me")
        assert (refused.status_code, refused.json()["code"]) == (401, "session_expired")
        assert refused.headers.get_list("set-cookie") == []
        browser.login()
        assert browser.fetch("/api/me").status_code == 200
        assert names_of(browser, domain=own.domain) == {
            name,
            *others,
            *((f"{name}.1", f"{name}.2") if after == "cookie" else ()),
        }


@pytest.mark.spec("COO-13", "HDR-01")
@pytest.mark.parametrize("options", WAYS)
def test_an_answer_with_a_cookie_is_never_cacheable(options: dict[str, Any]) -> None:
    with world(**options) as w:
        for answer in everything(w):
            if "set-cookie" in answer.headers:
                assert answer.headers["cache-control"] == "no-store"


@pytest.mark.spec("COO-13")
def test_a_renewed_cookie_session_takes_the_caching_from_the_applications_answer() -> None:
    headers = ((b"cache-control", b"public, max-age=3600"), (b"expires", b"tomorrow"), (b"x-own", b"kept"))

    async def application(scope: Any, receive: Any, send: Any) -> None:
        from coatcheck.bff import api_user

        if scope["path"] == "/private":
            await api_user(scope)
        await Answer(200, headers)(scope, receive, send)

    with world(sessions="cookie", app=application) as w:
        browser = w.logged_in()
        w.advance(HOUR / 2)
        static = browser.fetch("/static.js")
        assert static.headers["cache-control"] == "public, max-age=3600"
        assert "set-cookie" not in static.headers and "vary" not in static.headers
        private = browser.fetch("/private")
        assert private.headers.get_list("cache-control") == ["no-store"]
        assert "set-cookie" in private.headers and private.headers["vary"] == "cookie"
        assert private.headers["x-own"] == "kept" and "expires" not in private.headers
        again = browser.fetch("/private")  # nothing to renew: the application decides about caching
        assert "set-cookie" not in again.headers
        assert again.headers["cache-control"] == "public, max-age=3600"
        assert again.headers["vary"] == "cookie"


@pytest.mark.spec("HDR-01", "HDR-02", "HDR-03", "HDR-05")
def test_every_answer_of_ours_is_private_and_every_page_is_closed() -> None:
    with world() as w:
        seen = 0
        for answer in everything(w):
            if answer.url.path.startswith("/bff/") or answer.status_code >= 300:
                seen += 1
                assert answer.headers["cache-control"] == "no-store"
            if answer.headers.get("content-type", "").startswith("text/html"):
                policy = answer.headers["content-security-policy"]
                assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
                assert answer.headers["x-frame-options"] == "DENY"
                assert answer.headers["referrer-policy"] == "no-referrer"
                assert "<script" not in answer.text
        assert seen > 15
