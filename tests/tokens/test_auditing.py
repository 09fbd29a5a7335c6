"""The audit log of users' tokens: who, what became of it, and nothing to log in with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from coatcheck.audit import AUDIT_LOGGER, EVENTS, session_reference, user_reference
from coatcheck.errors import CoatcheckError, TransportError
from coatcheck.oauth.messages import Response
from coatcheck.tokens import BlockingTokens, User, UserToken
from tests.tokens.scene import CLIENT, LIFETIME, STALE, Browser, Scene, TableUserTokenStore
from tests.tokens.token_service import ISSUER, error

Lines = Callable[[], list[dict[str, str]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """What the audit log says."""
    caplog.set_level(logging.INFO, logger=AUDIT_LOGGER)

    def read() -> list[dict[str, str]]:
        found = [vars(record)["audit"] for record in caplog.records if record.name == AUDIT_LOGGER]
        assert all(line["event"] in EVENTS for line in found)
        return found

    return read


async def who(browser: Browser, sub: str = "alice") -> dict[str, str]:
    session = (await browser.request()).session
    assert session is not None
    return {"iss": ISSUER, "session": session_reference(session.session.id), "user": user_reference(ISSUER, sub)}


@pytest.mark.spec("LOG-07")
async def test_a_renewal_is_one_line_however_many_wait_for_it(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    browser = await scene.log_in()
    await scene.tokens.user_token(await browser.request())
    assert lines() == [], "a token that is fresh is nobody's business"
    before = await browser.stored()
    scene.clock.forward(LIFETIME)
    users = [await browser.request() for _ in range(20)]
    tokens = await asyncio.gather(*(scene.tokens.user_token(user) for user in users))
    assert lines() == [{"event": "token_renewed", "client": "default", **await who(browser)}]
    for token in (before, tokens[0]):
        for secret in (token.access_token, token.refresh_token, token.id_token):
            assert secret and secret not in caplog.text
    assert "alice" not in caplog.text


@pytest.mark.spec("LOG-07")
async def test_what_another_process_has_renewed_is_told_there_only(lines: Lines) -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    late = await browser.request()
    renewed = await scene.other_process().user_token(await browser.request())
    assert await scene.tokens.user_token(late) == renewed
    assert len(lines()) == 1


@pytest.mark.spec("LOG-07")
async def test_a_renewal_in_the_background_is_told_as_well(lines: Lines) -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(STALE)
    await scene.tokens.user_token(await browser.request())
    await scene.tokens.aclose()
    assert [line["event"] for line in lines()] == ["token_renewed"]


@pytest.mark.spec("LOG-07")
@pytest.mark.parametrize(
    ("answer", "verdict", "reason"),
    [
        (error("invalid_grant"), "ended", "invalid_grant"),
        (error("interaction_required"), "needs_user", "interaction_required"),
        (error("invalid_client", status=401), "misconfigured", "invalid_client"),
        (error("invalid grant\u2028for you"), "transient", "no_answer"),
        (Response(503), "transient", "no_answer"),
        (TransportError("refused", sent=False), "transient", "no_answer"),
        (TransportError("lost", sent=True), "ended", "renewal_lost"),
        (Response(302), "transient", "invalid_answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_renewal_that_fails_says_what_that_means(answer: Any, verdict: str, reason: str, lines: Lines) -> None:
    scene = Scene()
    browser = await scene.log_in()
    references = await who(browser)
    scene.clock.forward(LIFETIME)
    scene.service.answers.append(answer)
    with pytest.raises(CoatcheckError):
        await scene.tokens.user_token(await browser.request())
    (line,) = [line for line in lines() if line["event"] == "token_renewal_failed"]
    assert line == {
        "event": "token_renewal_failed",
        "verdict": verdict,
        "reason": reason,
        "client": "default",
        **references,
    }


@pytest.mark.spec("LOG-07")
async def test_what_is_not_sent_because_of_a_failure_before_is_no_line(lines: Lines) -> None:
    scene = Scene()
    browsers = [await scene.log_in(f"user-{number}") for number in range(30)]
    scene.clock.forward(LIFETIME)
    scene.service.answers.extend([Response(500)] * 30)
    for browser in browsers:
        with pytest.raises(CoatcheckError):
            await scene.tokens.user_token(await browser.request())
    assert len(lines()) == scene.service.refreshes < 30


@pytest.mark.spec("LOG-07", "REF-23")
async def test_a_session_that_ends_while_it_is_renewed_is_told(lines: Lines) -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        call = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        await browser.log_out()
        gate.released.set()
        with pytest.raises(CoatcheckError):
            await call
    (line,) = [line for line in lines() if line["event"].startswith("token_renew")]
    assert (line["event"], line["reason"]) == ("token_renewal_failed", "session_ended")


@pytest.mark.spec("LOG-07")
async def test_a_grant_without_a_session_has_its_user(lines: Lines) -> None:
    scene = Scene(store=TableUserTokenStore())
    user = User(ISSUER, "alice")
    refresh_token = scene.service.login("alice")["refresh_token"]
    await scene.tokens.store_login(user, UserToken.from_refresh_token(refresh_token))
    await scene.tokens.user_token(user)
    [line] = lines()
    assert line == {
        "event": "token_renewed",
        "client": "default",
        "iss": ISSUER,
        "user": user_reference(ISSUER, "alice"),
    }


class API:
    """Answers 401 to the first *refusals* calls."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.refusals -= 1
        return httpx2.Response(401 if self.refusals >= 0 else 200, request=request)


@pytest.mark.spec("LOG-07")
@pytest.mark.parametrize("refusals", [0, 1, 2])
async def test_each_401_of_an_api_to_a_token_is_a_line(refusals: int, lines: Lines) -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(timedelta(seconds=1))
    auth = scene.tokens.auth(token="user", user=await browser.request())
    async with httpx2.AsyncClient(auth=auth, transport=httpx2.MockTransport(API(refusals))) as http:
        await http.get("https://orders.example:8443/secret/path?of=it")
    refused = [line for line in lines() if line["event"] == "token_refused"]
    assert (
        refused == [{"event": "token_refused", "api": "https://orders.example:8443", **await who(browser)}] * refusals
    )


@pytest.mark.spec("LOG-07")
def test_so_it_is_for_code_without_an_event_loop(lines: Lines) -> None:
    scene = Scene()
    user = User(ISSUER, "alice")
    with BlockingTokens(CLIENT, store=TableUserTokenStore(), send=scene.service, clock=scene.clock) as tokens:
        token = UserToken.from_refresh_token(scene.service.login("alice")["refresh_token"])
        tokens.store_login(user, token)
        transport = httpx2.MockTransport(API(1))
        with httpx2.Client(auth=tokens.auth(token="user", user=user), transport=transport) as http:
            assert http.get("https://orders.example/").status_code == 200
    (line,) = [line for line in lines() if line["event"] == "token_refused"]
    assert (line["api"], line["user"]) == ("https://orders.example", user_reference(ISSUER, "alice"))
