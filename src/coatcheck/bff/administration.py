"""Finding and ending sessions from outside: for administrators, jobs, and pages that show users their own devices."""

from __future__ import annotations

from dataclasses import dataclass

from coatcheck.audit import session_reference, user_reference
from coatcheck.bff.ending import SessionEnding
from coatcheck.bff.storage import Storage
from coatcheck.clock import Clock
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.session import Session, SessionFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSummary:
    """
    One live session, without anything that could be used in its place.

    *reference* and *user* are what the audit log calls them. Instants are seconds since the epoch: when it began, was
    last used, and will have to end at the latest. *idle_timeout* is in seconds.
    """

    reference: str
    user: str
    iss: str
    sub: str
    sid: str | None
    created_at: float
    seen_at: float
    expires_at: float
    idle_timeout: float


class SessionAdministration:
    """`bff.sessions`: the sessions of this application, by whom they are about."""

    def __init__(self, storage: Storage, ending: SessionEnding, *, issuer: str, clock: Clock) -> None:
        self._storage = storage
        self._ending = ending
        self._issuer = issuer
        self._clock = clock

    async def list(
        self, *, sub: str | None = None, sid: str | None = None, iss: str | None = None
    ) -> list[SessionSummary]:
        """
        Return the live sessions of the user *sub*, or those that the session *sid* at the authorization server led to.

        The one that was used last comes first. *iss* is the issuer that users log in with, unless it is given.

        Raises:
            ValueError: neither *sub* nor *sid* is given.
            ConfigurationError: nobody here knows the sessions: they are in cookies, or the store has no index.
            StoreUnavailable, UnknownSealKey: they cannot be read.
        """
        sessions = self._storage.searchable
        if sessions is None:
            raise ConfigurationError(
                "the sessions cannot be listed: they are in the cookies of their browsers, or in a store that lacks "
                "find, revoke and expire of SessionIndex",
                path="sessions",
            )
        found = await sessions.find_all(self._who(sub, sid, iss), now=self._clock.time())
        return [_summary(handle.session) for handle in sorted(found, key=lambda handle: -handle.session.seen_at)]

    async def revoke(self, *, sub: str | None = None, sid: str | None = None, iss: str | None = None) -> int | None:
        """
        End the sessions that *list* would find, at once and on all nodes, and give their tokens back.

        Returns how many there were; None where they are in cookies, which nobody can count.

        Raises:
            ValueError: neither *sub* nor *sid* is given.
            StoreUnavailable, UnknownSealKey: some of them may live on. Call it again.
            ConfigurationError: the store has no index.
        """
        return await self._ending.end_about(self._who(sub, sid, iss), reason="revoked")

    def _who(self, sub: str | None, sid: str | None, iss: str | None) -> SessionFilter:
        return SessionFilter(iss or self._issuer, sub=sub, sid=sid)


def _summary(session: Session) -> SessionSummary:
    return SessionSummary(
        reference=session_reference(session.id),
        user=user_reference(session.iss, session.sub),
        iss=session.iss,
        sub=session.sub,
        sid=session.sid,
        created_at=session.created_at,
        seen_at=session.seen_at,
        expires_at=session.expires_at,
        idle_timeout=session.idle_timeout,
    )
