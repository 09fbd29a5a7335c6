"""Where sessions live and where processes agree: from a word, a URL, or an object of the application's own."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeGuard, cast

from coatcheck.bff.keys import development_database
from coatcheck.bff.problems import logger
from coatcheck.bff.settings import Settings
from coatcheck.coordination import CoordinationStore, Notifier, lacks_for_coordination
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.cookie_sessions import CookieSessions
from coatcheck.sessions.seal import KeyRing
from coatcheck.sessions.server_side import ServerSideSessions
from coatcheck.sessions.session import Session
from coatcheck.sessions.sessions import SearchableSessions, Sessions
from coatcheck.sessions.store import SessionStore
from coatcheck.sessions.tombstones import Tombstones, filters_of
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.stores.urls import KNOWN_STORES, Store, open_store

LOGIN_LASTS = 20 * 60.0
"""Seconds after which no login can still bring an id_token from before: ten minutes old at most, and clocks differ."""
_SESSIONS_HOW = f'use {KNOWN_STORES}, "cookie", or an object that is a SessionStore'
_COORDINATION_HOW = f"use {KNOWN_STORES}, or an object that is a LeaseStore and an ExpiringStore"


@dataclass(frozen=True, slots=True)
class Storage:
    """The sessions of one BFF, and where its processes agree; often both are one store."""

    sessions: Sessions
    store: SessionStore | None
    """Where server-side sessions rest; None for sessions in cookies, or of the application's own kind."""
    coordination: CoordinationStore
    tombstones: Tombstones
    tombstones_last: float
    """Seconds for which a tombstone is needed: it outlives the sessions that it is about and that nobody can delete."""

    @property
    def searchable(self) -> SearchableSessions | None:
        """The sessions, if they can be found by whom they are about."""
        return self.sessions if _can_search(self.sessions) else None

    def names(self, session: Session) -> tuple[bytes, ...]:
        """Return all that messages about the end of *session* may call it; its own name comes first."""
        names = self.tombstones.session_names(session.id)
        if self.searchable is not None:
            return names
        return (*names, *(name for who in filters_of(session) for name in self.tombstones.names(who)))

    @property
    def asks_tombstones(self) -> bool:
        """Whether the sessions cannot be found, but find out by themselves that they were ended."""
        return isinstance(self.sessions, CookieSessions)

    @property
    def notifier(self) -> Notifier | None:
        """What tells other processes at once that a session has ended; None if they have to look by themselves."""
        places: tuple[object, ...] = (self.coordination, self.store)
        if self.store is not None and not self.sees_every_process:
            places = (self.store,)  # the coordination store is memory: other processes would hear nothing of it
        return next(filter(_can_notify, places), None)

    @property
    def sees_every_process(self) -> bool:
        """Whether what is written here about the end of sessions is seen wherever such a session may be used."""
        return not isinstance(self.coordination, MemoryStore) or isinstance(self.store, MemoryStore)

    async def aclose(self) -> None:
        """Close what both hold open in this event loop; a store opens again on its next use."""
        await self.sessions.aclose()
        close = cast("Callable[[], Awaitable[None]] | None", getattr(self.coordination, "aclose", None))
        if close is not None:  # once more for a store that is both, which finds nothing left to close
            await close()


