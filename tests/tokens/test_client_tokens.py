"""Access tokens of the client itself (RFC 6749 4.4)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.errors import ConfigurationError, TokenUnavailable, TransportError
from coatcheck.oauth.client import Client
from coatcheck.oauth.messages import Response
from coatcheck.tokens import TokenState
from tests.tokens.scene import CLIENT, LIFETIME, STALE, Scene
from tests.tokens.token_service import ISSUER, error


async def test_a_token_is_fetched_once_and_kept() -> None:
    scene = Scene()
    first = await scene.tokens.client_token(scope="orders.read")
    assert await scene.tokens.client_token(scope="orders.read") is first
    assert scene.service.requests == [{"grant_type": "client_credentials", "scope": "orders.read"}]


async def test_without_a_scope_none_is_sent() -> None:
    """The client's scope is the one of its logins: `openid` and `offline_access` mean nothing here."""
    scene = Scene()
    await scene.tokens.client_token()
    assert scene.service.requests == [{"grant_type": "client_credentials"}]


@pytest.mark.spec("CCT-01")
async def test_parallel_requests_for_different_tokens_get_different_tokens() -> None:
    """CVE-2025-26620: a race returned the token of other parameters."""
    other = Client(issuer=ISSUER, client_id="other", client_secret="another secret")
    scene = Scene(client={"default": CLIENT, "other": other})
    wanted: list[dict[str, Any]] = [
        {},
        {"scope": "a"},
        {"scope": "b"},
        {"scope": "a b"},
        {"resource": ("https://a.example",)},
        {"resource": ("https://b.example",)},
        {"form_parameters": (("audience", "a"),)},
        {"form_parameters": (("audience", "b"),)},
        {"context": {"tenant": "north"}},
        {"client": "other"},
    ]
    rounds = [
        await asyncio.gather(*(scene.tokens.client_token(**arguments) for arguments in wanted * 5)) for _ in range(2)
    ]
    assert rounds[0] == rounds[1]
    assert len({token.access_token for token in rounds[0]}) == len(wanted)
    for index, arguments in enumerate(wanted * 5):
        assert scene.service.owners[rounds[0][index].access_token] == f"client:{arguments.get('scope', '')}"
    assert len(scene.service.requests) == len(wanted)


@pytest.mark.spec("CCT-01")
async def test_order_and_repetition_of_scopes_make_no_other_token() -> None:
    scene = Scene()
    assert await scene.tokens.client_token(scope="a b") is await scene.tokens.client_token(scope="b a b")


@pytest.mark.spec("CCT-02")
async def test_a_stampede_costs_one_request() -> None:
    scene = Scene()
    tokens = await asyncio.gather(*(scene.tokens.client_token() for _ in range(100)))
    assert len({token.access_token for token in tokens}) == 1
    assert len(scene.service.requests) == 1


@pytest.mark.spec("CCT-02")
async def test_the_first_caller_leaving_does_not_fail_the_others() -> None:
    scene = Scene()
    async with scene.service.held() as gate:
        first = asyncio.create_task(scene.tokens.client_token())
        await gate.arrived.wait()
        second = asyncio.create_task(scene.tokens.client_token())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.released.set()
        token = await second
    assert await scene.tokens.client_token() is token
    assert len(scene.service.requests) == 1


@pytest.mark.spec("CCT-02")
async def test_a_stale_token_is_used_and_replaced_meanwhile() -> None:
    scene = Scene()
    before = await scene.tokens.client_token()
    scene.clock.forward(STALE)
    async with scene.service.held() as gate:
        for _ in range(5):
            assert await scene.tokens.client_token() is before
        gate.released.set()
        await scene.tokens.aclose()
    after = await scene.tokens.client_token()
    assert after.access_token != before.access_token
    assert len(scene.service.requests) == 2


@pytest.mark.spec("CCT-02")
async def test_an_expired_token_is_never_used() -> None:
    scene = Scene()
    before = await scene.tokens.client_token()
    scene.clock.forward(LIFETIME - timedelta(seconds=5))
    scene.service.answers.append(Response(500))
    with pytest.raises(TokenUnavailable):
        await scene.tokens.client_token()
    scene.clock.forward(timedelta(seconds=1))
    assert (await scene.tokens.client_token()).access_token != before.access_token


