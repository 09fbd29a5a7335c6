"""
Does your own notifier keep the rules of `coatcheck.coordination.Notifier`? Run these checks on it.

They are used as those of `coatcheck.testing.stores`: each takes a callable that opens the store on the same data. A
message may be lost when something fails; here nothing does, so each is expected to arrive, perhaps twice.

    @pytest.mark.parametrize("check", NOTIFIER_CHECKS, ids=lambda check: check.__name__)
    def test_my_notifier(check, database_url):
        asyncio.run(check(lambda: MyStore(database_url)))
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from coatcheck.coordination import Notifier
from coatcheck.testing.expectations import expect, opened_twice

OpenNotifier = Callable[[], Notifier]
NotifierCheck = Callable[[OpenNotifier], Awaitable[None]]

_SOON = 10.0


async def check_notifier(open_store: OpenNotifier) -> None:
    """Run every check of `NOTIFIER_CHECKS`, one after another."""
    for check in NOTIFIER_CHECKS:
        await check(open_store)


async def a_message_reaches_all_who_are_subscribed(open_store: OpenNotifier) -> None:
    """From the moment the block begins: the one who publishes, too, and two blocks of one opener."""
    async with opened_twice(open_store) as (one, other), AsyncExitStack() as blocks:
        channel = _channel()
        heard = [await blocks.enter_async_context(store.subscribe(channel)) for store in (one, other, one)]
        for publisher in (one, other):
            await publisher.publish(channel, message := secrets.token_bytes(16))
            for messages in heard:
                await _expect_next(messages, message)


async def a_message_arrives_as_it_was(open_store: OpenNotifier) -> None:
    """Any bytes, none at all, and 4 KiB of them."""
    async with opened_twice(open_store) as (one, other), other.subscribe(channel := _channel()) as messages:
        for message in (bytes(range(256)), b"", b"'; -- \r\n\x00", secrets.token_bytes(4096)):
            await one.publish(channel, message)
            await _expect_next(messages, message)


async def other_channels_do_not_hear_it(open_store: OpenNotifier) -> None:
    """Not even one whose name begins alike."""
    async with opened_twice(open_store) as (one, other):
        channel = _channel()
        async with other.subscribe(channel) as messages, other.subscribe(channel + "*") as neighbours:
            await one.publish(channel + "-2", b"for nobody")
            await one.publish(channel, b"for this one")
            await one.publish(channel + "*", b"for the neighbour")
            for heard, own in ((messages, b"for this one"), (neighbours, b"for the neighbour")):
                expect(await _next(heard) == own, "a message reached a channel that it was not for")


async def nobody_has_to_listen(open_store: OpenNotifier) -> None:
    """Publishing to nobody is no error, and what was published before the block is not heard in it."""
    async with opened_twice(open_store) as (one, other):
        await one.publish(channel := _channel(), b"before")
        for turn in (b"first", b"second"):
            async with other.subscribe(channel) as messages:
                await one.publish(channel, turn)
                expect(await _next(messages) == turn, "a message from before the block was heard in it")
            await one.publish(channel, b"between")


async def who_does_not_read_holds_up_nobody(open_store: OpenNotifier) -> None:
    """Two thousand messages while one subscriber sleeps: the publisher gets on, and so does the other subscriber."""
    async with opened_twice(open_store) as (one, other):
        channel = _channel()
        async with other.subscribe(channel), other.subscribe(channel) as messages:
            async with asyncio.timeout(3 * _SOON):
                for number in range(2000):
                    await one.publish(channel, b"%d" % number)
                    if number % 100 == 0:  # by then the reader may have to wait until the store looks again
                        await _expect_next(messages, b"%d" % number)


async def who_looked_in_vain_may_look_again(open_store: OpenNotifier) -> None:
    """Who waits with a deadline cancels the iterator each time: it must go on, as an async generator would not."""
    async with opened_twice(open_store) as (one, other), other.subscribe(channel := _channel()) as messages:
        for number in range(3):
            with suppress(TimeoutError, StopAsyncIteration):
                async with asyncio.timeout(0.01):
                    await anext(messages)
            await one.publish(channel, b"%d" % number)
            await _expect_next(messages, b"%d" % number)


async def who_gives_up_waiting_disturbs_nobody(open_store: OpenNotifier) -> None:
    """A cancelled subscriber ends its block; the other one in the same opener still hears."""
    async with opened_twice(open_store) as (one, other), other.subscribe(channel := _channel()) as messages:
        began = asyncio.Event()

        async def wait_in_vain() -> None:
            async with other.subscribe(channel) as nothing:
                began.set()
                await anext(nothing)

        waiting = asyncio.create_task(wait_in_vain())
        async with asyncio.timeout(_SOON):
            await began.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await one.publish(channel, b"still there")
        await _expect_next(messages, b"still there")


NOTIFIER_CHECKS: tuple[NotifierCheck, ...] = (
    a_message_reaches_all_who_are_subscribed,
    a_message_arrives_as_it_was,
    other_channels_do_not_hear_it,
    nobody_has_to_listen,
    who_does_not_read_holds_up_nobody,
    who_looked_in_vain_may_look_again,
    who_gives_up_waiting_disturbs_nobody,
)
"""What a `Notifier` has to do, one function a rule."""


def _channel() -> str:
    return f"conformance-{secrets.token_hex(8)}"


async def _next(messages: AsyncIterator[bytes]) -> bytes:
    try:
        async with asyncio.timeout(_SOON):
            return await anext(messages)
    except StopAsyncIteration:
        raise AssertionError("the messages must go on until the block ends, and they ended before") from None
    except TimeoutError:
        raise AssertionError(f"a message must reach who is subscribed, and it did not within {_SOON:.0f} s") from None


async def _expect_next(messages: AsyncIterator[bytes], wanted: bytes) -> None:
    """Expect *wanted* next; messages before it may have come twice, or a reader may have fallen behind."""
    for _ in range(4000):
        if await _next(messages) == wanted:
            return
    raise AssertionError("a message must arrive as it was published")
