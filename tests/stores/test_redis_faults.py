"""Redis and Valkey that stop, hang, restart, lose answers or refuse: nothing is lost and it passes."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from coatcheck.coordination import SentMark
from coatcheck.errors import StaleVersion, StoreUnavailable
from coatcheck.sessions import ReplacePart, Touch
from tests.rig.tcp_fault import TCPFault
from tests.rig.valkey import Valkey
from tests.sessions.samples import NOW
from tests.stores.redis_samples import (
    HOLDER,
    KEY,
    PATIENCE,
    USES,
    behind_its_back,
    faulty,
    impatient,
    row,
    use_everything,
)

_BUSY_MACHINE = 1.5
"""Seconds that everything may take longer: other tests want the processor, too."""


@asynccontextmanager
async def within(patience: timedelta) -> AsyncIterator[None]:
    """What is inside is over soon after *patience*, however much it is."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < patience.total_seconds() + _BUSY_MACHINE


# Restarts


@pytest.mark.spec("SES-12")
async def test_after_a_restart_the_next_use_works_and_everything_is_there() -> None:
    with Valkey.start(durable=True) as server:
        async with impatient(server.url, patience=timedelta(seconds=2)) as store:
            session, key, holder = row(), secrets.token_bytes(32), secrets.token_bytes(16)
            await store.create(session)
            await store.add(key, b"value", until=NOW + 60)
            await store.acquire(key, holder, seconds=60)
            await store.mark_sent(key, holder, SentMark(NOW), seconds=1, until=NOW + 60)
            server.kill()
            with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{server.port} does not answer"):
                await store.load(session.key)
            server.restart()
            assert await store.load(session.key) == session
            kept = await store.get(key)
            assert kept is not None
            assert kept.value == b"value"
            await store.release(key, holder, mark=SentMark(NOW))
            lease = await store.acquire(key, secrets.token_bytes(16), seconds=5)
            assert lease is not None
            assert lease.mark == SentMark(NOW)  # a durable mark


@pytest.mark.spec("SES-12", "REF-28")
async def test_a_server_that_lost_its_data_serves_new_sessions_at_once() -> None:
    """It has forgotten the scripts, too; and no update brings an old session back."""
    with Valkey.start() as server:
        async with impatient(server.url, patience=timedelta(seconds=2)) as store:
            session = row()
            await store.create(session)
            server.restart(keep_data=False)
            assert await store.load(session.key) is None
            await store.create(session)
            await store.update(session.key, ReplacePart("tokens", b"new", 1))
            assert await store.load(session.key) == replace(session, tokens=b"new", tokens_version=2)


async def test_a_restart_between_two_uses_is_not_noticed() -> None:
    """The connections of the pool are dead; also what is never sent twice finds that out before it sends."""
    with Valkey.start(durable=True) as server:
        async with impatient(server.url, patience=timedelta(seconds=2)) as store:
            session = row()
            await store.create(session)
            await store.add(KEY, b"value", until=NOW + 60)
            await asyncio.to_thread(server.restart)
            assert await store.delete(session.key) == session
            assert await store.discard(KEY)


async def test_a_restart_ends_subscriptions_and_the_next_one_works() -> None:
    with Valkey.start() as server:
        async with impatient(server.url, patience=timedelta(seconds=2)) as store:
            async with store.subscribe("news") as one, store.subscribe("other") as other:
                server.restart()
                for messages in (one, other):
                    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port}"):
                        await anext(messages)
            async with store.subscribe("news") as messages:
                await store.publish("news", b"again")
                assert await anext(messages) == b"again"


