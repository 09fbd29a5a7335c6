"""Redis and Valkey that stop, hang, restart, lose answers or refuse: nothing is lost and it passes."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from coatcheck.coordination import SentMark
from coatcheck.errors import LeaseLost, SessionGone, StaleVersion, StoreUnavailable
from coatcheck.sessions import ReplacePart, Touch
from coatcheck.stores import RedisStore
from tests.rig.tcp_fault import TCPFault
from tests.rig.valkey import Valkey
from tests.sessions.samples import NOW
from tests.stores.redis_samples import PATIENCE, behind_its_back, impatient, row

KEY, HOLDER = bytes(range(32)), bytes(range(16))


@contextmanager
def faulty(valkey: Valkey) -> Iterator[tuple[TCPFault, str]]:
    """The network before the server, and the URL that leads through it."""
    with TCPFault.before(valkey.port) as fault:
        yield fault, valkey.fresh_url(port=fault.port)


@asynccontextmanager
async def within(patience: timedelta) -> AsyncIterator[None]:
    """What is inside is over soon after *patience*, however much it is."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < patience.total_seconds() + 0.5


# Restarts


@pytest.mark.spec("SES-12")
async def test_after_a_restart_the_next_use_works_and_everything_is_there() -> None:
    with Valkey.start(durable=True) as server:
        async with impatient(server.url, patience=timedelta(seconds=2)) as store:
            session, key, holder = row(), secrets.token_bytes(32), secrets.token_bytes(16)
            await store.create(session)
            await store.add(key, b"value", until=time.time() + 60)
            await store.acquire(key, holder, seconds=60)
            await store.mark_sent(key, holder, SentMark(NOW), seconds=1, until=time.time() + 60)
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
            await store.add(KEY, b"value", until=time.time() + 60)
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


# A network that fails

USES: list[Callable[[RedisStore], Awaitable[object]]] = [
    lambda store: store.create(row()),
    lambda store: store.load(KEY),
    lambda store: store.update(KEY, Touch(NOW)),
    lambda store: store.delete(KEY),
    lambda store: store.find("abcdefgh", [KEY]),
    lambda store: store.revoke("abcdefgh", [KEY]),
    lambda store: store.acquire(KEY, HOLDER, seconds=5),
    lambda store: store.mark_sent(KEY, HOLDER, SentMark(NOW), seconds=5, until=NOW),
    lambda store: store.extend(KEY, HOLDER, seconds=5),
    lambda store: store.release(KEY, HOLDER, mark=None),
    lambda store: store.add(KEY, b"value", until=NOW),
    lambda store: store.get(KEY),
    lambda store: store.replace(KEY, b"value", version=1, until=NOW),
    lambda store: store.discard(KEY),
    lambda store: store.publish("news", b"message"),
    lambda store: store.subscribe("news").__aenter__(),
]


async def warmed(store: RedisStore) -> None:
    """Use everything once, so that the server knows every script and the next answer is the one that matters."""
    for use in USES[:-1]:
        with suppress(SessionGone, LeaseLost, StaleVersion):
            await use(store)


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
            waited = []

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
            assert max(waited) < PATIENCE.total_seconds() + 0.5
            assert fault.accepted <= 1 + 6 * 4  # in each of six times that a patience lasts
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
            await warmed(store)
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
            assert await store.add(KEY, b"value", until=NOW)
            fault.cut_answers(times=1)
            await store.replace(KEY, b"new value", version=1, until=NOW)
            value = await store.get(KEY)
            assert value is not None
            assert (value.value, value.version) == (b"new value", 2)
            assert fault.answers_cut == 6


async def test_a_lease_whose_answers_are_lost_is_had_all_the_same(valkey: Valkey) -> None:
    with faulty(valkey) as (fault, url):
        async with impatient(url, patience=timedelta(seconds=2)) as store:
            await warmed(store)
            fault.cut_answers(times=1)
            assert await store.acquire(KEY, HOLDER, seconds=30) is not None
            fault.cut_answers(times=1)
            await store.mark_sent(KEY, HOLDER, SentMark(NOW), seconds=30, until=time.time() + 60)
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
            await warmed(store)
            session = row()
            await store.create(session)
            await store.add(KEY, b"value", until=NOW)
            await other.update(session.key, ReplacePart("tokens", b"same", 1))
            await other.replace(KEY, b"same", version=1, until=NOW)
            fault.cut_answers(times=1)
            with pytest.raises(StaleVersion):
                await store.update(session.key, ReplacePart("tokens", b"same", 1))
            fault.cut_answers(times=1)
            with pytest.raises(StaleVersion):
                await store.replace(KEY, b"same", version=1, until=NOW)
            fault.cut_answers(times=1)
            with pytest.raises(StaleVersion):
                await store.create(session)
            fault.cut_answers(times=1)
            assert not await store.add(KEY, b"same", until=NOW)
            assert fault.answers_cut == 4


