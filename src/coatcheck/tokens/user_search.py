"""Finding the session of a user who is not here: for jobs that act in their name."""

from __future__ import annotations

from coatcheck.errors import ConfigurationError, LoginRequired
from coatcheck.sessions.session import SessionFilter
from coatcheck.sessions.sessions import SearchableSessions
from coatcheck.tokens.values import User


async def find_user(sessions: SearchableSessions | None, who: SessionFilter, *, now: float) -> User:
    """Return the user of the session that was used last. Raises as `Tokens.user`."""
    if sessions is None:
        raise ConfigurationError(
            "the session of a user who is not here cannot be found: keep sessions in a store that has an index, and "
            "not in cookies; Tokens(sessions=...) is told where",
            path="sessions",
        )
    found = await sessions.find_all(who, now=now)
    if not found:
        raise LoginRequired("this user has no session", code="session_missing")
    return User.of(max(found, key=lambda handle: handle.session.seen_at))
