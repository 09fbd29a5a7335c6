"""Redis and Valkey behind sentinels: the primary is found, and followed when it moves."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from coatcheck.errors import ConfigurationError, LeaseLost, StoreUnavailable
from coatcheck.stores import RedisStore
from coatcheck.stores.redis import records
from coatcheck.testing.stores import EXPIRING_STORE_CHECKS, LEASE_STORE_CHECKS, NOTIFIER_CHECKS, SESSION_STORE_CHECKS
from tests.rig.programs import free_port
from tests.rig.tcp_fault import TCPFault
from tests.rig.valkey_sentinels import NAME, Watched
from tests.sessions.samples import NOW
from tests.stores.conformance import run
from tests.stores.redis_samples import KEY, behind_its_back, impatient, row, use_everything

Check = Callable[[Callable[[], RedisStore]], Awaitable[None]]

_PATIENCE = timedelta(seconds=2)
_AT_LONGEST = 20.0
"""Seconds until a failover has to be over, on a busy machine. These sentinels need two."""


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """For tests that leave everything as it was."""
    with Watched.start() as servers:
        yield servers


@pytest.mark.spec("SES-05", "SES-06", "SES-07", "SES-08", "REF-02", "REF-04", "REF-25", "REF-27", "REF-29")
@pytest.mark.parametrize(
    "check",
    [*SESSION_STORE_CHECKS, *LEASE_STORE_CHECKS, *EXPIRING_STORE_CHECKS, *NOTIFIER_CHECKS],
    ids=lambda check: check.__name__,
)
def test_the_store_keeps_the_rule(check: Check, watched: Watched) -> None:
    url = watched.url
    run(check, lambda: RedisStore(url))


# Failovers


@dataclass
class Holders:
    """Some who want the same lease, each with a store of its own, and what the store told them."""

    faults: int = 0
    holder: bytes = b""
    """Who was told last that the lease is its own."""
    told: dict[bytes, int] = field(default_factory=dict)
    over: bool = False

    async def want(self, url: str, patience: timedelta) -> None:
        async with impatient(url, patience=patience) as store:
            while not self.over:
                me = secrets.token_bytes(16)
                try:
                    if await store.acquire(KEY, me, seconds=1) is None:
                        await asyncio.sleep(0.01)
                        continue
                    self.holder = me
                    for _ in range(20):
                        await store.extend(KEY, me, seconds=1)
                        assert self.holder == me, "the lease was given to another one, and this one keeps it, too"
                        self.told[me] = self.told.get(me, 0) + 1
                        await asyncio.sleep(0.005)
                    await store.release(KEY, me, mark=None)
                except StoreUnavailable:
                    self.faults += 1
                    await asyncio.sleep(0.02)
                except LeaseLost:
                    pass


async def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _AT_LONGEST
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


async def until_moved(servers: Watched) -> None:
    while await asyncio.to_thread(servers.where) != servers.replica.port:
        await asyncio.sleep(0.02)


@asynccontextmanager
async def holding(url: str, patience: timedelta) -> AsyncIterator[Holders]:
    holders = Holders()
    tasks = [asyncio.create_task(holders.want(url, patience)) for _ in range(4)]
    try:
        yield holders
    finally:
        holders.over = True
        await asyncio.gather(*tasks)


@pytest.mark.spec("SES-12", "REF-02", "REF-28")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
async def test_when_the_primary_dies_the_store_goes_on_at_the_next_one(end: signal.Signals) -> None:
    """Faults meanwhile, nothing else; nobody restarts anything, and no lease has two holders at any time."""
    patience = timedelta(milliseconds=500)
    with Watched.start() as servers:
        url, session = servers.url, row()
        async with impatient(url, patience=patience) as store, holding(url, patience) as holders:
            await store.create(session)
            async with behind_its_back(servers.replica.url) as replica:
                while (await replica.info("keyspace")).get(f"db{servers.database}", {}).get("keys", 0) < 2:
                    await asyncio.sleep(0.01)
            await eventually(lambda: len(holders.told) > 2, "the lease does not go round")
            servers.primary.signal(end)
            try:
                await eventually(lambda: holders.faults > 0, "nobody notices")
                before = len(holders.told)
                await asyncio.wait_for(until_moved(servers), _AT_LONGEST)
                await eventually(lambda: len(holders.told) > before + 4, "the lease does not go round any more")
                assert await store.load(session.key) == session
            finally:
                if end == signal.SIGSTOP:
                    servers.primary.signal(signal.SIGCONT)
            if end == signal.SIGSTOP:  # awake, the old one believes itself to be the primary still
                faults, before = holders.faults, len(holders.told)
                await eventually(lambda: len(holders.told) > before + 4, "the old primary disturbs")
                assert holders.faults == faults


@pytest.mark.spec("REF-02", "REF-28")
async def test_a_failover_by_hand_cuts_the_old_primary_off_although_it_lives() -> None:
    """It takes writes for ten seconds more. Who is connected there asks the sentinels within one."""
    with Watched.start() as servers:
        async with (
            impatient(servers.url, patience=_PATIENCE) as store,
            behind_its_back(servers.primary.url) as old,
            behind_its_back(servers.replica.url_at(servers.replica.port, database=servers.database)) as new,
        ):
            await use_everything(store)

            async def is_at_the_new_one() -> bool:
                key = secrets.token_bytes(32)
                await store.add(key, b"value", until=NOW + 60)
                return bool(await new.exists(records.value_key(key)))

            async with store.subscribe("news") as messages:
                await asyncio.to_thread(servers.ask, servers.ports[0], "FAILOVER", NAME)
                await asyncio.wait_for(until_moved(servers), _AT_LONGEST)
                moved_at = time.monotonic()
                async with behind_its_back(servers.replica.url) as promoted:
                    assert (await promoted.info("replication"))["role"] == "master"
                while not await is_at_the_new_one():
                    assert time.monotonic() < moved_at + 4
                    await asyncio.sleep(0.02)
                assert (await old.info("replication"))["role"] == "master"
                async with asyncio.timeout(5):
                    with pytest.raises(StoreUnavailable):
                        await anext(messages)
            assert all([await is_at_the_new_one() for _ in range(20)])
            async with store.subscribe("news") as messages:
                await store.publish("news", b"again")
                assert await anext(messages) == b"again"


# Sentinels that do not help


@pytest.mark.spec("SES-12")
async def test_a_sentinel_that_is_away_and_one_that_hangs_are_passed_over(watched: Watched) -> None:
    with TCPFault.before(watched.ports[1]) as fault:
        fault.hang()
        async with impatient(
            watched.url_through(free_port(), fault.port, watched.ports[2]), patience=_PATIENCE
        ) as store:
            await use_everything(store)


@pytest.mark.spec("SES-12")
async def test_while_no_sentinel_answers_the_primary_serves_and_the_log_says_so(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    with TCPFault.before(watched.ports[0]) as fault:
        async with impatient(watched.url_through(fault.port), patience=_PATIENCE) as store:
            await use_everything(store)
            sentinels = store._server()._connections._sentinels
            assert sentinels is not None
            fault.cut()
            sentinels.doubt()
            with caplog.at_level(logging.WARNING, "coatcheck"):
                for _ in range(3):
                    assert await store.load(KEY) is None
            assert [record.getMessage().count("may go unnoticed") for record in caplog.records] == [1]
            fault.restore()
            sentinels.doubt()
            await use_everything(store)
            assert len(caplog.records) == 1
            asked = fault.accepted
            fault.cut()  # the connection that was kept is lost, and another one does
            fault.restore()
            sentinels.doubt()
            await use_everything(store)
            assert fault.accepted == asked + 1
            assert len(caplog.records) == 1


@asynccontextmanager
async def one_that_names(port: int) -> AsyncIterator[int]:
    """A sentinel that is the last to know."""

    open_ones: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        while chunk := await reader.read(4096):
            writer.write(b"+OK\r\n" * chunk.count(b"SETINFO"))
            if b"GET-MASTER" in chunk:
                writer.write(b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for writer in open_ones:
            writer.close()
            await writer.wait_closed()


@pytest.mark.spec("REF-28")
async def test_a_replica_is_not_taken_for_the_primary(watched: Watched) -> None:
    async with one_that_names(watched.replica.port) as late:
        said = await refusal(watched.url_through(late))
        assert f"127.0.0.1:{watched.replica.port}, which a sentinel names, is a replica" in said
        async with impatient(watched.url_through(late, watched.ports[0]), patience=_PATIENCE) as store:
            assert await store.load(KEY) is None


async def refusal(url: str) -> str:
    async with impatient(url, patience=_PATIENCE) as store:
        with pytest.raises(StoreUnavailable) as refused:
            await store.load(KEY)
        return str(refused.value)


async def test_what_is_wrong_with_the_sentinels_is_said(watched: Watched) -> None:
    one = watched.ports[0]
    said = await refusal(watched.url_through(one, name="shopp"))
    assert said.startswith(f"the Redis server shopp of the sentinels 127.0.0.1:{one} is unknown to them: ")
    said = await refusal(watched.url_through(watched.primary.port))
    assert said.endswith("check that these are the sentinels, and that their ACL lets this user have +sentinel")
    said = await refusal(watched.url_through(free_port()))
    assert said.endswith("check that they run, and that this machine may reach them")
    said = await refusal(f"redis+sentinel://nowhere.invalid/{NAME}")
    assert "nowhere.invalid:26379" in said
    async with impatient(f"redis+sentinel://nowhere.invalid,127.0.0.1:{one}/{NAME}/1", patience=_PATIENCE) as store:
        assert await store.load(KEY) is None


@pytest.mark.spec("LOG-02", "STO-12")
async def test_sentinels_may_have_a_user_and_a_password_of_their_own(watched: Watched) -> None:
    one = watched.ports[0]
    async with behind_its_back(f"redis://127.0.0.1:{one}") as client:
        await client.execute_command(
            "ACL", "SETUSER", "watcher", "on", ">open sesame", "+sentinel|get-master-addr-by-name"
        )
    right = "?sentinel_username=watcher&sentinel_password=open%20sesame"
    async with impatient(watched.url_through(one, options=right), patience=_PATIENCE) as store:
        assert await store.load(KEY) is None
    said = await refusal(watched.url_through(one, options=right.replace("open", "closed")))
    assert "?sentinel_password=PASSWORD" in said
    assert "sesame" not in said


@pytest.mark.spec("LOG-02")
@pytest.mark.parametrize(
    "place",
    [
        "one,two",
        "one,two/",
        "/shop",
        "one,,two/shop",
        "one:port/shop",
        "one:99999999/shop",
        "one/shop/first",
        "one/shop/1/2",
        "one/shop#1",
        "one/shop?unheard_of=1",
        ":hunt/hunter2@one/shop",
        ":hunt?hunter2@one/shop",
        ":hunt#hunter2@one/shop",
    ],
)
def test_what_cannot_be_sentinels_is_refused_without_being_repeated(place: str) -> None:
    with pytest.raises(ConfigurationError, match="not the URL of a Redis server") as refused:
        RedisStore(f"redis+sentinel://{place}")
    assert "hunter2" not in str(refused.value)
