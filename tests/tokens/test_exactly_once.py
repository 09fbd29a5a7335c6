"""Several processes over one store: one request for one due token, whoever crashes, stops or is held up."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.coordination import ExpiringValue, Lease, SentMark
from coatcheck.errors import LoginRequired, StoreUnavailable, TokenUnavailable, TransportError
from coatcheck.oauth.messages import Request, Response
from coatcheck.sessions import new_key
from coatcheck.stores import MemoryStore
from coatcheck.tokens import TokenState, UserTokenRequestParameters
from tests.testing.clocks import HandClock
from tests.tokens.processes import Process
from tests.tokens.scene import CLIENT, LIFETIME, STALE, Browser, Scene, TableUserTokenStore, forced
from tests.tokens.token_service import LOST, error

ORDERS = UserTokenRequestParameters(resource=("https://orders.example",))
RATES = UserTokenRequestParameters(resource=("https://rates.example",))
STRICT, NONE, GRACE = (replace(CLIENT, rotation=rotation) for rotation in ("strict", "none", "grace:10s"))
CRASH_POINTS = ["lease_held", "marked", "answered", "before_write", "written"]
LEASE_RUNS_OUT = timedelta(seconds=13)


def scene_of(kind: str, **arguments: Any) -> Scene:
    if kind == "table":
        return Scene(store=TableUserTokenStore(), **arguments)
    return Scene(cookies=kind == "cookies", **arguments)


@pytest.fixture(params=["sessions", "table", "cookies"])
def kind(request: pytest.FixtureRequest) -> str:
    """The same promises, wherever the tokens are kept."""
    return str(request.param)


async def expired(scene: Scene) -> Browser:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    return browser


def sent(scene: Scene) -> list[str]:
    """The refresh tokens that the provider has seen, in order."""
    return [form["refresh_token"] for form in scene.service.sent("refresh_token")]


# Everybody is well


@pytest.mark.spec("REF-02", "REF-27", "REF-29")
async def test_two_hundred_calls_in_two_processes_cost_one_refresh(kind: str) -> None:
    scene = scene_of(kind)
    browser = await expired(scene)
    processes = [scene.tokens, Process(scene).tokens]
    calls = [processes[number % 2].user_token(await browser.request()) for number in range(200)]
    tokens = await asyncio.gather(*calls)
    assert len({token.access_token for token in tokens}) == 1
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-02")
async def test_a_process_that_comes_while_another_one_renews_uses_what_that_one_gets(kind: str) -> None:
    scene = scene_of(kind)
    browser = await expired(scene)
    async with scene.service.held() as gate:
        ours = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        theirs = asyncio.create_task(Process(scene).tokens.user_token(await browser.request()))
        gate.released.set()
        assert await ours == await theirs
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-33")
@pytest.mark.parametrize("kind", ["sessions", "cookies"])  # the table has one token per user
async def test_tokens_for_two_apis_of_one_grant_are_fetched_one_after_the_other_by_two_processes(kind: str) -> None:
    scene = scene_of(kind)
    browser = await expired(scene)
    other = Process(scene).tokens
    orders, rates = await asyncio.gather(
        scene.tokens.user_token(await browser.request(), ORDERS), other.user_token(await browser.request(), RATES)
    )
    assert orders.access_token != rates.access_token
    assert scene.service.most_under_way == 1
    assert len(set(sent(scene))) == 2
    assert [form["resource"] for form in scene.service.sent("refresh_token")] in (
        ["https://orders.example", "https://rates.example"],
        ["https://rates.example", "https://orders.example"],
    )
    again = await other.user_token(await browser.request(), ORDERS)
    assert again.access_token == orders.access_token
    assert scene.service.refreshes == 2


@pytest.mark.spec("REF-02")
async def test_nodes_meet_while_the_keys_are_rotated() -> None:
    """Three deploys: append, move first, drop. During each, old and new nodes serve the same sessions."""
    first, second = new_key(), new_key()
    for ours, theirs in (([first], [first, second]), ([first, second], [second, first]), ([second, first], [second])):
        scene = Scene()
        browser = await expired(scene)
        async with scene.service.held() as gate:
            one = asyncio.create_task(scene.other_process(keys=ours).user_token(await browser.request()))
            await gate.arrived.wait()
            other = asyncio.create_task(scene.other_process(keys=theirs).user_token(await browser.request()))
            for _ in range(50):
                await asyncio.sleep(0)
            gate.released.set()
            assert await one == await other
        assert scene.service.refreshes == 1


# One dies


@pytest.mark.spec("REF-25")
async def test_killed_before_the_mark_always_survives(kind: str) -> None:
    for client in (STRICT, NONE, GRACE):
        scene = scene_of(kind, client=client)
        browser = await expired(scene)
        _ = await Process(scene, stops_at="lease_held").stand_still(browser)
        scene.clock.forward(LEASE_RUNS_OUT)
        token = await scene.tokens.user_token(await browser.request())
        assert token.state(scene.clock.time()) is TokenState.FRESH
        assert scene.service.refreshes == 1


@pytest.mark.spec("REF-09", "REF-10")
@pytest.mark.parametrize("point", CRASH_POINTS[1:4])
async def test_killed_after_the_mark_a_strict_provider_costs_one_clean_login(kind: str, point: str) -> None:
    scene = scene_of(kind, client=STRICT)
    browser = await expired(scene)
    _ = await Process(scene, stops_at=point).stand_still(browser)
    scene.clock.forward(LEASE_RUNS_OUT)
    user = await browser.request()
    with pytest.raises(LoginRequired) as caught:
        await scene.tokens.user_token(user)
    assert caught.value.code == "renewal_lost"
    browser.receive(user.session)
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(await browser.request())
    assert len(sent(scene)) == len(set(sent(scene))) == (0 if point == "marked" else 1)


@pytest.mark.spec("REF-10")
@pytest.mark.parametrize("point", CRASH_POINTS[1:4])
@pytest.mark.parametrize("client", [NONE, GRACE], ids=["none", "grace"])
async def test_killed_after_the_mark_another_sending_saves_the_session_where_it_is_permitted(
    kind: str, point: str, client: Any
) -> None:
    scene = scene_of(kind, client=client)
    scene.service.rotation, scene.service.grace = client is GRACE, 10.0
    browser = await expired(scene)
    _ = await Process(scene, stops_at=point).stand_still(browser)
    scene.clock.forward(timedelta(seconds=6))
    token = await scene.tokens.user_token(await browser.request())
    assert token.state(scene.clock.time()) is TokenState.FRESH
    # What a grace answers again may be meant for another API: only its refresh token is used, once more.
    again = 1 if client is GRACE else 0
    assert scene.service.refreshes == (1 if point == "marked" else 2) + again
    scene.clock.forward(LIFETIME)
    assert (await scene.tokens.user_token(await browser.request())).access_token != token.access_token


@pytest.mark.spec("REF-10", "REF-33")
@pytest.mark.parametrize("kind", ["sessions", "cookies"])
async def test_what_a_grace_answers_again_is_given_to_nobody_who_asked_for_another_api(kind: str) -> None:
    """A process died with the tokens for one API in its hands; the provider repeats them to whoever comes next."""
    scene = scene_of(kind, client=GRACE)
    scene.service.grace = 10.0
    browser = await expired(scene)
    _ = await Process(scene, stops_at="answered").stand_still(browser, ORDERS)
    scene.clock.forward(timedelta(seconds=6))
    token = await scene.tokens.user_token(await browser.request(), RATES)
    asked_for = {form["refresh_token"]: form["resource"] for form in scene.service.sent("refresh_token")}
    assert list(asked_for.values()) == ["https://rates.example", "https://rates.example"]
    assert scene.service.refreshes == 3
    assert token.state(scene.clock.time()) is TokenState.FRESH


@pytest.mark.spec("REF-10")
async def test_after_the_grace_nothing_is_sent_again(kind: str) -> None:
    scene = scene_of(kind, client=GRACE)
    scene.service.grace = 10.0
    browser = await expired(scene)
    _ = await Process(scene, stops_at="answered").stand_still(browser)
    scene.clock.forward(timedelta(seconds=11))
    with pytest.raises(LoginRequired) as caught:
        await scene.tokens.user_token(await browser.request())
    assert caught.value.code == "renewal_lost"
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-25")
async def test_killed_after_the_write_nothing_is_sent_again(kind: str) -> None:
    for client in (STRICT, NONE, GRACE):
        scene = scene_of(kind, client=client)
        browser = await expired(scene)
        _ = await Process(scene, stops_at="written").stand_still(browser)
        token = await scene.tokens.user_token(await browser.request())
        assert token.state(scene.clock.time()) is TokenState.FRESH
        assert scene.service.refreshes == 1


@pytest.mark.spec("REF-10")
async def test_a_mark_that_a_dead_holder_left_on_a_kept_refresh_token_says_nothing_once_it_was_written(
    kind: str,
) -> None:
    """It died after the write. The same refresh token is good for the next renewal, even by the strictest words."""
    scene = scene_of(kind, client=STRICT)
    scene.service.rotation = False
    browser = await expired(scene)
    _ = await Process(scene, stops_at="written").stand_still(browser)
    scene.clock.forward(LIFETIME)
    token = await scene.tokens.user_token(await browser.request())
    assert token.state(scene.clock.time()) is TokenState.FRESH
    assert scene.service.refreshes == 2


@pytest.mark.spec("REF-10")
async def test_a_late_reader_that_finds_a_newer_token_clears_no_doubt_about_a_later_sending() -> None:
    """The refresh token is kept, so both meet at the same lease."""
    scene = Scene(client=STRICT)
    scene.service.rotation = False
    browser = await expired(scene)
    late = await browser.request()
    assert late.session is not None
    await late.session.tokens()
    renewed = await scene.tokens.user_token(await browser.request())
    scene.clock.forward(timedelta(seconds=10))
    scene.service.answers.append(LOST)
    with pytest.raises(TokenUnavailable):
        await scene.tokens.user_token(await browser.request(), forced())
    assert await Process(scene).tokens.user_token(late) == renewed
    with pytest.raises(TokenUnavailable):
        await Process(scene).tokens.user_token(await browser.request(), forced())
    assert scene.service.refreshes == 2


# One is held up


@pytest.mark.spec("REF-04")
@pytest.mark.parametrize("point", ["lease_held", "marked"])
async def test_a_holder_that_was_held_up_before_the_sending_never_sends(kind: str, point: str) -> None:
    scene = scene_of(kind, client=NONE)
    scene.service.rotation = False
    browser = await expired(scene)
    zombie = Process(scene, stops_at=point)
    flight = await zombie.stand_still(browser)
    scene.clock.forward(LEASE_RUNS_OUT)
    token = await scene.tokens.user_token(await browser.request())
    zombie.wake()
    assert await flight == token
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-04")
@pytest.mark.parametrize("clock", ["monotonic", "wall"])
async def test_either_clock_tells_that_the_lease_ran_out(clock: str) -> None:
    """A suspended machine's monotonic clock stands still; a wall clock may be set back. The lease is taken anew."""
    scene = Scene(client=STRICT)
    browser = await expired(scene)
    own_clock = TwoHands(scene.clock)
    process = Process(scene, stops_at="marked", clock=own_clock)
    flight = await process.stand_still(browser)
    setattr(own_clock, f"ahead_{clock}", 60.0)
    process.wake()
    assert (await flight).state(scene.clock.time()) is TokenState.FRESH
    assert process.leases == 3, "the second one only sees to it that no mark has stayed behind"
    assert scene.service.refreshes == 1


