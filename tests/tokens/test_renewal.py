"""Renewing a user's token once: in server-side sessions and in a store of the application's own."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.coordination import Lease, SentMark
from coatcheck.errors import (
    LoginRequired,
    StoreUnavailable,
    TokenUnavailable,
    TransportError,
)
from coatcheck.oauth.messages import Response
from coatcheck.sessions import SessionRow
from coatcheck.sessions.store import Change
from coatcheck.stores import MemoryStore
from coatcheck.tokens import TokenState, User, UserToken, UserTokenRequestParameters
from tests.testing.clocks import HandClock
from tests.tokens.scene import LIFETIME, STALE, Scene, TableUserTokenStore, forced
from tests.tokens.token_service import error

ORDERS = UserTokenRequestParameters(scope="orders.read")
RATES = UserTokenRequestParameters(scope="rates.read")


@pytest.fixture(params=["sessions", "table"])
def scene(request: pytest.FixtureRequest) -> Scene:
    """The same promises, wherever the tokens are kept."""
    return Scene() if request.param == "sessions" else Scene(store=TableUserTokenStore())


async def landed(scene: Scene) -> None:
    """Wait for the renewals in the background."""
    await scene.tokens.aclose()


# What is fresh, stale and expired


async def test_a_fresh_token_is_returned_without_asking_anybody(scene: Scene) -> None:
    browser = await scene.log_in()
    token = await scene.tokens.user_token(await browser.request())
    assert token == await browser.stored()
    assert scene.service.requests == []


async def test_a_stale_token_is_used_and_renewed_meanwhile(scene: Scene) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(STALE)
    async with scene.service.held() as gate:
        for _ in range(5):
            assert await scene.tokens.user_token(await browser.request()) == before
        await gate.arrived.wait()
        gate.released.set()
        await landed(scene)
    assert scene.service.refreshes == 1
    after = await scene.tokens.user_token(await browser.request())
    assert after.access_token != before.access_token
    assert after.state(scene.clock.time()) is TokenState.FRESH


@pytest.mark.spec("REF-05")
async def test_an_expired_token_is_renewed_first_and_stored_with_all_that_belongs_to_it(scene: Scene) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(LIFETIME)
    scene.service.answers.append({"scope": "openid"})
    renewed = await scene.tokens.user_token(await browser.request())
    assert renewed == await browser.stored()
    assert renewed.access_token != before.access_token
    assert renewed.refresh_token not in (None, before.refresh_token)
    assert (renewed.issued_at, renewed.expires_at) == (scene.clock.time(), scene.clock.time() + 300)
    assert renewed.scope == "openid"


@pytest.mark.spec("REF-18")
async def test_the_lifetime_counts_from_the_beginning_of_the_request(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    asked_at = scene.clock.time()
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        scene.clock.forward(timedelta(seconds=9))
        gate.released.set()
        renewed = await renewal
    assert renewed.expires_at == asked_at + 300


@pytest.mark.spec("REF-06")
@pytest.mark.parametrize("answer", [{}, {"refresh_token": None}, {"refresh_token": ""}, {"id_token": None}])
async def test_what_a_renewal_does_not_return_is_kept(scene: Scene, answer: dict[str, Any]) -> None:
    """RFC 6749 6: "The authorization server MAY issue a new refresh token" - and may not."""
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.rotation = False
    scene.service.answers.append(answer)
    scene.clock.forward(LIFETIME)
    renewed = await scene.tokens.user_token(await browser.request())
    assert renewed.access_token != before.access_token
    assert (renewed.refresh_token, renewed.id_token, renewed.scope) == (
        before.refresh_token,
        before.id_token,
        before.scope,
    )


@pytest.mark.spec("REF-17")
async def test_an_answer_without_expires_in_is_used_and_renewed_after_five_minutes(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.service.expires_in = None
    scene.clock.forward(LIFETIME)
    renewed = await scene.tokens.user_token(await browser.request())
    assert renewed.expires_at is None
    scene.clock.forward(timedelta(minutes=4))
    assert await scene.tokens.user_token(await browser.request()) == renewed
    scene.clock.forward(timedelta(minutes=2))
    assert await scene.tokens.user_token(await browser.request()) == renewed
    await landed(scene)
    assert await browser.stored() != renewed
    assert scene.service.refreshes == 2


@pytest.mark.spec("REF-17")
@pytest.mark.parametrize("expires_in", [0, -1, "0", "soon", True])
async def test_an_answer_that_is_expired_at_once_serves_those_who_wait_and_nobody_else(
    scene: Scene, expires_in: Any
) -> None:
    browser = await scene.log_in()
    scene.service.expires_in = expires_in
    scene.clock.forward(LIFETIME)
    first = await scene.tokens.user_token(await browser.request())
    second = await scene.tokens.user_token(await browser.request())
    assert first.access_token != second.access_token
    assert scene.service.refreshes == 2


@pytest.mark.spec("REF-17")
async def test_an_absurd_lifetime_is_cut_to_a_day(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.service.expires_in = 10**300
    scene.clock.forward(LIFETIME)
    renewed = await scene.tokens.user_token(await browser.request())
    assert renewed.expires_at == scene.clock.time() + 24 * 3600


async def test_without_a_refresh_token_a_token_is_used_until_it_expires() -> None:
    store = TableUserTokenStore()
    scene = Scene(store=store)
    user = User("https://issuer.example", "worker")
    now = scene.clock.time()
    token = UserToken(access_token="access", issued_at=now, expires_at=now + 300)
    await store.store_token(user, token, UserTokenRequestParameters(), replaces=None)
    scene.clock.forward(STALE)
    assert await scene.tokens.user_token(user) == token
    scene.clock.forward(LIFETIME)
    with pytest.raises(LoginRequired, match="offline_access") as caught:
        await scene.tokens.user_token(user)
    assert caught.value.code == "token_expired_no_refresh_token"
    assert scene.service.requests == []


async def test_a_stored_refresh_token_is_enough_to_begin_with() -> None:
    """A worker that was given a grant, and no access token yet."""
    store = TableUserTokenStore()
    scene = Scene(store=store)
    user = User("https://issuer.example", "worker")
    refresh_token = scene.service.login("worker")["refresh_token"]
    seed = UserToken.from_refresh_token(refresh_token)
    await store.store_token(user, seed, UserTokenRequestParameters(), replaces=None)
    token = await scene.tokens.user_token(user)
    assert scene.service.owners[token.access_token] == "worker"


async def test_force_renewal_renews_a_fresh_token_once(scene: Scene) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    users = [await browser.request() for _ in range(10)]
    results = await asyncio.gather(*(scene.tokens.user_token(user, forced()) for user in users))
    assert {token.access_token for token in results} == {(await browser.stored()).access_token}
    assert results[0].access_token != before.access_token
    assert scene.service.refreshes == 1


async def test_parameters_are_sent_along() -> None:
    scene = Scene()
    user = await (await scene.log_in()).request()
    parameters = UserTokenRequestParameters(
        scope="orders.read", resource=("https://orders.example",), form_parameters=(("tenant", "north"),)
    )
    await scene.tokens.user_token(user, parameters)
    (form,) = scene.service.requests
    assert form["scope"] == "orders.read"
    assert form["resource"] == "https://orders.example"
    assert form["tenant"] == "north"


# One flight


@pytest.mark.spec("REF-01")
async def test_two_hundred_requests_with_an_expired_token_cost_one_refresh(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    users = [await browser.request() for _ in range(200)]
    results = await asyncio.gather(*(scene.tokens.user_token(user) for user in users))
    assert len({token.access_token for token in results}) == 1
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-01")
async def test_nothing_of_a_flight_is_left_behind(scene: Scene) -> None:
    browser = await scene.log_in()
    tasks = asyncio.all_tasks()
    for _ in range(5):
        scene.clock.forward(LIFETIME)
        await scene.tokens.user_token(await browser.request())
    assert asyncio.all_tasks() == tasks


@pytest.mark.spec("REF-07")
async def test_the_first_caller_leaving_stops_neither_the_renewal_nor_the_others(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        first = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        others = [asyncio.create_task(scene.tokens.user_token(await browser.request())) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.released.set()
        tokens = await asyncio.gather(*others)
    assert {token.access_token for token in tokens} == {(await browser.stored()).access_token}
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-07")
async def test_the_new_token_is_stored_even_when_every_caller_has_left(scene: Scene) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        only = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        only.cancel()
        with pytest.raises(asyncio.CancelledError):
            await only
        gate.released.set()
        await landed(scene)
    after = await browser.stored()
    assert after.refresh_token != before.refresh_token
    assert await scene.tokens.user_token(await browser.request()) == after
    assert scene.service.refreshes == 1


async def test_every_waiter_has_a_deadline_of_its_own_and_the_flight_has_none(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    scene.tokens._renewals._waiter_deadline = 0.0
    async with scene.service.held() as gate:
        with pytest.raises(TokenUnavailable, match="did not finish within 0 s; it goes on"):
            await scene.tokens.user_token(await browser.request())
        await gate.arrived.wait()
        gate.released.set()
        await landed(scene)
    assert (await browser.stored()).state(scene.clock.time()) is TokenState.FRESH


@pytest.mark.parametrize("rotation", [True, False], ids=["rotating", "reusable"])
async def test_a_snapshot_from_the_beginning_of_a_long_request_is_read_again(rotation: bool) -> None:
    """A download of an hour holds the handle of its beginning; its old refresh token must not be sent."""
    scene = Scene()
    scene.service.rotation = rotation
    browser = await scene.log_in()
    long_request = await browser.request()
    await scene.tokens.user_token(long_request)
    scene.clock.forward(LIFETIME)
    renewed = await scene.tokens.user_token(await browser.request())
    assert await scene.tokens.user_token(long_request) == renewed
    assert scene.service.refreshes == 1


async def test_callers_that_have_seen_different_refresh_tokens_still_renew_once() -> None:
    """The one with the old snapshot joins the flight of the refresh token that is stored now."""
    scene = Scene()
    browser = await scene.log_in()
    long_request = await browser.request()
    await scene.tokens.user_token(long_request)
    scene.clock.forward(LIFETIME)
    await scene.tokens.user_token(await browser.request())
    scene.clock.forward(LIFETIME)
    callers = [long_request, await browser.request()]
    async with scene.service.held() as gate:
        waiting = [asyncio.create_task(scene.tokens.user_token(user)) for user in callers]
        await gate.arrived.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert scene.service.under_way == 1
        gate.released.set()
        tokens = await asyncio.gather(*waiting)
    assert tokens == [await browser.stored()] * 2
    assert scene.service.refreshes == 2


@pytest.mark.parametrize("rotation", [True, False], ids=["rotating", "reusable"])
async def test_force_renewal_uses_what_somebody_renewed_meanwhile(rotation: bool) -> None:
    scene = Scene()
    scene.service.rotation = rotation
    browser = await scene.log_in()
    long_request = await browser.request()
    await scene.tokens.user_token(long_request)
    renewed = await scene.tokens.user_token(await browser.request(), forced())
    assert await scene.tokens.user_token(long_request, forced()) == renewed
    assert scene.service.refreshes == 1


class SlowLeases(MemoryStore):
    """Held up until the test lets them go on."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.gate = asyncio.Event()

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        await self.gate.wait()
        return await super().acquire(key, holder, seconds=seconds)


