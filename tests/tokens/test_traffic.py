"""Token requests on their way: who is refused, who waits, and what operators hear of it."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from coatcheck.errors import (
    CoatcheckError,
    InvalidGrant,
    InvalidTokenResponse,
    LeaseLost,
    OAuthError,
    StoreUnavailable,
    TokenUnavailable,
    TransportError,
)
from coatcheck.tokens.circuit import FAILURES_TO_OPEN
from coatcheck.tokens.traffic import Errand, Traffic
from tests.testing.clocks import HandClock

ISSUER = "https://issuer.example"
REFRESH = Errand(ISSUER, "default", "refresh_token")
OUTAGE = TransportError("the token endpoint answered 500", sent=True)
MINUTE = timedelta(minutes=1)


def traffic(clock: HandClock | None = None, *, at_once: int = 40) -> Traffic:
    return Traffic(clock or HandClock(), random=lambda: 1.0, at_once=at_once)


async def send(roads: Traffic, errand: Errand = REFRESH, error: BaseException | None = None) -> None:
    """Send a request that ends with *error*, or well."""
    try:
        async with roads.entered(errand):
            if error is not None:
                raise error
    except BaseException as raised:
        if raised is not error:
            raise


async def fail_until_open(roads: Traffic, clock: HandClock, error: CoatcheckError = OUTAGE) -> None:
    for _ in range(FAILURES_TO_OPEN):
        clock.forward(MINUTE)
        await send(roads, error=error)
    clock.forward(MINUTE)


@pytest.mark.spec("REF-15", "REF-16")
@pytest.mark.parametrize(
    "error", [OUTAGE, TransportError("timed out", sent=True), InvalidTokenResponse("html")], ids=str
)
async def test_after_a_failure_nothing_goes_out_for_a_moment(error: CoatcheckError) -> None:
    clock = HandClock()
    roads = traffic(clock)
    await send(roads, error=error)
    with pytest.raises(TokenUnavailable, match=r"for another 0\.5 s, after this: .*" + str(error)) as caught:
        await send(roads)
    assert caught.value.retry_after == timedelta(seconds=0.5)
    clock.forward(timedelta(seconds=0.5))
    await send(roads)


@pytest.mark.spec("REF-15")
async def test_retry_after_holds_for_all_of_the_issuer_and_for_no_other() -> None:
    roads = traffic()
    await send(roads, error=TransportError("busy", sent=True, retry_after=timedelta(seconds=20)))
    refusal = roads.refusal(Errand(ISSUER, "other", "client_credentials", "another"))
    assert refusal is not None
    assert refusal.retry_after == timedelta(seconds=20)
    assert roads.refusal(Errand("https://other.example", "default", "refresh_token")) is None


@pytest.mark.spec("REF-16")
async def test_half_open_one_probe_goes_and_everybody_else_is_refused() -> None:
    clock = HandClock()
    roads = traffic(clock)
    await fail_until_open(roads, clock)
    async with roads.entered(REFRESH):
        assert roads.refusal(REFRESH) is not None
        with pytest.raises(TokenUnavailable):
            await send(roads)
    await asyncio.gather(*(send(roads) for _ in range(10)))


@pytest.mark.spec("REF-16")
@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), StoreUnavailable("down"), LeaseLost("lost"), ValueError("a bug")], ids=repr
)
async def test_a_probe_that_ends_without_an_answer_leaves_the_circuit_as_it_was(error: BaseException) -> None:
    clock = HandClock()
    roads = traffic(clock)
    await fail_until_open(roads, clock)
    await send(roads, error=error)
    async with roads.entered(REFRESH):
        assert roads.refusal(REFRESH) is not None  # still one at a time


@pytest.mark.spec("REF-13", "REF-16")
@pytest.mark.parametrize(
    "error", [InvalidGrant("invalid_grant"), OAuthError("invalid_scope"), OAuthError("odd")], ids=str
)
async def test_an_answer_about_one_request_keeps_nobody_else_waiting(error: CoatcheckError) -> None:
    roads = traffic()
    for _ in range(10):
        await send(roads, error=error)
    assert roads.refusal(REFRESH) is None


@pytest.mark.spec("REF-16")
async def test_an_answer_about_one_request_shows_that_the_issuer_is_well() -> None:
    clock = HandClock()
    roads = traffic(clock)
    await fail_until_open(roads, clock)
    await send(roads, error=InvalidGrant("invalid_grant"))
    async with roads.entered(REFRESH):
        assert roads.refusal(REFRESH) is None


@pytest.mark.spec("REF-13", "REF-16")
async def test_invalid_client_keeps_the_registration_waiting_and_no_other() -> None:
    roads = traffic()
    await send(roads, error=OAuthError("invalid_client", status=401))
    assert roads.refusal(REFRESH) is not None
    assert roads.refusal(Errand(ISSUER, "default", "client_credentials")) is not None
    assert roads.refusal(Errand(ISSUER, "other", "refresh_token")) is None


@pytest.mark.spec("REF-13")
async def test_a_grant_type_that_is_not_allowed_stops_no_other_grant_type() -> None:
    roads = traffic()
    await send(roads, Errand(ISSUER, "default", "client_credentials"), OAuthError("unauthorized_client"))
    assert roads.refusal(Errand(ISSUER, "default", "client_credentials")) is not None
    assert roads.refusal(REFRESH) is None


@pytest.mark.spec("REF-16")
async def test_a_registration_that_is_refused_alarms_once_and_says_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = HandClock()
    roads = traffic(clock)
    await fail_until_open(roads, clock, OAuthError("invalid_client", status=401))
    for _ in range(2):
        await send(roads)
    alarm, over = caplog.records
    assert (alarm.levelname, over.levelname) == ("ERROR", "INFO")
    assert "check client_id, client_secret and client_auth" in alarm.getMessage()
    assert alarm.getMessage().startswith("token_requests_refused: token requests of the registration 'default' to ")
    assert (
        over.getMessage()
        == f"token_requests_resumed: token requests of the registration 'default' to {ISSUER} succeed again"
    )


@pytest.mark.spec("REF-16")
async def test_an_outage_is_told_once_when_it_lasts_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = HandClock()
    roads = traffic(clock)
    await send(roads, error=OUTAGE)
    assert caplog.records == []
    await fail_until_open(roads, clock)
    await send(roads, error=OUTAGE)
    clock.forward(MINUTE)
    await send(roads)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    words = [record.getMessage().partition(": ")[0] for record in caplog.records]
    assert words == ["token_requests_suspended", "token_requests_resumed"]


@pytest.mark.spec("REF-16")
async def test_no_more_requests_than_there_are_places_and_each_in_its_turn() -> None:
    """A bulkhead: an authorization server that hangs holds its own places, and none of another one."""
    roads = traffic(at_once=3)
    gate, began = asyncio.Event(), list[int]()

    async def request(number: int, issuer: str = ISSUER) -> None:
        async with roads.entered(Errand(issuer, "default", "refresh_token", number)):
            began.append(number)
            await gate.wait()

    requests = [asyncio.create_task(request(number)) for number in range(10)]
    await asyncio.sleep(0)
    assert began == [0, 1, 2]
    other = asyncio.create_task(request(99, "https://other.example"))
    await asyncio.sleep(0)
    assert began == [0, 1, 2, 99]
    requests[3].cancel()
    requests[0].cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert began == [0, 1, 2, 99, 4]
    gate.set()
    await asyncio.gather(*requests, other, return_exceptions=True)
    assert began == [0, 1, 2, 99, 4, 5, 6, 7, 8, 9]


@pytest.mark.spec("REF-16")
async def test_who_waited_for_a_place_during_an_outage_does_not_try_in_vain() -> None:
    roads = traffic(at_once=1)
    tried = 0

    async def request() -> None:
        nonlocal tried
        async with roads.entered(REFRESH):
            tried += 1
            await asyncio.sleep(0)
            raise OUTAGE

    results = await asyncio.gather(*(request() for _ in range(50)), return_exceptions=True)
    assert tried == 1
    assert [type(result) for result in results] == [TransportError] + [TokenUnavailable] * 49


async def test_destinations_are_bounded() -> None:
    roads = traffic()
    for number in range(3000):
        await send(
            roads, Errand(f"https://{number}.example", "default", "refresh_token"), OUTAGE if number % 2 else None
        )
    assert len(roads) <= 1000
