"""What the conformance suites of the stores share: open twice, expect, and wait for something that must come soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

_SOON = 15.0
_LOOK_AGAIN = 0.01


@asynccontextmanager
async def opened_twice(open_store: Callable[[], S]) -> AsyncIterator[tuple[S, S]]:
    """Open the store twice on the same data, as two processes do, and close what can be closed."""
    stores = open_store(), open_store()
    try:
        yield stores
    finally:
        for store in stores:
            close = getattr(store, "aclose", None)
            if close is not None:
                await close()


def expect(kept: bool, rule: str) -> None:
    """Say which *rule* was broken."""
    if not kept:
        raise AssertionError(rule)


async def expect_raises(error: type[Exception], attempt: Awaitable[object], what: str) -> None:
    """Expect *error*, and no other, from *what*."""
    try:
        await attempt
    except error:
        return
    raise AssertionError(f"{what} must raise {error.__name__}, and it succeeded")


async def soon(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Look until there is an answer; *what* is what should have happened when there is none for 15 seconds."""
    until = time.monotonic() + _SOON
    while time.monotonic() < until:
        answer = await look()
        if answer is not None:
            return answer
        await asyncio.sleep(_LOOK_AGAIN)
    raise AssertionError(f"{what}, and it did not within {_SOON:.0f} s")
