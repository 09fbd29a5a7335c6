"""Answers on their way into a store that is away: kept, bounded, and written as soon as it is back."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from coatcheck.errors import CoatcheckError, SessionGone, StoreUnavailable, UnknownSealKey
from coatcheck.stores import MemoryStore
from coatcheck.tokens import User, UserToken, UserTokenRequestParameters, writing
from coatcheck.tokens.lease import HeldLease, Leases, LeaseTimes
from coatcheck.tokens.writing import Answer, Writer
from tests.testing.clocks import HandClock
from tests.tokens.scene import Scene
from tests.tokens.token_service import ISSUER
from tests.tokens.virtual_time import in_virtual_time

ALICE = User(ISSUER, "alice")
LOGIN = UserTokenRequestParameters()


class Table:
    """A store of the application's own, which fails with *fault* until it is taken away."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.attempts = 0
        self.written: list[UserToken] = []

    async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
        return None

    async def store_token(
        self, user: User, token: UserToken, parameters: UserTokenRequestParameters, *, replaces: UserToken | None
    ) -> None:
        self.attempts += 1
        if self.fault is not None:
            raise self.fault
        self.written.append(token)

    async def clear_token(self, user: User, parameters: UserTokenRequestParameters) -> None:
        pass


async def nobody() -> bool:
    """Nobody has overtaken it."""
    return False


class Desk:
    """A writer with all that it needs."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.scene = Scene()
        self.table = Table()
        self.coordination = MemoryStore(clock)
        self.leases = Leases(self.coordination, clock=clock, times=LeaseTimes())
        self.writer = Writer(self.table, clock=clock, pause=asyncio.sleep)

    def answer(self, number: int = 1) -> Answer:
        new = UserToken(access_token="new", issued_at=0.0, refresh_token=f"new-{number}")
        old = UserToken(access_token="old", issued_at=0.0, refresh_token=f"old-{number}")
        endpoint = self.scene.tokens._endpoint("default")
        return Answer(ALICE, LOGIN, new, old, endpoint, number.to_bytes(32, "big"), nobody)

    async def held(self, answer: Answer) -> HeldLease:
        lease = await self.leases.take([answer.grant])
        await lease.mark_sent(began=self.clock.time(), until=4e9, seconds=12.0)
        return lease


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@in_virtual_time
async def test_a_short_fault_is_waited_out(clock: HandClock) -> None:
    desk = Desk(clock)
    desk.table.fault = StoreUnavailable("the table is locked")
    writing_it = asyncio.create_task(desk.writer.write(desk.answer()))
    await asyncio.sleep(0.2)
    assert desk.writer.unwritten(desk.answer().grant) is not None
    desk.table.fault = None
    await writing_it
    assert [token.refresh_token for token in desk.table.written] == ["new-1"]
    assert desk.writer.unwritten(desk.answer().grant) is None


@pytest.mark.spec("REF-08")
@pytest.mark.parametrize(
    "fault", [StoreUnavailable("away"), UnknownSealKey("k9"), CoatcheckError("?"), RuntimeError("a driver's")], ids=repr
)
@in_virtual_time
async def test_whatever_fault_a_store_has_the_tokens_are_kept_and_written_later(
    clock: HandClock, fault: Exception
) -> None:
    desk, answer = Desk(clock), Desk(clock).answer()
    lease = await desk.held(answer)
    desk.table.fault = fault
    with pytest.raises(StoreUnavailable):
        await desk.writer.write(answer)
    desk.writer.write_later(answer, lease)
    await asyncio.sleep(60.0)
    assert desk.writer.unwritten(answer.grant) is not None
    assert await desk.coordination.acquire(answer.grant, b"somebody else...", seconds=5.0) is None
    desk.table.fault = None
    await asyncio.sleep(0.6)
    assert desk.table.written == [answer.token]
    assert desk.writer.unwritten(answer.grant) is None
    successor = await desk.coordination.acquire(answer.grant, b"somebody else...", seconds=5.0)
    assert successor is not None
    assert successor.mark is None


@pytest.mark.spec("REF-23")
@in_virtual_time
async def test_what_comes_for_a_session_that_ended_meanwhile_is_revoked_and_no_longer_kept(clock: HandClock) -> None:
    desk, answer = Desk(clock), Desk(clock).answer()
    desk.table.fault = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await desk.writer.write(answer)
    desk.writer.write_later(answer, await desk.held(answer))
    desk.table.fault = SessionGone("deleted")
    await asyncio.sleep(1.0)
    assert desk.writer.unwritten(answer.grant) is None
    assert desk.coordination._leases == {}


@pytest.mark.spec("REF-31")
@in_virtual_time
async def test_the_end_of_a_process_waits_a_while_for_the_store_and_then_says_what_is_lost(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(clock)
    desk.table.fault = StoreUnavailable("away")
    for number in range(3):
        answer = desk.answer(number)
        with pytest.raises(StoreUnavailable):
            await desk.writer.write(answer)
        desk.writer.write_later(answer, await desk.held(answer))
    began = clock.time()
    await desk.writer.drain(seconds=10.0)
    assert 9.9 <= clock.time() - began <= 10.1
    assert "3 renewed tokens could not be written" in caplog.text
    successor = await desk.coordination.acquire(desk.answer(0).grant, b"somebody else...", seconds=5.0)
    assert successor is not None
    assert successor.mark is not None


@in_virtual_time
async def test_what_is_kept_is_bounded(clock: HandClock) -> None:
    assert writing._MOST_UNWRITTEN == 10_000
    desk = Desk(clock)
    desk.table.fault = StoreUnavailable("away")
    desk.writer._unwritten._max_entries = 5
    for number in range(20):
        with pytest.raises(StoreUnavailable):
            await desk.writer.write(desk.answer(number))
    kept = [number for number in range(20) if desk.writer.unwritten(desk.answer(number).grant) is not None]
    assert kept == [15, 16, 17, 18, 19]
    clock.forward(timedelta(days=2))
    assert desk.writer.unwritten(desk.answer(19).grant) is None
