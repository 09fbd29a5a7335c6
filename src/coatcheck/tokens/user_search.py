"""Finding the session of a user who is not here: for jobs that act in their name."""

from __future__ import annotations

from typing import Protocol

from coatcheck.errors import ConfigurationError, LoginRequired
from coatcheck.sessions.session import SessionFilter
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.tokens.values import User


class SessionSearch(Protocol):
    """Sessions that can be searched; those of a `SessionIndex` can."""

    async def find_all(self, who: SessionFilter, *, now: float) -> list[SessionHandle]:
        """
        Return the sessions of *who* that are alive at *now* (seconds since the epoch). It does not count as a use.

        Raises:
            StoreUnavailable: nobody can say which there are.
            ConfigurationError: they cannot be searched where they are kept.
        """
        ...


async def find_user(sessions: SessionSearch | None, who: SessionFilter, *, now: float) -> User:
    """Return the user of the session that was used last. Raises as `Tokens.user`."""
    if not callable(getattr(sessions, "find_all", None)) or sessions is None:
        raise ConfigurationError(
            "the session of a user who is not here cannot be found: keep sessions in a store that has an index, and "
            "not in cookies; Tokens(sessions=...) is told where",
            path="sessions",
        )
    found = await sessions.find_all(who, now=now)
    if not found:
        raise LoginRequired("this user has no session", code="session_missing")
    return User.of(max(found, key=lambda handle: handle.session.seen_at))
