"""Redis and Valkey: the rules of every store, what is on the server, for how long, and who shares it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from coatcheck.coordination import SentMark
from coatcheck.errors import ConfigurationError, StaleVersion, StoreUnavailable
from coatcheck.sessions import ReplacePart, Touch
from coatcheck.stores import RedisStore
from coatcheck.testing.stores import (
    EXPIRING_STORE_CHECKS,
    LEASE_STORE_CHECKS,
    NOTIFIER_CHECKS,
    SESSION_INDEX_CHECKS,
    SESSION_STORE_CHECKS,
)
from tests.rig.valkey import Valkey
from tests.sessions.samples import HOUR, NOW, Browser, log_in, server_side, ticket_of
from tests.sessions.samples import opened as session_of
from tests.stores.redis_samples import behind_its_back, opened, row
from tests.test_extras import python_without
from tests.testing.clocks import HandClock

Check = Callable[[Callable[[], RedisStore]], Awaitable[None]]
each = pytest.mark.parametrize


def named(check: Check) -> str:
    return getattr(check, "__name__", "")


def keeps(check: Check, valkey: Valkey) -> None:
    url = valkey.fresh_url()

    async def run() -> None:
        async with asyncio.timeout(60):
            await check(lambda: RedisStore(url))

    asyncio.run(run())


@pytest.mark.spec("SES-05", "SES-06", "SES-07", "SES-08")
@each("check", SESSION_STORE_CHECKS, ids=named)
def test_it_keeps_the_rule_of_a_session_store(check: Check, valkey: Valkey) -> None:
    keeps(check, valkey)


@pytest.mark.spec("SES-05", "SES-09", "SES-10")
@each("check", SESSION_INDEX_CHECKS, ids=named)
def test_it_keeps_the_rule_of_a_session_index(check: Check, valkey: Valkey) -> None:
    keeps(check, valkey)


@pytest.mark.spec("REF-02", "REF-04", "REF-25", "REF-29")
@each("check", LEASE_STORE_CHECKS, ids=named)
def test_it_keeps_the_rule_of_a_lease_store(check: Check, valkey: Valkey) -> None:
    keeps(check, valkey)


@pytest.mark.spec("STO-12")
@each("check", EXPIRING_STORE_CHECKS, ids=named)
def test_it_keeps_the_rule_of_an_expiring_store(check: Check, valkey: Valkey) -> None:
    keeps(check, valkey)


@pytest.mark.spec("REF-27")
@each("check", NOTIFIER_CHECKS, ids=named)
def test_it_keeps_the_rule_of_a_notifier(check: Check, valkey: Valkey) -> None:
    keeps(check, valkey)


# On the server


@pytest.mark.spec("LOG-01", "SES-02")
async def test_no_secret_and_no_name_is_on_the_server(valkey: Valkey) -> None:
    url = valkey.fresh_url()
    sessions, browser = server_side(RedisStore(url, HandClock(NOW))), Browser()
    handle = await log_in(
        sessions,
        browser,
        sub="CANARY-subject",
        claims={"email": "CANARY-claim@example.com"},
        tokens=b'{"access_token":"CANARY-access","refresh_token":"CANARY-refresh"}',
    )
    await handle.replace_tokens(b'{"refresh_token":"CANARY-renewed"}', version=1)
    await session_of(sessions, browser, now=NOW + HOUR / 2)
    async with behind_its_back(url) as client:
        keys = await names(client)
        content = b" ".join([*keys, *[await client.dump(key) or b"" for key in keys]])
    for secret in (b"CANARY", b"idp.example.com", b"sid-1", ticket_of(browser).encode(), b"access_token"):
        assert secret not in content
    assert len([key for key in keys if key.endswith(b":session")]) == 1  # the right place was read
    await sessions.aclose()


@pytest.mark.spec("STO-12")
async def test_every_key_has_the_name_of_the_package_one_hash_tag_and_an_end(valkey: Valkey) -> None:
    url = valkey.fresh_url()
    async with opened(url) as store, behind_its_back(url) as client:
        await store.create(row(sid_key=bytes(32)))
        await store.add(bytes(32), b"value", until=NOW + 60)
        await store.acquire(bytes(32), bytes(16), seconds=5)
        keys = await names(client)
        assert sorted(key.rpartition(b":")[2] for key in keys) == [b"index", b"index", b"lease", b"session", b"value"]
        for key in keys:
            assert key.startswith(b"coatcheck:{")
            assert (key.count(b"{"), key.count(b"}")) == (1, 1)
            assert await client.pttl(key) > 0


@pytest.mark.spec("SES-10")
async def test_the_server_forgets_a_session_when_it_is_dead_whatever_its_own_clock_says(valkey: Valkey) -> None:
    """The application's clock is years away from the server's."""
    url, clock = valkey.fresh_url(), HandClock(NOW)
    async with opened(url, clock) as store, behind_its_back(url) as client:
        session = row()
        await store.create(session)
        (name,) = await client.keys("*:session")

        async def left() -> float:
            return float(await client.pttl(name)) / 1000

        assert await left() == pytest.approx(HOUR, abs=5)
        clock.forward(timedelta(minutes=30))
        await store.update(session.key, Touch(clock.time()))
        assert await left() == pytest.approx(HOUR, abs=5)
        await client.pexpire(name, 30 * 60 * 1000)
        await store.update(session.key, ReplacePart("tokens", b"renewed", 1))
        assert await left() == pytest.approx(HOUR / 2, abs=5)
        clock.forward(timedelta(hours=7))
        await store.update(session.key, Touch(clock.time()))
        assert await left() == pytest.approx(HOUR / 2, abs=5)  # not past the absolute end


async def test_a_node_whose_clock_is_ahead_does_not_shorten_a_session(valkey: Valkey) -> None:
    url = valkey.fresh_url()
    session = row()
    async with (
        opened(url) as right,
        opened(url, HandClock(NOW + 2 * HOUR)) as ahead,
        behind_its_back(url) as client,
    ):
        await right.create(session)
        await ahead.update(session.key, Touch(NOW + 60))
        (name,) = await client.keys("*:session")
        assert await client.pttl(name) > 0.9 * HOUR * 1000


@pytest.mark.spec("SES-09")
async def test_an_index_tidies_itself_up(valkey: Valkey) -> None:
    """After a crash it names sessions that are gone; a find removes them, and so does a login when they ended."""
    url, clock, sub_key = valkey.fresh_url(), HandClock(NOW), secrets.token_bytes(32)
    async with opened(url, clock) as store, behind_its_back(url) as client:
        stays, vanishes = row(sub_key=sub_key), row(sub_key=sub_key)
        for session in (stays, vanishes):
            await store.create(session)
        (index,) = await client.keys("*:index")
        for name in await client.keys("*:session"):
            if await client.get(name) and vanishes.tokens in (await client.get(name) or b""):
                await client.delete(name)
        assert set(await client.zrange(index, 0, -1)) == {stays.key, vanishes.key}
        assert await store.find("abcdefgh", [sub_key]) == [stays]
        assert await client.zrange(index, 0, -1) == [stays.key]

        await client.zadd(index, {b"ended long ago": 1.0})
        another = row(sub_key=sub_key)
        await store.create(another)
        assert set(await client.zrange(index, 0, -1)) == {stays.key, another.key}
        await store.delete(another.key)
        assert await client.zrange(index, 0, -1) == [stays.key]


async def test_a_lease_leaves_nothing_behind_and_a_mark_until_it_may_go(valkey: Valkey) -> None:
    url, clock = valkey.fresh_url(), HandClock(NOW)
    key, holder = secrets.token_bytes(32), secrets.token_bytes(16)
    async with opened(url, clock) as store, behind_its_back(url) as client:

        async def left() -> float:
            return float(await client.pttl((await client.keys("*:lease"))[0])) / 1000

        await store.acquire(key, holder, seconds=5)
        assert 4 < await left() <= 5
        await store.mark_sent(key, holder, SentMark(NOW), seconds=20, until=NOW + 600)
        assert await left() == pytest.approx(600, abs=5)
        await store.extend(key, holder, seconds=900)
        assert await left() == pytest.approx(900, abs=5)
        await store.release(key, holder, mark=SentMark(NOW, 2))
        assert await left() == pytest.approx(600, abs=5)
        lease = await store.acquire(key, holder, seconds=5)
        assert lease is not None
        assert lease.mark == SentMark(NOW, 2)
        await store.release(key, holder, mark=None)
        assert await client.keys("*:lease") == []


@pytest.mark.spec("STO-08")
@each("write", [b"\x02" + bytes(100), b"\x01short", b"\x01" + bytes(77) + b"longer than it says"])
async def test_a_session_in_another_format_is_a_fault_and_no_absence(write: bytes, valkey: Valkey) -> None:
    url, session = valkey.fresh_url(), row()
    async with opened(url) as store, behind_its_back(url) as client:
        await store.create(session)
        (name,) = await client.keys("*:session")
        await client.set(name, write)
        with pytest.raises(StoreUnavailable, match="newer release"):
            await store.load(session.key)
        if write[0] != 1:
            for change in (Touch(NOW + 60), ReplacePart("tokens", b"new", 1)):
                with pytest.raises(StoreUnavailable, match="newer release"):
                    await store.update(session.key, change)
        assert await client.get(name) == write  # nothing was deleted


# Who shares a store


async def test_two_event_loops_share_one_store(valkey: Valkey) -> None:
    store, session = RedisStore(valkey.fresh_url(), HandClock(NOW)), row(size=10)
    await store.create(session)

    async def elsewhere() -> None:
        before = await store.load(session.key)
        assert before == session
        await store.update(session.key, ReplacePart("tokens", b"from the other loop", 1))
        await store.aclose()

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert await store.load(session.key) == replace(session, tokens=b"from the other loop", tokens_version=2)
    await store.aclose()


async def test_after_closing_the_next_use_opens_it_again(valkey: Valkey) -> None:
    store, session = RedisStore(valkey.fresh_url(), HandClock(NOW)), row()
    await store.create(session)
    await store.aclose()
    await store.aclose()
    assert await store.load(session.key) == session
    waiting = asyncio.create_task(store.load(session.key))
    await asyncio.sleep(0)
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await waiting


async def test_closing_ends_a_subscription(valkey: Valkey) -> None:
    store = RedisStore(valkey.fresh_url())
    async with store.subscribe("channel") as messages:
        await store.aclose()
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="closed"):
                await anext(messages)


async def test_a_channel_is_left_when_nobody_listens_any_more(valkey: Valkey) -> None:
    async with opened(valkey.fresh_url()) as store, behind_its_back(valkey.url) as client:
        one, other = (f"{name}-{secrets.token_hex(8)}" for name in ("one", "other"))
        async with store.subscribe(one):
            async with store.subscribe(other), store.subscribe(other):
                assert await client.pubsub_channels(f"*{other}") == [f"coatcheck:{other}".encode()]
            await store.publish(other, b"to nobody")
            async with store.subscribe(other) as messages:
                await store.publish(other, b"to us")
                assert await anext(messages) == b"to us"
            assert await client.pubsub_numsub(f"coatcheck:{one}") == [(f"coatcheck:{one}".encode(), 1)]


# What it needs


@pytest.mark.spec("LOG-02")
@each(
    "url",
    [
        "postgresql://user:swordfish@localhost/db",
        "redis://user:sword/fish@localhost/0",
        "redis://localhost/swordfish",
        "redis://localhost/0?swordfish=1",
        "redis://localhost/0?db=swordfish",
        "redis+cluster://:swordfish@localhost",
        "",
    ],
)
def test_what_is_no_url_of_a_server_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected redis://") as refused:
        RedisStore(url)
    assert "fish" not in str(refused.value)


def test_the_password_is_not_in_the_representation() -> None:
    assert "swordfish" not in repr(RedisStore("redis://:swordfish@localhost/0"))


def test_without_the_library_it_says_what_to_install() -> None:
    for code in ("from coatcheck.stores import RedisStore", "import coatcheck.stores.redis"):
        done = python_without(("redis",), code)
        assert done.stderr.splitlines()[-1] == (
            "ModuleNotFoundError: redis is not installed, which this part of coatcheck needs: "
            "pip install 'coatcheck[redis]'"
        )
    assert python_without(("redis", "hiredis"), "import coatcheck.stores").returncode == 0


@pytest.mark.spec("STO-12")
async def test_a_server_that_may_drop_sessions_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "coatcheck")
    with Valkey.start(settings=("--maxmemory-policy", "volatile-lru")) as server:
        for _ in range(2):
            async with opened(server.url) as store:
                for _ in range(2):
                    await store.load(bytes(32))
                    await store._server()._looking  # type: ignore[misc]
        assert [record.getMessage()[:70] for record in caplog.records] == [
            f"the Redis server 127.0.0.1:{server.port} has maxmemory-policy volatile-lru: when"[:70]
        ] * 2


async def test_a_stale_replacement_of_a_value_says_so(valkey: Valkey) -> None:
    async with opened(valkey.fresh_url()) as store:
        with pytest.raises(StaleVersion):
            await store.replace(bytes(32), b"value", version=1, until=NOW + 60)


async def names(client: Redis) -> list[bytes]:
    """All keys of its database."""
    return [key for key in await client.keys("*") if isinstance(key, bytes)]
