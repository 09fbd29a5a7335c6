"""`/bff/user`, and how long a session lives."""

from __future__ import annotations

from typing import Any

import pytest

from coatcheck.bff.answers import json_answer
from coatcheck.bff.events import TokensReceived
from coatcheck.bff.who import api_user
from tests.bff.world import LOCAL, PUBLIC, claims, session_cookie, warnings, world
from tests.rig.echo_api import EchoAPI
from tests.rig.user_agent import UserAgent
from tests.tokens.scene import TableUserTokenStore

HOUR = 3600
LONGER_THAN_A_TOKEN = 400


@pytest.mark.spec("IDT-25")
def test_the_claims_come_as_types_and_values() -> None:
    with world() as w:
        w.provider.behaviour.claims |= {
            "email_verified": True,
            "groups": ["a", "b"],
            "level": 3,
            "address": {"country": "NO"},
            "nothing": None,
            "bff:logout_url": "https://evil.example",
        }
        response = w.logged_in().fetch("/bff/user")
        assert response.headers["content-type"] == "application/json"
        document = response.json()
        assert all(set(claim) == {"type", "value"} for claim in document)
        pairs = {(claim["type"], claim["value"]) for claim in document}
        assert {
            ("sub", "alice"),
            ("name", "alice"),
            ("email_verified", "true"),
            ("groups", "a"),
            ("groups", "b"),
            ("level", "3"),
            ("address", '{"country":"NO"}'),
            ("bff:session_expires_in", HOUR),
        } <= pairs
        types = [claim["type"] for claim in document]
        assert not {"nonce", "at_hash", "aud", "azp", "exp", "iat", "nothing"}.intersection(types)
        assert types.count("bff:logout_url") == 1
        assert claims(response)["bff:logout_url"].startswith("/bff/logout?sid=")


def test_the_session_state_of_the_provider_is_shown() -> None:
    with world() as w:
        w.provider.tamper("authorization_response", lambda m: {**m, "session_state": "s.t"})
        assert claims(w.logged_in().fetch("/bff/user"))["bff:session_state"] == "s.t"


@pytest.mark.spec("HDR-01", "COO-13")
def test_nobody_keeps_the_answer() -> None:
    with world() as w:
        browser = w.logged_in()
        for response in (
            browser.fetch("/bff/user"),
            w.browser().fetch("/bff/user"),
            browser.fetch("/bff/user", csrf=False),
        ):
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["x-content-type-options"] == "nosniff"


def test_an_anonymous_page_learns_where_to_log_in() -> None:
    with world() as w:
        response = w.browser().fetch("/bff/user")
        assert response.status_code == 401
        assert response.headers["coatcheck-error"] == "session_missing"
        assert response.headers["content-type"] == "application/problem+json"
        document = response.json()
        assert (document["code"], document["login_url"]) == ("session_missing", "/bff/login")
        assert "location" not in response.headers


def test_anonymous_can_be_an_ordinary_answer() -> None:
    with world(anonymous_user_status=200) as w:
        response = w.browser().fetch("/bff/user")
        assert (response.status_code, response.json()) == (200, None)


def how_it_stands(browser: UserAgent) -> str:
    """What the page is told about the tokens. Asking sends nothing and changes nothing."""
    response = browser.fetch("/bff/user?slide=false")
    assert response.status_code == 200
    return str(claims(response)["bff:tokens"])


@pytest.mark.spec("REF-14")
@pytest.mark.parametrize("options", [{}, {"sessions": "cookie"}], ids=["store", "cookie"])
def test_the_page_learns_how_it_stands_with_the_tokens(options: dict[str, Any]) -> None:
    with EchoAPI.serve() as api, world(**options) as w:
        w.bff.remote_api("/api/orders", api.url)
        browser = w.logged_in()
        assert how_it_stands(browser) == "fresh"
        w.advance(LONGER_THAN_A_TOKEN)
        asked = w.token_requests()
        assert how_it_stands(browser) == "renewing"  # the next call does it
        assert w.token_requests() == asked
        w.provider.fail("token", status=503, headers={"retry-after": "20"})
        assert browser.fetch("/api/orders").status_code == 503
        assert how_it_stands(browser) == "unavailable"
        w.advance(20)
        assert how_it_stands(browser) == "renewing"
        assert browser.fetch("/api/orders").status_code == 200
        assert how_it_stands(browser) == "fresh"


