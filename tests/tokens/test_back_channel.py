"""How `Tokens` reaches the authorization server: whose HTTP client, and how it proves who we are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from coatcheck.errors import ConfigurationError, TokenUnavailable
from coatcheck.oauth.authorize import AuthorizationCode, new_transaction
from coatcheck.oauth.client import Client
from coatcheck.oauth.client_auth import ClientAssertion, PrivateKeyJWT
from coatcheck.oauth.jwt import generate_private_key
from coatcheck.oauth.messages import Request, Response
from coatcheck.tokens import Tokens, UserTokenRequestParameters
from coatcheck.transport import BACK_CHANNEL_HTTP_CLIENT
from tests.testing.clocks import HandClock
from tests.tokens.scene import CLIENT, LIFETIME, Scene, forced
from tests.tokens.token_service import CLIENT_ID, ISSUER, TokenService


class Assertions:
    """A `ClientAssertionService` that numbers what it signs."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def get_client_assertion(
        self, client: str, *, issuer: str, client_id: str, token_endpoint: str, context: Mapping[str, Any]
    ) -> ClientAssertion | None:
        self.asked.append(
            {
                "client": client,
                "issuer": issuer,
                "client_id": client_id,
                "token_endpoint": token_endpoint,
                "context": dict(context),
            }
        )
        return ClientAssertion(f"assertion-{len(self.asked)}")


SIGNED_ELSEWHERE = Client(issuer=ISSUER, client_id=CLIENT_ID, client_auth="private_key_jwt")


@pytest.mark.spec("CLA-05")
async def test_every_attempt_gets_a_new_assertion_from_the_service() -> None:
    service = Assertions()
    scene = Scene(client=SIGNED_ELSEWHERE, client_assertions=service)
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    scene.service.answers.append(Response(503))
    with pytest.raises(TokenUnavailable):
        await scene.tokens.user_token(await browser.request())
    scene.clock.forward(timedelta(seconds=2))
    await scene.tokens.user_token(await browser.request())
    await scene.tokens.client_token()
    await scene.tokens.exchange("subject", audience="https://billing.internal")
    await scene.tokens.revoke(await browser.request())
    sent = [form["client_assertion"] for form in scene.service.requests]
    assert sent == ["assertion-1", "assertion-2", "assertion-3", "assertion-4"]
    assert len(service.asked) == 6  # with one for each token that was revoked


@pytest.mark.spec("CLA-05")
async def test_every_attempt_gets_a_new_assertion_from_the_key() -> None:
    client = Client(issuer=ISSUER, client_id=CLIENT_ID, client_auth=PrivateKeyJWT(generate_private_key("ES256")))
    scene = Scene(client=client)
    for scope in ("a", "b", "c"):
        await scene.tokens.client_token(scope=scope)
    assert len({form["client_assertion"] for form in scene.service.requests}) == 3


async def test_the_service_learns_what_it_signs_for() -> None:
    service = Assertions()
    scene = Scene(client=SIGNED_ELSEWHERE, client_assertions=service)
    user = await (await scene.log_in()).request()
    await scene.tokens.user_token(user, UserTokenRequestParameters(scope="a", context={"tenant": "north"}))
    assert service.asked == [
        {
            "client": "default",
            "issuer": ISSUER,
            "client_id": CLIENT_ID,
            "token_endpoint": f"{ISSUER}/token",
            "context": {"tenant": "north"},
        }
    ]
    assert "north" not in str(scene.service.requests)


async def test_a_service_that_has_nothing_to_say_leaves_the_configured_method() -> None:
    class Silent(Assertions):
        async def get_client_assertion(self, client: str, **_: Any) -> ClientAssertion | None:
            return None

    scene = Scene(client_assertions=Silent())
    await scene.tokens.client_token()
    assert scene.service.headers[0]["authorization"].startswith("Basic ")


async def test_an_assertion_of_the_request_itself_goes_before_the_service() -> None:
    service = Assertions()
    scene = Scene(client=SIGNED_ELSEWHERE, client_assertions=service)
    user = await (await scene.log_in()).request()
    parameters = UserTokenRequestParameters(scope="a", client_assertion=ClientAssertion("for this request"))
    await scene.tokens.user_token(user, parameters)
    assert scene.service.requests[0]["client_assertion"] == "for this request"
    assert service.asked == []


async def test_a_service_that_fails_is_a_token_that_cannot_be_had() -> None:
    class Failing(Assertions):
        async def get_client_assertion(self, client: str, **_: Any) -> ClientAssertion | None:
            raise OSError("the key vault at vault.internal refused the password hunter2")

    scene = Scene(client=SIGNED_ELSEWHERE, client_assertions=Failing())
    with pytest.raises(TokenUnavailable, match="raised OSError for the registration 'default'") as caught:
        await scene.tokens.client_token()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("resource", "login", "route"),
    [
        ((), None, "https://rates.example"),
        (("https://orders.example",), "https://orders.example", "https://rates.example"),
        (("https://orders.example", "https://rates.example"), None, "https://rates.example"),
    ],
    ids=["none", "one", "several"],
)
async def test_the_resource_of_a_login_is_named_when_there_is_one(
    resource: tuple[str, ...], login: str | None, route: str
) -> None:
    """RFC 8707 2.2: with several, each token is for one of them, which the route names."""
    client = Client(issuer=ISSUER, client_id=CLIENT_ID, client_secret="secret", resource=resource)
    scene = Scene(client=client)
    transaction = new_transaction(
        client, name="default", redirect_uri="https://app.example/cb", return_url="/", now=scene.clock.time()
    )
    await scene.tokens.redeem(AuthorizationCode(transaction.nonce), transaction)
    browser = await scene.log_in()
    await scene.tokens.user_token(await browser.request(), forced())
    await scene.tokens.user_token(await browser.request(), UserTokenRequestParameters(resource=(route,)))
    assert [form.get("resource") for form in scene.service.requests] == [login, login, route]


async def test_a_registration_that_cannot_authenticate_is_told_what_to_do() -> None:
    with pytest.raises(TokenUnavailable, match="needs a ClientAssertionService"):
        await Scene(client=SIGNED_ELSEWHERE).tokens.client_token()


async def test_the_application_may_bring_its_own_http_client() -> None:
    clock = HandClock()
    service = TokenService(clock)

    async def handle(request: httpx2.Request) -> httpx2.Response:
        answer = await service(Request(request.method, str(request.url), dict(request.headers), request.content))
        return httpx2.Response(answer.status, headers=dict(answer.headers), content=answer.body)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handle)) as http:
        async with Tokens(CLIENT, http_clients={BACK_CHANNEL_HTTP_CLIENT: http}, clock=clock) as tokens:
            assert (await tokens.client_token()).access_token
        assert not http.is_closed


async def test_closing_waits_for_the_renewals_under_way() -> None:
    scene = Scene()
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(LIFETIME - timedelta(seconds=20))
    async with scene.tokens:
        await scene.tokens.user_token(await browser.request())
    assert (await browser.stored()).access_token != before.access_token


def test_there_must_be_a_registration() -> None:
    with pytest.raises(ConfigurationError, match="at least one client registration"):
        Tokens({})


async def test_registrations_are_known_by_name() -> None:
    other = Client(issuer=ISSUER, client_id="other", client_secret="another secret")
    scene = Scene(client={"default": CLIENT, "other": other})
    assert list(scene.tokens.clients) == ["default", "other"]
    assert scene.tokens.authorization_server("other").client is other
    assert repr(scene.tokens) == "<Tokens of default, other>"
