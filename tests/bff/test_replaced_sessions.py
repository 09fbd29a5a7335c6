"""Sessions in cookies that a login replaces or strengthens, though their cookie is withheld from its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from coatcheck import LoginOptions, UserTokenRequestParameters
from coatcheck.bff import api_user
from coatcheck.bff.answers import json_answer
from coatcheck.coordination import ExpiringValue
from coatcheck.errors import StoreUnavailable
from coatcheck.stores.memory import MemoryStore
from tests.bff.world import ISSUER, World, claims, login_cookies, session_cookie, warnings, world
from tests.rig.user_agent import UserAgent

OPTIONS = LoginOptions(acr_values=["phr"], max_age=[0, 300], silent=True)


class Shared(MemoryStore):
    """A coordination store that counts, and that a test can break for some calls."""

    broken: Exception | None = None

    def values(self) -> int:
        return len(self._values)

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        if self.broken is not None:
            raise self.broken
        return await super().add(key, value, until=until)

    async def get(self, key: bytes) -> ExpiringValue | None:
        if self.broken is not None:
            raise self.broken
        return await super().get(key)


def renewing(w: World) -> Any:
    """An application that renews at `/api/renew`."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/api/renew":
            await w.bff.tokens.user_token(await api_user(scope), UserTokenRequestParameters(force_renewal=True))
        await json_answer(b"null")(scope, receive, send)

    return application


@pytest.fixture
def w() -> Iterator[World]:
    with world(sessions="cookie", login=OPTIONS) as w:
        w.options["coordination"] = Shared(w.clock)
        w.start()
        yield w


@pytest.fixture
def shared(w: World) -> Shared:
    store = w.options["coordination"]
    assert isinstance(store, Shared)
    return store


def copy_of(w: World, browser: UserAgent) -> UserAgent:
    """Another browser with the session cookies of this one, as an attacker may keep or plant them."""
    copy = w.browser()
    for cookie in browser.cookies.all():
        if cookie.name.startswith("__Host-Http-coatcheck-") and "-login" not in cookie.name:
            copy.cookies.put(cookie)
    assert copy.fetch("/bff/user").status_code == 200
    return copy


@pytest.mark.spec("LGN-04", "LGN-06")
@pytest.mark.parametrize("page", [True, False])
def test_another_user_ends_the_former_session_in_cookies_and_its_grant(w: World, page: bool) -> None:
    browser = w.logged_in("alice")
    copy = copy_of(w, browser)
    w.provider.behaviour.auto_login, w.provider.behaviour.username = not page, "bob"
    browser.login("/bff/login?prompt=login", username="bob")
    assert claims(browser.fetch("/bff/user"))["sub"] == "bob"
    assert copy.fetch("/bff/user").status_code == 401
    assert len(w.revoked()) == 1  # once, though an answer without a page brings the cookie as well


@pytest.mark.spec("LGN-04", "LGN-06")
def test_a_process_that_was_started_meanwhile_ends_it_too(w: World) -> None:
    browser = w.logged_in("alice")
    copy = copy_of(w, browser)
    url = w.callback(browser, username="bob", path="/bff/login?prompt=login")
    w.start()
    browser.click(url)
    assert claims(browser.fetch("/bff/user"))["sub"] == "bob"
    assert copy.fetch("/bff/user").status_code == 401
    assert len(w.revoked()) == 1


@pytest.mark.spec("LGN-06", "REF-02")
def test_what_is_revoked_is_the_refresh_token_of_a_renewal_in_another_tab(w: World) -> None:
    """Long after the browser has shown that it has the new cookie, too."""
    w.start(renewing(w))
    w.provider.behaviour.code_lifetime *= 60
    browser = w.logged_in("alice")
    url = w.callback(browser, username="bob", path="/bff/login?prompt=login")
    tab, browser.page = browser.page, None
    for path in ("/api/renew", "/bff/user", "/bff/user"):
        assert browser.fetch(path).status_code == 200
    w.advance(5 * 60)
    browser.page = tab
    browser.click(url)
    assert claims(browser.fetch("/bff/user"))["sub"] == "bob"
    (used,) = [sent for sent in w.provider.log if sent.values("grant_type") == ["refresh_token"]]
    assert len(w.revoked()) == 1
    assert w.revoked() != used.values("refresh_token")
    assert all(w.provider.introspect(token)["active"] is False for token in w.revoked())


