"""
Cookie sessions: the whole session, tokens included, travels sealed in the browser's cookies. Nothing is stored here.

What that costs, so that nobody is surprised: a session is ended by deleting its cookies. This process remembers that
while the session could live, so that the late response of another request does not log the browser in again; in other
processes, and after a restart, a copied cookie stays good until it dies of age or idleness. Of two requests that renew
at once, the cookies of one win. And all of it has to fit into three cookies. Both ends of its life stand inside the
seal and are checked at every request.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from typing import Any

from coatcheck import base64url
from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.codec import DecodeError, decoder, encode
from coatcheck.errors import SealBroken, SessionGone, StaleVersion, UnknownSealKey
from coatcheck.sessions.chunks import chunk_names, join, split
from coatcheck.sessions.cookie import CookiePolicy, Cookies, delete_cookie
from coatcheck.sessions.seal import KeyRing
from coatcheck.sessions.server_side import TOUCH_AFTER, in_seconds
from coatcheck.sessions.session import Claims, Session
from coatcheck.sessions.sessions import SessionHandle

_PURPOSE = "cookie session"
_ID_BYTES = 32
_REMEMBERED = 512
"""Sessions that stay opened in memory: some 10 KB each."""
_MOST_ENDED = 10_000
"""Ended sessions that are remembered; beyond that the oldest are forgotten."""


class CookieSessions:
    """
    Sessions that the browser keeps, sealed with *ring*. *lifetime* and *idle_timeout* as for `ServerSideSessions`.

    Raises:
        ConfigurationError: one of the durations is not above zero.
    """

    def __init__(
        self,
        ring: KeyRing,
        policy: CookiePolicy,
        *,
        lifetime: timedelta = timedelta(hours=8),
        idle_timeout: timedelta = timedelta(hours=1),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._ring = ring.bound_to(policy.application_id)
        self._policy = policy
        self._lifetime, self._idle_timeout = in_seconds(lifetime, idle_timeout)
        self._clock = clock
        self._names = chunk_names(policy.session)
        self._remembered: dict[str, _Contents] = {}
        self._ended: dict[str, float] = {}

    async def open(self, cookies: Cookies, *, now: float, slide: bool = True) -> SessionHandle | None:
        """See `Sessions.open`. It never suspends, and a cookie that cannot be read is no session, never an error."""
        text = join(self._names, cookies)
        if text is None:
            return None
        contents = self._opened(text)
        if contents is None:
            return None
        if now >= contents.head.dead_at or self.ended(contents.head.id):
            return None
        if slide and now - contents.head.seen_at >= contents.head.idle_timeout * TOUCH_AFTER:
            contents = replace(contents, head=replace(contents.head, seen_at=now))
            return CookieHandle(self, contents, self.sealed(contents))
        return CookieHandle(self, contents, [])

    def _opened(self, text: str) -> _Contents | None:
        """
        Open the seal, or remember what the very same text held: opening takes 20 us, twice as long as all other checks.

        Whether the session is alive is looked at each time; what is remembered has only been opened.
        """
        remembered = self._remembered.get(text)
        if remembered is not None:
            return remembered
        try:
            contents = _read(self._ring.open(base64url.decode(text), purpose=_PURPOSE))
        except (ValueError, SealBroken, UnknownSealKey, DecodeError):
            return None
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()  # in one step, so that threads may share it; all of it is soon opened again
        self._remembered[text] = contents
        return contents

    async def find(self, session_id: str, *, now: float) -> SessionHandle | None:
        """See `Sessions.find`: nothing is kept here, so nothing is found. A new session overwrites the cookies."""
        return None

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
        """
        See `Sessions.create`. The new cookies take the place of those of the session that it *replaces*.

        Raises:
            CookieTooLarge: claims and tokens do not fit into three cookies.
        """
        head = _Head(
            id=base64url.encode(secrets.token_bytes(_ID_BYTES)),
            iss=iss,
            sub=sub,
            sid=sid,
            created_at=now,
            expires_at=now + self._lifetime,
            seen_at=now,
            idle_timeout=self._idle_timeout,
            tokens_version=1,
        )
        contents = _Contents(head, encode(dict(claims)), tokens)
        lines = self.sealed(contents)
        if isinstance(replaces, CookieHandle):
            self._end(replaces, [])  # no deletions: they would hit the cookies of the new session
        return CookieHandle(self, contents, lines)

    async def end(self, handle: SessionHandle) -> None:
        """See `Sessions.end`: the cookies are deleted. A copy that somebody made of them is good in other processes."""
        if not isinstance(handle, CookieHandle):
            raise TypeError("the handle was opened by other sessions than these")
        self._end(handle, [delete_cookie(name, same_site=self._policy.same_site) for name in self._names])

    def _end(self, handle: CookieHandle, lines: list[bytes]) -> None:
        handle.end(lines)
        session = handle.session
        for text, contents in list(self._remembered.items()):
            if contents.head.id == session.id:
                self._remembered.pop(text, None)
        self._ended[session.id] = session.expires_at
        for id_, expires_at in list(
            islice(self._ended.items(), 2)
        ):  # one is added and two may go, so they cannot pile up
            if len(self._ended) > _MOST_ENDED or expires_at <= self._clock.time():
                self._ended.pop(id_, None)

    def ended(self, session_id: str) -> bool:
        """Say whether the session was ended here."""
        return session_id in self._ended

    def presented(self, cookies: Cookies) -> bool:
        """See `Sessions.presented`."""
        return any(cookies.presented(name) for name in self._names)

    def expire_cookies(self, cookies: Cookies) -> list[bytes]:
        """See `Sessions.expire_cookies`."""
        names = [name for name in self._names if cookies.presented(name)]
        return [delete_cookie(name, same_site=self._policy.same_site) for name in names]

    async def aclose(self) -> None:
        """See `Sessions.aclose`: there is nothing to close."""

    def sealed(self, contents: _Contents) -> list[bytes]:
        """Return the `Set-Cookie` values that carry *contents*; raises `CookieTooLarge`."""
        sealed = self._ring.seal(contents.plaintext(), purpose=_PURPOSE)
        return split(self._names, base64url.encode(sealed), same_site=self._policy.same_site)

    def alive(self, contents: _Contents) -> bool:
        """Say whether the session has neither reached its end nor been idle for too long."""
        return self._clock.time() < contents.head.dead_at


class CookieHandle:
    """A session in cookies, within one request: what changes here reaches the browser by `set_cookies`."""

    __slots__ = ("_contents", "_cookies", "_ended", "_sessions", "session")

    renews_inline = True

    def __init__(self, sessions: CookieSessions, contents: _Contents, cookies: list[bytes]) -> None:
        self.session = contents.session()
        self._sessions = sessions
        self._contents = contents
        self._cookies = cookies
        self._ended = False

    async def tokens(self, *, reload: bool = False) -> tuple[bytes, int]:
        """See `SessionHandle.tokens`. There is no other place to reload from; only the end of the session shows."""
        if self._is_over() or (reload and not self._sessions.alive(self._contents)):
            raise SessionGone("the session has ended")
        return self._contents.tokens, self._contents.head.tokens_version

    async def replace_tokens(self, data: bytes, *, version: int) -> None:
        """See `SessionHandle.replace_tokens`. `CookieTooLarge` when *data* does not fit; then nothing has changed."""
        if self._is_over():
            raise SessionGone("the session has ended")
        head = self._contents.head
        if head.tokens_version != version:
            raise StaleVersion("the tokens were replaced meanwhile")
        contents = replace(self._contents, head=replace(head, tokens_version=version + 1), tokens=data)
        self._cookies = self._sessions.sealed(contents)
        self._contents = contents

    def set_cookies(self) -> list[bytes]:
        """See `SessionHandle.set_cookies`. None at all for a session that another request has ended meanwhile."""
        lines, self._cookies = self._cookies, []
        return lines if self._ended or not self._is_over() else []

    def _is_over(self) -> bool:
        return self._ended or self._sessions.ended(self.session.id)

    def end(self, lines: list[bytes]) -> None:
        """Be no session any more, and have the response carry *lines* instead of what it had to carry."""
        self._ended = True
        self._cookies = lines


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands before the claims and the tokens inside the seal."""

    id: str
    iss: str
    sub: str
    sid: str | None
    created_at: float
    expires_at: float
    seen_at: float
    idle_timeout: float
    tokens_version: int

    @property
    def dead_at(self) -> float:
        return min(self.expires_at, self.seen_at + self.idle_timeout)


_decode_head = decoder(_Head).decode


@dataclass(frozen=True, slots=True)
class _Contents:
    """All that is sealed. The first two are JSON, which has no raw line ends; the tokens may hold any bytes."""

    head: _Head
    claims: bytes = field(repr=False)
    tokens: bytes = field(repr=False)

    def plaintext(self) -> bytes:
        return b"\n".join((encode(self.head), self.claims, self.tokens))

    def session(self) -> Session:
        head = self.head
        return Session(
            id=head.id,
            iss=head.iss,
            sub=head.sub,
            sid=head.sid,
            claims=Claims(self.claims),
            created_at=head.created_at,
            expires_at=head.expires_at,
            seen_at=head.seen_at,
            idle_timeout=head.idle_timeout,
        )


def _read(plaintext: bytes) -> _Contents:
    """Take the plaintext apart; raises `DecodeError` for what another version may have written."""
    head, _, rest = plaintext.partition(b"\n")
    claims, _, tokens = rest.partition(b"\n")
    return _Contents(_decode_head(head), claims, tokens)
