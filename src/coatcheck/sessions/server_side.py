"""Server-side sessions: the browser keeps a ticket, the store keeps the sealed session."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

from coatcheck import base64url
from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.codec import DecodeError
from coatcheck.errors import ConfigurationError, SealBroken, SessionGone, StoreUnavailable
from coatcheck.sessions.chunks import chunk_names
from coatcheck.sessions.cookie import CookiePolicy, Cookies, delete_cookie, set_cookie
from coatcheck.sessions.seal import KeyRing
from coatcheck.sessions.session import Session, SessionFilter
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.sessions.store import ReplacePart, SessionIndex, SessionRow, SessionStore, Touch
from coatcheck.sessions.vault import TICKET_BYTES, TICKET_LENGTH, Vault

TOUCH_AFTER = 0.1
"""A use is written down at most every tenth of the idle time: a session may die that much early, never late."""

_log = logging.getLogger("coatcheck")


class ServerSideSessions:
    """
    Sessions in a *store*, under the SHA-256 of a 256-bit ticket that only the browser has.

    *lifetime* is absolute, from the login on; *idle_timeout* counts from the last use. Both are on, and both are
    checked against the caller's clock whenever a session is opened, whatever the store has kept.

    Raises:
        ConfigurationError: one of the two is not above zero.
    """

    def __init__(
        self,
        store: SessionStore,
        ring: KeyRing,
        policy: CookiePolicy,
        *,
        lifetime: timedelta = timedelta(hours=8),
        idle_timeout: timedelta = timedelta(hours=1),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store = store
        self._index = cast(SessionIndex, store) if can_search(store) else None
        self._policy = policy
        self._more_names = chunk_names(policy.session)[1:]
        self._lifetime, self._idle_timeout = in_seconds(lifetime, idle_timeout)
        self._clock = clock
        self._vault = Vault(ring, policy.application_id)
        self._touching: set[bytes] = set()

    @property
    def searchable(self) -> bool:
        """Whether the store can find sessions by whom they are about."""
        return self._index is not None

    async def open(self, cookies: Cookies, *, now: float, slide: bool = True) -> SessionHandle | None:
        """See `Sessions.open`. With a store that answers at once it never suspends."""
        ticket = cookies.get(self._policy.session)
        if ticket is None or len(ticket) != TICKET_LENGTH:
            return None
        handle = await self._handle(self._vault.key(ticket), now=now)
        if handle is None or not slide or now - handle.session.seen_at < handle.session.idle_timeout * TOUCH_AFTER:
            return handle
        return await self._used(handle, now)

    async def find(self, session_id: str, *, now: float) -> SessionHandle | None:
        """See `Sessions.find`."""
        return await self._handle(base64url.decode(session_id), now=now)

    async def hold(self, handle: SessionHandle, *, until: float) -> None:
        """See `Sessions.hold`: sessions are kept here anyway."""

    async def create(
        self,
        *,
        claims: Mapping[str, Any],
        iss: str,
        sub: str,
        sid: str | None,
        tokens: bytes,
        now: float,
        replaces: SessionHandle | None = None,
    ) -> SessionHandle:
        """See `Sessions.create`."""
        ticket = base64url.encode(secrets.token_bytes(TICKET_BYTES))
        key = self._vault.key(ticket)
        row = SessionRow(
            key=key,
            partition=self._policy.application_id,
            claims=self._vault.seal_claims(
                key, iss=iss, sub=sub, sid=sid, expires_at=now + self._lifetime, claims=claims
            ),
            claims_version=1,
            tokens=self._vault.seal(key, "tokens", tokens),
            tokens_version=1,
            created_at=now,
            expires_at=now + self._lifetime,
            seen_at=now,
            idle_timeout=self._idle_timeout,
            sub_key=self._vault.index_key("sub", iss, sub),
            sid_key=None if sid is None else self._vault.index_key("sid", iss, sid),
        )
        await self._store.create(row)
        if replaces is not None:
            await self._delete(replaces)
        handle = ServerSideHandle(self, row, self._vault.open_session(row))
        # A session that was kept in cookies may have left more of them. Whether it did cannot be seen here: behind a
        # page of the authorization server the browser sends no Strict cookie to the callback.
        left_over = [delete_cookie(name, same_site=self._policy.same_site) for name in self._more_names]
        handle.send_cookies([set_cookie(self._policy.session, ticket, same_site=self._policy.same_site), *left_over])
        return handle

    async def end(self, handle: SessionHandle) -> bool:
        """See `Sessions.end`."""
        if not isinstance(handle, ServerSideHandle):
            raise TypeError("the handle was opened by other sessions than these")
        last = await self._delete(handle)
        if last is None:
            # The browser may have the cookie of another login by now, and this answer must not take it away.
            handle.send_cookies([])
            return False
        handle.row = last
        handle.send_cookies([delete_cookie(self._policy.session, same_site=self._policy.same_site)])
        return True

    async def reopen(self, handle: SessionHandle, *, now: float) -> SessionHandle | None:
        """See `Sessions.reopen`."""
        return await self.find(handle.session.id, now=now)

    async def find_all(self, who: SessionFilter, *, now: float) -> list[SessionHandle]:
        """
        See `SearchableSessions.find_all`. What is damaged is no session, as in `open`.

        Raises:
            ConfigurationError: the store has no index (`SessionIndex`).
        """
        index = self._index
        if index is None:
            raise ConfigurationError(
                f"{type(self._store).__name__} cannot find sessions by whom they are about: it lacks find, revoke or "
                "expire of SessionIndex",
                path="sessions",
            )
        subs = None if who.sub is None else self._vault.index_keys("sub", who.iss, who.sub)
        sids = None if who.sid is None else self._vault.index_keys("sid", who.iss, who.sid)
        rows = await index.find(self._vault.application_id, sids or subs or ())
        wanted = (row for row in rows if (not subs or row.sub_key in subs) and (not sids or row.sid_key in sids))
        handles = (self._handle_of(row, now=now) for row in wanted if now < row.dead_at)
        return [handle for handle in handles if handle is not None]

    def presented(self, cookies: Cookies) -> bool:
        """See `Sessions.presented`."""
        return cookies.presented(self._policy.session)

    def expire_cookies(self, cookies: Cookies) -> list[bytes]:
        """See `Sessions.expire_cookies`."""
        if not self.presented(cookies):
            return []
        return [delete_cookie(self._policy.session, same_site=self._policy.same_site)]

    async def aclose(self) -> None:
        """See `Sessions.aclose`."""
        close = getattr(self._store, "aclose", None)
        if close is not None:
            await close()

    async def load(self, key: bytes, *, now: float | None = None) -> SessionRow | None:
        """Return the row *key* of a session of this application that is alive at *now*."""
        row = await self._store.load(key)
        if row is None or row.partition != self._vault.application_id:
            return None
        return row if (self._clock.time() if now is None else now) < row.dead_at else None

    def open_tokens(self, row: SessionRow) -> bytes:
        """Return the tokens of *row*; `SessionGone` if they cannot be opened, for then nothing can be done with it."""
        try:
            return self._vault.open_tokens(row)
        except SealBroken as broken:
            raise SessionGone("the tokens of the session cannot be opened") from broken

    async def replace_tokens(self, row: SessionRow, data: bytes, *, version: int) -> SessionRow:
        """Store new tokens by compare-and-swap and return the row as it is now; `SessionGone` after its end."""
        if self._clock.time() >= row.expires_at:  # nothing moves it, and the store may have the row still
            raise SessionGone("the session has ended")
        sealed = self._vault.seal(row.key, "tokens", data)
        await self._store.update(row.key, ReplacePart("tokens", sealed, version))
        return replace(row, tokens=sealed, tokens_version=version + 1)

    async def _handle(self, key: bytes, *, now: float) -> ServerSideHandle | None:
        row = await self.load(key, now=now)
        return None if row is None else self._handle_of(row, now=now)

    def _handle_of(self, row: SessionRow, *, now: float) -> ServerSideHandle | None:
        try:
            session = self._vault.open_session(row)
        except (SealBroken, DecodeError):
            return None  # damaged, or written by another version: no session, and nothing is deleted
        # The end inside the seal counts, too: whoever may write to the store cannot have a session live for longer.
        return ServerSideHandle(self, row, session) if now < session.expires_at else None

    async def _used(self, handle: ServerSideHandle, now: float) -> ServerSideHandle | None:
        """Write down that the session was used; None if it was deleted meanwhile."""
        key = handle.row.key
        if key in self._touching:
            return handle  # another request of this moment writes it
        self._touching.add(key)
        try:
            await self._store.update(key, Touch(now))
        except SessionGone:
            return None
        except StoreUnavailable as fault:
            # The session could be read, so this request is served; the next one tries to write again.
            _log.warning("a session could not be marked as used, so its idle time goes on: %s", fault)
            return handle
        finally:
            self._touching.discard(key)
        return ServerSideHandle(self, replace(handle.row, seen_at=now), handle.session._replace(seen_at=now))

    async def _delete(self, handle: SessionHandle) -> SessionRow | None:
        key = base64url.decode(handle.session.id)
        last = await self._store.delete(key)
        self._vault.forget(key)
        return last


class ServerSideHandle:
    """A session of a store, within one request."""

    __slots__ = ("_cookies", "_sessions", "row", "session")

    renews_inline = False

    def __init__(self, sessions: ServerSideSessions, row: SessionRow, session: Session) -> None:
        self.session = session
        self._sessions = sessions
        self.row = row
        self._cookies: list[bytes] = []

    async def tokens(self, *, reload: bool = False) -> tuple[bytes, int]:
        """See `SessionHandle.tokens`."""
        if reload:
            row = await self._sessions.load(self.row.key)
            if row is None:
                raise SessionGone("the session has ended")
            self.row = row
        return self._sessions.open_tokens(self.row), self.row.tokens_version

    async def replace_tokens(self, data: bytes, *, version: int) -> None:
        """See `SessionHandle.replace_tokens`."""
        self.row = await self._sessions.replace_tokens(self.row, data, version=version)

    def set_cookies(self) -> list[bytes]:
        """See `SessionHandle.set_cookies`."""
        lines, self._cookies = self._cookies, []
        return lines

    def send_cookies(self, lines: list[bytes]) -> None:
        """Have the response carry *lines* instead of what it had to carry."""
        self._cookies = lines


def can_search(store: object) -> bool:
    """Say whether *store* is a `SessionIndex`, too."""
    return all(callable(getattr(store, name, None)) for name in ("find", "revoke", "expire"))


def in_seconds(lifetime: timedelta, idle_timeout: timedelta) -> tuple[float, float]:
    """Return both durations in seconds; `ConfigurationError` unless they are above zero."""
    for name, duration in (("lifetime", lifetime), ("idle_timeout", idle_timeout)):
        if duration <= timedelta(0):
            raise ConfigurationError(f"a session cannot live for {duration}: give more than zero", path=name)
    return lifetime.total_seconds(), idle_timeout.total_seconds()