def with_slow_leases(**arguments: Any) -> tuple[Scene, asyncio.Event]:
    scene = Scene(coordination=SlowLeases, **arguments)
    assert isinstance(scene.coordination, SlowLeases)
    return scene, scene.coordination.gate


async def test_a_token_that_somebody_clears_meanwhile_asks_for_a_login_and_does_not_end_the_session() -> None:
    """Only the authorization server's word ends a session; an application may empty its own store at any time."""
    scene, gate = with_slow_leases(store=TableUserTokenStore())
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    user = await browser.request()
    waiting = asyncio.create_task(scene.tokens.user_token(user))
    await asyncio.sleep(0)
    await scene.tokens.store.clear_token(user, UserTokenRequestParameters())
    gate.set()
    with pytest.raises(LoginRequired) as caught:
        await waiting
    assert caught.value.code == "login_required"


async def test_force_renewal_is_not_content_with_the_token_that_was_refused() -> None:
    """It joins a flight that finds a newer token than *its* caller had: the one that the API has just refused."""
    scene, gate = with_slow_leases()
    gate.set()
    scene.service.rotation = False
    browser = await scene.log_in()
    long_request = await browser.request()
    await scene.tokens.user_token(long_request)
    scene.clock.forward(LIFETIME)
    refused = await scene.tokens.user_token(await browser.request())
    gate.clear()
    behind = asyncio.create_task(scene.tokens.user_token(long_request))
    await asyncio.sleep(0)
    ahead = asyncio.create_task(scene.tokens.user_token(await browser.request(), forced()))
    await asyncio.sleep(0)
    gate.set()
    assert await behind == refused
    assert await ahead != refused
    assert scene.service.refreshes == 2


