"""Server-side sessions: the browser keeps a ticket, the store keeps the sealed session."""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.codec import DecodeError, decoder, encode
from coatcheck.errors import SealBroken, SessionGone, StoreUnavailable
from coatcheck.sessions import base64url
from coatcheck.sessions.cookie import CookiePolicy, Cookies, delete_cookie, set_cookie
from coatcheck.sessions.seal import KeyRing, framed
from coatcheck.sessions.session import Claims, Session
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.sessions.store import Part, ReplacePart, SessionRow, SessionStore, Touch

_TICKET_BYTES = 32
_TICKET_LENGTH = 43
_TOUCHES_PER_IDLE_TIMEOUT = 10

_decode_subject = decoder(tuple[str, str, str | None]).decode
_log = logging.getLogger("coatcheck")


class ServerSideSessions:
    """
    Sessions in a *store*, under the SHA-256 of a 256-bit ticket that only the browser has.

    *lifetime* is absolute, from the login on; *idle_timeout* counts from the last use. Both are on, and both are
    checked against the caller's clock whenever a session is opened, whatever the store has kept.
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
        self._policy = policy
        self._lifetime = lifetime.total_seconds()
        self._idle_timeout = idle_timeout.total_seconds()
        self._vault = _Vault(store, ring.bound_to(policy.application_id), policy.application_id, clock)
        self._touching: set[bytes] = set()

    async def open(self, cookies: Cookies, *, now: float, slide: bool = True) -> SessionHandle | None:
        """See `Sessions.open`. With a store that answers at once it never suspends."""
        ticket = cookies.get(self._policy.session)
        if ticket is None or len(ticket) != _TICKET_LENGTH:
            return None
        row = await self._vault.load(self._vault.key(ticket), now=now)
        if row is None:
            return None
        try:
            session = self._vault.session(row)
        except (SealBroken, DecodeError):
            return None  # damaged, or written by a newer version: no session, and nothing is deleted
        if slide and now - row.seen_at >= row.idle_timeout / _TOUCHES_PER_IDLE_TIMEOUT:
            try:
                row = await self._touch(row, now)
            except SessionGone:
                return None
            session = replace(session, seen_at=row.seen_at)
        return ServerSideHandle(self._vault, row, session)

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
        ticket = base64url.encode(secrets.token_bytes(_TICKET_BYTES))
        key = self._vault.key(ticket)
        subject = encode((iss, sub, sid)) + b"\n" + encode(dict(claims))
        row = SessionRow(
            key=key,
            partition=self._policy.application_id,
            claims=self._vault.seal(key, "claims", subject),
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
            await self._store.delete(base64url.decode(replaces.session.id))
        handle = ServerSideHandle(self._vault, row, self._vault.session(row))
        handle.send_cookies([set_cookie(self._policy.session, ticket, same_site=self._policy.same_site)])
        return handle

    async def end(self, handle: SessionHandle) -> None:
        """See `Sessions.end`."""
        if not isinstance(handle, ServerSideHandle):
            raise TypeError("the handle was opened by other sessions than these")
        await self._store.delete(base64url.decode(handle.session.id))
        handle.send_cookies([delete_cookie(self._policy.session, same_site=self._policy.same_site)])

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

    async def _touch(self, row: SessionRow, now: float) -> SessionRow:
        """Write that the session was used. The requests that arrive meanwhile do not write it again."""
        if row.key in self._touching:
            return row
        self._touching.add(row.key)
        try:
            await self._store.update(row.key, Touch(now))
        except StoreUnavailable as fault:
            # The session could be read, so this request is served; the next one tries to write again.
            _log.warning("a session could not be marked as used, so its idle time goes on: %s", fault)
            return row
        finally:
            self._touching.discard(row.key)
        return replace(row, seen_at=now)


class ServerSideHandle:
    """A session of a store, within one request."""

    __slots__ = ("_cookies", "_row", "_tokens", "_vault", "session")

    renews_inline = False

    def __init__(self, vault: _Vault, row: SessionRow, session: Session) -> None:
        self._vault = vault
        self._row = row
        self._tokens: bytes | None = None
        self._cookies: list[bytes] = []
        self.session = session

    async def tokens(self, *, reload: bool = False) -> tuple[bytes, int]:
        """See `SessionHandle.tokens`."""
        if reload:
            self._row = await self._vault.reload(self._row.key)
            self._tokens = None
        if self._tokens is None:
            try:
                self._tokens = self._vault.open(self._row.key, "tokens", self._row.tokens)
            except SealBroken as broken:
                raise SessionGone("the tokens of the session cannot be opened") from broken
        return self._tokens, self._row.tokens_version

    async def replace_tokens(self, data: bytes, *, version: int) -> None:
        """See `SessionHandle.replace_tokens`."""
        sealed = self._vault.seal(self._row.key, "tokens", data)
        await self._vault.store.update(self._row.key, ReplacePart("tokens", sealed, version))
        self._row = replace(self._row, tokens=sealed, tokens_version=version + 1)
        self._tokens = data

    def set_cookies(self) -> list[bytes]:
        """See `SessionHandle.set_cookies`."""
        lines, self._cookies = self._cookies, []
        return lines

    def send_cookies(self, lines: list[bytes]) -> None:
        """Have the response carry *lines* instead of what it had to carry."""
        self._cookies = lines


@dataclass(frozen=True, slots=True)
class _Vault:
    """What the sessions of one application share: the store, and how their rows are named, sealed and opened."""

    store: SessionStore
    ring: KeyRing
    application_id: str
    clock: Clock

    def key(self, ticket: str) -> bytes:
        """Return the key of a ticket's row. A SHA-256 of 256 random bits cannot be searched, so it needs no salt."""
        return sha256(framed((b"coatcheck ticket", self.application_id.encode(), ticket.encode()))).digest()

    def index_key(self, kind: str, iss: str, value: str) -> bytes:
        """Return a keyed hash of a subject or a provider's session id, which are short enough to be guessed."""
        return hmac.digest(
            self.ring.derive("session index"), framed((kind.encode(), iss.encode(), value.encode())), "sha256"
        )

    def seal(self, key: bytes, part: Part, data: bytes) -> bytes:
        return self.ring.seal(data, purpose="session", aad=(key, part.encode()))

    def open(self, key: bytes, part: Part, sealed: bytes) -> bytes:
        return self.ring.open(sealed, purpose="session", aad=(key, part.encode()))

    async def load(self, key: bytes, *, now: float) -> SessionRow | None:
        """Return the row of a session that is alive at *now*."""
        row = await self.store.load(key)
        if row is None or row.partition != self.application_id or now >= row.dead_at:
            return None
        return row

    async def reload(self, key: bytes) -> SessionRow:
        row = await self.load(key, now=self.clock.time())
        if row is None:
            raise SessionGone("the session has ended")
        return row

    def session(self, row: SessionRow) -> Session:
        """Open the claims of *row*: one line that says who, then the claims, left undecoded."""
        subject, _, claims = self.open(row.key, "claims", row.claims).partition(b"\n")
        iss, sub, sid = _decode_subject(subject)
        return Session(
            id=base64url.encode(row.key),
            iss=iss,
            sub=sub,
            sid=sid,
            claims=Claims(claims),
            created_at=row.created_at,
            expires_at=row.expires_at,
            seen_at=row.seen_at,
            idle_timeout=row.idle_timeout,
        )
