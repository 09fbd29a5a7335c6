"""Induced mistakes: each gives exactly one WARNING that names the cause and what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from coatcheck.bff.problems import CODES
from coatcheck.testing import RegisteredClient
from tests.bff.world import ISSUER, LOCAL, World, login_cookies, query_of, world

Mistake = Callable[[World], None]


def wrong_secret(w: World) -> None:
    w.options["client"] = w.provider.client(client_secret="not-the-s3cret")
    w.start()


def clock_fast(w: World) -> None:
    skew_id_token(w, -600)


def clock_slow(w: World) -> None:
    skew_id_token(w, 600)


def skew_id_token(w: World, seconds: int) -> None:
    w.provider.tamper("id_token", lambda m: {**m, "iat": m["iat"] + seconds, "exp": m["exp"] + seconds})


def provider_down(w: World) -> None:
    w.provider.drop("metadata", times=None)


def provider_goes_down(w: World) -> None:
    w.provider.drop("token", times=None)


def provider_busy(w: World) -> None:
    w.provider.fail("token", status=503, times=None)


def wrong_issuer(w: World) -> None:
    w.provider.tamper("metadata", lambda m: {**m, "issuer": ISSUER + "/"})


def no_pkce(w: World) -> None:
    w.provider.tamper("metadata", lambda m: {**m, "code_challenge_methods_supported": ["plain"]})


def wrong_keys(w: World) -> None:
    w.provider.tamper("jwks", lambda m: {"keys": []})


def scope_refused(w: World) -> None:
    w.provider.tamper("authorization_response", lambda m: refusal(m, "invalid_scope", "orders.read is not allowed"))


def flow_refused(w: World) -> None:
    w.provider.tamper("authorization_response", lambda m: refusal(m, "unauthorized_client", ""))


def user_cancels(w: World) -> None:
    w.provider.tamper("authorization_response", lambda m: refusal(m, "access_denied", "cancelled"))


def provider_trouble(w: World) -> None:
    w.provider.tamper("authorization_response", lambda m: refusal(m, "server_error", ""))


def no_id_token(w: World) -> None:
    w.provider.tamper("token", lambda m: {k: v for k, v in m.items() if k != "id_token"})


def code_refused(w: World) -> None:
    w.provider.fail("token", status=400, error="invalid_grant", times=None)


def session_too_large(w: World) -> None:
    w.provider.behaviour.claims["groups"] = ["g" * 40] * 400
    w.options["sessions"] = "cookie"
    w.start()


def store_down(w: World) -> None:
    original = w.store.create

    async def create(row: Any) -> None:
        w.store.broken = True
        await original(row)

    w.store.create = create  # type: ignore[method-assign]


def refusal(members: dict[str, Any], error: str, description: str) -> dict[str, Any]:
    return {"state": members["state"], "iss": ISSUER, "error": error, "error_description": description}


@pytest.mark.parametrize(
    ("mistake", "code", "words"),
    [
        (wrong_secret, "login_misconfigured", ["invalid_client", "client_secret", "'app'", ISSUER]),
        (clock_fast, "login_misconfigured", ["clock", "expired", "Set this machine's clock"]),
        (clock_slow, "login_misconfigured", ["clock", "in the future", "Set this machine's clock"]),
        (provider_down, "login_unavailable", [ISSUER, "by themselves"]),
        (provider_goes_down, "login_unavailable", [ISSUER, "by themselves"]),
        (provider_busy, "login_unavailable", ["503"]),
        (wrong_issuer, "login_misconfigured", [f"{ISSUER}/", "byte for byte"]),
        (no_pkce, "login_misconfigured", ["S256"]),
        (wrong_keys, "login_failed", ["jwks_uri"]),
        (scope_refused, "login_misconfigured", ["invalid_scope", "orders.read", "`scope`"]),
        (flow_refused, "login_misconfigured", ["unauthorized_client", "response_type=code"]),
        (user_cancels, "login_refused", ["access_denied", "cancelled"]),
        (provider_trouble, "login_unavailable", ["server_error", "log"]),
        (no_id_token, "login_failed", ["id_token", "openid"]),
        (code_refused, "login_failed", ["invalid_grant", f"{LOCAL}/bff/callback"]),
        (session_too_large, "session_too_large", ["sqlite:///", "scope"]),
        (store_down, "store_unavailable", ["store"]),
    ],
)
def test_a_mistake_gives_one_warning_with_cause_and_remedy(
    mistake: Mistake, code: str, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with world() as w:
        mistake(w)
        caplog.clear()
        page = w.browser().login()
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        line = record.getMessage()
        assert line.startswith(f"{code} ({CODES[code][0]}): ")
        assert [word for word in words if word not in line] == []
        assert (page.status_code, page.headers["coatcheck-error"]) == (CODES[code][0], code)
        trace_id = line.rpartition("trace_id=")[2].rstrip("]")
        assert len(trace_id) == 32 and trace_id in page.text
        assert w.sessions() == 0
        assert "app-secret" not in line and "s3cret" not in line


def test_an_unregistered_redirect_uri_is_found_before_the_provider_shows_its_page(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registered = RegisteredClient(
        client_id="app", client_secret="app-secret", redirect_uris=("http://localhost:3000/callback",)
    )
    with world(registered=(registered,)) as w:
        page = w.browser().login()
        assert (page.status_code, page.url.host) == (400, "127.0.0.1")
        (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert f"Register exactly this redirect URI for the client: {LOCAL}/bff/callback" in line


def test_the_registration_is_checked_once_when_it_is_right(caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        for _ in range(3):
            w.logged_in()
        silent = [entry for entry in w.provider.log if entry.values("prompt") == ["none"]]
        assert len(silent) == 1
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def lost_logins(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and text of the lines about lost logins."""
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "coatcheck"]
    return [(level, line) for level, line in lines if line.startswith("login_lost (400): ")]