@pytest.mark.spec("REF-28")
async def test_after_a_failover_the_next_use_finds_the_new_primary() -> None:
    """The old one is a replica now and refuses; our connections to it live, and the address leads to the other."""
    at_once = ("--repl-diskless-sync-delay", "0")
    with (
        Valkey.start(settings=at_once) as old,
        Valkey.start(settings=("--replicaof", old.host, str(old.port))) as new,
        TCPFault.before(old.port) as fault,
    ):
        async with (
            impatient(old.url_at(fault.port), patience=timedelta(seconds=2)) as store,
            behind_its_back(old.url) as at_old,
            behind_its_back(new.url) as at_new,
        ):
            session = row()
            await store.create(session)
            await asyncio.gather(*(store.acquire(bytes([n]) * 32, HOLDER, seconds=30) for n in range(5)))
            await store.add(KEY, b"value", until=NOW + 60)
            value = (await at_old.keys("*:value"))[0]
            while not await at_new.exists(value):
                await asyncio.sleep(0.02)
            await at_new.execute_command("REPLICAOF", "NO", "ONE")
            await at_old.execute_command("REPLICAOF", new.host, new.port)
            fault.lead_to(new.port)
            await store.update(session.key, ReplacePart("tokens", b"at the new one", 1))
            assert await store.discard(KEY)  # even what is never sent twice: the old one did not do it
            after = await store.load(session.key)
            assert after is not None
            assert after.tokens == b"at the new one"


# A network that fails