@pytest.mark.spec("REF-20", "OAU-23")
@pytest.mark.parametrize(
    ("answered", "stored"), [("openid", "openid"), ("", ""), (None, "openid offline_access")], ids=repr
)
async def test_a_narrowed_grant_is_stored(scene: Scene, answered: str | None, stored: str) -> None:
    """RFC 6749 5.1: `scope` is absent when it is what was requested."""
    browser = await scene.log_in()
    scene.service.answers.append({"scope": answered})
    scene.clock.forward(LIFETIME)
    assert (await scene.tokens.user_token(await browser.request())).scope == stored


async def test_an_access_token_of_its_own_has_the_scope_that_was_asked_for() -> None:
    scene = Scene()
    user = await (await scene.log_in()).request()
    assert (await scene.tokens.user_token(user, ORDERS)).scope == "orders.read"


async def test_no_token_stays_in_memory_once_it_is_stored(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    await scene.tokens.user_token(await browser.request())
    assert len(scene.tokens._renewals._renewer._writer._unwritten) == 0


# Access tokens that share a refresh token


async def test_access_tokens_of_one_grant_are_renewed_one_after_the_other() -> None:
    """Each with the refresh token that the one before brought: used twice, it would end the grant."""
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    wanted = [UserTokenRequestParameters(), ORDERS, RATES]
    results = await asyncio.gather(
        *[scene.tokens.user_token(await browser.request(), parameters) for parameters in wanted for _ in range(5)]
    )
    assert scene.service.refreshes == 3
    assert scene.service.most_under_way == 1
    assert len({form["refresh_token"] for form in scene.service.requests}) == 3
    by_slot = [results[index * 5 : index * 5 + 5] for index in range(3)]
    assert [len({token.access_token for token in same}) for same in by_slot] == [1, 1, 1]
    assert len({token.access_token for token in results}) == 3


async def test_a_scope_that_is_refused_does_not_fail_the_others() -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.service.answers.append(error("invalid_scope"))
    scene.clock.forward(LIFETIME)
    refused, token = await asyncio.gather(
        scene.tokens.user_token(await browser.request(), ORDERS),
        scene.tokens.user_token(await browser.request()),
        return_exceptions=True,
    )
    assert isinstance(refused, TokenUnavailable)
    assert isinstance(token, UserToken)
    assert scene.service.refreshes == 2


# Verdicts


@pytest.mark.spec("REF-12")
async def test_invalid_grant_ends_the_session(scene: Scene) -> None:
    browser = await scene.log_in()
    token = await browser.stored()
    assert token.refresh_token is not None
    scene.service.revoke_at_the_provider(token.refresh_token)
    scene.clock.forward(LIFETIME)
    for code in (
        "session_ended",
        "login_required" if isinstance(scene.tokens.store, TableUserTokenStore) else "session_ended",
    ):
        with pytest.raises(LoginRequired) as caught:
            await scene.tokens.user_token(await browser.request())
        assert caught.value.code == code
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-12")
async def test_invalid_grant_after_somebody_else_renewed_uses_what_they_stored(scene: Scene) -> None:
    """Another process sent the refresh token a moment before us."""
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        ours = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        theirs = await _renewed_by_another_process(scene, await browser.request())
        scene.service.answers.append(error("invalid_grant"))
        gate.released.set()
        assert await ours == theirs
    assert await browser.stored() == theirs


async def _renewed_by_another_process(scene: Scene, user: User) -> UserToken:
    before = await scene.tokens.store.get_token(user, UserTokenRequestParameters())
    now = scene.clock.time()
    theirs = UserToken(access_token="theirs", refresh_token="theirs", issued_at=now, expires_at=now + 300)
    await scene.tokens.store.store_token(user, theirs, UserTokenRequestParameters(), replaces=before)
    return theirs


TRANSIENT_OR_MISCONFIGURED = [
    error("invalid_client", status=401),
    error("unauthorized_client"),
    error("invalid_scope"),
    error("invalid_dpop_proof"),
    error("temporarily_unavailable"),
    Response(429, {"retry-after": "3"}),
    Response(500),
    Response(503, {}, b"<html>back soon</html>"),
    Response(302, {"location": "https://elsewhere.example/"}),
    Response(200, {"content-type": "text/html"}, b"<html>sign in to the hotel network</html>"),
    Response(200, {"content-type": "application/json"}, b'{"access_token":'),
    Response(200, {"content-type": "application/json"}, b"[]"),
    TransportError("cut off in an error page", sent=True, answered=True),
    TransportError("refused", sent=False),
]


def _named(answer: object) -> str:
    return f"{answer.status} {answer.body[:30]!r}" if isinstance(answer, Response) else str(answer)


@pytest.mark.spec("REF-13", "REF-22")
@pytest.mark.parametrize("answer", TRANSIENT_OR_MISCONFIGURED, ids=_named)
async def test_nothing_else_ends_the_session(scene: Scene, answer: Response | Exception) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.answers.append(answer)
    scene.clock.forward(LIFETIME)
    with pytest.raises(TokenUnavailable, match="issuer"):
        await scene.tokens.user_token(await browser.request())
    assert await browser.stored() == before
    scene.clock.forward(timedelta(seconds=5))
    assert (await scene.tokens.user_token(await browser.request())).access_token != before.access_token


@pytest.mark.spec("REF-13", "REF-14")
@pytest.mark.parametrize("answer", TRANSIENT_OR_MISCONFIGURED, ids=_named)
async def test_a_token_that_still_works_is_used_while_renewing_fails(
    scene: Scene, answer: Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.answers.append(answer)
    scene.clock.forward(STALE)
    for _ in range(5):
        assert await scene.tokens.user_token(await browser.request()) == before
        await landed(scene)
    assert scene.service.refreshes == 1
    told = [record for record in caplog.records if record.levelno != logging.ERROR]
    assert [record.levelno for record in told] == [logging.WARNING]
    alarms = [record.getMessage() for record in caplog.records if record not in told]
    assert all("are refused until somebody acts" in alarm for alarm in alarms)


async def test_what_needs_the_user_is_not_tried_again_until_they_log_in(scene: Scene) -> None:
    browser = await scene.log_in()
    scene.service.answers.append(error("interaction_required"))
    scene.clock.forward(LIFETIME)
    for _ in range(3):
        with pytest.raises(LoginRequired) as caught:
            await scene.tokens.user_token(await browser.request())
        assert caught.value.code == "login_required"
        scene.clock.forward(timedelta(hours=0.1))
    assert scene.service.refreshes == 1
    again = await scene.log_in()
    scene.clock.forward(LIFETIME)
    assert (await scene.tokens.user_token(await again.request())).access_token


async def test_a_login_that_brings_the_same_refresh_token_again_is_a_new_beginning() -> None:
    """Some providers return one refresh token for all logins of a user."""
    store = TableUserTokenStore()
    scene = Scene(store=store)
    scene.service.rotation = False
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.answers.append(error("interaction_required"))
    scene.clock.forward(LIFETIME)
    user = await browser.request()
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(user)
    now = scene.clock.time()
    login = replace(before, access_token="new login", issued_at=now, expires_at=now + LIFETIME.total_seconds())
    await store.store_token(user, login, UserTokenRequestParameters(), replaces=None)
    scene.clock.forward(LIFETIME)
    assert (await scene.tokens.user_token(user)).state(scene.clock.time()) is TokenState.FRESH


async def test_a_failure_is_remembered_for_a_moment(scene: Scene) -> None:
    """A broken provider is not asked by every call of a page that retries."""
    browser = await scene.log_in()
    scene.service.answers.extend([Response(500), Response(500)])
    scene.clock.forward(LIFETIME)
    for _ in range(10):
        with pytest.raises(TokenUnavailable):
            await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 1
    scene.clock.forward(timedelta(seconds=2))
    with pytest.raises(TokenUnavailable):
        await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 2


@pytest.mark.parametrize(("asked_for", "silent_for"), [("30", 30), ("86400", 60)])
async def test_retry_after_is_obeyed_up_to_a_minute(scene: Scene, asked_for: str, silent_for: int) -> None:
    browser = await scene.log_in()
    scene.service.answers.append(Response(503, {"retry-after": asked_for}))
    scene.clock.forward(LIFETIME)
    with pytest.raises(TokenUnavailable) as caught:
        await scene.tokens.user_token(await browser.request())
    assert caught.value.retry_after is not None
    scene.clock.forward(timedelta(seconds=silent_for - 1))
    with pytest.raises(TokenUnavailable):
        await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 1
    scene.clock.forward(timedelta(seconds=1))
    await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 2


async def test_a_forced_renewal_that_fails_says_so(scene: Scene) -> None:
    """The API has refused the token: handing it out again would help nobody."""
    browser = await scene.log_in()
    scene.service.answers.append(Response(500))
    with pytest.raises(TokenUnavailable):
        await scene.tokens.user_token(await browser.request(), forced())


# Sessions that end or change meanwhile


@pytest.mark.spec("REF-23", "REF-24")
async def test_a_logout_during_the_renewal_wins(caplog: pytest.LogCaptureFixture) -> None:
    """The session stays deleted, and the new refresh token, which nobody will ever use, is revoked."""
    scene = Scene()
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        await browser.log_out()
        gate.released.set()
        with pytest.raises(LoginRequired) as caught:
            await renewal
    assert caught.value.code == "session_ended"
    assert not await browser.is_logged_in()
    assert len(scene.service.revoked) == 1
    assert scene.service.revoked[0] != before.refresh_token
    assert caplog.records == []


@pytest.mark.spec("REF-23")
async def test_a_refresh_token_that_was_not_replaced_is_not_revoked_with_the_session() -> None:
    scene = Scene()
    scene.service.rotation = False
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        await browser.log_out()
        gate.released.set()
        with pytest.raises(LoginRequired):
            await renewal
    assert scene.service.revoked == []


@pytest.mark.spec("REF-24")
async def test_a_login_during_the_renewal_keeps_its_own_tokens() -> None:
    """The late result belongs to the session it was started for, not to the one that replaced it."""
    scene = Scene()
    old = await scene.log_in("alice")
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.tokens.user_token(await old.request()))
        await gate.arrived.wait()
        new = await scene.log_in("bob")
        theirs = await new.stored()
        await old.log_out()
        gate.released.set()
        with pytest.raises(LoginRequired):
            await renewal
    assert await new.stored() == theirs


@pytest.mark.spec("REF-24")
async def test_a_login_that_replaces_a_stored_token_during_the_renewal_wins() -> None:
    """With one row per user, the result of the old grant must not overwrite the new one."""
    scene = Scene(store=TableUserTokenStore())
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        again = await scene.log_in()
        theirs = await again.stored()
        gate.released.set()
        assert await renewal == theirs
    assert await again.stored() == theirs


async def test_one_session_ending_does_not_fail_another_one_that_shares_the_stored_token() -> None:
    """Two browsers of one user, one row: the flight started for the first, which logs out."""
    scene = Scene(store=TableUserTokenStore())
    leaving = await scene.log_in()
    staying = await scene.log_in()
    scene.clock.forward(LIFETIME)
    first, second = await leaving.request(), await staying.request()
    await leaving.log_out()
    ended, token = await asyncio.gather(
        scene.tokens.user_token(first), scene.tokens.user_token(second), return_exceptions=True
    )
    assert isinstance(ended, LoginRequired)
    assert isinstance(token, UserToken)


@pytest.mark.spec("SES-08")
async def test_two_hundred_users_get_their_own_token_and_nobody_elses(scene: Scene) -> None:
    """CVE-2024-51987: a pooled client sent another user's refreshed token."""
    browsers = {f"user-{number}": await scene.log_in(f"user-{number}") for number in range(200)}
    for _ in range(5):
        scene.clock.forward(LIFETIME)
        calls = [(sub, await browser.request()) for sub, browser in browsers.items() for _ in range(10)]
        tokens = await asyncio.gather(*(scene.tokens.user_token(user) for _, user in calls))
        for (sub, _), token in zip(calls, tokens, strict=True):
            assert scene.service.owners[token.access_token] == sub
    assert scene.service.refreshes == 200 * 5


# Write before use


class StoreThatIsDown(MemoryStore):
    """Cannot write for a while."""

    failures = 0

    async def update(self, key: bytes, change: Change) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise StoreUnavailable("the store does not answer")
        await super().update(key, change)


def with_failing_store(**arguments: Any) -> tuple[Scene, StoreThatIsDown]:
    scene = Scene(**arguments)
    store = StoreThatIsDown(scene.clock)
    scene.replace_session_store(store)
    return scene, store


@pytest.mark.spec("REF-05")
async def test_nobody_gets_a_token_before_it_is_stored() -> None:
    reached: list[str] = []
    at_write, go_on = asyncio.Event(), asyncio.Event()

    async def checkpoint(name: str) -> None:
        reached.append(name)
        if name == "renewal.before_write":
            at_write.set()
            await go_on.wait()

    scene = Scene(checkpoints=checkpoint)
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(LIFETIME)
    waiters = [asyncio.create_task(scene.tokens.user_token(await browser.request())) for _ in range(3)]
    await at_write.wait()
    assert await browser.stored() == before
    assert not any(waiter.done() for waiter in waiters)
    go_on.set()
    tokens = await asyncio.gather(*waiters)
    assert set(tokens) == {await browser.stored()}
    assert reached == [
        "renewal.lease_held",
        "renewal.marked",
        "renewal.answered",
        "renewal.before_write",
        "renewal.written",
    ]


@pytest.mark.spec("REF-05")
async def test_a_store_that_is_down_for_a_moment_is_tried_again() -> None:
    scene, store = with_failing_store()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    store.failures = 3
    token = await scene.tokens.user_token(await browser.request())
    assert token == await browser.stored()
    assert len(scene.pauses) == 3
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-05", "REF-08")
async def test_those_who_wait_are_served_while_the_store_is_away_and_it_gets_the_tokens_later() -> None:
    """The refresh token in the answer may be the only good one: it is kept, and the old one is not sent again."""
    scene, store = with_failing_store()
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(LIFETIME)
    store.failures = 1000
    users = [await browser.request() for _ in range(5)]
    tokens = await asyncio.gather(*(scene.tokens.user_token(user) for user in users))
    assert len({token.access_token for token in tokens}) == 1
    assert await browser.stored() == before
    with pytest.raises(StoreUnavailable):
        await scene.tokens.user_token(await browser.request())
    store.failures = 0
    await landed(scene)
    assert await browser.stored() == tokens[0]
    assert await scene.tokens.user_token(await browser.request()) == tokens[0]
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-08")
async def test_an_outage_of_the_store_for_an_hour_costs_nobody_the_session(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene, store = with_failing_store()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    store.failures = 1000
    await scene.tokens.user_token(await browser.request())
    scene.clock.forward(timedelta(minutes=54))
    store.failures = 0
    await landed(scene)
    token = await scene.tokens.user_token(await browser.request())
    assert token == await browser.stored()
    assert len({form["refresh_token"] for form in scene.service.requests}) == scene.service.refreshes == 2
    told = [record.getMessage().partition(": ")[0] for record in caplog.records if record.name == "coatcheck"]
    assert told == ["tokens_unwritten", "tokens_written"]


@pytest.mark.spec("REF-23")
async def test_a_logout_while_the_store_cannot_be_written_revokes_the_new_refresh_token() -> None:
    scene, store = with_failing_store()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    store.failures = 1000
    token = await scene.tokens.user_token(await browser.request())
    await browser.log_out()
    store.failures = 0
    await landed(scene)
    assert not await browser.is_logged_in()
    assert scene.service.revoked == [token.refresh_token]


async def test_what_a_store_of_the_application_raises_reaches_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Databases repeat the offending row in their messages."""

    class UniqueColumn(TableUserTokenStore):
        refuses = 8

        async def store_token(
            self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
        ) -> None:
            if replaces is not None and self.refuses:
                self.refuses -= 1
                raise RuntimeError(f"duplicate key (refresh_token)=({token.refresh_token})")
            await super().store_token(user, token, parameters, replaces=replaces)

    scene = Scene(store=UniqueColumn())
    browser = await scene.log_in()
    scene.clock.forward(STALE)
    await scene.tokens.user_token(await browser.request())
    await landed(scene)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "RuntimeError at " in record.getMessage()
    assert "test_renewal.py:" in record.getMessage()
    assert "refresh-" not in caplog.text
    assert scene.service.refreshes == 1
    assert (await browser.stored()).state(scene.clock.time()) is TokenState.FRESH


async def test_a_store_that_cannot_be_read_sends_nothing() -> None:
    class Unreadable(MemoryStore):
        readable = True

        async def load(self, key: bytes) -> SessionRow | None:
            if not self.readable:
                raise StoreUnavailable("the store does not answer")
            return await super().load(key)

    scene = Scene()
    store = Unreadable(scene.clock)
    scene.replace_session_store(store)
    user = await (await scene.log_in()).request()
    scene.clock.forward(LIFETIME)
    store.readable = False
    with pytest.raises(StoreUnavailable):
        await scene.tokens.user_token(user)
    assert scene.service.requests == []


@pytest.mark.spec("REF-02")
async def test_the_lease_is_held_from_before_the_store_is_read_until_after_it_is_written() -> None:
    events: list[str] = []
    keys: set[bytes] = set()

    class Leases(MemoryStore):
        async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
            events.append("held")
            keys.add(key)
            return await super().acquire(key, holder, seconds=seconds)

        async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
            events.append("marked")
            await super().mark_sent(key, holder, mark, seconds=seconds, until=until)

        async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
            events.append("given back")
            assert mark is None
            await super().release(key, holder, mark=mark)

    class Table(TableUserTokenStore):
        async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
            events.append("read")
            return await super().get_token(user, parameters)

        async def store_token(self, *arguments: Any, **named: Any) -> None:
            events.append("written")
            await super().store_token(*arguments, **named)

    scene = Scene(store=Table(), coordination=Leases)
    browser = await scene.log_in()
    user = await browser.request()
    scene.clock.forward(LIFETIME)
    events.clear()
    await scene.tokens.user_token(user)
    assert events == ["read", "held", "read", "marked", "written", "given back"]
    (key,) = keys
    assert len(key) == 32


@pytest.mark.spec("REF-12")
async def test_a_refresh_token_that_rotation_has_replaced_is_never_revoked(scene: Scene) -> None:
    browser = await scene.log_in()
    for _ in range(3):
        scene.clock.forward(LIFETIME)
        await scene.tokens.user_token(await browser.request())
    assert scene.service.revoked == []