@pytest.mark.spec("CCT-03")
@pytest.mark.parametrize(
    "failure",
    [error("invalid_client", status=401), error("invalid_grant"), Response(500), TransportError("gone", sent=False)],
    ids=str,
)
async def test_a_failure_reaches_every_waiter_and_is_remembered_for_a_second(failure: Response | Exception) -> None:
    scene = Scene()
    scene.service.answers.append(failure)
    waiters = [scene.tokens.client_token() for _ in range(10)]
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(result) for result in results] == [TokenUnavailable] * 10
    assert len({id(result) for result in results}) == 10
    with pytest.raises(TokenUnavailable):
        await scene.tokens.client_token()
    assert len(scene.service.requests) == 1
    scene.clock.forward(timedelta(seconds=1))
    assert (await scene.tokens.client_token()).access_token
    assert len(scene.service.requests) == 2


@pytest.mark.spec("CCT-03")
async def test_a_failure_of_one_key_says_nothing_about_another() -> None:
    scene = Scene()
    scene.service.answers.append(error("invalid_scope"))
    with pytest.raises(TokenUnavailable, match="ask for a scope that the client may have"):
        await scene.tokens.client_token(scope="forbidden")
    assert (await scene.tokens.client_token(scope="allowed")).access_token


@pytest.mark.spec("CCT-03")
async def test_retry_after_is_honoured() -> None:
    scene = Scene()
    scene.service.answers.append(Response(429, {"retry-after": "20"}))
    for _ in range(2):
        with pytest.raises(TokenUnavailable) as caught:
            await scene.tokens.client_token()
        assert caught.value.retry_after == timedelta(seconds=20)
        scene.clock.forward(timedelta(seconds=19))
    assert len(scene.service.requests) == 1
    await scene.tokens.client_token()
    assert len(scene.service.requests) == 2


@pytest.mark.spec("CCT-03")
async def test_a_stale_token_that_cannot_be_replaced_is_used_and_one_warning_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    token = await scene.tokens.client_token()
    scene.service.answers.append(Response(500))
    scene.clock.forward(STALE)
    for _ in range(3):
        assert await scene.tokens.client_token() is token
        await scene.tokens.aclose()
    assert len(scene.service.requests) == 2
    assert len(caplog.records) == 1
    assert token.access_token not in caplog.text


@pytest.mark.spec("CCT-04")
async def test_without_expires_in_a_token_lives_five_minutes() -> None:
    scene = Scene()
    scene.service.expires_in = None
    token = await scene.tokens.client_token()
    assert token.expires_at == scene.clock.time() + 300
    scene.clock.forward(LIFETIME)
    assert await scene.tokens.client_token() is not token


@pytest.mark.spec("CCT-04")
@pytest.mark.parametrize("expires_in", [0, -5, False, "nonsense", []])
async def test_a_token_that_is_expired_at_once_is_never_kept(expires_in: Any) -> None:
    scene = Scene()
    scene.service.expires_in = expires_in
    first, second = await scene.tokens.client_token(), await scene.tokens.client_token()
    assert first.access_token != second.access_token
    assert first.state(scene.clock.time()) is TokenState.EXPIRED


@pytest.mark.spec("CCT-04")
async def test_an_absurd_lifetime_is_cut_to_a_day() -> None:
    scene = Scene()
    scene.service.expires_in = 1e300
    assert (await scene.tokens.client_token()).expires_at == scene.clock.time() + 24 * 3600


@pytest.mark.spec("CCT-08")
async def test_a_refresh_token_in_the_answer_is_ignored() -> None:
    """RFC 6749 4.4.3: "A refresh token SHOULD NOT be included"."""
    scene = Scene()
    scene.service.answers.append({"refresh_token": "unwanted"})
    token = await scene.tokens.client_token()
    assert not hasattr(token, "refresh_token")
    scene.clock.forward(LIFETIME)
    await scene.tokens.client_token()
    assert [form["grant_type"] for form in scene.service.requests] == ["client_credentials"] * 2
    assert scene.service.revoked == []