def make_storage(
    sessions: str | SessionStore | Sessions | None,
    coordination: str | CoordinationStore | None,
    settings: Settings,
    ring: KeyRing,
    *,
    lifetime: timedelta,
    idle_timeout: timedelta,
) -> Storage:
    """
    Make the sessions of one BFF, and find where its processes agree.

    *sessions* None is SQLite in `.coatcheck/`, in development mode. *coordination* None is the session store when it
    can coordinate, too, else memory: that is, this process alone.

    Raises:
        ConfigurationError: nothing was chosen outside development mode, the choice is unknown, or it cannot coordinate.
    """
    store = _session_store(sessions, settings)
    agreed = _coordination(coordination, sessions, store, settings)
    _warn_of_memory(store, agreed)
    policy, clock = settings.cookies, settings.clock
    tombstones = Tombstones(agreed, ring.bound_to(policy.application_id))
    if store is not None:
        kept: Sessions = ServerSideSessions(
            store, ring, policy, clock=clock, lifetime=lifetime, idle_timeout=idle_timeout
        )
        return Storage(kept, store, agreed, tombstones, LOGIN_LASTS)
    if sessions == "cookie":
        in_cookies = CookieSessions(
            ring,
            policy,
            lifetime=lifetime,
            idle_timeout=idle_timeout,
            clock=clock,
            coordination=agreed,
            tombstones=tombstones,
        )
        return Storage(in_cookies, None, agreed, tombstones, max(lifetime.total_seconds(), LOGIN_LASTS))
    of_its_own = cast(Sessions, sessions)
    return Storage(of_its_own, None, agreed, tombstones, max(lifetime.total_seconds(), LOGIN_LASTS))


def _can_search(sessions: object) -> TypeGuard[SearchableSessions]:
    return getattr(sessions, "searchable", callable(getattr(sessions, "find_all", None)))


def _can_notify(store: object) -> TypeGuard[Notifier]:
    return all(callable(getattr(store, name, None)) for name in ("publish", "subscribe"))


def can_coordinate(store: object) -> TypeGuard[CoordinationStore]:
    """Say whether *store* has what processes need to agree."""
    return not lacks_for_coordination(store)


def _session_store(choice: str | SessionStore | Sessions | None, settings: Settings) -> SessionStore | None:
    """Return the store of server-side sessions; None where there is none, for cookies or sessions of another kind."""
    if choice is None:
        if not settings.development:
            raise ConfigurationError(f"say where sessions are kept: {_SESSIONS_HOW}", path="sessions")
        return SQLiteStore(development_database(), clock=settings.clock)
    if choice == "cookie":
        return None
    if isinstance(choice, str):
        return _opened(choice, settings, at="sessions")
    if callable(getattr(choice, "load", None)) and callable(getattr(choice, "update", None)):
        return cast(SessionStore, choice)
    if callable(getattr(choice, "open", None)) and callable(getattr(choice, "presented", None)):
        return None
    raise ConfigurationError(f"{type(choice).__name__} keeps no sessions: {_SESSIONS_HOW}", path="sessions")


def _coordination(
    choice: object, sessions: object, store: SessionStore | None, settings: Settings
) -> CoordinationStore:
    same = choice is None or (isinstance(choice, str) and choice == sessions)
    if same and can_coordinate(store):
        return store
    if choice is None:
        return MemoryStore(clock=settings.clock)
    if isinstance(choice, str):
        return _opened(choice, settings, at="coordination")
    if can_coordinate(choice):
        return choice
    message = f"{type(choice).__name__} lacks {', '.join(lacks_for_coordination(choice))}: {_COORDINATION_HOW}"
    raise ConfigurationError(message, path="coordination")


def _opened(url: str, settings: Settings, *, at: str) -> Store:
    try:
        return open_store(url, clock=settings.clock)
    except ConfigurationError as error:
        raise ConfigurationError(str(error), path=at) from error


def _warn_of_memory(store: SessionStore | None, coordination: CoordinationStore) -> None:
    """Servers that fork their workers themselves mostly say so in the environment; that is all that can be seen."""
    workers = os.environ.get("WEB_CONCURRENCY", "1")
    if workers in ("", "1"):
        return
    if isinstance(store, MemoryStore):
        logger.warning(
            "sessions_in_memory: each of %s workers would know its own users only. Keep sessions in a database "
            "(sessions='sqlite:///...'), or run one worker.",
            workers,
        )
    elif isinstance(coordination, MemoryStore):
        logger.warning(
            "coordination_in_memory: each of %s workers would renew the same tokens for itself, and a provider that "
            "rotates refresh tokens would end sessions. Give coordination='redis://...' (or another store that they "
            "share), or run one worker.",
            workers,
        )