class TwoHands:
    """A machine's two clocks, of which one may be ahead."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self.ahead_monotonic = self.ahead_wall = 0.0

    def time(self) -> float:
        return self._clock.time() + self.ahead_wall

    def monotonic(self) -> float:
        return self._clock.monotonic() + self.ahead_monotonic


@pytest.mark.spec("REF-04", "REF-24")
async def test_a_holder_that_was_held_up_with_its_answer_overwrites_nothing_newer(kind: str) -> None:
    scene = scene_of(kind, client=GRACE)
    scene.service.grace = 10.0
    browser = await expired(scene)
    zombie = Process(scene, stops_at="before_write")
    flight = await zombie.stand_still(browser)
    scene.clock.forward(timedelta(seconds=6))
    await scene.tokens.user_token(await browser.request())
    scene.clock.forward(LIFETIME)
    newest = await scene.tokens.user_token(await browser.request())
    zombie.wake()
    assert await flight == newest
    assert await scene.tokens.user_token(await browser.request()) == newest
    assert scene.service.refreshes == 4


@pytest.mark.spec("REF-04")
async def test_a_holder_that_was_held_up_overwrites_nothing_newer_beside_a_kept_refresh_token(kind: str) -> None:
    """A store of one's own need not compare more than refresh tokens, and both have the same."""
    scene = scene_of(kind, client=NONE)
    scene.service.rotation = False
    browser = await expired(scene)
    zombie = Process(scene, stops_at="before_write")
    flight = await zombie.stand_still(browser)
    scene.clock.forward(timedelta(seconds=6))
    newest = await scene.tokens.user_token(await browser.request())
    zombie.wake()
    assert await flight == newest
    assert await scene.tokens.user_token(await browser.request()) == newest
    assert scene.service.refreshes == 2