@pytest.mark.spec("CCT-05")
async def test_a_token_that_an_api_refused_is_replaced_once() -> None:
    scene = Scene()
    before = await scene.tokens.client_token()
    refused = before.access_token
    after = await asyncio.gather(*(scene.tokens.client_token(refused=refused) for _ in range(5)))
    assert len({token.access_token for token in (before, *after)}) == 2
    assert await scene.tokens.client_token() is after[0]
    assert await scene.tokens.client_token(refused=refused) is after[0]
    assert len(scene.service.requests) == 2


@pytest.mark.spec("CCT-05")
async def test_an_api_that_refuses_new_tokens_too_gets_another_one_only_after_seconds() -> None:
    scene = Scene()
    first = await scene.tokens.client_token()
    second = await scene.tokens.client_token(refused=first.access_token)
    scene.clock.forward(timedelta(seconds=2))
    with pytest.raises(TokenUnavailable, match="refuses new tokens, too") as caught:
        await scene.tokens.client_token(refused=second.access_token)
    assert caught.value.retry_after == timedelta(seconds=3)
    assert await scene.tokens.client_token() is second
    scene.clock.forward(timedelta(seconds=3))
    assert (await scene.tokens.client_token(refused=second.access_token)).access_token != second.access_token


@pytest.mark.spec("CCT-05")
async def test_a_token_that_nobody_asked_for_any_more_is_not_refused_again() -> None:
    """A slow API refuses an old token long after it was replaced."""
    scene = Scene()
    old = await scene.tokens.client_token()
    scene.clock.forward(LIFETIME)
    new = await scene.tokens.client_token()
    assert await scene.tokens.client_token(refused=old.access_token) is new


@pytest.mark.spec("CCT-05")
async def test_a_refused_token_that_cannot_be_replaced_stays_good_for_others() -> None:
    scene = Scene()
    token = await scene.tokens.client_token()
    scene.service.answers.append(Response(500))
    with pytest.raises(TokenUnavailable):
        await scene.tokens.client_token(refused=token.access_token)
    assert await scene.tokens.client_token() is token


@pytest.mark.spec("CCT-05")
async def test_who_joins_the_request_of_somebody_that_brings_the_refused_token_gets_another() -> None:
    scene = Scene()
    async with scene.service.held() as gate:
        first = asyncio.create_task(scene.tokens.client_token())
        await gate.arrived.wait()
        scene.service.answers.append({"access_token": "the-same"})
        joined = asyncio.create_task(scene.tokens.client_token(refused="the-same"))
        await asyncio.sleep(0)
        gate.released.set()
        assert (await first).access_token == "the-same"
        assert (await joined).access_token != "the-same"


@pytest.mark.spec("REF-15", "REF-16")
async def test_an_outage_that_one_token_met_is_met_once() -> None:
    """Two keys are enough to know that it is the authorization server."""
    scene = Scene()
    scene.service.answers.extend([Response(500)] * 2)
    for scope in ("a", "b", "c", "d"):
        with pytest.raises(TokenUnavailable):
            await scene.tokens.client_token(scope=scope)
    assert len(scene.service.requests) == 2
    scene.clock.forward(timedelta(seconds=1))
    assert (await scene.tokens.client_token(scope="c")).access_token


async def test_a_waiter_has_a_deadline_and_the_request_goes_on() -> None:
    scene = Scene(waiter_deadline=timedelta(0))
    async with scene.service.held() as gate:
        with pytest.raises(TokenUnavailable, match="within 0 s"):
            await scene.tokens.client_token()
        await gate.arrived.wait()
        gate.released.set()
        await scene.tokens.aclose()
    assert (await scene.tokens.client_token()).access_token
    assert len(scene.service.requests) == 1


async def test_an_unknown_registration_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no client registration named 'nobody': expected one of default"):
        await Scene().tokens.client_token(client="nobody")


async def test_the_resource_of_the_registration_is_the_default() -> None:
    client = Client(issuer=ISSUER, client_id="shop", client_secret="secret", resource=("https://orders.example",))
    scene = Scene(client=client)
    await scene.tokens.client_token()
    await scene.tokens.client_token(resource=("https://rates.example",))
    assert [form["resource"] for form in scene.service.requests] == ["https://orders.example", "https://rates.example"]
