"""An authorization server that is not well: nobody is logged out, few requests go out, and all is well afterwards."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import timedelta

import pytest

from coatcheck.audit import session_reference, user_reference
from coatcheck.errors import TokenUnavailable, TransportError
from coatcheck.oauth.messages import Response
from tests.tokens.scene import LIFETIME, STALE, Browser, Scene
from tests.tokens.token_service import ISSUER, error

USERS = 30
HTML = Response(200, {"content-type": "text/html"}, b"<!doctype html><title>Maintenance</title>")
FAULTS = {
    "500": Response(500),
    "503 with a date": Response(
        503, {"date": "Mon, 01 Jan 2024 00:00:00 GMT", "retry-after": "Mon, 01 Jan 2024 00:00:09 GMT"}
    ),
    "429": Response(429, {"retry-after": "9"}),
    "html": HTML,
    "broken json": Response(200, {"content-type": "application/json"}, b'{"access_token": "a'),
    "unreachable": TransportError("the token endpoint cannot be reached", sent=False),
    "invalid_client": error("invalid_client", status=401),
    "unauthorized_client": error("unauthorized_client"),
    "temporarily_unavailable": error("temporarily_unavailable"),
}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


async def people(scene: Scene) -> list[Browser]:
    return [await scene.log_in(f"user-{number}") for number in range(USERS)]


async def call(scene: Scene, browser: Browser) -> str:
    return (await scene.tokens.user_token(await browser.request())).access_token


@faults
@pytest.mark.spec("REF-13", "REF-14", "REF-15", "REF-16")
async def test_with_expired_tokens_everybody_is_told_when_to_come_back_and_few_requests_go_out(
    fault: Response | Exception,
) -> None:
    scene = Scene()
    browsers = await people(scene)
    scene.clock.forward(LIFETIME)
    scene.service.answers.extend([fault] * 1000)
    refusals: list[TokenUnavailable] = []
    for browser in browsers:
        with pytest.raises(TokenUnavailable) as caught:
            await call(scene, browser)
        refusals.append(caught.value)
    assert scene.service.refreshes <= 2
    assert all(refusal.retry_after is not None for refusal in refusals[2:])
    assert [await browser.is_logged_in() for browser in browsers] == [True] * USERS
    scene.service.answers.clear()
    scene.clock.forward(timedelta(seconds=10))
    tokens = await asyncio.gather(*(call(scene, browser) for browser in browsers))
    assert [scene.service.owners[token] for token in tokens] == [f"user-{number}" for number in range(USERS)]


@faults
@pytest.mark.spec("REF-14", "REF-15")
async def test_with_tokens_that_still_work_nobody_notices(
    fault: Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    browsers = await people(scene)
    before = [(await browser.stored()).access_token for browser in browsers]
    scene.clock.forward(STALE)
    scene.service.answers.extend([fault] * 1000)
    for browser, token in zip(browsers, before, strict=True):
        assert await call(scene, browser) == token
        await scene.tokens.aclose()
    assert scene.service.refreshes <= 2
    lines = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) <= 2, "an outage is told once, not once per user"
    scene.service.answers.clear()
    scene.clock.forward(timedelta(seconds=10))
    for browser in browsers:
        await call(scene, browser)
    await scene.tokens.aclose()
    assert not set(before) & {(await browser.stored()).access_token for browser in browsers}


@pytest.mark.spec("REF-16")
async def test_a_long_outage_is_probed_by_one_request_at_a_time_and_ends_with_the_first_success() -> None:
    scene = Scene()
    browsers = await people(scene)
    scene.clock.forward(LIFETIME)
    scene.service.answers.extend([Response(500)] * 1000)
    for _ in range(20):  # ten minutes
        await asyncio.gather(*(call(scene, browser) for browser in browsers), return_exceptions=True)
        scene.clock.forward(timedelta(seconds=30))
    during = scene.service.refreshes
    assert during <= 4 * USERS + 16  # before it is recognised all may go at once, then one each half minute
    scene.service.answers.clear()
    async with scene.service.held() as gate:
        probe = asyncio.create_task(call(scene, browsers[0]))
        await gate.arrived.wait()
        others = await asyncio.gather(*(call(scene, browser) for browser in browsers[1:]), return_exceptions=True)
        assert {type(other) for other in others} == {TokenUnavailable}
        gate.released.set()
        assert await probe
    assert scene.service.refreshes == during + 1
    scene.clock.forward(timedelta(seconds=2))
    assert len(set(await asyncio.gather(*(call(scene, browser) for browser in browsers)))) == USERS


@pytest.mark.spec("REF-16")
async def test_a_grant_that_makes_the_server_stumble_stops_nobody_else() -> None:
    scene = Scene()
    unlucky, *others = await people(scene)
    scene.clock.forward(LIFETIME)
    for _ in range(8):
        scene.service.answers.append(Response(500))
        with pytest.raises(TokenUnavailable):
            await call(scene, unlucky)
        scene.clock.forward(timedelta(seconds=31))
    assert await asyncio.gather(*(call(scene, browser) for browser in others))


@pytest.mark.spec("REF-35")
async def test_a_newest_refresh_token_that_is_refused_is_a_security_event(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    browser = await scene.log_in("alice")
    stolen = (await browser.stored()).refresh_token
    assert stolen is not None
    scene.service.revoke_at_the_provider(stolen)
    scene.clock.forward(LIFETIME)
    user = await browser.request()
    with pytest.raises(Exception, match="says that the grant is over"):
        await scene.tokens.user_token(user)
    (event,) = [record for record in caplog.records if hasattr(record, "audit")]
    assert event.levelname == "WARNING"
    assert vars(event)["audit"] == {
        "event": "refresh_token_reuse_suspected",
        "age": str(int(LIFETIME.total_seconds())),
        "client": "default",
        "iss": ISSUER,
        "session": session_reference(user.session.session.id if user.session else ""),
        "user": user_reference(ISSUER, "alice"),
    }
    assert stolen not in caplog.text


@pytest.mark.spec("REF-35")
async def test_a_grant_that_ends_while_its_token_still_works_raises_one_alarm(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene()
    browser = await scene.log_in("alice")
    refresh_token = (await browser.stored()).refresh_token
    assert refresh_token is not None
    scene.service.revoke_at_the_provider(refresh_token)
    scene.clock.forward(STALE)
    await scene.tokens.user_token(await browser.request())
    await scene.tokens.aclose()  # which waits for the renewal in the background
    lines = [(record.levelname, re.split(r"[: ]", record.getMessage())[0]) for record in caplog.records]
    assert sorted(lines) == [
        ("INFO", "renewal_failed"),
        ("INFO", "token_renewal_failed"),
        ("WARNING", "refresh_token_reuse_suspected"),
    ]


@pytest.mark.spec("REF-16")
async def test_an_audience_that_makes_the_server_stumble_holds_back_no_other_exchange() -> None:
    scene = Scene()
    scene.service.answers.extend([Response(500), {}])
    with pytest.raises(TokenUnavailable):
        await scene.tokens.exchange("subject", audience="https://broken.example")
    with pytest.raises(TokenUnavailable, match="no token request is made"):
        await scene.tokens.exchange("subject", audience="https://broken.example")
    assert (await scene.tokens.exchange("subject", audience="https://orders.example")).access_token