@pytest.mark.spec("REF-04")
async def test_a_holder_that_was_held_up_with_its_answer_gives_out_nothing_that_has_expired(kind: str) -> None:
    """The token that it brings was good when it came, minutes ago; its callers get one that works."""
    scene = scene_of(kind, client=STRICT)
    browser = await expired(scene)
    slow = Process(scene, stops_at="before_write")
    flight = await slow.stand_still(browser)
    scene.clock.forward(LIFETIME)
    slow.wake()
    assert (await flight).state(scene.clock.time()) is TokenState.FRESH
    assert len(set(sent(scene))) == scene.service.refreshes == 2


# The answer is lost


@pytest.mark.spec("REF-10")
async def test_an_answer_that_is_lost_is_noticed_by_nobody_while_the_access_token_works(kind: str) -> None:
    scene = scene_of(kind, client=STRICT)
    browser = await scene.log_in()
    before = await browser.stored()
    scene.service.answers.append(LOST)
    scene.clock.forward(STALE)
    for process in (scene.tokens, scene.tokens, Process(scene).tokens):
        token = await process.user_token(await browser.request())
        assert token.access_token == before.access_token
        await process.aclose()
    scene.clock.forward(timedelta(seconds=20))
    with pytest.raises(LoginRequired) as caught:
        await Process(scene).tokens.user_token(await browser.request())
    assert caught.value.code == "renewal_lost"
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-10")
@pytest.mark.parametrize("client", [NONE, GRACE], ids=["none", "grace"])
async def test_an_answer_that_is_lost_is_asked_for_again_at_once_where_that_is_permitted(
    kind: str, client: Any
) -> None:
    scene = scene_of(kind, client=client)
    scene.service.rotation, scene.service.grace = client is GRACE, 10.0
    browser = await expired(scene)
    scene.service.answers.append(LOST)
    token = await scene.tokens.user_token(await browser.request())
    assert token.state(scene.clock.time()) is TokenState.FRESH
    assert scene.service.refreshes == 2


