"""
How sessions end before their time, wherever the wish comes from: the one place that does all of what belongs to it.

The session goes first, so that nothing can be done with it any more. Then the event streams of its browser are told, on
every node; the audit log has a line; and its tokens are given back behind the answer, because the authorization server
may be the very one who waits for it.

Whoever is logged out from outside (`end_about`) may be logging in at this moment, or may have their session in cookies.
For these there is a tombstone, written before anything is looked for: see `sessions/tombstones.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable

from coatcheck.audit import audit, user_reference
from coatcheck.bff.live import LiveSessions
from coatcheck.bff.problems import logger
from coatcheck.bff.storage import LOGIN_LASTS, Storage
from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, ConfigurationError, StoreUnavailable
from coatcheck.sessions.session import EndReason, Session, SessionFilter
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.sessions.tombstones import Until
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.values import User
from coatcheck.tokens.verdicts import told

REVOCATION_DEADLINE = 30.0
"""Seconds that the authorization server may take to get tokens back, behind an answer."""
_AT_ONCE = 8
"""Sessions whose tokens are given back side by side."""


class LoginEnded(CoatcheckError):
    """The user was logged out while they were logging in: no session begins."""


class SessionEnding:
    """Ends sessions of one application."""

    def __init__(self, storage: Storage, tokens: Tokens, live: LiveSessions, *, clock: Clock) -> None:
        self._storage = storage
        self._tokens = tokens
        self._live = live
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def end(self, handle: SessionHandle, *, reason: EndReason) -> bool:
        """
        End the session that a request has opened; False if somebody else was faster. Its tokens are the business of the
        caller.

        Raises:
            StoreUnavailable: it may live on.
        """
        if reason == "logout":
            await self._end_logins_of(handle)
        if not await self._storage.sessions.end(handle):
            return False
        audit("session_ended", reason=reason, **handle.session.references)
        await self._live.ended(self._storage.tombstones.session_names(handle.session.id), reason)
        return True

    async def end_about(
        self, who: SessionFilter, *, reason: EndReason, issued_until: float | None = None, revoke: bool = True
    ) -> int | None:
        """
        End the sessions of *who*: those whose id_token was issued no later than *issued_until* (seconds since the
        epoch, by the clock of the authorization server), or all that have begun by now.

        Returns how many were found and ended; None where they are in cookies and nobody can count them. With *revoke*
        their tokens are given back, behind the answer.

        Raises:
            StoreUnavailable, UnknownSealKey: some of them may live on. To repeat it does no harm.
            ConfigurationError: sessions cannot be ended by whom they are about: the store has no index.
        """
        if self._storage.searchable is None and not self._storage.asks_tombstones:
            raise ConfigurationError(
                "sessions cannot be ended by whom they are about: their store lacks find, revoke and expire of "
                "SessionIndex, or they are of a kind of your own that lacks find_all",
                path="sessions",
            )
        now = self._clock.time()
        about = Until(created=now) if issued_until is None else Until(issued=issued_until)
        sessions = self._storage.searchable
        not_written: CoatcheckError | None = None
        try:
            await self._storage.tombstones.put(who, about, until=now + self._storage.tombstones_last)
        except StoreUnavailable as error:
            if sessions is None:
                raise
            not_written = error  # what can be found is ended all the same
        if sessions is None:
            audit("sessions_denied", reason=reason, iss=who.iss, user=who.sub and user_reference(who.iss, who.sub))
            await self._live.ended(self._storage.tombstones.names(who), reason)
            return None
        found = await sessions.find_all(who, now=now)
        if issued_until is not None:  # else all are meant, whatever the clock said at the node where they began
            found = [handle for handle in found if about.covers(handle.session)]
        ended: list[SessionHandle] = []
        failures: list[CoatcheckError] = [] if not_written is None else [not_written]
        try:
            for handle in found:
                try:
                    is_first = await self._storage.sessions.end(handle)
                except StoreUnavailable as error:  # once: it may be this session alone, so the others are tried
                    failures.append(error)
                    if len(failures) > 1:
                        break
                    continue
                if is_first:
                    ended.append(handle)
                    audit("session_ended", reason=reason, **handle.session.references)
        finally:
            names = self._storage.tombstones.session_names
            await self._live.ended([name for handle in ended for name in names(handle.session.id)], reason)
            if revoke and ended:
                self._start(self._revoke(ended))
        if failures:
            raise failures[0]
        return len(ended)

    async def was_ended(self, session: Session, *, began_in: str | None) -> bool:
        """
        Say whether whom *session* is about was logged out while it was being made; or has logged out of the session
        (its id) that the login *began_in*.

        Raises:
            StoreUnavailable: nobody knows.
        """
        tombstones = self._storage.tombstones
        if began_in is not None and await tombstones.was_logged_out(began_in):
            return True
        return await tombstones.cover(session)

    async def _end_logins_of(self, handle: SessionHandle) -> None:
        """A login that another tab has begun in this session must not bring its user back."""
        until = self._clock.time() + LOGIN_LASTS
        try:
            await self._storage.tombstones.put_logout(handle.session.id, until=until)
        except Exception as error:  # a store of the application may raise anything; the logout goes on
            logger.warning("a login that is under way in the same browser may outlast a logout: %s", told(error))

    async def aclose(self) -> None:
        """Let the tokens that are being given back in this event loop arrive."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(task for task in self._tasks if task.get_loop() is loop))

    async def _revoke(self, ended: Iterable[SessionHandle]) -> None:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def revoke(handle: SessionHandle) -> None:
            async with turns:
                await self._tokens.revoke_ended(User.of(handle))

        try:
            async with asyncio.timeout(REVOCATION_DEADLINE):
                await asyncio.gather(*map(revoke, ended))
        except TimeoutError:
            logger.warning(
                "tokens of sessions that were ended could not be revoked within %g s. Nobody here can use them any "
                "more; see why the authorization server is slow.",
                REVOCATION_DEADLINE,
            )

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
