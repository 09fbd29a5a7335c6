"""The way back from the authorization server: what ties an answer to a browser, and the attacks that it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from coatcheck.errors import StoreUnavailable
from tests.bff.world import ISSUER, LOCAL, World, claims, login_cookies, query_of, session_cookie, world
from tests.rig.user_agent import NAVIGATION, UserAgent

CALLBACK = f"{LOCAL}/bff/callback"


def callback_url(**parameters: str) -> str:
    return f"{CALLBACK}?{urlencode(parameters)}"


def refused(w: World, browser: UserAgent, url: str, *, code: str) -> httpx2.Response:
    """Go to *url*, which must be refused with *code*, without a session and without a token request."""
    requests = w.token_requests()
    response = browser.click(url, stop_at=LOCAL + "/bff/login")
    assert 400 <= response.status_code < 500
    assert response.headers["coatcheck-error"] == code
    assert response.headers["cache-control"] == "no-store"
    assert session_cookie(browser) is None
    assert w.token_requests() == requests
    return response


@pytest.mark.spec("OAU-24")
def test_a_login_ends_with_a_hop_that_leaves_no_code_behind() -> None:
    with world() as w:
        browser = w.browser()
        page = browser.login("/bff/login?returnUrl=/page?a=1%23top")
        hop = browser.history[-2]
        assert hop.status_code == 200
        assert hop.url.path == "/bff/callback"
        assert hop.headers["cache-control"] == "no-store"
        assert hop.headers["referrer-policy"] == "no-referrer"
        policy = hop.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script" not in policy
        assert "<script" not in hop.text and query_of(str(hop.url))["code"] not in hop.text
        assert str(page.url) == f"{LOCAL}/page?a=1#top"


@pytest.mark.spec("OAU-06", "OAU-09")
@pytest.mark.parametrize("state", ["", "x" * 43, "\u00e9", "a b", "%00"])
def test_an_answer_with_a_state_that_nobody_began_is_refused(state: str) -> None:
    with world() as w:
        code = "login_response_invalid" if state == "" else "login_lost"
        refused(w, w.browser(), callback_url(code="x", state=state, iss=ISSUER), code=code)


@pytest.mark.spec("OAU-06", "OAU-09", "LGN-03")
def test_login_csrf_the_attackers_callback_url_does_not_log_the_victim_in() -> None:
    with world() as w:
        url = w.callback(w.browser(), username="mallory")
        victim = w.browser()
        refused(w, victim, url, code="login_lost")
        assert victim.fetch("/bff/user").status_code == 401


@pytest.mark.spec("OAU-06")
def test_two_browsers_cannot_swap_their_answers() -> None:
    with world() as w:
        one, other = w.browser(), w.browser()
        first, second = w.callback(one, username="alice"), w.callback(other, username="bob")
        refused(w, one, second, code="login_lost")
        refused(w, other, first, code="login_lost")


@pytest.mark.spec("OAU-06")
def test_an_expired_login_is_refused() -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        w.advance(15 * 60 + 1)
        refused(w, browser, url, code="login_lost")
        assert login_cookies(browser) == []


def test_fifteen_minutes_are_enough_for_a_slow_person() -> None:
    with world() as w:
        w.provider.behaviour.code_lifetime = 20 * w.provider.behaviour.code_lifetime
        browser = w.browser()
        url = w.callback(browser)
        w.advance(14 * 60)
        assert browser.click(url).status_code == 200
        assert session_cookie(browser)


@pytest.mark.spec("OAU-09")
def test_two_correlation_cookies_of_one_name_are_none() -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        (name,) = login_cookies(browser)
        cookie = browser.cookies.get(name)
        assert cookie is not None
        browser.cookies.put(replace(cookie, value="planted", path="/bff"))
        response = browser.navigate(url, stop_at=LOCAL + "/bff/login")
        assert response.status_code == 400
        assert w.token_requests() == 0


@pytest.mark.spec("OAU-07")
def test_code_injection_fails_on_pkce() -> None:
    with world() as w:
        stolen = query_of(w.callback(w.browser(), username="victim"))["code"]
        attacker = w.browser()
        own = query_of(w.callback(attacker, username="mallory"))
        response = attacker.click(callback_url(**{**own, "code": stolen}))
        assert response.status_code == 502
        assert response.headers["coatcheck-error"] == "login_failed"
        assert session_cookie(attacker) is None


@pytest.mark.spec("OAU-07")
def test_code_injection_fails_on_the_nonce_alone() -> None:
    with world() as w:
        w.provider.tamper("id_token", lambda members: {**members, "nonce": "of another login"})
        browser = w.browser()
        response = browser.login()
        assert response.status_code == 502
        assert w.token_requests() == 1  # the provider accepted code and verifier
        assert session_cookie(browser) is None


@pytest.mark.spec("OAU-08")
def test_twenty_identical_callbacks_make_one_token_request() -> None:
    with world() as w:
        browser = w.browser()
        url = httpx2.URL(w.callback(browser))
        cookie = browser.cookies.header(url, initiator=httpx2.URL(ISSUER))
        gate = w.provider.hold("token")

        async def storm() -> list[httpx2.Response]:
            calls = [
                asyncio.ensure_future(
                    w.transport.call(httpx2.Request("GET", url, headers={**NAVIGATION, "Cookie": cookie}))
                )
                for _ in range(20)
            ]
            await gate.wait_reached()
            gate.open()
            return await asyncio.gather(*calls)

        answers = w.transport.loop.run_until_complete(storm())
        assert w.token_requests() == 1
        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 19


@pytest.mark.spec("OAU-08")
def test_a_used_callback_leads_home_when_opened_again() -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        browser.click(url)
        session = session_cookie(browser)
        assert browser.navigate(url).url.path == "/"  # the person pressed "back"
        assert w.token_requests() == 1
        assert session_cookie(browser) == session


def test_a_lost_login_is_restarted_once_and_then_explained() -> None:
    with world() as w:
        browser = w.browser()
        first = w.callback(browser)
        for name in login_cookies(browser):
            browser.cookies.delete(name)
        second = browser.click(first, stop_at=CALLBACK)  # hop, /bff/login, and the provider knows the user
        assert second.headers["location"].startswith(CALLBACK)
        assert query_of(second.headers["location"])["state"].endswith(".2")
        for name in login_cookies(browser):
            browser.cookies.delete(name)
        page = browser.click(second.headers["location"])
        assert page.status_code == 400
        assert "login_lost" in page.text and "Cookies may be blocked" in page.text
        assert "url=" not in page.text


def test_the_restart_of_a_lost_login_ends_in_a_session() -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        for name in login_cookies(browser):
            browser.cookies.delete(name)
        assert browser.click(url).url.path == "/"
        assert claims(browser.fetch("/bff/user"))["sub"] == "alice"


@pytest.mark.spec("OAU-10")
def test_mix_up_an_answer_for_another_provider_opens_nothing() -> None:
    with world() as honest, world(issuer="http://127.0.0.1:9666") as evil:
        browser = honest.browser()
        url = honest.callback(browser)
        visitor = evil.browser()
        visitor.cookies = browser.cookies  # same host, other application: the cookies arrive
        refused(evil, visitor, url, code="login_lost")
        assert honest.token_requests() == 0


@pytest.mark.spec("OAU-11", "OAU-10")
@pytest.mark.parametrize("iss", ["http://127.0.0.1:9666", ISSUER + "/", ISSUER.upper(), "http%3A//127.0.0.1:9000", ""])
def test_mix_up_the_issuer_of_an_answer_is_compared_exactly(iss: str) -> None:
    with world() as w:
        browser = w.browser()
        answer = query_of(w.callback(browser))
        refused(w, browser, callback_url(**{**answer, "iss": iss}), code="login_response_invalid")
        assert login_cookies(browser) == []


@pytest.mark.spec("OAU-11")
def test_mix_up_errors_of_another_issuer_are_refused_too() -> None:
    with world() as w:
        browser = w.browser()
        answer = query_of(w.callback(browser))
        parameters = {"state": answer["state"], "iss": "http://127.0.0.1:9666", "error": "access_denied"}
        refused(w, browser, callback_url(**parameters), code="login_response_invalid")


@pytest.mark.spec("OAU-12")
def test_an_announced_issuer_that_is_missing_is_refused() -> None:
    with world() as w:
        browser = w.browser()
        answer = query_of(w.callback(browser))
        del answer["iss"]
        refused(w, browser, callback_url(**answer), code="login_response_invalid")


@pytest.mark.spec("OAU-15")
@pytest.mark.parametrize("name", ["code", "state", "iss"])
@pytest.mark.parametrize("first", [True, False])
def test_parameter_pollution_a_second_value_is_refused_in_either_order(name: str, first: bool) -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        query = url.partition("?")[2]
        polluted = f"{name}=other&{query}" if first else f"{query}&{name}=other"
        refused(w, browser, f"{CALLBACK}?{polluted}", code="login_response_invalid")


@pytest.mark.spec("OAU-15")
def test_parameter_pollution_an_error_beside_a_code_is_refused() -> None:
    with world() as w:
        browser = w.browser()
        refused(w, browser, w.callback(browser) + "&error=access_denied", code="login_response_invalid")


@pytest.mark.spec("OAU-01")
@pytest.mark.parametrize("name", ["access_token", "id_token", "response"])
def test_tokens_in_the_front_channel_are_refused(name: str) -> None:
    with world() as w:
        browser = w.browser()
        refused(w, browser, w.callback(browser) + f"&{name}=x", code="login_response_invalid")


@pytest.mark.spec("OAU-01")
def test_the_callback_takes_no_post() -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        response = browser.fetch(url, "POST", initiator=ISSUER)
        assert (response.status_code, response.headers["allow"]) == (405, "GET")
        assert w.token_requests() == 0


@pytest.mark.spec("OAU-25")
def test_response_mode_downgrade_a_code_in_the_fragment_leaves_the_address() -> None:
    """A fragment never reaches us, and a browser carries it on along redirects, to the first that has its own."""
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        page = browser.click(CALLBACK)  # whatever stood behind the "#"
        assert [answer.status_code for answer in browser.history] == [303, 400]
        assert browser.history[0].headers["location"] == "/bff/callback?state=#none"
        assert page.headers["coatcheck-error"] == "login_response_invalid"
        browser.click(callback_url(state=query_of(url)["state"], iss=ISSUER))
        assert browser.history[0].headers["location"] == "/bff/callback?state=#none"
        assert login_cookies(browser) == [] and w.token_requests() == 0


@pytest.mark.spec("OAU-08", "OAU-27")
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Purpose": "prefetch;prerender"},
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Dest": "iframe"},
    ],
)
def test_a_callback_that_nobody_looks_at_uses_nothing_up(headers: dict[str, str]) -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        response = browser.navigate(url, headers=headers)
        assert (response.status_code, response.headers["coatcheck-error"]) == (400, "navigation_required")
        assert w.token_requests() == 0
        assert browser.navigate(url).status_code == 200
        assert session_cookie(browser)


@pytest.mark.spec("OAU-08")
def test_a_store_that_is_away_at_the_callback_costs_no_login() -> None:
    """The browser keeps its login, and a reload of the very page that said so finishes it."""
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)

        async def away(key: bytes, value: bytes, *, until: float) -> bool:
            raise StoreUnavailable("the test broke it")

        w.store.add = away  # type: ignore[method-assign]
        page = browser.navigate(url)
        assert (page.status_code, page.headers["coatcheck-error"]) == (503, "store_unavailable")
        assert (w.token_requests(), len(login_cookies(browser))) == (0, 1)
        del w.store.add
        assert browser.navigate(url).status_code == 200
        assert session_cookie(browser) and login_cookies(browser) == []


@pytest.mark.spec("OAU-08")
def test_a_callback_is_accepted_once_by_all_processes_together() -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        cookie = browser.cookies.header(httpx2.URL(url), initiator=httpx2.URL(ISSUER))
        statuses = []
        for _ in range(3):  # three nodes over one store, shown the same callback with the same cookie
            w.start()
            statuses.append(
                w.transport.handle_request(httpx2.Request("GET", url, headers={"Cookie": cookie})).status_code
            )
        assert statuses == [200, 400, 400]
        assert w.token_requests() == 1


@pytest.mark.spec("LGN-10")
@pytest.mark.parametrize("fault", ["denied", "token", "jwks"])
def test_a_login_that_fails_leaves_nothing_behind_and_a_new_one_works(fault: str) -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser, path="/bff/login?returnUrl=/orders")
        if fault == "denied":
            answer = query_of(url)
            url = callback_url(state=answer["state"], iss=answer["iss"], error="access_denied")
        else:
            w.provider.fail(fault, status=500, times=1)  # type: ignore[arg-type]  # an endpoint
        page = browser.click(url)
        assert page.status_code >= 400 and 'href="/bff/login?returnUrl=%2Forders"' in page.text
        assert session_cookie(browser) is None and login_cookies(browser) == [] and w.sessions() == 0
        w.advance(60)
        assert browser.login("/bff/login").status_code == 200
        assert session_cookie(browser)


@pytest.mark.spec("LGN-09")
def test_a_login_is_bound_to_the_redirect_uri_that_it_began_with() -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        w.options["path_prefix"] = "/new"
        w.start()
        browser.click(url.replace("/bff/", "/new/"))
        sent = next(request for request in w.provider.log if request.endpoint == "token")
        assert sent.values("redirect_uri") == [CALLBACK]


@pytest.mark.spec("OAU-06")
def test_garbage_callbacks_cost_no_call_to_the_provider() -> None:
    with world() as w:
        browser = w.browser()
        browser.navigate("/bff/login", stop_at=ISSUER)
        before = len(w.provider.log)
        for state in ("x", "x" * 43, "x.2", "x.silent", "é", "a" * 3000):
            for more in ({"code": "c"}, {"error": "access_denied"}, {}, {"code": "c", "iss": ISSUER}):
                response = browser.navigate(callback_url(state=state, **more), stop_at=LOCAL + "/bff/login")
                assert response.status_code == 400
        assert len(w.provider.log) == before


@pytest.mark.spec("LGN-02", "OAU-06")
def test_logins_that_nobody_finishes_leave_no_state_behind() -> None:
    with world() as w:
        begin = httpx2.Request("GET", LOCAL + "/bff/login")
        for _ in range(500):
            assert w.transport.handle_request(begin).status_code == 302
        assert (len(w.store._rows), len(w.store._values), len(w.store._leases)) == (0, 0, 0)


@pytest.mark.spec("OAU-17")
def test_an_error_without_a_login_is_not_shown() -> None:
    with world() as w:
        url = callback_url(state="unknown", error="<script>alert(1)</script>", error_description="call 555-0100")
        response = refused(w, w.browser(), url, code="login_lost")
        assert "script" not in response.text and "555" not in response.text


@pytest.mark.spec("OAU-17", "HDR-04")
@pytest.mark.parametrize("development", [True, False])
def test_errors_are_neither_reflected_nor_linked(development: bool) -> None:
    options: dict[str, Any] = {} if development else {"public_url": "https://shop.example"}
    with world(**options) as w:
        browser = w.browser()
        answer = query_of(w.callback(browser))
        parameters = {
            "state": answer["state"],
            "iss": answer["iss"],
            "error": "<script>alert(1)</script>",
            "error_description": "<img src=x onerror=alert(2)>",
            "error_uri": "javascript:alert(3)",
        }
        response = browser.click(f"{w.public_url}/bff/callback?{urlencode(parameters)}")
        assert response.status_code == 400
        assert response.headers["coatcheck-error"] == "login_refused"
        assert "<script" not in response.text and "<img" not in response.text and "javascript:" not in response.text
        if not development:
            assert "alert" not in response.text
        assert login_cookies(browser) == []


def test_a_user_who_cancels_is_told_so_and_may_try_again() -> None:
    with world() as w:
        browser = w.browser()
        answer = query_of(w.callback(browser))
        parameters = {"state": answer["state"], "iss": answer["iss"], "error": "access_denied"}
        page = browser.click(callback_url(**parameters))
        assert page.status_code == 400
        assert "You were not logged in." in page.text and 'href="/bff/login"' in page.text
        assert browser.login().status_code == 200
        assert session_cookie(browser)


def test_prompt_none_without_a_session_at_the_provider_is_no_failure() -> None:
    with world() as w:
        browser = w.browser()
        page = browser.login("/bff/login?prompt=none&returnUrl=/orders")
        assert (page.status_code, page.url.path) == (200, "/orders")
        assert session_cookie(browser) is None


@pytest.mark.spec("OAU-22")
@pytest.mark.parametrize("broken", [lambda m: {**m, "id_token": ""}, lambda m: {**m, "id_token": None}, None])
def test_a_token_response_without_an_id_token_fails_the_login(broken: Callable[[Any], Any] | None) -> None:
    with world() as w:
        w.provider.tamper("token", broken or (lambda m: {k: v for k, v in m.items() if k != "id_token"}))
        browser = w.browser()
        response = browser.login()
        assert response.status_code == 502
        assert session_cookie(browser) is None
        assert w.sessions() == 0


@pytest.mark.spec("LGN-01")
def test_three_tabs_finish_in_reverse_order() -> None:
    with world() as w:
        browser = w.browser()
        urls = [w.callback(browser, path=f"/bff/login?returnUrl=/tab{number}&prompt=login") for number in range(3)]
        assert len(login_cookies(browser)) == 3
        for number in (2, 1, 0):
            assert browser.click(urls[number]).url.path == f"/tab{number}"
        assert login_cookies(browser) == []
        assert browser.fetch("/bff/user").status_code == 200


@pytest.mark.spec("LGN-04", "LGN-06")
def test_session_fixation_a_planted_session_dies_when_the_victim_logs_in() -> None:
    with world() as w:
        attacker, victim = w.logged_in("mallory"), w.browser()
        planted = next(cookie for cookie in attacker.cookies.all() if cookie.value == session_cookie(attacker))
        victim.cookies.put(planted)
        victim.login()
        assert session_cookie(victim) != planted.value
        assert claims(victim.fetch("/bff/user"))["sub"] == "alice"
        assert attacker.fetch("/bff/user").status_code == 401
        assert len(w.revoked()) == 1  # another user's refresh token goes, too


@pytest.mark.spec("LGN-04")
@pytest.mark.parametrize("auto_login", [False, True])
def test_every_login_has_a_new_ticket_and_ends_the_session_before_it(auto_login: bool) -> None:
    with world() as w:
        w.provider.behaviour.auto_login = auto_login
        w.provider.behaviour.username = "alice"
        browser = w.logged_in()
        old = next(cookie for cookie in browser.cookies.all() if cookie.value == session_cookie(browser))
        browser.login("/bff/login?prompt=login")
        assert session_cookie(browser) != old.value
        assert w.sessions() == 1
        assert w.provider.count("revocation") == 0  # the same user's: the provider might end the new grant with it
        copy = w.browser()
        copy.cookies.put(old)
        assert copy.fetch("/bff/user").status_code == 401


@pytest.mark.spec("LGN-04")
def test_a_login_that_another_site_starts_ends_the_old_session_too() -> None:
    with world() as w:
        browser = w.logged_in()
        browser.page = httpx2.URL("https://elsewhere.example/")
        old = session_cookie(browser)
        question = browser.click("/bff/login?prompt=login")  # cross-site: the Strict cookie is withheld
        assert "Continue to the login" in question.text
        browser.through_foreign_pages(browser.click("/bff/login?prompt=login&hop=1"))
        assert browser.fetch("/bff/user").status_code == 200
        assert session_cookie(browser) != old
        assert w.sessions() == 1


@pytest.mark.spec("LGN-07")
def test_a_login_under_way_is_unreadable_and_unforgeable() -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        (name,) = login_cookies(browser)
        cookie = browser.cookies.get(name)
        assert cookie is not None
        sent = w.provider.log[-1]
        assert query_of(url)["state"] not in cookie.value and not any(
            value and value in cookie.value for _, value in sent.parameters
        )
        middle = len(cookie.value) // 2
        forged = cookie.value[:middle] + ("A" if cookie.value[middle] != "A" else "B") + cookie.value[middle + 1 :]
        browser.cookies.put(replace(cookie, value=forged))
        response = browser.navigate(url, stop_at=LOCAL + "/bff/login")
        assert response.status_code == 400
        assert w.token_requests() == 0


@pytest.mark.spec("LGN-07")
def test_the_cookie_of_one_login_does_not_serve_another() -> None:
    with world() as w:
        browser = w.browser()
        first = w.callback(browser, path="/bff/login?prompt=login")
        (old_name,) = login_cookies(browser)
        second = w.callback(browser, path="/bff/login?prompt=login")
        (new_name,) = [name for name in login_cookies(browser) if name != old_name]
        old, new = browser.cookies.get(old_name), browser.cookies.get(new_name)
        assert old is not None and new is not None and query_of(first)["state"] != query_of(second)["state"]
        browser.cookies.put(replace(new, value=old.value))
        response = browser.navigate(second, stop_at=LOCAL + "/bff/login")
        assert response.status_code == 400
        assert w.token_requests() == 0


@pytest.mark.spec("RTU-09")
def test_a_stored_return_url_is_checked_again() -> None:
    with world() as w:
        browser = w.browser()
        url = w.callback(browser, path="/bff/login?returnUrl=/old/path")
        w.options["path_prefix"] = "/old"  # a new version of the application, in which that is an endpoint
        w.start()
        page = browser.click(url.replace("/bff/callback", "/old/callback"))
        assert page.url.path == "/"


@pytest.mark.spec("MET-08")
@pytest.mark.parametrize("endpoint", ["jwks", "token"])
def test_a_provider_that_fails_never_makes_a_session(endpoint: Any) -> None:
    with world() as w:
        w.provider.fail(endpoint, status=500, times=None)
        browser = w.browser()
        response = browser.login()
        assert response.status_code == 503
        assert response.headers["coatcheck-error"] == "login_unavailable"
        assert w.sessions() == 0
        assert browser.fetch("/api/me").status_code == 401
