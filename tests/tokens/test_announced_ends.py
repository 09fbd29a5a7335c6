"""A refresh token whose end was announced: no request is sent for a dead one, and the session ends with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.codec import decoder, encode
from coatcheck.errors import LoginRequired, TokenUnavailable
from coatcheck.tokens import User, UserToken, UserTokenRequestParameters
from coatcheck.tokens.stored_grants import Grant, Slot, from_bytes, to_bytes
from tests.tokens.scene import LIFETIME, STALE, Browser, Scene, TableUserTokenStore, forced
from tests.tokens.token_service import ISSUER

LEEWAY = timedelta(seconds=60)
SECOND = timedelta(seconds=1)


async def announced(seconds: Any, *, cookies: bool = False) -> tuple[Scene, Browser]:
    """Somebody whose tokens have just been renewed, with an announcement."""
    scene = Scene(cookies=cookies)
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    scene.service.answers.append({"refresh_expires_in": seconds})
    await renewed(scene, browser)
    return scene, browser


async def renewed(scene: Scene, browser: Browser) -> UserToken:
    user = await browser.request()
    token = await scene.tokens.user_token(user)
    browser.receive(user.session)
    return token


@pytest.mark.spec("SES-13")
@pytest.mark.parametrize("cookies", [False, True])
async def test_no_request_is_sent_for_a_dead_refresh_token(cookies: bool) -> None:
    scene, browser = await announced(1800, cookies=cookies)
    scene.clock.forward(timedelta(minutes=30) + LEEWAY)
    for _ in range(2):
        with pytest.raises(LoginRequired) as raised:
            await renewed(scene, browser)
        assert raised.value.code == "session_ended"
    assert scene.service.refreshes == 1
    assert await scene.tokens.state_of(await browser.request()) == "login_required"


@pytest.mark.spec("SES-13")
async def test_clocks_may_differ_a_little() -> None:
    """Until a minute after its end the authorization server is asked; every answer may announce another one."""
    scene, browser = await announced(1800)
    scene.clock.forward(timedelta(minutes=30) + LEEWAY - SECOND)
    scene.service.answers.append({"refresh_expires_in": 1800})
    await renewed(scene, browser)
    scene.clock.forward(timedelta(minutes=30))
    await renewed(scene, browser)
    assert scene.service.refreshes == 3
    assert (await browser.stored()).refresh_token_expires_at is None, "the last one has announced nothing"
    scene.clock.forward(timedelta(minutes=59))
    await renewed(scene, browser)


@pytest.mark.spec("SES-13")
async def test_an_access_token_that_outlives_it_is_used_to_its_end() -> None:
    scene, browser = await announced(60)
    scene.clock.forward(STALE)
    token = await renewed(scene, browser)
    assert token == await browser.stored()
    user = await browser.request()
    assert await scene.tokens.state_of(user) == "fresh"
    with pytest.raises(TokenUnavailable):  # an API has refused it, and there is no other one
        await scene.tokens.user_token(user, forced())
    scene.clock.forward(LIFETIME - STALE)
    assert await scene.tokens.state_of(user) == "login_required"
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(user)
    assert scene.service.refreshes == 1


@pytest.mark.spec("SES-13")
async def test_what_another_process_has_renewed_meanwhile_is_used() -> None:
    """This one has loaded the session before, and waits for the lease."""
    scene, browser = await announced(300)
    scene.clock.forward(LIFETIME)
    late = await browser.request()
    scene.service.answers.append({"refresh_expires_in": 1800})
    ours = await scene.other_process().user_token(await browser.request())
    scene.clock.forward(LEEWAY)
    assert await scene.tokens.user_token(late) == ours


@pytest.mark.spec("SES-13")
async def test_a_refresh_token_that_stays_keeps_its_announcement() -> None:
    scene, browser = await announced(1800)
    ends = (await browser.stored()).refresh_token_expires_at
    scene.service.rotation = False
    scene.clock.forward(LIFETIME)
    await renewed(scene, browser)
    assert (await browser.stored()).refresh_token_expires_at == ends
    scene.service.answers.append({"refresh_expires_in": 1800})
    scene.clock.forward(LIFETIME)
    await renewed(scene, browser)
    assert (await browser.stored()).refresh_token_expires_at == (ends or 0) + 2 * LIFETIME.total_seconds()


@pytest.mark.spec("SES-13")
async def test_other_access_tokens_of_the_grant_end_with_it() -> None:
    scene, browser = await announced(1800)
    scene.clock.forward(timedelta(minutes=30) + LEEWAY)
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(await browser.request(), UserTokenRequestParameters(scope="orders.read"))
    assert scene.service.refreshes == 1


@pytest.mark.spec("SES-13")
async def test_when_a_grant_ends() -> None:
    scene, browser = await announced(1800)
    now = scene.clock.time()
    assert await scene.tokens.grant_ends_at(await browser.request()) == now + 1800
    scene.clock.forward(timedelta(minutes=30) + LEEWAY)
    with pytest.raises(LoginRequired):
        await renewed(scene, browser)
    assert await scene.tokens.grant_ends_at(await browser.request()) is None, "that it has ended is told otherwise"
    scene, browser = await announced(0)
    assert await scene.tokens.grant_ends_at(await browser.request()) is None


@pytest.mark.spec("SES-13")
@pytest.mark.parametrize(
    ("expires_at", "refresh_token", "announced", "ends"),
    [
        (300.0, "r", 1800.0, 1800.0),
        (300.0, "r", 200.0, 300.0),
        (300.0, "r", None, None),
        (300.0, None, 1800.0, None),
        (None, "r", 1800.0, None),  # the access token works until an API refuses it
    ],
)
def test_a_grant_ends_with_the_last_of_its_tokens(
    expires_at: float | None, refresh_token: str | None, announced: float | None, ends: float | None
) -> None:
    token = UserToken(
        access_token="a",
        issued_at=0.0,
        expires_at=expires_at,
        refresh_token=refresh_token,
        refresh_token_expires_at=announced,
    )
    assert token.grant_ends_at == ends


async def test_a_store_of_the_application_that_does_not_know_of_it_goes_on_as_ever() -> None:
    class Forgetful(TableUserTokenStore):
        async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
            token = await super().get_token(user, parameters)
            return None if token is None else replace(token, refresh_token_expires_at=None)

    scene = Scene(store=Forgetful())
    user = User(ISSUER, "alice")
    await scene.tokens.store_login(
        user, UserToken.from_refresh_token(scene.service.login("alice")["refresh_token"], refresh_token_expires_at=1.0)
    )
    assert (await scene.tokens.user_token(user)).access_token


@dataclass(frozen=True, slots=True)
class OlderGrant:
    """As an older release knows it."""

    refresh_token: str | None = None
    id_token: str | None = None
    dpop_key: str | None = None
    slots: dict[str, Slot] = field(default_factory=dict)
    ended: bool = False


def test_rows_are_read_by_older_and_newer_releases() -> None:
    slot = Slot("a", "Bearer", 5.0, 305.0, None)
    older = OlderGrant("r", "i", None, {"": slot})
    read = from_bytes(to_bytes(older), decoder(Grant).decode, what="session")
    assert read == Grant("r", "i", None, {"": slot})
    absent = read.token("another")
    assert absent is not None
    assert (absent.issued_at, absent.refresh_token_expires_at) == (5.0, None)
    newer = Grant("r", "i", None, {"": slot}, received_at=5.0, expires_at=1805.0)
    assert from_bytes(to_bytes(newer), decoder(OlderGrant).decode, what="session") == older
    assert decoder(Grant).decode(encode(newer)) == newer
