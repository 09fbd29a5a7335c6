"""Redeeming the code of a login."""

from __future__ import annotations

from typing import Any

import pytest

from coatcheck.errors import (
    InvalidGrant,
    InvalidIDToken,
    InvalidTokenResponse,
    OAuthError,
    TransportError,
)
from coatcheck.oauth.authorize import AuthorizationCode, AuthorizationTransaction, new_transaction
from coatcheck.oauth.messages import Response
from tests.tokens.scene import CLIENT, Scene
from tests.tokens.token_service import error


def transaction(scene: Scene, **arguments: Any) -> AuthorizationTransaction:
    return new_transaction(
        CLIENT,
        name="default",
        redirect_uri="https://app.example/bff/callback",
        return_url="/",
        now=scene.clock.time(),
        **arguments,
    )


def code_of(login: AuthorizationTransaction) -> AuthorizationCode:
    """The service puts the code into the id_token as its nonce."""
    return AuthorizationCode(login.nonce)


async def test_a_code_becomes_tokens_and_claims() -> None:
    scene = Scene()
    login = transaction(scene)
    redeemed = await scene.tokens.redeem(code_of(login), login)
    assert redeemed.claims["sub"] == "user"
    assert redeemed.token.expires_at == scene.clock.time() + 300
    assert redeemed.token.refresh_token is not None
    assert redeemed.token.id_token is not None
    assert redeemed.token.scope == CLIENT.scope
    (form,) = scene.service.requests
    assert form["redirect_uri"] == login.redirect_uri
    assert form["code_verifier"] == login.code_verifier


@pytest.mark.spec("OAU-22")
@pytest.mark.parametrize("id_token", [None, ""])
async def test_a_login_without_an_id_token_fails_when_openid_was_asked_for(id_token: str | None) -> None:
    scene = Scene()
    login = transaction(scene)
    scene.service.answers.append({"id_token": id_token})
    with pytest.raises(InvalidTokenResponse, match="openid was requested"):
        await scene.tokens.redeem(code_of(login), login)


async def test_a_login_without_openid_has_no_claims() -> None:
    scene = Scene()
    login = transaction(scene, scope="orders.read offline_access")
    scene.service.answers.append({"id_token": None})
    redeemed = await scene.tokens.redeem(code_of(login), login)
    assert dict(redeemed.claims) == {}
    assert redeemed.token.id_token is None


async def test_the_id_token_of_another_login_is_refused() -> None:
    scene = Scene()
    login, other = transaction(scene), transaction(scene)
    with pytest.raises(InvalidIDToken, match="nonce"):
        await scene.tokens.redeem(code_of(other), login)


async def test_max_age_is_checked() -> None:
    scene = Scene()
    login = transaction(scene, max_age=60)
    stale = scene.service.id_token("user", nonce=login.nonce, auth_time=int(scene.clock.time()) - 3600)
    scene.service.answers.append({"id_token": stale})
    with pytest.raises(InvalidIDToken, match="max_age"):
        await scene.tokens.redeem(code_of(login), login)


async def test_the_id_token_of_a_login_must_be_verifiable() -> None:
    """Other than at a renewal: here it says who logs in."""
    scene = Scene()
    scene.service.keys_answer = TransportError("no answer", sent=True)
    login = transaction(scene)
    with pytest.raises(TransportError):
        await scene.tokens.redeem(code_of(login), login)


@pytest.mark.parametrize(
    ("answer", "expected"), [(error("invalid_grant"), InvalidGrant), (error("invalid_client"), OAuthError)]
)
async def test_a_refused_code_says_so(answer: Response, expected: type[Exception]) -> None:
    scene = Scene()
    scene.service.answers.append(answer)
    login = transaction(scene)
    with pytest.raises(expected):
        await scene.tokens.redeem(code_of(login), login)