@pytest.mark.spec("REF-16")
def test_an_outage_that_others_have_met_is_told_to_all() -> None:
    with EchoAPI.serve() as api, world() as w:
        w.bff.remote_api("/api/orders", api.url)
        alice, bob = w.logged_in(), w.logged_in("bob")
        w.advance(LONGER_THAN_A_TOKEN)
        w.provider.fail("token", status=429, headers={"retry-after": "20"})
        assert alice.fetch("/api/orders").status_code == 503
        assert how_it_stands(bob) == "unavailable"


def test_an_expired_token_without_a_refresh_token_wants_a_login() -> None:
    with world() as w:
        w.provider.tamper("token", lambda m: {name: value for name, value in m.items() if name != "refresh_token"})
        browser = w.logged_in()
        assert how_it_stands(browser) == "fresh"
        w.advance(LONGER_THAN_A_TOKEN)
        assert how_it_stands(browser) == "login_required"


def test_where_nobody_keeps_tokens_nothing_is_said_about_them() -> None:
    class Events:
        async def tokens_received(self, event: TokensReceived) -> None:
            pass

    with world(save_tokens=False, events=Events()) as w:
        assert "bff:tokens" not in claims(w.logged_in().fetch("/bff/user"))


def test_a_token_store_of_the_application_that_fails_hides_nobody(caplog: pytest.LogCaptureFixture) -> None:
    store = TableUserTokenStore()
    with world(user_token_store=store) as w:
        browser = w.logged_in()
        assert how_it_stands(browser) == "fresh"
        (row,) = store.rows.values()

        async def broken(*_: object) -> None:
            raise RuntimeError(f"select ... {row.access_token}")

        store.get_token = broken  # type: ignore[assignment]
        assert how_it_stands(browser) == "unavailable"
        (line,) = warnings(caplog)
        assert "RuntimeError" in line
        assert row.access_token not in line


@pytest.mark.spec("CSR-01", "CSR-10")
def test_without_the_header_it_is_403_so_that_no_page_starts_a_login(caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        response = w.logged_in().fetch("/bff/user", csrf=False)
        assert (response.status_code, response.json()["code"]) == (403, "csrf_header_missing")
        (line,) = warnings(caplog)
        assert "x-csrf: 1" in line


@pytest.mark.spec("CSR-02", "CSR-03")
@pytest.mark.parametrize(
    "initiator", ["https://evil.example/", "http://localhost:9999/", "http://sibling.localhost:8000/"]
)
def test_a_page_of_another_origin_learns_nothing(initiator: str) -> None:
    with world() as w:
        browser = w.logged_in()
        response = browser.fetch("/bff/user", initiator=initiator)
        assert (response.status_code, response.json()["code"]) == (403, "cross_site")


@pytest.mark.spec("CSR-04")
@pytest.mark.parametrize(
    "path", ["/bff/user", "/bff/login", "/bff/logout", "/bff/callback", "/bff/logged-out", "/bff/x"]
)
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost",
        "http://localhost:8000.evil.example",
        "http://evil.example#http://localhost:8000",
        "http://sub.localhost:8000",
        "https://localhost:8000",
        "http://127.0.0.1:8000",
        "file://",
        LOCAL,
    ],
)
def test_cors_is_closed(path: str, origin: str) -> None:
    with world() as w:
        browser = w.browser()
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-csrf"}
        for response in (
            browser.fetch(path, "OPTIONS", csrf=False, headers=asked),
            browser.fetch(path, headers={"Origin": origin}),
        ):
            assert not [name for name in response.headers if name.startswith("access-control-")]


def test_asking_counts_as_a_use_unless_it_says_not() -> None:
    with world() as w:
        browser = w.logged_in()
        w.advance(HOUR / 2)
        assert claims(browser.fetch("/bff/user?slide=false"))["bff:session_expires_in"] == HOUR / 2
        assert claims(browser.fetch("/bff/user?slide=nonsense"))["bff:session_expires_in"] == HOUR
        w.advance(HOUR - 1)
        assert browser.fetch("/bff/user?slide=false").status_code == 200
        w.advance(1)
        assert browser.fetch("/bff/user").json()["code"] == "session_expired"


