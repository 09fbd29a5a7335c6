"""Which claims a page sees: a list of names, and code of the application that has the last word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from coatcheck import ClaimsEnricherContext, LoginRequired, StoreUnavailable, TokenUnavailable, UserClaim
from coatcheck.bff import BFF
from coatcheck.errors import ConfigurationError
from coatcheck.oauth.client import Client
from tests.bff.world import KEY, World, claims, session_cookie, warnings, world
from tests.tokens.virtual_time import VirtualTimeLoop

LONGER_THAN_A_TOKEN = 400
OURS = {"bff:logout_url", "bff:session_expires_in", "bff:tokens"}
SESSIONS = pytest.mark.parametrize("options", [{}, {"sessions": "cookie"}], ids=["store", "cookie"])


def shown(response: httpx2.Response) -> list[tuple[str, Any]]:
    """The pairs of an answer, but for ours."""
    assert response.status_code == 200, response.text
    pairs = [(claim["type"], claim["value"]) for claim in response.json()]
    assert {name for name, _ in pairs} >= OURS
    return [(name, value) for name, value in pairs if not name.startswith("bff:")]


# A list of names


@pytest.mark.spec("IDT-25")
def test_only_the_claims_of_the_list_are_shown() -> None:
    with world(user_claims=["name", "groups", "never_there"]) as w:
        w.provider.behaviour.claims |= {"groups": ["a", "b"], "ssn": "1234", "email": "alice@example.com"}
        assert shown(w.logged_in().fetch("/bff/user")) == [("name", "alice"), ("groups", "a"), ("groups", "b")]


@pytest.mark.spec("IDT-25")
def test_an_empty_list_leaves_ours_alone() -> None:
    with world(user_claims=()) as w:
        assert shown(w.logged_in().fetch("/bff/user")) == []


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("name", "expected names of claims"),
        (7, "expected names of claims"),
        (["name", ""], "'' is not the name of a claim"),
        (["name", None], "None is not the name of a claim"),
        (["bff:logout_url"], "'bff:logout_url' is ours and always shown"),
        (["name", "nonce"], "'nonce' is about the token"),
    ],
)
def test_a_list_that_cannot_be_meant_stops_the_start(names: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^user_claims: .*{says}"):
        bff(user_claims=names)


def bff(**options: Any) -> BFF:
    client = Client(issuer="http://127.0.0.1:9000", client_id="shop", client_secret="s")
    return BFF(client, public_url="http://localhost:8000", keys=[KEY], sessions="memory", **options)


# Code of the application


def fixed(*claims: Any) -> Callable[[ClaimsEnricherContext], Any]:
    """An enricher that returns *claims* whoever asks."""

    async def enrich(context: ClaimsEnricherContext) -> Any:
        return claims

    return enrich


def raising(error: BaseException) -> Callable[[ClaimsEnricherContext], Any]:
    async def enrich(context: ClaimsEnricherContext) -> Any:
        raise error

    return enrich


def test_an_enricher_gets_what_would_be_shown_and_what_is_known() -> None:
    asked: list[ClaimsEnricherContext] = []

    class Roles:
        async def __call__(self, context: ClaimsEnricherContext) -> Sequence[tuple[str, Any]]:
            asked.append(context)
            return [*context.claims, ("role", "buyer"), ("role", "seller")]

    with world(user_claims=["name", "groups"], claims_enricher=Roles()) as w:
        w.provider.behaviour.claims |= {"groups": ["a", "a"], "level": 3}
        response = w.logged_in().fetch("/bff/user")
        (context,) = asked
        assert context.claims == (UserClaim("name", "alice"), UserClaim("groups", "a"), UserClaim("groups", "a"))
        assert (context.user.sub, context.user.claims["level"], context.tokens) == ("alice", 3, w.bff.tokens)
        assert shown(response) == [*context.claims, ("role", "buyer"), ("role", "seller")]
        assert "groups" not in repr(context)


def test_an_enricher_may_replace_all_with_any_json_values() -> None:
    returned = [("role", "b"), ("role", "a"), ("level", 3), ("rights", {"read": [1, None, True]}), ("none", None)]
    with world(user_claims=["name"], claims_enricher=fixed(*returned)) as w:
        assert shown(w.logged_in().fetch("/bff/user")) == returned


@pytest.mark.spec("IDT-25")
def test_an_enricher_can_neither_forge_nor_drop_what_is_ours_nor_show_the_token() -> None:
    forged = [("bff:logout_url", "https://evil.example"), ("bff:new", "x"), ("nonce", "n"), ("exp", 1), ("role", "a")]
    with world(claims_enricher=fixed(*forged)) as w:
        response = w.logged_in().fetch("/bff/user")
        assert shown(response) == [("role", "a")]
        assert {claim["type"] for claim in response.json()} == {"role", *OURS}
        assert claims(response)["bff:logout_url"].startswith("/bff/logout?sid=")


@SESSIONS
def test_an_enricher_calls_an_api_with_the_users_token_and_slides_nothing(options: dict[str, Any]) -> None:
    """The token that it renews on the way is kept, and the page learns that it is fresh."""
    used: list[str] = []

    async def enrich(context: ClaimsEnricherContext) -> Any:
        token = await context.tokens.user_token(context.user)
        used.append(token.access_token)
        return [*context.claims, ("scope", token.scope)]

    with world(claims_enricher=enrich, **options) as w:
        browser = w.logged_in()
        left = claims(browser.fetch("/bff/user?slide=false"))["bff:session_expires_in"]
        w.advance(LONGER_THAN_A_TOKEN)
        before = w.token_requests()
        for _ in range(2):
            answer = claims(browser.fetch("/bff/user?slide=false"))
            assert answer["bff:tokens"] == "fresh"
            assert answer["bff:session_expires_in"] == left - LONGER_THAN_A_TOKEN
        assert w.token_requests() == before + 1
        assert used[-1] == used[-2] != used[0]
        assert w.provider.introspect(used[-1])["sub"] == "alice"
        assert claims(browser.fetch("/bff/user"))["bff:session_expires_in"] == left, "asking without it is a use"


# An enricher that fails


def test_nobody_who_is_not_logged_in_meets_the_enricher() -> None:
    with world(claims_enricher=raising(AssertionError())) as w:
        assert w.browser().fetch("/bff/user").json()["code"] == "session_missing"
        assert w.logged_in().fetch("/bff/user", csrf=False).json()["code"] == "csrf_header_missing"


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (LoginRequired("secret", code="step_up_required"), 401, "step_up_required", None),
        (TokenUnavailable("secret", retry_after=timedelta(seconds=7)), 503, "token_unavailable", "7"),
        (StoreUnavailable("secret"), 503, "store_unavailable", "5"),
        (RuntimeError("secret"), 503, "claims_unavailable", "5"),
        (TimeoutError("secret"), 503, "claims_unavailable", "5"),
        (httpx2.ConnectError("secret"), 503, "claims_unavailable", "5"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_without_the_enricher_no_claim_is_shown(
    error: Exception, status: int, code: str, retry_after: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim that is missing might be a restriction: a page must not take the rest for all there is."""
    with world(claims_enricher=raising(error)) as w:
        browser = w.logged_in()
        response = browser.fetch("/bff/user")
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.headers.get("retry-after") == retry_after
        assert "secret" not in response.text and "alice" not in response.text
        (line,) = warnings(caplog)
        if code == "claims_unavailable":
            assert f"The claims enricher raised {type(error).__name__} at " in line and "test_claims.py:" in line
            assert "secret" not in line
        assert browser.fetch("/api/me").status_code == 200, "nobody is logged out"