@pytest.mark.spec("LGN-04", "LGN-06")
def test_session_fixation_planted_session_cookies_die_when_the_victim_logs_in(w: World) -> None:
    attacker = w.logged_in("mallory")
    victim = copy_of(w, attacker)
    planted = session_cookie(victim)
    victim.login(username="alice")
    assert session_cookie(victim) != planted
    assert claims(victim.fetch("/bff/user"))["sub"] == "alice"
    assert attacker.fetch("/bff/user").status_code == 401
    assert len(w.revoked()) == 1


@pytest.mark.spec("OAU-35")
def test_a_step_up_of_a_session_in_cookies_that_has_ended_begins_none(w: World) -> None:
    browser = w.logged_in("alice")
    logout = claims(browser.fetch("/bff/user"))["bff:logout_url"]
    url = w.callback(browser, path="/bff/login?acr_values=phr")  # one tab
    browser.navigate(logout, stop_at=ISSUER)  # another one
    page = browser.click(url)
    assert (page.status_code, page.headers["coatcheck-error"]) == (403, "step_up_failed")
    assert session_cookie(browser) is None


@pytest.mark.spec("OAU-35")
@pytest.mark.parametrize("fault", [StoreUnavailable("the test broke it"), RuntimeError("secret of the driver")])
def test_a_step_up_that_could_not_be_checked_at_its_end_does_not_begin(
    w: World, shared: Shared, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    browser = w.logged_in("alice")
    shared.broken = fault
    page = browser.navigate("/bff/login?acr_values=phr")
    assert (page.status_code, page.headers["coatcheck-error"]) == (503, "store_unavailable")
    assert login_cookies(browser) == []
    (line,) = warnings(caplog)
    assert ("the test broke it" if isinstance(fault, StoreUnavailable) else "RuntimeError") in line
    assert "secret" not in page.text + line
    assert claims(browser.fetch("/bff/user"))["sub"] == "alice"


@pytest.mark.spec("OAU-35")
def test_a_step_up_whose_session_nobody_remembers_is_refused(w: World, shared: Shared) -> None:
    browser = w.logged_in("alice")
    url = w.callback(browser, path="/bff/login?acr_values=phr")
    shared._values.clear()
    page = browser.click(url)
    assert (page.status_code, page.headers["coatcheck-error"]) == (403, "step_up_failed")
    assert "acr" not in claims(browser.fetch("/bff/user"))


@pytest.mark.parametrize("fault", [StoreUnavailable("the test broke it"), RuntimeError("the driver's own")])
def test_a_login_goes_on_though_the_former_session_cannot_be_noted(
    w: World, shared: Shared, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    browser = w.logged_in("alice")
    shared.broken = fault
    with caplog.at_level(logging.DEBUG, logger="coatcheck"):
        url = w.callback(browser, username="bob", path="/bff/login?prompt=login")
    assert warnings(caplog) == []
    (line,) = [record.getMessage() for record in caplog.records if "could not be noted" in record.getMessage()]
    assert type(fault).__name__ in line
    shared.broken = None
    browser.click(url)
    assert claims(browser.fetch("/bff/user"))["sub"] == "bob"


def test_logins_of_one_session_leave_one_value_and_those_of_strangers_none(w: World, shared: Shared) -> None:
    browser = w.logged_in("alice")
    before = shared.values()
    for number in range(200):
        path = "/bff/login?prompt=login" if number % 2 else "/bff/login"
        assert browser.navigate(path, stop_at=ISSUER).status_code == 302
    assert shared.values() == before + 1
    for _ in range(20):
        w.browser().navigate("/bff/login", stop_at=ISSUER)
    assert shared.values() == before + 1


@pytest.mark.spec("OAU-35")
def test_a_silent_login_does_not_go_on_with_a_session_in_cookies_that_has_ended(w: World) -> None:
    browser = w.logged_in("alice")
    logout = claims(browser.fetch("/bff/user"))["bff:logout_url"]
    answer = browser.click("/bff/silent-login", stop_at=w.public_url + "/bff/callback")  # a frame of one tab
    browser.navigate(logout, stop_at=ISSUER)  # another one
    page = browser.click(answer.headers["location"], stop_at=w.public_url + "/bff/silent-login-callback")
    assert page.headers["location"].endswith("?isLoggedIn=false&error=step_up_failed")
    assert session_cookie(browser) is None
