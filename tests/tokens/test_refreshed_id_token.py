"""An id_token that comes with a renewal (OpenID Connect Core 12.2)."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from coatcheck.errors import LoginRequired, StoreUnavailable, TransportError
from coatcheck.oauth.messages import Response
from coatcheck.tokens import User, UserToken, UserTokenRequestParameters
from tests.tokens.scene import LIFETIME, Scene, TableUserTokenStore
from tests.tokens.token_service import ISSUER


@pytest.fixture(params=["sessions", "cookies", "table"])
def scene(request: pytest.FixtureRequest) -> Scene:
    match request.param:
        case "cookies":
            return Scene(cookies=True)
        case "table":
            return Scene(store=TableUserTokenStore())
    return Scene()


async def test_a_good_one_replaces_the_one_of_the_login(scene: Scene) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.id_token_on_refresh = True
    scene.service.id_token_claims = {"auth_time": int(scene.clock.time())}
    scene.clock.forward(LIFETIME)
    user = await browser.request()
    renewed = await scene.tokens.user_token(user)
    assert renewed.id_token not in (None, before.id_token)
    browser.receive(user.session)
    assert (await browser.stored()).id_token == renewed.id_token


@pytest.mark.spec("IDT-20")
@pytest.mark.parametrize("kept", [None, "sealed by the application"])
async def test_one_about_somebody_else_ends_the_session_whatever_the_store_kept_of_the_login(kept: str | None) -> None:
    store = TableUserTokenStore()
    scene = Scene(store=store)
    user = await (await scene.log_in("alice")).request()
    (row,) = store.rows
    store.rows[row] = replace(store.rows[row], id_token=kept)
    scene.service.id_token_on_refresh = True
    scene.service.id_token_claims = {"sub": "mallory"}
    scene.clock.forward(LIFETIME)
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(user)
    assert store.rows == {}


@pytest.mark.spec("IDT-20")
@pytest.mark.parametrize("claims", [{"sub": "mallory"}, {"iss": "https://elsewhere.example"}])
async def test_one_about_somebody_else_ends_the_session(scene: Scene, claims: dict[str, Any]) -> None:
    """Nothing of the answer is used, and its refresh token is given back."""
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.id_token_on_refresh = True
    scene.service.id_token_claims = claims
    scene.clock.forward(LIFETIME)
    user = await browser.request()
    with pytest.raises(LoginRequired) as caught:
        await scene.tokens.user_token(user)
    assert caught.value.code == "session_ended"
    assert len(scene.service.revoked) == 1
    assert scene.service.revoked[0] != before.refresh_token
    browser.receive(user.session)
    with pytest.raises(LoginRequired):
        assert await scene.tokens.store.get_token(await browser.request(), UserTokenRequestParameters()) is None
        await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 1


@pytest.mark.spec("IDT-20")
@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another client"},
        {"exp": 1},
        {"nonce": "of another login"},
        {"iat": 4_000_000_000},
        {"auth_time": 3_000_000_000},
    ],
    ids=lambda claims: next(iter(claims)),
)
async def test_one_that_fails_another_check_is_not_stored_but_ends_nothing(
    scene: Scene, claims: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.id_token_on_refresh = True
    scene.service.id_token_claims = {"auth_time": int(scene.clock.time())} | claims
    scene.clock.forward(LIFETIME)
    renewed = await scene.tokens.user_token(await browser.request())
    assert renewed.id_token == before.id_token
    assert renewed.access_token != before.access_token
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the one of the login is kept" in caplog.text


@pytest.mark.spec("IDT-20", "REF-13")
@pytest.mark.parametrize(
    "keys", [TransportError("no answer", sent=True), Response(500), Response(200, {}, b'{"keys":[]}')], ids=str
)
async def test_keys_that_cannot_be_had_do_not_cost_the_session(scene: Scene, keys: Response | Exception) -> None:
    """The new refresh token is in hand; thrown away with the id_token it would be lost."""
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.id_token_on_refresh = True
    scene.service.id_token_claims = {"auth_time": int(scene.clock.time())}
    scene.service.keys_answer = keys
    scene.clock.forward(LIFETIME)
    renewed = await scene.tokens.user_token(await browser.request())
    assert renewed.id_token == before.id_token
    assert renewed.refresh_token != before.refresh_token


@pytest.mark.spec("IDT-20")
async def test_one_about_somebody_else_ends_the_session_even_when_it_cannot_be_verified(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.service.id_token_on_refresh = True
    scene.service.id_token_claims = {"sub": "mallory"}
    scene.service.keys_answer = Response(500)
    scene.clock.forward(LIFETIME)
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(await browser.request())


@pytest.mark.spec("IDT-20")
@pytest.mark.parametrize("sub", ["worker", "mallory"])
async def test_without_an_id_token_of_the_login_the_user_says_whose_it_must_be(sub: str) -> None:
    """A worker that was given a refresh token only."""
    store = TableUserTokenStore()
    scene = Scene(store=store)
    user = User(ISSUER, "worker")
    seed = UserToken.from_refresh_token(scene.service.login("worker")["refresh_token"])
    await store.store_token(user, seed, UserTokenRequestParameters(), replaces=None)
    scene.service.id_token_on_refresh = True
    scene.service.id_token_claims = {"sub": sub}
    if sub == "mallory":
        with pytest.raises(LoginRequired, match="another sub"):
            await scene.tokens.user_token(user)
        assert store.rows == {}
    else:
        assert (await scene.tokens.user_token(user)).id_token is not None


@pytest.mark.parametrize("garbage", ["garbage", "a.b.c", "..", "e30.e30.", "e30.W10.x"])
async def test_one_that_cannot_be_read_is_not_stored(scene: Scene, garbage: str) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.answers.append({"id_token": garbage})
    scene.clock.forward(LIFETIME)
    assert (await scene.tokens.user_token(await browser.request())).id_token == before.id_token


async def test_a_fault_while_it_is_verified_costs_no_tokens(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """The refresh token is spent by then: whatever goes wrong, what came for it has to reach the store."""
    scene.service.id_token_on_refresh = True
    scene.service.keys_answer = RuntimeError("a fault of an HTTP client of the application")
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    user = await browser.request()
    renewed = await scene.tokens.user_token(user)
    browser.receive(user.session)
    assert await browser.stored() == renewed
    assert renewed.id_token == scene.service._grants["refresh-1"].id_token
    assert "RuntimeError" in caplog.text
    assert "an HTTP client of the application" not in caplog.text


async def test_one_about_somebody_else_is_given_back_even_if_nothing_can_be_cleared() -> None:
    class CannotBeCleared(TableUserTokenStore):
        async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
            raise StoreUnavailable("the table is locked")

    scene = Scene(store=CannotBeCleared())
    browser = await scene.log_in()
    scene.service.id_token_on_refresh = True
    scene.service.id_token_claims = {"sub": "mallory"}
    scene.clock.forward(LIFETIME)
    with pytest.raises(StoreUnavailable):
        await scene.tokens.user_token(await browser.request())
    assert len(scene.service.revoked) == 1
