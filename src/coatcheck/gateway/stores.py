"""The stores that a file names: opened, asked whether they answer, and closed."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

from coatcheck.bff.keys import DEVELOPMENT_FOLDER, development_database
from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.config import GatewayConfig
from coatcheck.config.values import StorePlace
from coatcheck.errors import ConfigurationError, StoreUnavailable
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.stores.urls import Store, StoreURL, open_store

_NOBODY = bytes(32)
"""A key that no session and no value has: asking for it shows that a store answers."""


@dataclass(frozen=True, slots=True)
class GatewayStores:
    """*sessions* is None for cookies; *coordination* is the same store where the file names no other."""

    sessions: Store | None
    coordination: Store

    async def ask(self) -> None:
        """
        Ask each store for nothing in particular.

        Raises:
            StoreUnavailable: one does not answer.
        """
        if self.sessions is not None:
            await self.sessions.load(_NOBODY)
        if self.coordination is not self.sessions:
            await self.coordination.get(_NOBODY)

    async def aclose(self) -> None:
        """Close what this event loop holds open."""
        if self.sessions is not None:
            await self.sessions.aclose()
        await self.coordination.aclose()

    async def problems(self) -> list[ConfigurationError]:
        """Ask each store as `ask` does, name the settings of those that do not answer, and close all."""
        problems = []
        if self.sessions is not None:
            load = self.sessions.load(_NOBODY)
            problems.append(await _problem("sessions.store", "sessions cannot be kept there", self.sessions, load))
        if self.coordination is not self.sessions:
            get = self.coordination.get(_NOBODY)
            problems.append(await _problem("sessions.coordination", "nobody can meet there", self.coordination, get))
        return [problem for problem in problems if problem is not None]


async def _problem(path: str, message: str, store: Store, answer: Awaitable[object]) -> ConfigurationError | None:
    try:
        await answer
    except StoreUnavailable as error:
        return ConfigurationError(f"{message}: {error}", path=path)
    finally:
        await store.aclose()
    return None


def open_stores(config: GatewayConfig, *, clock: Clock = SYSTEM_CLOCK) -> GatewayStores:
    """
    Make the stores that the file names, on one object where it names the same place twice. Nothing is connected yet.

    Raises:
        ConfigurationError: the library for a store is not installed, or development mode cannot write.
    """
    sessions = _sessions(config, clock)
    place = config.sessions.coordination
    if place is None or place.url is None:
        return GatewayStores(sessions, sessions or MemoryStore(clock=clock))
    if sessions is not None and config.sessions.store is not None and config.sessions.store.url == place.url:
        return GatewayStores(sessions, sessions)
    return GatewayStores(sessions, _opened(config, place.url, clock, at="sessions.coordination"))


def sqlite_file(config: GatewayConfig, place: StorePlace | None) -> Path | None:
    """
    Return the file of the SQLite store at *place*, or of development mode (None); None for other kinds of store.

    Commands of an operator make no such file: it would belong to them, and not to who serves.
    """
    if place is None:
        return development_database(config.folder / DEVELOPMENT_FOLDER)
    return place.url.path(config.folder) if place.url is not None and place.url.kind == "sqlite" else None


def _sessions(config: GatewayConfig, clock: Clock) -> Store | None:
    place = config.sessions.store
    if place is None:
        return SQLiteStore(development_database(config.folder / DEVELOPMENT_FOLDER), clock=clock)
    return None if place.url is None else _opened(config, place.url, clock, at="sessions.store")


def _opened(config: GatewayConfig, url: StoreURL, clock: Clock, *, at: str) -> Store:
    try:
        return open_store(url, clock=clock, folder=config.folder)
    except ConfigurationError as error:
        raise ConfigurationError(str(error), path=at) from error
