"""Which token a call to a remote API carries, for every token type and every kind of caller."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coatcheck.errors import StoreUnavailable
from coatcheck.oauth.messages import Response
from coatcheck.tokens import (
    AccessTokenResult,
    AccessTokenRetrievalContext,
    AccessTokenRetrievalError,
    BearerTokenResult,
    CachedAccessTokenRetriever,
    DefaultAccessTokenRetriever,
    DPoPTokenResult,
    NoAccessTokenResult,
    TokenExchangeRetriever,
    TokenType,
    User,
    UserToken,
    UserTokenRequestParameters,
)
from tests.tokens.scene import LIFETIME, Scene, TableUserTokenStore
from tests.tokens.token_service import ISSUER, error

DEFAULT = DefaultAccessTokenRetriever()


def call(
    scene: Scene,
    user: User | None = None,
    *,
    token: TokenType = TokenType.USER,
    anonymous: bool = False,
    **changes: Any,
) -> AccessTokenRetrievalContext:
    """One call of a browser to a remote API."""
    arguments: dict[str, Any] = {
        "asgi": {"type": "http"},
        "user": user,
        "session_id": user.session.session.id if user and user.session else None,
        "token": token,
        "anonymous": anonymous,
        "api": "/api/orders",
        "path": "/1",
        "parameters": UserTokenRequestParameters(),
        "tokens": scene.tokens,
        "http_clients": {},
    }
    return AccessTokenRetrievalContext(**(arguments | changes))


def owner(scene: Scene, result: AccessTokenResult) -> str:
    """Whose token it is, or that there is none."""
    match result:
        case BearerTokenResult(access_token=token):
            return scene.service.owners[token].partition(":")[0]
        case NoAccessTokenResult():
            return "none"
        case AccessTokenRetrievalError(error=code, status=status):
            return f"{status} {code}"
        case DPoPTokenResult():
            return "dpop"


@pytest.mark.spec("CCT-06")
@pytest.mark.parametrize(
    ("token", "logged_in", "anonymous_caller", "anonymous_route"),
    [
        (TokenType.USER, "alice", "401 session_missing", "401 session_missing"),
        (TokenType.CLIENT, "client", "401 session_missing", "client"),
        (TokenType.USER_OR_CLIENT, "alice", "401 session_missing", "client"),
        (TokenType.USER_OR_NONE, "alice", "401 session_missing", "none"),
        (TokenType.NONE, "none", "none", "none"),
    ],
)
async def test_every_token_type(token: TokenType, logged_in: str, anonymous_caller: str, anonymous_route: str) -> None:
    scene = Scene()
    alice = await (await scene.log_in()).request()
    results = [
        await DEFAULT.get_access_token(call(scene, alice, token=token)),
        await DEFAULT.get_access_token(call(scene, token=token)),
        await DEFAULT.get_access_token(call(scene, token=token, anonymous=True)),
    ]
    assert [owner(scene, result) for result in results] == [logged_in, anonymous_caller, anonymous_route]


@pytest.mark.spec("CCT-06")
@pytest.mark.parametrize("token", [TokenType.USER, TokenType.USER_OR_CLIENT, TokenType.USER_OR_NONE])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [(Response(500), "503 token_unavailable"), (error("invalid_grant"), "401 session_ended")],
    ids=["provider down", "grant over"],
)
async def test_a_user_whose_token_cannot_be_had_never_gets_the_clients_token(
    token: TokenType, answer: Response, expected: str
) -> None:
    """Nor does the call go out without one, even on an anonymous route."""
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    scene.service.answers.append(answer)
    result = await DEFAULT.get_access_token(call(scene, await browser.request(), token=token, anonymous=True))
    assert owner(scene, result) == expected
    assert scene.service.sent("client_credentials") == []


async def test_retry_after_reaches_the_browser() -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    scene.service.answers.append(Response(503, {"retry-after": "9"}))
    result = await DEFAULT.get_access_token(call(scene, await browser.request()))
    assert isinstance(result, AccessTokenRetrievalError)
    assert result.retry_after == timedelta(seconds=9)


async def test_a_store_that_is_down_is_not_a_missing_login() -> None:
    class Unreadable(TableUserTokenStore):
        async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
            raise StoreUnavailable("the table is locked")

    scene = Scene(store=Unreadable())
    with pytest.raises(StoreUnavailable):
        await DEFAULT.get_access_token(call(scene, User(ISSUER, "alice")))


READ_AND_WRITE = UserTokenRequestParameters(scope="orders.read orders.write")


@pytest.mark.spec("OAU-23")
@pytest.mark.parametrize("token", [TokenType.USER, TokenType.USER_OR_NONE, TokenType.CLIENT])
@pytest.mark.parametrize(
    ("granted", "good"),
    [
        (None, True),
        ("orders.write orders.read", True),
        ("openid orders.read orders.write rates.read", True),
        ("orders.read", False),
        ("orders.READ orders.write", False),
        ("orders.readorders.write", False),
        ("", False),
    ],
)
async def test_a_route_whose_scope_was_not_granted_makes_no_call(
    token: TokenType, granted: str | None, good: bool
) -> None:
    """RFC 6749 5.1: no scope in the answer is the one that was asked for; an empty one is none (CVE-2022-31690)."""
    scene = Scene()
    alice = await (await scene.log_in()).request()
    scene.service.answers.append({} if granted is None else {"scope": granted})
    for _ in range(2):
        result = await DEFAULT.get_access_token(call(scene, alice, token=token, parameters=READ_AND_WRITE))
        if good:
            assert isinstance(result, BearerTokenResult)
            assert result.scope == (READ_AND_WRITE.scope if granted is None else granted)
        else:
            assert owner(scene, result) == "403 insufficient_scope"
    assert len(scene.service.requests) == 1, "asking again would bring the same"


@pytest.mark.spec("OAU-23")
@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ("api://orders/.default", "api://orders/read api://orders/write"),
        ("openid profile offline_access api://orders/read", "api://orders/read"),
        ("openid email", "openid https://www.googleapis.com/auth/userinfo.email"),
    ],
)
async def test_words_that_providers_answer_with_other_words_are_no_missing_scope(asked: str, granted: str) -> None:
    """Entra and Google do."""
    scene = Scene()
    alice = await (await scene.log_in()).request()
    scene.service.answers.append({"scope": granted})
    result = await DEFAULT.get_access_token(call(scene, alice, parameters=UserTokenRequestParameters(scope=asked)))
    assert isinstance(result, BearerTokenResult)


@pytest.mark.spec("OAU-23")
@pytest.mark.parametrize(("granted", "outcome"), [(None, "exchanged"), ("pay", "exchanged"), ("", "403"), ("x", "403")])
async def test_an_exchange_that_brought_less_than_the_route_asks_for_makes_no_call(
    granted: str | None, outcome: str
) -> None:
    scene = Scene()
    alice = await (await scene.log_in()).request()
    scene.service.answers.append({} if granted is None else {"scope": granted})
    result = await TokenExchangeRetriever(audience="https://billing", scope="pay").get_access_token(call(scene, alice))
    assert owner(scene, result).startswith(outcome)
    assert not isinstance(result, BearerTokenResult) or result.scope == "pay"


async def test_the_parameters_of_the_route_choose_the_token() -> None:
    scene = Scene()
    alice = await (await scene.log_in()).request()
    orders = UserTokenRequestParameters(scope="orders.read")
    await DEFAULT.get_access_token(call(scene, alice, parameters=orders))
    await DEFAULT.get_access_token(call(scene, alice, parameters=orders, token=TokenType.CLIENT))
    assert [form["scope"] for form in scene.service.requests] == ["orders.read", "orders.read"]


@pytest.mark.parametrize(
    ("token_type", "dpop_key", "expected"),
    [
        ("Bearer", None, "alice"),
        ("bearer", "{}", "alice"),
        ("DPoP", "{}", "dpop"),
        ("DPoP", None, "503 token_unavailable"),
        ("N_A", None, "503 token_unavailable"),
        ("MAC", "{}", "503 token_unavailable"),
    ],
)
async def test_a_token_that_is_bound_to_a_key_never_goes_out_as_a_bearer_token(
    token_type: str, dpop_key: str | None, expected: str
) -> None:
    store = TableUserTokenStore()
    scene = Scene(store=store)
    user = User(ISSUER, "alice")
    token = UserToken(access_token="access", issued_at=0, token_type=token_type, dpop_key=dpop_key)
    scene.service.owners["access"] = "alice"
    await store.store_token(user, token, UserTokenRequestParameters(), replaces=None)
    assert owner(scene, await DEFAULT.get_access_token(call(scene, user))) == expected


class Impersonate(DefaultAccessTokenRetriever):
    """As in the example of the documentation."""

    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        match await super().get_access_token(context):
            case BearerTokenResult(access_token=token):
                return await context.tokens.exchange(token, audience="https://billing.internal")
            case other:
                return other


@pytest.mark.parametrize(
    "retriever",
    [
        Impersonate(),
        TokenExchangeRetriever(audience="https://billing.internal"),
        CachedAccessTokenRetriever(TokenExchangeRetriever(audience="https://billing.internal")),
    ],
    ids=lambda retriever: type(retriever).__name__,
)
async def test_a_token_is_exchanged_for_the_route(retriever: Any) -> None:
    scene = Scene()
    browser = await scene.log_in()
    login = await browser.stored()
    result = await retriever.get_access_token(call(scene, await browser.request()))
    assert isinstance(result, BearerTokenResult)
    assert scene.service.owners[result.access_token] == f"exchanged:{login.access_token}"
    (form,) = scene.service.requests
    assert form["subject_token"] == login.access_token
    assert form["audience"] == "https://billing.internal"
    assert "actor_token" not in form


async def test_delegation_sends_the_clients_own_token_along_as_the_actor() -> None:
    scene = Scene()
    alice = await (await scene.log_in()).request()
    retriever = TokenExchangeRetriever(audience="https://billing.internal", scope="bills.read", actor="client")
    await retriever.get_access_token(call(scene, alice))
    client, exchange = scene.service.requests
    assert client["grant_type"] == "client_credentials"
    assert scene.service.owners[exchange["actor_token"]] == "client:"
    assert exchange["actor_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert exchange["scope"] == "bills.read"


@pytest.mark.spec("TEX-05")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (error("invalid_target"), "403 invalid_target"),
        (error("invalid_request"), "403 invalid_request"),
        (error("invalid_grant"), "403 invalid_grant"),
        (error("invalid_client", status=401), "503 token_unavailable"),
        (error("unauthorized_client"), "503 token_unavailable"),
        (Response(500), "503 token_unavailable"),
        (Response(200, {}, b'{"access_token":"a","token_type":"Bearer"}'), "503 token_unavailable"),
        (
            Response(200, {}, b'{"access_token":"a","token_type":"N_A","issued_token_type":"x"}'),
            "503 token_unavailable",
        ),
        (
            Response(200, {}, b'{"access_token":"a","token_type":"DPoP","issued_token_type":"x"}'),
            "503 token_unavailable",
        ),
    ],
)
async def test_when_the_exchange_fails_the_call_fails_and_the_session_stays(
    answer: Response | dict[str, Any], expected: str
) -> None:
    """Least privilege: the user's own token is never sent on instead."""
    scene = Scene()
    browser = await scene.log_in()
    scene.service.answers.append(answer)
    retriever = TokenExchangeRetriever(audience="https://billing.internal")
    assert owner(scene, await retriever.get_access_token(call(scene, await browser.request()))) == expected
    assert owner(scene, await DEFAULT.get_access_token(call(scene, await browser.request()))) == "alice"


async def test_an_expired_subject_token_is_renewed_before_it_is_exchanged() -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    retriever = TokenExchangeRetriever(audience="https://billing.internal")
    await retriever.get_access_token(call(scene, await browser.request()))
    assert [form["grant_type"].rpartition(":")[2] for form in scene.service.requests] == [
        "refresh_token",
        "token-exchange",
    ]


@pytest.mark.parametrize("caller", ["anonymous", "grant over"])
async def test_what_is_no_token_is_not_exchanged(caller: str) -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    scene.service.answers.append(error("invalid_grant"))
    user = None if caller == "anonymous" else await browser.request()
    retriever = TokenExchangeRetriever(audience="https://billing.internal")
    result = await retriever.get_access_token(call(scene, user, token=TokenType.USER_OR_NONE, anonymous=True))
    assert owner(scene, result) == ("none" if caller == "anonymous" else "401 session_ended")