@pytest.mark.spec("REF-10")
async def test_within_a_grace_it_is_asked_for_once_more_and_never_a_third_time(kind: str) -> None:
    scene = scene_of(kind, client=GRACE)
    scene.service.grace = 10.0
    browser = await expired(scene)
    scene.service.answers.extend([LOST, LOST])
    for _ in range(2):
        with pytest.raises(LoginRequired):
            await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 2


@pytest.mark.spec("REF-10")
@pytest.mark.parametrize("refusal", [Response(500), error("invalid_client", status=401)], ids=["500", "invalid_client"])
async def test_a_refusal_of_the_second_sending_leaves_the_first_one_in_doubt(kind: str, refusal: Response) -> None:
    """That one may have spent the refresh token, and the grace goes by."""
    scene = scene_of(kind, client=GRACE)
    scene.service.grace = 10.0
    browser = await expired(scene)
    scene.service.answers.extend([LOST, refusal])
    with pytest.raises(TokenUnavailable):
        await scene.tokens.user_token(await browser.request())
    scene.clock.forward(timedelta(seconds=60))
    with pytest.raises(LoginRequired) as caught:
        await Process(scene).tokens.user_token(await browser.request())
    assert caught.value.code == "renewal_lost"
    assert scene.service.refreshes == 2