@pytest.mark.spec("SES-03")
@pytest.mark.parametrize("options", [{}, {"sessions": "cookie"}])
def test_the_absolute_lifetime_ends_a_session_that_is_in_use(options: dict[str, Any]) -> None:
    with world(**options) as w:
        w.provider.behaviour.access_token_lifetime *= 1000
        browser = w.logged_in()
        for _ in range(15):
            w.advance(HOUR / 2)
            assert browser.fetch("/api/me").status_code == 200
        assert claims(browser.fetch("/bff/user"))["bff:session_expires_in"] == HOUR / 2
        w.advance(HOUR / 2)
        assert session_cookie(browser)
        assert browser.fetch("/api/me").status_code == 401


@pytest.mark.spec("SES-03")
@pytest.mark.parametrize("options", [{}, {"sessions": "cookie"}])
def test_the_idle_time_ends_a_session_that_nobody_uses(options: dict[str, Any]) -> None:
    with world(**options) as w:
        browser = w.logged_in()
        w.advance(HOUR - 1)
        assert browser.fetch("/api/me").status_code == 200
        w.advance(HOUR)
        assert browser.fetch("/api/me").status_code == 401


@pytest.mark.spec("MET-08")
def test_a_store_that_fails_is_not_a_logout(caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        browser = w.logged_in()
        w.break_store()
        for path in ("/bff/user", "/api/me"):
            response = browser.fetch(path)
            assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
            assert int(response.headers["retry-after"]) > 0
        assert len(warnings(caplog)) == 2
        w.store.broken = False
        assert browser.fetch("/api/me").status_code == 200


def test_another_header_can_be_chosen() -> None:
    with world(csrf_header=("X-Requested-By", "shop"), public_url=PUBLIC) as w:
        browser = w.logged_in()
        assert browser.fetch("/bff/user").status_code == 403
        assert browser.fetch("/bff/user", headers={"X-Requested-By": "shop"}).status_code == 200


@pytest.mark.spec("CSR-08")
@pytest.mark.parametrize("anonymous", [401, 200])
def test_what_is_answered_is_json_and_nothing_else(anonymous: int) -> None:
    """XSSI: a page of another site that loads it as a script, or under another type, gets nothing."""
    with world(anonymous_user_status=anonymous) as w:
        browser = w.logged_in()
        for response, status in (
            (browser.fetch("/bff/user"), 200),
            (browser.fetch("/bff/diagnostics"), 200),
            (w.browser().fetch("/bff/user"), anonymous),
            (browser.fetch("/bff/user", csrf=False), 403),
            (browser.fetch("/bff/user", "POST"), 405),
        ):
            kind = "application/json" if status == 200 else "application/problem+json"
            assert (response.status_code, response.headers["content-type"]) == (status, kind)
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_only_get() -> None:
    with world() as w:
        assert w.logged_in().fetch("/bff/user", "POST").status_code == 405


@pytest.mark.spec("SES-13")
def test_a_session_ends_with_the_refresh_token_where_the_provider_says_how_long_that_lives() -> None:
    with world() as w:
        w.provider.tamper("token", lambda answer: {**answer, "refresh_expires_in": 600})
        browser = w.logged_in()
        left = claims(browser.fetch("/bff/user"))["bff:session_expires_in"]
        assert left == 600
        w.advance(left)
        answer = browser.fetch("/bff/user")
        assert (answer.status_code, answer.headers["coatcheck-error"]) == (401, "session_ended")
        assert w.sessions() == 0 and session_cookie(browser) is None


@pytest.mark.spec("SES-13")
def test_a_renewal_moves_that_end() -> None:
    with world() as w:
        w.provider.tamper("token", lambda answer: {**answer, "refresh_expires_in": 600})
        browser = w.logged_in()
        w.advance(400)

        async def renewing(scope: Any, receive: Any, send: Any) -> None:
            await w.bff.tokens.user_token(await api_user(scope))
            await json_answer(b"null")(scope, receive, send)

        w.serve(w.bff.wrap(renewing))
        assert browser.fetch("/mine").status_code == 200
        assert claims(browser.fetch("/bff/user"))["bff:session_expires_in"] == 600
