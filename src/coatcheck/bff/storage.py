"""Where sessions live: from a word, a URL, or an object of the application's own."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import cast

from coatcheck.bff.keys import development_database
from coatcheck.bff.problems import logger
from coatcheck.bff.settings import Settings
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.cookie_sessions import CookieSessions
from coatcheck.sessions.seal import KeyRing
from coatcheck.sessions.server_side import ServerSideSessions
from coatcheck.sessions.sessions import Sessions
from coatcheck.sessions.store import SessionStore
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore

_HOW = 'use "sqlite:///var/lib/app/sessions.db", "cookie", "memory", or an object that is a SessionStore'


def make_sessions(
    choice: str | SessionStore | Sessions | None,
    settings: Settings,
    ring: KeyRing,
    *,
    lifetime: timedelta,
    idle_timeout: timedelta,
) -> Sessions:
    """
    Make the sessions of one BFF. None is SQLite in `.coatcheck/`, in development mode.

    Raises:
        ConfigurationError: nothing was chosen outside development mode, or the choice is unknown.
    """
    policy, clock = settings.cookies, settings.clock
    if choice == "cookie":
        durations = {"lifetime": lifetime, "idle_timeout": idle_timeout}
        return CookieSessions(ring, policy, clock=clock, coordination=MemoryStore(clock), **durations)
    if isinstance(choice, str) or choice is None:
        store = _store(choice, settings)
    elif callable(getattr(choice, "load", None)) and callable(getattr(choice, "update", None)):
        store = cast(SessionStore, choice)
    elif callable(getattr(choice, "open", None)) and callable(getattr(choice, "presented", None)):
        return cast(Sessions, choice)
    else:
        raise ConfigurationError(f"{type(choice).__name__} keeps no sessions: {_HOW}", path="sessions")
    return ServerSideSessions(store, ring, policy, lifetime=lifetime, idle_timeout=idle_timeout, clock=clock)


def _store(choice: str | None, settings: Settings) -> SessionStore:
    if choice is None:
        if not settings.development:
            raise ConfigurationError(f"say where sessions are kept: {_HOW}", path="sessions")
        return SQLiteStore(development_database(), clock=settings.clock)
    if choice == "memory":
        if os.environ.get("WEB_CONCURRENCY", "1") not in ("", "1"):
            logger.warning(
                "sessions_in_memory: each of %s workers would know its own users only. Keep sessions in a database "
                "(sessions='sqlite:///...'), or run one worker.",
                os.environ["WEB_CONCURRENCY"],
            )
        return MemoryStore(settings.clock)
    scheme, separator, path = choice.partition("://")
    if scheme == "sqlite" and separator and path.strip("/"):
        return SQLiteStore(Path(path), clock=settings.clock)
    shown = choice.partition("@")[0].partition("?")[0][:40] if "@" not in choice else scheme + "://..."
    raise ConfigurationError(f"{shown!r} is not a kind of session store: {_HOW}", path="sessions")
