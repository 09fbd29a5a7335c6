"""The end of a login: where the tokens go, and who hears of them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from coatcheck import TokensReceived, User, UserToken, UserTokenRequestParameters
from coatcheck.bff import api_user
from coatcheck.bff.answers import json_answer
from coatcheck.errors import StoreUnavailable
from coatcheck.stores.memory import MemoryStore
from tests.bff.world import LOCAL, World, claims, session_cookie, world


class Vault:
    """A token store, and the events, of an application's own."""

    def __init__(self) -> None:
        self.received: list[TokensReceived] = []
        self.stored: list[tuple[User, UserToken, UserTokenRequestParameters, UserToken | None]] = []
        self.broken = False

    async def tokens_received(self, event: TokensReceived) -> None:
        self.received.append(event)

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        tokens = [event.token for event in self.received if event.user == user]
        return tokens[-1] if tokens else None

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        if self.broken:
            raise StoreUnavailable("the test broke the vault")
        self.stored.append((user, token, parameters, replaces))

    async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
        raise AssertionError("no grant has ended")


def token_of(w: World) -> Any:
    """An application that answers with the access token that it would use."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/api/token":
            return await json_answer(b"null")(scope, receive, send)
        token = await w.bff.tokens.user_token(await api_user(scope))
        await json_answer(f'"{token.access_token}"'.encode())(scope, receive, send)

    return application


def test_by_default_the_session_keeps_the_tokens() -> None:
    with world() as w:
        w.start(token_of(w))
        browser = w.logged_in()
        assert w.provider.introspect(browser.fetch("/api/token").json())["sub"] == "alice"


def test_without_saving_only_the_event_has_the_tokens() -> None:
    vault = Vault()
    with world(save_tokens=False, events=vault) as w:
        w.start(token_of(w))
        browser = w.logged_in(path="/bff/login?returnUrl=/orders")
        (event,) = vault.received
        assert (event.user.sub, event.client, event.return_url) == ("alice", "default", "/orders")
        assert event.user.session is None and event.token.refresh_token
        assert event.token.access_token not in repr(event)
        response = browser.fetch("/api/token")
        assert (response.status_code, response.json()["code"]) == (401, "login_required")
        assert claims(browser.fetch("/bff/user"))["sub"] == "alice"


def test_without_saving_the_applications_store_is_still_asked() -> None:
    vault = Vault()
    with world(save_tokens=False, events=vault, user_token_store=vault) as w:
        w.start(token_of(w))
        assert w.logged_in().fetch("/api/token").json() == vault.received[0].token.access_token
        assert vault.stored == []


def test_a_store_of_the_applications_own_gets_the_tokens_of_the_login() -> None:
    vault = Vault()
    with world(user_token_store=vault) as w:
        w.logged_in()
        ((user, token, parameters, replaces),) = vault.stored
        assert (user.sub, user.session is not None) == ("alice", True)
        assert (parameters, replaces) == (UserTokenRequestParameters(), None)
        assert w.provider.introspect(token.access_token)["active"]
        assert token.access_token not in str(w.store._rows)


def test_if_the_store_fails_there_is_no_session_either(caplog: pytest.LogCaptureFixture) -> None:
    vault = Vault()
    vault.broken = True
    with world(user_token_store=vault) as w:
        browser = w.browser()
        page = browser.login()
        assert (page.status_code, page.headers["coatcheck-error"]) == (503, "store_unavailable")
        assert session_cookie(browser) is None and w.sessions() == 0
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "the test broke the vault" in record.getMessage()


def test_an_event_that_raises_fails_the_login_and_the_old_session_lives_on() -> None:
    vault = Vault()
    with world(events=vault) as w:
        browser = w.logged_in()

        async def refuse(event: TokensReceived) -> None:
            raise PermissionError("not this user")

        vault.tokens_received = refuse  # type: ignore[method-assign]
        page = browser.login("/bff/login?prompt=login", username="bob")
        assert page.status_code == 502
        assert claims(browser.fetch("/bff/user"))["sub"] == "alice"


@pytest.mark.spec("LGN-06")
def test_another_user_in_the_same_browser_ends_the_former_session_and_its_grant() -> None:
    with world() as w:
        browser = w.logged_in("alice")
        browser.login("/bff/login?prompt=login", username="bob")
        assert claims(browser.fetch("/bff/user"))["sub"] == "bob"
        assert w.sessions() == 1
        assert len(w.revoked()) == 1


def test_a_revocation_that_fails_does_not_fail_the_login() -> None:
    with world() as w:
        w.provider.drop("revocation", times=None)
        browser = w.logged_in("alice")
        browser.login("/bff/login?prompt=login", username="bob")
        assert claims(browser.fetch("/bff/user"))["sub"] == "bob"
        assert w.sessions() == 1


@pytest.mark.spec("LGN-04", "LGN-06")
@pytest.mark.parametrize("username", ["alice", "bob"])
def test_a_login_ends_a_session_in_cookies_that_the_browser_withholds(username: str) -> None:
    """The provider shows a page, so that the Strict cookies of the session before do not come back with the answer."""
    with world(sessions="cookie") as w:
        browser, copy = w.logged_in("alice"), w.browser()
        for cookie in browser.cookies.all():
            copy.cookies.put(cookie)
        assert copy.fetch("/bff/user").status_code == 200
        browser.login("/bff/login?prompt=login", username=username)
        assert claims(browser.fetch("/bff/user"))["sub"] == username
        assert copy.fetch("/bff/user").status_code == 401
        assert len(w.revoked()) == (1 if username == "bob" else 0)


@pytest.mark.spec("LGN-06")
def test_the_tokens_that_are_revoked_are_those_that_the_session_has_by_then() -> None:
    with world(sessions="cookie") as w:
        w.start(token_of(w))
        w.provider.behaviour.code_lifetime *= 60
        browser = w.logged_in("alice")
        url = w.callback(browser, username="bob", path="/bff/login?prompt=login")
        w.advance(w.provider.behaviour.access_token_lifetime.total_seconds())
        provider, browser.page = browser.page, None
        assert browser.fetch("/api/token").status_code == 200  # another tab: the refresh token is a new one
        assert w.revoked() == []
        browser.page = provider
        browser.click(url)
        assert len(w.revoked()) == 1
        refreshed = [entry for entry in w.provider.log if entry.values("grant_type") == ["refresh_token"]]
        assert w.revoked() != refreshed[-1].values("refresh_token")


def test_however_many_logins_a_session_begins_one_value_is_held() -> None:
    store = MemoryStore()
    with world(sessions="cookie", coordination=store) as w:
        browser = w.logged_in()
        before = len(store._values)
        for _ in range(50):
            browser.navigate("/bff/login?prompt=login", stop_at="http://127.0.0.1:9000")
        assert len(store._values) == before + 1


@pytest.mark.spec("LGN-04")
def test_a_session_whose_cookie_is_there_is_looked_up_once() -> None:
    with world() as w:
        browser = w.logged_in()
        w.provider.behaviour.auto_login, w.provider.behaviour.username = True, "alice"
        url = w.callback(browser, path="/bff/login?prompt=login&returnUrl=/orders")
        w.store.loads = 0
        browser.navigate(url, stop_at=LOCAL + "/orders")
        assert (w.store.loads, w.sessions()) == (1, 1)