@pytest.mark.spec("REF-10")
async def test_what_certainly_did_not_leave_leaves_no_doubt(kind: str) -> None:
    scene = scene_of(kind, client=STRICT)
    browser = await expired(scene)
    scene.service.answers.append(TransportError("connection refused", sent=False))
    with pytest.raises(Exception, match="connection refused"):
        await scene.tokens.user_token(await browser.request())
    scene.clock.forward(timedelta(seconds=5))
    token = await Process(scene).tokens.user_token(await browser.request())
    assert token.state(scene.clock.time()) is TokenState.FRESH


@pytest.mark.spec("REF-10")
async def test_an_answer_that_refuses_leaves_no_doubt(kind: str) -> None:
    scene = scene_of(kind, client=STRICT)
    browser = await expired(scene)
    scene.service.answers.append(Response(500))
    with pytest.raises(Exception, match="500"):
        await scene.tokens.user_token(await browser.request())
    scene.clock.forward(timedelta(seconds=5))
    token = await Process(scene).tokens.user_token(await browser.request())
    assert token.state(scene.clock.time()) is TokenState.FRESH


@pytest.mark.spec("REF-10")
async def test_a_refresh_that_keeps_its_token_teaches_that_it_may_be_sent_again(kind: str) -> None:
    """`learn`, the default; a process that starts later knows it, too."""
    scene = scene_of(kind)
    scene.service.rotation = False
    browser = await expired(scene)
    user = await browser.request()
    await scene.tokens.user_token(user)
    browser.receive(user.session)
    scene.clock.forward(LIFETIME)
    scene.service.answers.append(LOST)
    token = await Process(scene).tokens.user_token(await browser.request())
    assert token.state(scene.clock.time()) is TokenState.FRESH
    assert scene.service.refreshes == 3


@pytest.mark.spec("REF-10")
async def test_a_provider_that_begins_to_rotate_is_strict_again() -> None:
    scene = Scene()
    scene.service.rotation = False
    browser = await expired(scene)
    await scene.tokens.user_token(await browser.request())
    scene.service.rotation = True
    scene.clock.forward(LIFETIME)
    await scene.tokens.user_token(await browser.request())
    scene.clock.forward(LIFETIME)
    scene.service.answers.append(LOST)
    with pytest.raises(LoginRequired) as caught:
        await Process(scene).tokens.user_token(await browser.request())
    assert caught.value.code == "renewal_lost"


# The coordination store is away


class Away(MemoryStore):
    """Does not answer for a while."""

    away = False

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        self._check()
        return await super().acquire(key, holder, seconds=seconds)

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        self._check()
        await super().mark_sent(key, holder, mark, seconds=seconds, until=until)

    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        self._check()
        await super().release(key, holder, mark=mark)

    async def get(self, key: bytes) -> ExpiringValue | None:
        self._check()
        return await super().get(key)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("the store does not answer")


