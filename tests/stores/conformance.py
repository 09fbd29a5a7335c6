"""What the tests of the conformance suites share: the stores to try, and how to find out a broken one quickly."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

from coatcheck.stores import MemoryStore, SQLiteStore
from coatcheck.testing import expectations

S = TypeVar("S")
Check = Callable[[Callable[[], S]], Awaitable[None]]
Opener = Callable[[Path], Callable[[], MemoryStore | SQLiteStore]]


def memory(folder: Path) -> Callable[[], MemoryStore]:
    store = MemoryStore()
    return lambda: store


def sqlite(folder: Path) -> Callable[[], SQLiteStore]:
    return lambda: SQLiteStore(folder / "store.db")


def run(check: Check[S], open_store: Callable[[], S]) -> None:
    """Run one check, with a deadline far beyond what it needs."""

    async def in_time() -> None:
        async with asyncio.timeout(60):
            await check(open_store)

    asyncio.run(in_time())


def written(suite: ModuleType) -> set[object]:
    """The checks that *suite* defines, listed or not."""
    return {
        value
        for name, value in vars(suite).items()
        if inspect.iscoroutinefunction(value)
        and value.__module__ == suite.__name__
        and not name.startswith(("_", "check_"))
    }


def expect_found_out(
    broken: Callable[[], S], check: Check[S], monkeypatch: pytest.MonkeyPatch, *, soon: float = 0.5
) -> None:
    """Expect *check* to say that *broken* breaks a rule, without waiting long for what never happens."""
    monkeypatch.setattr(expectations, "_SOON", soon)
    store = broken()
    with pytest.raises(AssertionError):
        run(check, lambda: store)