def test_blocked_cookies_are_named_when_the_second_try_is_lost_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="coatcheck")
    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        for name in login_cookies(browser):
            browser.cookies.delete(name)
        again = browser.click(url, stop_at=LOCAL + "/bff/callback")
        for name in login_cookies(browser):
            browser.cookies.delete(name)
        page = browser.click(again.headers["location"])
        assert page.status_code == 400
        (first, _), (second, line) = lost_logins(caplog)
        assert (first, second) == ("INFO", "WARNING")  # the back button is no alarm
        assert "Cookies may be blocked" in line and "Safari" in line and LOCAL in line


def test_a_second_tab_of_the_history_is_no_alarm_about_cookies(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="coatcheck")
    with world() as w:
        browser = w.browser()
        answered = w.callback(browser)
        for name in login_cookies(browser):
            browser.cookies.delete(name)
        browser.navigate("/bff/login", stop_at=ISSUER)  # another login is under way: this browser does keep cookies
        browser.click(answered, stop_at=LOCAL + "/bff/login")
        ((level, line),) = lost_logins(caplog)
        assert level == "INFO"
        assert "opened again" in line and "blocked" not in line


def test_nodes_with_different_keys_are_named(caplog: pytest.LogCaptureFixture) -> None:
    from coatcheck.sessions.seal import new_key

    with world() as w:
        browser = w.browser()
        url = w.callback(browser)
        w.keys = [new_key()]
        w.start()
        browser.click(url, stop_at=LOCAL + "/bff/login")
        (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert "the same `keys`" in line


@pytest.mark.spec("LOG-04")
def test_log_injection_what_a_provider_says_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        browser = w.browser()
        answer = query_of(w.callback(browser))
        evil = "x\r\nWARNING coatcheck all is well\x1b[2J\u2028" + "A" * 5000
        parameters = {"state": answer["state"], "iss": ISSUER, "error": "access_denied", "error_description": evil}
        browser.click(str(httpx2.URL(f"{LOCAL}/bff/callback").copy_merge_params(parameters)))
        (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert line.isprintable() and len(line) < 1500