@pytest.mark.spec("REF-26")
async def test_without_the_coordination_store_nothing_is_sent_and_nobody_is_logged_out(kind: str) -> None:
    scene = scene_of(kind, coordination=Away)
    assert isinstance(scene.coordination, Away)
    browser = await scene.log_in()
    before = await browser.stored()
    scene.coordination.away = True
    scene.clock.forward(STALE)
    assert await scene.tokens.user_token(await browser.request()) == before
    await scene.tokens.aclose()
    scene.clock.forward(timedelta(seconds=20))
    with pytest.raises(StoreUnavailable):
        await scene.tokens.user_token(await browser.request())
    assert scene.service.refreshes == 0
    scene.coordination.away = False
    scene.clock.forward(timedelta(seconds=2))
    assert (await scene.tokens.user_token(await browser.request())).access_token != before.access_token


@pytest.mark.spec("REF-26")
async def test_a_mark_that_cannot_be_written_is_no_sending(kind: str) -> None:
    scene = scene_of(kind, client=STRICT, coordination=Away)
    store = scene.coordination
    assert isinstance(store, Away)
    browser = await expired(scene)

    async def checkpoint(name: str) -> None:
        if name == "renewal.lease_held":
            store.away = True

    ours = scene.other_process(checkpoints=checkpoint)
    with pytest.raises(StoreUnavailable):
        await ours.user_token(await browser.request())
    assert scene.service.refreshes == 0
    store.away = False
    scene.clock.forward(LEASE_RUNS_OUT)
    token = await scene.tokens.user_token(await browser.request())
    assert token.state(scene.clock.time()) is TokenState.FRESH


# Sessions that end meanwhile


@pytest.mark.spec("REF-23")
async def test_a_logout_at_one_process_during_the_renewal_of_another_wins() -> None:
    scene = Scene()
    browser = await expired(scene)
    other = Process(scene, stops_at="before_write")
    renewal = asyncio.create_task(other.tokens.user_token(await browser.request()))
    await other.reached.wait()
    await browser.log_out()
    other.goes_on.set()
    with pytest.raises(LoginRequired) as caught:
        await renewal
    assert caught.value.code == "session_ended"
    assert not await browser.is_logged_in()
    assert len(scene.service.revoked) == 1
    assert scene.service.revoked[0] not in sent(scene)


@pytest.mark.spec("REF-23")
async def test_a_logout_waits_for_the_renewal_of_another_process_and_revokes_what_comes_of_it(kind: str) -> None:
    scene = scene_of(kind)
    browser = await expired(scene)
    other = Process(scene, stops_at="before_write")
    renewal = asyncio.create_task(other.tokens.user_token(await browser.request()))
    await other.reached.wait()
    logout = asyncio.create_task(scene.tokens.revoke(await browser.request()))
    for _ in range(50):
        await asyncio.sleep(0)
    assert scene.service.revoked == []
    other.goes_on.set()
    renewed = await renewal
    await logout
    assert scene.service.revoked == [renewed.refresh_token]


@pytest.mark.spec("REF-23")
async def test_while_a_logout_revokes_no_process_renews(kind: str) -> None:
    scene = scene_of(kind)
    browser = await expired(scene)
    other = Process(scene).tokens
    renewals: list[asyncio.Task[Any]] = []

    async def revoke_slowly(request: Request) -> Response:
        if request.url.endswith("/revoke"):
            renewals.append(asyncio.create_task(other.user_token(await browser.request())))
            for _ in range(50):
                await asyncio.sleep(0)
            await browser.log_out()
        return await scene.service(request)

    await scene.other_process(send=revoke_slowly).revoke(await browser.request())
    assert len(scene.service.revoked) == 1
    with pytest.raises((LoginRequired, TokenUnavailable)):
        await renewals[0]
    assert scene.service.refreshes == 0
