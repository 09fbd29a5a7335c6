"""What every test may use: coroutine tests, and the real parts of `tests/rig` as fixtures."""

from __future__ import annotations

import asyncio
import inspect

import pytest

ASYNC_TEST_DEADLINE = 120.0
"""Seconds after which a coroutine test is taken to hang. Far beyond what any of them needs."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests in an event loop of their own; fixtures stay synchronous."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(_within_deadline(pyfuncitem.obj(**arguments)), debug=False)
    return True


async def _within_deadline(test: object) -> None:
    assert inspect.isawaitable(test)
    async with asyncio.timeout(ASYNC_TEST_DEADLINE):
        await test