async def test_what_takes_something_away_is_not_sent_twice(valkey: Valkey) -> None:
    """Twice would be a lie: "there was nothing", said to whom removed it."""
    with faulty(valkey) as (fault, url):
        async with impatient(url, patience=timedelta(seconds=2)) as store:
            await warmed(store)
            session = row()
            await store.create(session)
            await store.add(KEY, b"value", until=NOW)
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
            await warmed(store)
            session = row()
            await store.create(session)
            fault.cut_answers()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await store.update(session.key, ReplacePart("tokens", b"renewed", 1))
            fault.restore()
            after = await store.load(session.key)
            assert after is not None
            assert after.tokens == b"renewed"


# Servers that refuse


async def refusal(url: str, use: Callable[[RedisStore], Awaitable[object]] = USES[0]) -> str:
    async with impatient(url, patience=timedelta(seconds=2)) as store:
        with pytest.raises(StoreUnavailable) as refused:
            await use(store)
        return str(refused.value)


@pytest.mark.spec("LOG-02")
async def test_a_password_that_is_missing_or_wrong_is_named_and_never_quoted() -> None:
    with Valkey.start(password="swordfish") as server:
        where = f"127.0.0.1:{server.port}"
        missing = await refusal(f"redis://{where}/0")
        assert missing.endswith("put the password into the URL, redis://:PASSWORD@HOST")
        wrong = await refusal(f"redis://:sw0rdfish@{where}/0")
        assert wrong.endswith("check user name and password")
        for said in (missing, wrong):
            assert said.startswith(f"the Redis server {where} does not let us in (")
            assert "fish" not in said
        async with impatient(server.url) as store:
            assert await store.load(KEY) is None


@pytest.mark.spec("STO-12")
async def test_a_user_without_the_right_is_told_which_rights_are_needed_and_they_suffice() -> None:
    with Valkey.start() as server:
        async with behind_its_back(server.url) as client:
            await client.execute_command(
                "ACL", "SETUSER", "weak", "on", ">pw", "~coatcheck:*", "+@read", "+@connection"
            )
            url = f"redis://weak:pw@127.0.0.1:{server.port}/0"
            said = await refusal(url)
            needed = "~coatcheck:* &coatcheck:* +@read +@write +@scripting +@pubsub +@connection +time +info"
            assert "refuses (" in said
            assert said.endswith(needed)
            await client.execute_command("ACL", "SETUSER", "weak", *needed.split())
        async with impatient(url, patience=timedelta(seconds=2)) as store:
            await warmed(store)
            async with store.subscribe("news"):
                pass


async def test_a_replica_a_full_server_and_a_broken_disk_are_told_apart(valkey: Valkey) -> None:
    with Valkey.start(settings=("--replicaof", "127.0.0.1", str(valkey.port))) as replica:
        assert "give the address of the primary" in await refusal(replica.url)
    with Valkey.start(settings=("--maxmemory", "100kb")) as full:
        assert "its memory is full" in await refusal(full.url)
    with Valkey.start(settings=("--cluster-enabled", "yes", "--databases", "1")) as node:
        assert "node of a cluster" in await refusal(node.url)


async def test_a_database_number_that_the_server_lacks_is_named(valkey: Valkey) -> None:
    assert "out of range" in await refusal(valkey.url_at(valkey.port, database=10_000_000))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"$-7\r\n", b"*3\r\n?"])
async def test_another_kind_of_server_is_a_fault(answer: bytes) -> None:
    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        async with impatient(url) as store:
            with pytest.raises(StoreUnavailable):
                await store.load(KEY)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_nobody_listens_at_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    said = await refusal(f"redis://127.0.0.1:{port}/0")
    assert said.startswith(f"the Redis server 127.0.0.1:{port} does not answer (")
    assert said.endswith("check that it runs, and that this machine may reach it")