@pytest.mark.spec("SES-12")
@pytest.mark.parametrize("fault_name", ["cut", "hang"])
async def test_every_use_is_a_fault_and_never_an_answer_while_the_server_is_away(
    fault_name: str, valkey: Valkey
) -> None:
    """Connected before or not, together they take no longer than one."""
    with faulty(valkey) as (fault, url):
        async with impatient(url) as connected, impatient(url) as new:
            await connected.create(row())
            getattr(fault, fault_name)()
            async with within(PATIENCE):
                uses = [use(store) for store in (connected, new) for use in USES]
                outcomes = await asyncio.gather(*uses, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            assert all(f"127.0.0.1:{fault.port} " in str(outcome) for outcome in outcomes)
            fault.restore()
            for store in (connected, new):
                session = row()
                await store.create(session)
                assert await store.load(session.key) == session


@pytest.mark.spec("SES-12")
async def test_a_hang_does_not_pile_up(valkey: Valkey) -> None:
    """Readers come all the time: each waits for its own patience only, and the connections are few."""
    with faulty(valkey) as (fault, url):
        async with impatient(url, connections=4) as store:
            await store.load(KEY)
            fault.hang()
            hung_at, waited = time.monotonic(), []

            async def use(number: int) -> None:
                begun = time.monotonic()
                with pytest.raises(StoreUnavailable, match=r"gave no answer in 0\.3 s"):
                    await (store.load(KEY) if number % 2 else store.acquire(KEY, HOLDER, seconds=5))
                waited.append(time.monotonic() - begun)

            users = []
            for number in range(100):
                users.append(asyncio.create_task(use(number)))
                await asyncio.sleep(0.01)
            await asyncio.gather(*users)
            assert max(waited) < PATIENCE.total_seconds() + _BUSY_MACHINE
            # Four at a time, and new ones only when those before have been given up.
            assert fault.accepted <= 1 + 4 * (1 + (time.monotonic() - hung_at) / PATIENCE.total_seconds())
            fault.restore()
            assert await store.load(KEY) is None


async def test_a_server_that_is_stopped_and_goes_on_is_a_fault_meanwhile() -> None:
    with Valkey.start() as server:
        async with impatient(server.url) as store:
            session = row()
            await store.create(session)
            server.signal(signal.SIGSTOP)
            try:
                async with within(PATIENCE):
                    with pytest.raises(StoreUnavailable, match="hangs or is overloaded"):
                        await store.load(session.key)
            finally:
                server.signal(signal.SIGCONT)
            assert await store.load(session.key) == session


async def test_a_cancelled_write_leaves_the_store_usable(valkey: Valkey) -> None:
    with faulty(valkey) as (fault, url):
        async with impatient(url, connections=2, patience=timedelta(seconds=2)) as store:
            session = row()
            await store.create(session)
            fault.hang()
            for _ in range(5):
                writing = asyncio.create_task(store.update(session.key, ReplacePart("tokens", b"never", 1)))
                await asyncio.sleep(0.02)
                writing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await writing
            fault.restore()
            assert await store.load(session.key) == session


# Answers that are lost


@pytest.mark.spec("SES-06")
async def test_a_write_whose_answer_is_lost_succeeds_and_is_done_once(valkey: Valkey) -> None:
    """It is sent again, and finds that it was done: no StaleVersion for one's own success."""
    with faulty(valkey) as (fault, url):
        async with impatient(url, patience=timedelta(seconds=2)) as store:
            await use_everything(store)
            session = row()
            fault.cut_answers(times=1)
            await store.create(session)
            fault.cut_answers(times=1)
            await store.update(session.key, ReplacePart("tokens", b"renewed", 1))
            fault.cut_answers(times=1)
            await store.update(session.key, ReplacePart("claims", b"new claims", 1))
            fault.cut_answers(times=1)
            await store.update(session.key, Touch(NOW + 60))
            assert await store.load(session.key) == replace(
                session, tokens=b"renewed", tokens_version=2, claims=b"new claims", claims_version=2, seen_at=NOW + 60
            )
            fault.cut_answers(times=1)
            assert await store.add(KEY, b"value", until=NOW + 60)
            fault.cut_answers(times=1)
            await store.replace(KEY, b"new value", version=1, until=NOW + 60)
            value = await store.get(KEY)
            assert value is not None
            assert (value.value, value.version) == (b"new value", 2)
            assert fault.answers_cut == 6


async def test_a_lease_whose_answers_are_lost_is_had_all_the_same(valkey: Valkey) -> None:
    with faulty(valkey) as (fault, url):
        async with impatient(url, patience=timedelta(seconds=2)) as store:
            await use_everything(store)
            fault.cut_answers(times=1)
            assert await store.acquire(KEY, HOLDER, seconds=30) is not None
            fault.cut_answers(times=1)
            await store.mark_sent(KEY, HOLDER, SentMark(NOW), seconds=30, until=NOW + 60)
            fault.cut_answers(times=1)
            await store.extend(KEY, HOLDER, seconds=30)
            fault.cut_answers(times=1)
            await store.release(KEY, HOLDER, mark=None)
            lease = await store.acquire(KEY, bytes(16), seconds=30)
            assert lease is not None
            assert lease.mark is None
            assert fault.answers_cut == 4


@pytest.mark.spec("SES-06")
async def test_a_stale_write_stays_stale_when_its_answer_is_lost(valkey: Valkey) -> None:
    """The same bytes from somebody else are not one's own write."""
    with faulty(valkey) as (fault, url):
        async with impatient(url, patience=timedelta(seconds=2)) as store, impatient(url) as other:
            await use_everything(store)
            session = row()
            await store.create(session)
            await store.add(KEY, b"value", until=NOW + 60)
            await other.update(session.key, ReplacePart("tokens", b"same", 1))
            await other.replace(KEY, b"same", version=1, until=NOW + 60)
            fault.cut_answers(times=1)
            with pytest.raises(StaleVersion):
                await store.update(session.key, ReplacePart("tokens", b"same", 1))
            fault.cut_answers(times=1)
            with pytest.raises(StaleVersion):
                await store.replace(KEY, b"same", version=1, until=NOW + 60)
            fault.cut_answers(times=1)
            with pytest.raises(StaleVersion):
                await store.create(session)
            fault.cut_answers(times=1)
            assert not await store.add(KEY, b"same", until=NOW + 60)
            assert fault.answers_cut == 4


async def test_what_takes_something_away_is_not_sent_twice(valkey: Valkey) -> None:
    """Twice would be a lie: "there was nothing", said to whom removed it."""
    with faulty(valkey) as (fault, url):
        async with impatient(url, patience=timedelta(seconds=2)) as store:
            await use_everything(store)
            session = row()
            await store.create(session)
            await store.add(KEY, b"value", until=NOW + 60)
            fault.cut_answers(times=1)
            with pytest.raises(StoreUnavailable):
                await store.delete(session.key)
            assert await store.load(session.key) is None  # over a new connection, which the next use takes
            fault.cut_answers(times=1)
            with pytest.raises(StoreUnavailable):
                await store.discard(KEY)
            assert await store.get(KEY) is None


async def test_who_never_gets_an_answer_is_told_so(valkey: Valkey) -> None:
    with faulty(valkey) as (fault, url):
        async with impatient(url, patience=timedelta(seconds=2)) as store:
            await use_everything(store)
            session = row()
            await store.create(session)
            fault.cut_answers()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await store.update(session.key, ReplacePart("tokens", b"renewed", 1))
            fault.restore()
            after = await store.load(session.key)
            assert after is not None
            assert after.tokens == b"renewed"