@pytest.mark.spec("REF-12")
@SESSIONS
def test_an_ended_grant_that_the_enricher_meets_ends_the_session(options: dict[str, Any]) -> None:
    async def enrich(context: ClaimsEnricherContext) -> Any:
        await context.tokens.user_token(context.user)
        return context.claims

    with world(claims_enricher=enrich, **options) as w:
        in_virtual_time(w)  # before a session ends, its store is looked at for seconds
        browser = w.logged_in()
        w.provider.end_all_grants()
        w.advance(LONGER_THAN_A_TOKEN)
        response = browser.fetch("/bff/user")
        assert (response.status_code, response.json()["code"]) == (401, "session_ended")
        assert response.json()["login_url"] == "/bff/login"
        assert (session_cookie(browser), w.sessions()) == (None, 0)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "returned NoneType, not a list"),
        ({"role": "secret"}, "returned dict, not a list"),
        ("secret", "returned str, not a list"),
        (["xy"], "returned str at [0], not (name, value)"),
        ([("role", "a"), ("role",)], "returned tuple at [1], not (name, value)"),
        ([(7, "a")], "returned tuple at [0], not (name, value)"),
        ([("role", object())], "returned at [0] what JSON has no words for: object"),
        ([("role", {1j: "secret"})], "returned at [0] what JSON has no words for: dict"),
    ],
)
def test_what_is_no_list_of_claims_is_named_in_one_line(
    returned: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def enrich(context: ClaimsEnricherContext) -> Any:
        return returned

    with world(claims_enricher=enrich) as w:
        response = w.logged_in().fetch("/bff/user")
        assert (response.status_code, response.json()["code"]) == (503, "claims_unavailable")
        (line,) = warnings(caplog)
        assert says in line and "secret" not in line


def test_a_function_that_is_not_async_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with world(claims_enricher=lambda context: []) as w:
        assert w.logged_in().fetch("/bff/user").status_code == 503
        (line,) = warnings(caplog)
        assert "returned list without being async" in line


def test_an_enricher_that_hangs_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def enrich(context: ClaimsEnricherContext) -> Any:
        await asyncio.sleep(3600)

    with world(claims_enricher=enrich) as w:
        in_virtual_time(w)
        browser = w.logged_in()
        began = w.clock.time()
        response = browser.fetch("/bff/user")
        assert (response.status_code, response.json()["code"]) == (503, "claims_unavailable")
        assert w.clock.time() - began == pytest.approx(30, abs=0.1)
        (line,) = warnings(caplog)
        assert "took longer than 30 s" in line


def in_virtual_time(w: World) -> None:
    w.transport.loop.close()
    w.transport.loop = VirtualTimeLoop(w.clock)


@pytest.mark.parametrize("given", ["enrich", dict, BFF], ids=str)
def test_what_cannot_be_called_stops_the_start(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^claims_enricher: "):
        bff(claims_enricher=given)
