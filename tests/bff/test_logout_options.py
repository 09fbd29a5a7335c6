"""What a logout tells the provider and the browser, by option."""

from __future__ import annotations

from typing import Any

import pytest

from coatcheck import base64url
from coatcheck.bff.answers import json_answer
from coatcheck.bff.logout import MAX_URL
from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.bff.who import api_user
from coatcheck.codec import decode_object
from coatcheck.oauth.logout import MAX_ID_TOKEN_HINT
from coatcheck.tokens.values import UserTokenRequestParameters
from tests.bff.test_logout import END_SESSION, leave, logout_url
from tests.bff.world import World, query_of, world

SESSIONS: list[dict[str, Any]] = [{}, {"sessions": "cookie"}]

# Tokens that are given back


@pytest.mark.parametrize(
    ("refresh_token", "access_token", "revoked"),
    [(True, True, (1, 1)), (True, False, (1, 0)), (False, True, (0, 0)), (False, False, (0, 0))],
)
@pytest.mark.parametrize("where", SESSIONS, ids=["server", "cookie"])
def test_what_is_revoked_is_what_the_options_say(
    refresh_token: bool, access_token: bool, revoked: tuple[int, int], where: dict[str, Any]
) -> None:
    options = LogoutOptions(revoke_refresh_token=refresh_token, revoke_access_token=access_token)
    with world(logout=options, **where) as w:
        leave(w.logged_in())
        assert (len(w.revoked()), len(w.revoked("access_token"))) == revoked


# Who leaves


def hint_of(location: str) -> dict[str, Any]:
    """The claims of the id_token in the URL of a logout."""
    return decode_object(base64url.decode(query_of(location)["id_token_hint"].split(".")[1]))


def renewing(w: World) -> Any:
    """An application that renews at `/api/renew`."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/api/renew":
            await w.bff.tokens.user_token(await api_user(scope), UserTokenRequestParameters(force_renewal=True))
        await json_answer(b"null")(scope, receive, send)

    return application


@pytest.mark.spec("RPL-04")
@pytest.mark.parametrize("brings_another", [True, False])
@pytest.mark.parametrize("where", SESSIONS, ids=["server", "cookie"])
def test_the_id_token_is_kept_through_renewals_until_another_one_comes(
    brings_another: bool, where: dict[str, Any]
) -> None:
    with world(**where) as w:
        w.start(renewing(w))
        w.provider.behaviour.id_token_on_refresh = brings_another
        browser = w.logged_in()
        began = int(w.clock.time())
        for _ in range(2):
            w.advance(60)
            assert browser.fetch("/api/renew").status_code == 200
        assert hint_of(leave(browser).headers["location"])["iat"] == began + (120 if brings_another else 0)


@pytest.mark.spec("RPL-04")
@pytest.mark.parametrize(("claims", "hint"), [({}, "alice"), ({"login_hint": "O.alice"}, "O.alice")])
def test_without_the_id_token_client_id_and_a_hint_say_who_leaves(claims: dict[str, str], hint: str) -> None:
    """Some providers give a `login_hint` for this purpose; everybody else has at least a `sub`."""
    with world(logout=LogoutOptions(id_token_hint=False)) as w:
        w.provider.behaviour.claims.update(claims)
        location = leave(w.logged_in(), "&returnUrl=/goodbye").headers["location"]
        asked = query_of(location)
        assert asked.keys() == {"client_id", "logout_hint", "post_logout_redirect_uri", "state"}
        assert (asked["client_id"], asked["logout_hint"]) == ("app", hint)


@pytest.mark.spec("RPL-04")
@pytest.mark.parametrize(
    ("groups", "return_url", "sent"),
    [(160, "/goodbye", True), (160, "/goodbye?" + "x" * 1200, False), (400, "/goodbye", False)],
    ids=["fits", "the URL is too long", "the id_token is too long"],
)
def test_an_id_token_stays_at_home_rather_than_make_a_url_that_is_refused(
    groups: int, return_url: str, sent: bool
) -> None:
    with world() as w:
        w.provider.behaviour.claims["groups"] = ["group"] * groups
        location = leave(w.logged_in(), f"&returnUrl={return_url}").headers["location"]
        asked = query_of(location)
        assert len(location) <= MAX_URL
        assert ("id_token_hint" in asked, "logout_hint" in asked) == (sent, not sent)
        assert "state" in asked
        if sent:  # so the second case is about the URL, and the third about the id_token
            assert 2000 < len(asked["id_token_hint"]) <= MAX_ID_TOKEN_HINT


# What the browser clears

CLEARING = LogoutOptions(clear_site_data=("cookies", "storage"))


@pytest.mark.spec("RPL-08")
def test_a_browser_is_told_to_clear_what_the_option_names_in_the_words_of_the_specification() -> None:
    with world(logout=CLEARING) as w:
        response = leave(w.logged_in())
        assert response.headers["clear-site-data"] == '"cookies", "storage"'
        assert response.headers["cache-control"] == "no-store"
    with world(logout=LogoutOptions(clear_site_data=["*"])) as w:
        browser = w.logged_in()
        assert browser.fetch("/bff/logout", "POST").headers["clear-site-data"] == '"*"'


@pytest.mark.spec("RPL-08")
def test_the_page_of_a_logout_that_ends_here_says_so_too() -> None:
    with world(logout=CLEARING) as w:
        w.provider.tamper("metadata", lambda m: {k: v for k, v in m.items() if k != "end_session_endpoint"})
        browser = w.logged_in()
        page = browser.navigate(logout_url(browser))
        assert (page.status_code, page.headers["clear-site-data"]) == (200, '"cookies", "storage"')


@pytest.mark.spec("RPL-08")
def test_by_default_nothing_is_cleared_because_that_is_the_whole_registrable_domain() -> None:
    with world() as w:
        assert "clear-site-data" not in leave(w.logged_in()).headers


@pytest.mark.spec("RPL-01", "RPL-08")
def test_forged_logout_no_answer_but_that_of_a_real_logout_clears_anything() -> None:
    """Another site can send a browser to all of these: with that header each would be a logout."""
    with world(logout=CLEARING) as w:
        browser = w.logged_in()
        url = logout_url(browser)
        for link in ("/bff/logout", url + "x", url + "&returnUrl=x", "/bff/logged-out"):
            assert "clear-site-data" not in browser.navigate(link, stop_at=END_SESSION).headers
        assert "clear-site-data" not in w.browser().navigate(url).headers
        assert browser.fetch("/api/me").status_code == 200
