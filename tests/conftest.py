"""What every test may use: coroutine tests, and the real parts of `tests/rig` as fixtures."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.rig.browser import launch
from tests.rig.control_plane import ControlPlane
from tests.rig.django_provider import DjangoProvider
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.postgresql import PostgreSQL
from tests.rig.valkey import Valkey

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


@pytest.fixture(scope="session")
def _running_providers() -> list[ControlPlane]:
    """Those that some test has asked for."""
    return []


@pytest.fixture(scope="session")
def oidc_provider(_running_providers: list[ControlPlane]) -> Iterator[OIDCProvider]:
    """The npm package oidc-provider, one process for the whole run: each test adds its own client."""
    with OIDCProvider.start() as provider:
        _running_providers.append(provider)
        yield provider


@pytest.fixture(scope="session")
def django_provider(_running_providers: list[ControlPlane]) -> Iterator[DjangoProvider]:
    """django-oauth-toolkit, likewise."""
    with DjangoProvider.start() as provider:
        _running_providers.append(provider)
        yield provider


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server for the whole run: each test takes its own database by `fresh_database()`."""
    with PostgreSQL.start() as server:
        yield server


@pytest.fixture(autouse=True)
def _providers_as_they_were(_running_providers: list[ControlPlane]) -> Iterator[None]:
    """No test sees the faults and knobs of the one before."""
    yield
    for provider in _running_providers:
        provider.reset()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """One Valkey server for the whole run: a test takes `valkey.fresh_url()`. To stop or hang one, start your own."""
    with Valkey.start() as server:
        yield server


@pytest.fixture
def echo_api() -> Iterator[EchoAPI]:
    """A remote API that shows what it received."""
    with EchoAPI.serve() as api:
        yield api


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium. Keep coroutine tests out of a module that uses it (see `tests/rig/browser.py`)."""
    with launch() as chromium:
        yield chromium


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty tab of a fresh browser profile."""
    context = browser.new_context()
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()
