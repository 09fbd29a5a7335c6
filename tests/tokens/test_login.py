"""Redeeming the code of a login, and giving the refresh token back at logout."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from coatcheck.errors import (
    InvalidGrant,
    InvalidIDToken,
    InvalidTokenResponse,
    OAuthError,
    StoreUnavailable,
    TransportError,
)
from coatcheck.oauth.authorize import AuthorizationCode, AuthorizationTransaction, new_transaction
from coatcheck.oauth.client import Client
from coatcheck.oauth.messages import Response
from coatcheck.sessions.store import SessionRow
from coatcheck.stores import MemoryStore
from coatcheck.tokens import User, UserToken, UserTokenRequestParameters, coordinator
from tests.tokens.scene import CLIENT, LIFETIME, Scene, TableUserTokenStore
from tests.tokens.token_service import ISSUER, error


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


async def test_logout_revokes_the_refresh_token_and_nothing_else() -> None:
    scene = Scene()
    browser = await scene.log_in()
    await scene.tokens.revoke(await browser.request())
    assert scene.service.revoked == [(await browser.stored()).refresh_token]


async def test_logout_revokes_the_refresh_tokens_of_every_registration() -> None:
    other = Client(issuer=ISSUER, client_id="other", client_secret="another secret")
    scene = Scene(client={"default": CLIENT, "other": other}, store=(store := TableUserTokenStore()))
    user = User(ISSUER, "alice")
    for client in ("default", "other"):
        token = UserToken(access_token="access", issued_at=0, refresh_token=f"refresh of {client}")
        await store.store_token(user, token, UserTokenRequestParameters(client=client), replaces=None)
    await scene.tokens.revoke(user)
    assert scene.service.revoked == ["refresh of default", "refresh of other"]


@pytest.mark.parametrize("answer", [Response(503), error("invalid_client", status=401), TransportError("x", sent=True)])
async def test_a_logout_never_fails_because_revoking_fails(
    answer: Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.service.revocation_answer = answer
    await scene.tokens.revoke(await browser.request())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "could not be revoked at https://issuer.example" in caplog.text
    assert str((await browser.stored()).refresh_token) not in caplog.text


async def test_a_logout_without_a_token_or_without_a_store_revokes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Unreadable(TableUserTokenStore):
        async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
            raise StoreUnavailable("the table is locked")

    user = User(ISSUER, "alice")
    await (scene := Scene(store=TableUserTokenStore())).tokens.revoke(user)
    assert caplog.records == []
    await Scene(store=Unreadable()).tokens.revoke(user)
    assert len(caplog.records) == 1
    assert scene.service.revoked == []


@pytest.mark.spec("REF-23")
async def test_a_logout_that_cannot_look_again_revokes_what_its_request_began_with() -> None:
    class AnswersOnce(MemoryStore):
        loads = 0

        async def load(self, key: bytes) -> SessionRow | None:
            self.loads += 1
            if self.loads > 1:
                raise StoreUnavailable("the store does not answer any more")
            return await super().load(key)

    scene = Scene()
    scene.replace_session_store(AnswersOnce(scene.clock))
    browser = await scene.log_in()
    await scene.tokens.revoke(await browser.request())
    assert scene.service.revoked == ["refresh-1"]


async def test_a_logout_during_a_renewal_revokes_what_comes_of_it() -> None:
    """The refresh token that the request began with is spent by then."""
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        logout = asyncio.create_task(scene.tokens.revoke(await browser.request()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not logout.done()
        gate.released.set()
        renewed = await renewal
        await logout
    assert scene.service.revoked == [renewed.refresh_token]


async def test_a_logout_with_an_old_cookie_revokes_what_it_was_renewed_to() -> None:
    """The responses with the newer cookies never reached the browser."""
    scene = Scene(cookies=True)
    browser = await scene.log_in()
    renewed = []
    for _ in range(3):
        scene.clock.forward(LIFETIME)
        renewed.append(await scene.tokens.user_token(await browser.request()))
    await scene.tokens.revoke(await browser.request())
    assert scene.service.refreshes == 3
    assert scene.service.revoked == [renewed[-1].refresh_token]


async def test_a_logout_does_not_wait_long_for_a_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "_SETTLING_SECONDS", 0.0)
    scene = Scene()
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        await scene.tokens.revoke(await browser.request())
        assert scene.service.revoked == [before.refresh_token]
        gate.released.set()
        await renewal


async def test_a_logout_clears_what_a_store_of_the_application_holds() -> None:
    """Whether or not the provider can revoke: a refresh token that nobody may use is not kept."""
    scene = Scene(store=(store := TableUserTokenStore()))
    scene.service.metadata.pop("revocation_endpoint")
    await scene.tokens.revoke(await (await scene.log_in()).request())
    assert store.rows == {}


@pytest.mark.parametrize("broken", ["get_token", "clear_token"])
async def test_a_logout_goes_on_whatever_a_store_of_the_application_raises(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(user: User, parameters: UserTokenRequestParameters) -> None:
        raise RuntimeError("the row of refresh-1 is locked")

    scene = Scene(store=(store := TableUserTokenStore()))
    user = await (await scene.log_in()).request()
    setattr(store, broken, fail)
    await scene.tokens.revoke(user)
    (record,) = caplog.records
    assert "RuntimeError at " in record.getMessage()
    assert "refresh-1" not in caplog.text


async def test_a_logout_of_a_session_that_is_gone_already_is_quiet_about_it() -> None:
    scene = Scene()
    browser = await scene.log_in()
    user = await browser.request()
    await browser.log_out()
    await scene.tokens.revoke(user)


async def test_a_provider_without_a_revocation_endpoint_is_not_asked() -> None:
    scene = Scene()
    scene.service.metadata.pop("revocation_endpoint")
    await scene.tokens.revoke(await (await scene.log_in()).request())
    assert scene.service.revoked == []
