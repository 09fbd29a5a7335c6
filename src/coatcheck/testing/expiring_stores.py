"""
Does your own store of values that end keep the rules of `coatcheck.coordination.ExpiringStore`? Run these checks on it.

They are used as those of `coatcheck.testing.stores`: each takes a callable that opens the store on the same data, with
the system's clock. No check needs an empty store; all clean up.

    @pytest.mark.parametrize("check", EXPIRING_STORE_CHECKS, ids=lambda check: check.__name__)
    def test_my_values(check, database_url):
        asyncio.run(check(lambda: MyExpiringStore(database_url)))

One thing is not asked: after `discard` and `add` the versions start at 1 again, so a writer that read version 1 of the
value before may replace version 1 of the value after. Who cannot bear that puts something unique into the value.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from coatcheck.coordination import ExpiringStore, ExpiringValue
from coatcheck.errors import StaleVersion
from coatcheck.testing.expectations import expect, expect_raises, opened_twice, soon

OpenExpiringStore = Callable[[], ExpiringStore]
ExpiringStoreCheck = Callable[[OpenExpiringStore], Awaitable[None]]

_SHORT = 0.05


async def check_expiring_store(open_store: OpenExpiringStore) -> None:
    """Run every check of `EXPIRING_STORE_CHECKS`, one after another."""
    for check in EXPIRING_STORE_CHECKS:
        await check(open_store)


# Adding and reading


async def an_added_value_is_read_as_it_was(open_store: OpenExpiringStore) -> None:
    """Any bytes under any key, up to 64 KiB, by every opener at once; the first version is 1."""
    async with opened_twice(open_store) as (one, other):
        keys = [_key(), bytes(range(32)), b"\x00\xff\r\n'\"\\%" * 4]
        values = [b"", bytes(range(256)), secrets.token_bytes(65_536)]
        for key, value in zip(keys, values, strict=True):
            await one.discard(key)
            expect(await one.add(key, value, until=_later()), "add under a key that is not in use must return True")
            for store in (one, other):
                expect(await store.get(key) == ExpiringValue(value, 1), "get must return what add was given, version 1")
            await other.replace(key, value[::-1], version=1, until=_later())
            expect(await one.get(key) == ExpiringValue(value[::-1], 2), "get must return what replace was given")
            await one.discard(key)


async def an_unknown_key_is_none(open_store: OpenExpiringStore) -> None:
    """Absence is None, not an error, and another value is not an answer."""
    async with opened_twice(open_store) as (one, other):
        await one.add(key := _key(), b"value", until=_later())
        expect(await other.get(_key()) is None, "get of an unknown key must return None")
        expect(await other.discard(_key()) is False, "discard of an unknown key must return False")
        await one.discard(key)


async def add_never_overwrites(open_store: OpenExpiringStore) -> None:
    """A second `add` returns False and changes nothing, not even the end."""
    async with opened_twice(open_store) as (one, other):
        await one.add(key := _key(), b"first", until=_later())
        expect(await other.add(key, b"second", until=time.time() + _SHORT) is False, "add under a used key: False")
        await _soon_ended(one)
        expect(await one.get(key) == ExpiringValue(b"first", 1), "a refused add must change nothing")
        await one.discard(key)


async def one_of_many_adds_wins(open_store: OpenExpiringStore) -> None:
    """What may be used once only is used once: fifty at the same time over two openers."""
    async with opened_twice(open_store) as (one, other):
        key = _key()
        await _expect_one_add(one, other, key, 50)
        await one.discard(key)


async def everybody_gets_their_own_value(open_store: OpenExpiringStore) -> None:
    """A hundred keys, written and read at once: no answer reaches the wrong one."""
    async with opened_twice(open_store) as (one, other):
        keys = [_key() for _ in range(100)]
        await asyncio.gather(*(one.add(key, b"of %d" % number, until=_later()) for number, key in enumerate(keys)))

        async def use(number: int, key: bytes) -> bool:
            reading, writing = (one, other)[:: 1 if number % 2 else -1]
            first = await reading.get(key)
            await writing.replace(key, b"still of %d" % number, version=1, until=_later())
            second = await reading.get(key)
            return (first, second) == (ExpiringValue(b"of %d" % number, 1), ExpiringValue(b"still of %d" % number, 2))

        expect(all(await asyncio.gather(*map(use, range(100), keys))), "a key was answered with another's value")
        await asyncio.gather(*(other.discard(key) for key in keys))


# Replacing


async def a_stale_version_is_refused(open_store: OpenExpiringStore) -> None:
    """Any version but the stored one raises `StaleVersion` and changes nothing."""
    async with opened_twice(open_store) as (one, other):
        await one.add(key := _key(), b"first", until=_later())
        await other.replace(key, b"second", version=1, until=_later())
        for version in (0, 1, 3):
            late = one.replace(key, b"late", version=version, until=_later())
            await expect_raises(StaleVersion, late, f"replace of version {version} where 2 is stored")
        expect(await other.get(key) == ExpiringValue(b"second", 2), "a refused replace must change nothing")
        await one.discard(key)


async def one_of_many_replacements_wins(open_store: OpenExpiringStore) -> None:
    """Twenty that read the same version: one counts, nineteen learn that it is stale."""
    async with opened_twice(open_store) as (one, other):
        await one.add(key := _key(), b"first", until=_later())

        async def write(number: int) -> int | None:
            try:
                await (one, other)[number % 2].replace(key, b"%d" % number, version=1, until=_later())
            except StaleVersion:
                return None
            return number

        winners = [number for number in await asyncio.gather(*map(write, range(20))) if number is not None]
        expect(len(winners) == 1, f"{len(winners)} of 20 replacements of one version succeeded instead of exactly one")
        expect(await one.get(key) == ExpiringValue(b"%d" % winners[0], 2), "the winner's value must be the stored one")
        await one.discard(key)


async def no_increment_is_lost(open_store: OpenExpiringStore) -> None:
    """Eight tasks on two openers read, add one and write back until they win, five times each."""
    async with opened_twice(open_store) as (one, other):
        await one.add(key := _key(), b"0", until=_later())

        async def increment(store: ExpiringStore) -> None:
            for _ in range(1000):
                before = await store.get(key)
                if before is None:
                    raise AssertionError("a value that nobody discarded must be there")
                with suppress(StaleVersion):
                    return await store.replace(
                        key, b"%d" % (int(before.value) + 1), version=before.version, until=_later()
                    )
                await asyncio.sleep(0)
            raise AssertionError("get keeps returning a version that replace calls stale")

        async def increment_often(store: ExpiringStore) -> None:
            for _ in range(5):
                await increment(store)

        await asyncio.gather(*(increment_often(store) for store in (one, other) * 4))
        expect(await other.get(key) == ExpiringValue(b"40", 41), f"40 increments gave {await other.get(key)}: lost one")
        await one.discard(key)


async def replace_never_creates(open_store: OpenExpiringStore) -> None:
    """What was discarded or never there is stale, and so is the version of a value that a new one followed."""
    async with opened_twice(open_store) as (one, other):
        await one.add(key := _key(), b"first", until=_later())
        await one.replace(key, b"second", version=1, until=_later())
        await one.discard(key)
        for version in (0, 1, 2):
            late = other.replace(key, b"late", version=version, until=_later())
            await expect_raises(StaleVersion, late, "replace after discard")
        expect(await one.get(key) is None, "replace must never bring a discarded value back")
        await one.add(key, b"another", until=_later())
        late = other.replace(key, b"late", version=2, until=_later())
        await expect_raises(StaleVersion, late, "replace of a version of the value before")
        expect(await one.get(key) == ExpiringValue(b"another", 1), "a value after a discarded one starts at version 1")
        await one.discard(key)


# Ending


async def an_ended_value_is_gone(open_store: OpenExpiringStore) -> None:
    """For every method, whether the store has removed it or not; its key can be used again."""
    async with opened_twice(open_store) as (one, other):
        await _add_ended(one, key := _key())
        expect(await other.get(key) is None, "a value that has ended must be gone for everybody")
        late = other.replace(key, b"late", version=1, until=_later())
        await expect_raises(StaleVersion, late, "replace of a value that has ended")
        expect(await other.discard(key) is False, "a value that has ended cannot be discarded")
        expect(await other.discard(key, version=1) is False, "a value that has ended cannot be discarded by version")
        await _add_ended(one, key)
        expect(await other.add(key, b"new", until=_later()), "a key whose value has ended must be free")
        expect(await one.get(key) == ExpiringValue(b"new", 1), "a value after an ended one starts at version 1")
        await one.discard(key)


async def one_of_many_adds_on_an_ended_value_wins(open_store: OpenExpiringStore) -> None:
    """Twenty find out at once that the key is free again."""
    async with opened_twice(open_store) as (one, other):
        await _add_ended(one, key := _key())
        await _expect_one_add(one, other, key, 20)
        await one.discard(key)


async def replace_moves_the_end(open_store: OpenExpiringStore) -> None:
    """In both directions."""
    async with opened_twice(open_store) as (one, other):
        await one.add(shorter := _key(), b"value", until=_later())
        await one.replace(shorter, b"value", version=1, until=time.time() + _SHORT)
        longer = await _prolonged(one)
        await soon(lambda: _absent(other, shorter), "replace must end the value when it says")
        expect(await other.get(longer) == ExpiringValue(b"value", 2), "replace must let the value last as it says")
        await one.discard(longer)


# Discarding


async def discard_removes_once(open_store: OpenExpiringStore) -> None:
    """Of ten that discard one value, one is told that it did."""
    async with opened_twice(open_store) as (one, other):
        await one.add(key := _key(), b"value", until=_later())
        await one.add(bystander := _key(), b"bystander", until=_later())
        answers = await asyncio.gather(*(store.discard(key) for store in (one, other) * 5))
        expect(answers.count(True) == 1, f"{answers.count(True)} of 10 discarded one value instead of exactly one")
        for store in (one, other):
            expect(await store.get(key) is None, "a discarded value must be gone for everybody")
        expect(await other.get(bystander) == ExpiringValue(b"bystander", 1), "discard must leave other values alone")
        await one.discard(bystander)


async def discard_compares_the_version(open_store: OpenExpiringStore) -> None:
    """With the version that was read, only that one is removed."""
    async with opened_twice(open_store) as (one, other):
        await one.add(key := _key(), b"first", until=_later())
        await one.replace(key, b"second", version=1, until=_later())
        for version in (0, 1, 3):
            expect(
                await other.discard(key, version=version) is False, f"discard of version {version} where 2 is stored"
            )
        expect(await one.get(key) == ExpiringValue(b"second", 2), "a discard of another version must change nothing")
        expect(await other.discard(key, version=2), "discard of the stored version must return True")
        expect(await one.get(key) is None, "a discarded value must be gone")


async def discard_and_replace_of_one_version_exclude_each_other(open_store: OpenExpiringStore) -> None:
    """Both read version 1; whoever comes second learns that it is gone."""
    async with opened_twice(open_store) as (one, other):
        for turn in range(10):
            await one.add(key := _key(), b"first", until=_later())

            async def replace(store: ExpiringStore, key: bytes = key) -> bool:
                try:
                    await store.replace(key, b"second", version=1, until=_later())
                except StaleVersion:
                    return False
                return True

            calls = [replace(one), other.discard(key, version=1)]
            replaced, discarded = await asyncio.gather(*calls)
            expect(replaced != discarded, f"in turn {turn} of two changes to one version not exactly one succeeded")
            left = await one.get(key)
            expect(left == (ExpiringValue(b"second", 2) if replaced else None), "the winner's change must be there")
            await one.discard(key)


EXPIRING_STORE_CHECKS: tuple[ExpiringStoreCheck, ...] = (
    an_added_value_is_read_as_it_was,
    an_unknown_key_is_none,
    add_never_overwrites,
    one_of_many_adds_wins,
    everybody_gets_their_own_value,
    a_stale_version_is_refused,
    one_of_many_replacements_wins,
    no_increment_is_lost,
    replace_never_creates,
    an_ended_value_is_gone,
    one_of_many_adds_on_an_ended_value_wins,
    replace_moves_the_end,
    discard_removes_once,
    discard_compares_the_version,
    discard_and_replace_of_one_version_exclude_each_other,
)
"""What an `ExpiringStore` has to do, one function a rule."""


def _key() -> bytes:
    return secrets.token_bytes(32)


def _later() -> float:
    return time.time() + 3600


async def _absent(store: ExpiringStore, key: bytes) -> bool | None:
    return True if await store.get(key) is None else None


async def _add_ended(store: ExpiringStore, key: bytes) -> None:
    """Leave a value under *key* that has just ended."""
    expect(await store.add(key, b"ended", until=time.time() + _SHORT), "add under a free key must return True")
    await soon(lambda: _absent(store, key), "a value must be gone from the instant *until* on")


async def _soon_ended(store: ExpiringStore, *, seconds: float = _SHORT) -> None:
    """Return when a value added now for *seconds* has ended: so has every one before it."""
    key = _key()
    await store.add(key, b"", until=time.time() + seconds)
    await soon(lambda: _absent(store, key), "a value must be gone from the instant *until* on")


async def _prolonged(store: ExpiringStore) -> bytes:
    """Return the key of a value that would have ended by now if it had not been replaced in time."""
    seconds = _SHORT
    for _ in range(8):
        await store.add(key := _key(), b"value", until=time.time() + seconds)
        try:
            await store.replace(key, b"value", version=1, until=_later())
        except StaleVersion:
            seconds *= 2  # a slow machine: with more time it works
            continue
        await _soon_ended(store, seconds=seconds)
        return key
    raise AssertionError(f"a value of {seconds} s must last long enough to replace it")


async def _expect_one_add(one: ExpiringStore, other: ExpiringStore, key: bytes, count: int) -> None:
    adds = [(one, other)[number % 2].add(key, b"%d" % number, until=_later()) for number in range(count)]
    winners = [number for number, added in enumerate(await asyncio.gather(*adds)) if added]
    expect(len(winners) == 1, f"{len(winners)} of {count} adds of one key succeeded instead of exactly one")
    expect(await other.get(key) == ExpiringValue(b"%d" % winners[0], 1), "the winner's value must be the stored one")
