"""
Cookie sessions: the whole session, tokens included, travels sealed in the browser's cookies.

What that costs, so that nobody is surprised: a session is ended by deleting its cookies. This process remembers that
while the session could live, so that the late response of another request does not log the browser in again. Other
processes learn of it from the coordination store, which they ask every few seconds (`endings.py`). And all of it has to
fit into three cookies. Both ends of its life stand inside the seal and are checked at every request.

New tokens reach the browser with the response, or never. So they are written to the coordination store before they are
used, and wait there until the browser has them: `pending.py` says how, `generations.py` what may go wrong on the way.
While a login is under way that began in such a session, a copy of it is held there, too: see `held.py`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from coatcheck import base64url
from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.codec import DecodeError, encode
from coatcheck.coordination import ExpiringStore
from coatcheck.errors import (
    CookieOutdated,
    CookieTooLarge,
    SealBroken,
    SessionGone,
    StaleVersion,
    StoreUnavailable,
    UnknownSealKey,
)
from coatcheck.sessions.chunks import chunk_names, join, split
from coatcheck.sessions.cookie import CookiePolicy, Cookies, delete_cookie
from coatcheck.sessions.cookie_contents import Contents, Head, read
from coatcheck.sessions.endings import Endings
from coatcheck.sessions.generations import LATE, Generations
from coatcheck.sessions.held import HeldSessions
from coatcheck.sessions.pending import PendingTokens
from coatcheck.sessions.seal import KeyRing
from coatcheck.sessions.server_side import TOUCH_AFTER, in_seconds
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.sessions.tombstones import Tombstones

_log = logging.getLogger("coatcheck")

_PURPOSE = "cookie session"
_ID_BYTES = 32
_REMEMBERED = 512
"""Sessions that stay opened in memory: some 10 KB each."""


class CookieSessions:
    """
    Sessions that the browser keeps, sealed with *ring*. *lifetime* and *idle_timeout* as for `ServerSideSessions`.

    *coordination* is where new tokens wait for the browser, and where *tombstones* are. All processes that serve the
    same browsers share it; it knows the same time as *clock*, and is closed by whoever made it.

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
        coordination: ExpiringStore,
        tombstones: Tombstones | None = None,
    ) -> None:
        self._ring = ring.bound_to(policy.application_id)
        self._policy = policy
        self._lifetime, self._idle_timeout = in_seconds(lifetime, idle_timeout)
        self._clock = clock
        self._names = chunk_names(policy.session)
        self._remembered: dict[str, Contents] = {}
        self._pending = PendingTokens(coordination, self._ring, policy.application_id)
        self._held = HeldSessions(coordination, self._ring, policy.application_id)
        self._endings = Endings(tombstones or Tombstones(coordination, self._ring), clock=clock)
        self.generations = Generations(self._pending, self._held, clock=clock, ended=self._endings.remember)
        """What this process knows of newer cookies than a browser brings; for the handles."""

    async def open(self, cookies: Cookies, *, now: float, slide: bool = True) -> SessionHandle | None:
        """
        See `Sessions.open`. A cookie that cannot be read is no session, never an error.

        It asks the coordination store now and then whether the session was ended, and when a cookie slides that is
        known to be behind (see `generations.py`).
        """
        text = join(self._names, cookies)
        if text is None:
            return None
        contents = self._opened(text)
        if contents is None:
            return None
        if now >= self._dead_at(contents.head) or await self._is_over(contents):
            return None
        self.generations.presented(contents)
        if slide and now - contents.head.seen_at >= contents.head.idle_timeout * TOUCH_AFTER:
            return await self._used(contents, now)
        return CookieHandle(self, contents, carried=contents.head)

    async def _used(self, carried: Contents, now: float) -> SessionHandle | None:
        """Have the cookie slide, and not bring back tokens that are known to be old."""
        latest = carried
        if self.generations.is_behind(carried.head):
            try:
                latest = await self.generations.latest(carried)
            except SessionGone:
                return None
            except StoreUnavailable as fault:
                _log.debug("a cookie that is behind cannot be brought up to date now: %s", fault)
        pending = latest.head.pending and not self.generations.is_settled(latest.head)
        slid = replace(latest, head=replace(latest.head, seen_at=now, pending=pending))
        handle = CookieHandle(self, slid, carried=carried.head)
        handle.take(slid)
        return handle

    def _opened(self, text: str) -> Contents | None:
        """
        Open the seal, or remember what the very same text held: opening takes 20 us, twice as long as all other checks.

        Whether the session is alive is looked at each time; what is remembered has only been opened.
        """
        remembered = self._remembered.get(text)
        if remembered is not None:
            return remembered
        try:
            contents = read(self._ring.open(base64url.decode(text), purpose=_PURPOSE))
        except (ValueError, SealBroken, UnknownSealKey, DecodeError):
            return None
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()  # in one step, so that threads may share it; all of it is soon opened again
        self._remembered[text] = contents
        return contents

    async def find(self, session_id: str, *, now: float) -> SessionHandle | None:
        """
        See `Sessions.find`: only what is held (`hold`) is found, with the tokens that it has by now.

        Whether it was idle for too long is counted from the use that its cookie had told of when it was held.
        """
        held = await self._held.get(session_id)
        if held is None or now >= self._dead_at(held.contents.head):
            return None
        try:
            contents = await self.generations.latest(held.contents)
        except SessionGone:
            return None
        except CookieOutdated:
            contents = replace(held.contents, tokens=b"")  # they were replaced: nobody may use or revoke these
        return None if await self._is_over(contents) else CookieHandle(self, contents, carried=contents.head)

    async def reopen(self, handle: SessionHandle, *, now: float) -> SessionHandle | None:
        """See `Sessions.reopen`. Whether it was idle for too long is not known here: its browser's cookie may slide."""
        contents = self._ours(handle).contents
        return None if now >= contents.head.expires_at or await self._is_over(contents, anew=True) else handle

    async def check(self, contents: Contents) -> None:
        """Raise `SessionGone` if the session was ended, here or elsewhere; ask anew."""
        if await self._is_over(contents, anew=True):
            raise SessionGone("the session has ended")

    async def _is_over(self, contents: Contents, *, anew: bool = False) -> bool:
        return await self._endings.includes(contents, self.generations.look, anew=anew)

    def _dead_at(self, head: Head) -> float:
        """A lifetime that was made shorter is one for all: what ends sessions elsewhere is kept no longer than that."""
        return min(head.dead_at, head.created_at + self._lifetime)

    def _ours(self, handle: SessionHandle) -> CookieHandle:
        if not isinstance(handle, CookieHandle):
            raise TypeError("the handle was opened by other sessions than these")
        return handle

    async def hold(self, handle: SessionHandle, *, until: float) -> None:
        """See `Sessions.hold`."""
        await self._held.hold(self._ours(handle).contents, until=min(until, handle.session.expires_at))

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
        head = Head(
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
        contents = Contents(head, encode(dict(claims)), tokens)
        lines = self.sealed(contents)
        if isinstance(replaces, CookieHandle):
            replaces.end([], None)  # no deletions: they would hit the cookies of the new session
            await self._forget(replaces)
        self._endings.see_alive(head.id, at=self._clock.monotonic())
        return CookieHandle(self, contents, lines)

    async def end(self, handle: SessionHandle) -> bool:
        """
        See `Sessions.end`: the cookies are deleted, and no renewal anywhere can bring the session back.

        It never fails. When the coordination store is unavailable, the session ends for this process and this browser.
        """
        ours = self._ours(handle)
        last = await self.generations.last_tokens(ours.contents)
        # Nothing is waited for from here until `_forget` has taken note: of two that end it together, one is the first.
        # If somebody else was faster, the browser may have the cookies of another login by now.
        is_news = not self.ended(handle.session.id)
        lines = [delete_cookie(name, same_site=self._policy.same_site) for name in self._names] if is_news else []
        ours.end(lines, last)
        await self._forget(ours)
        return is_news

    async def _forget(self, handle: CookieHandle) -> None:
        session = handle.session
        for text, contents in list(self._remembered.items()):
            if contents.head.id == session.id:
                self._remembered.pop(text, None)
        self._endings.remember(session.id, session.expires_at)
        try:
            await self._pending.bury(session.id, until=session.expires_at)
        except StoreUnavailable as fault:
            _log.warning(
                "a session in cookies was ended in this process and in its browser, but other processes could not be "
                "told: a renewal that is under way there goes on. See to the coordination store: %s",
                fault,
            )

    def ended(self, session_id: str) -> bool:
        """Say whether the session was ended, as far as this process knows."""
        return self._endings.known(session_id)

    def presented(self, cookies: Cookies) -> bool:
        """See `Sessions.presented`."""
        return any(cookies.presented(name) for name in self._names)

    def expire_cookies(self, cookies: Cookies) -> list[bytes]:
        """See `Sessions.expire_cookies`."""
        names = [name for name in self._names if cookies.presented(name)]
        return [delete_cookie(name, same_site=self._policy.same_site) for name in names]

    async def aclose(self) -> None:
        """See `Sessions.aclose`. What is done in the background comes to its end; the store is not closed."""
        await self.generations.aclose()

    def sealed(self, contents: Contents) -> list[bytes]:
        """Return the `Set-Cookie` values that carry *contents*; raises `CookieTooLarge`."""
        sealed = self._ring.seal(contents.plaintext(), purpose=_PURPOSE)
        return split(self._names, base64url.encode(sealed), same_site=self._policy.same_site)

    def alive(self, contents: Contents) -> bool:
        """Say whether the session has neither reached its end nor been idle for too long."""
        return self.time() < contents.head.dead_at

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._clock.time()


class CookieHandle:
    """A session in cookies, within one request: what changes here reaches the browser by `set_cookies`."""

    __slots__ = ("_carried", "_contents", "_cookies", "_ended", "_last", "_looked_at", "_sessions", "session")

    renews_inline = True

    def __init__(
        self,
        sessions: CookieSessions,
        contents: Contents,
        cookies: Sequence[bytes] = (),
        *,
        carried: Head | None = None,
    ) -> None:
        self.session = contents.session()
        self._sessions = sessions
        self._contents = contents
        self._cookies = list(cookies)
        self._carried = carried  # what the browser has; None at a login
        self._looked_at = sessions.time()
        self._ended = False
        self._last: bytes | None = None

    @property
    def contents(self) -> Contents:
        """What the cookies hold, as far as this request knows."""
        return self._contents

    async def tokens(self, *, reload: bool = False) -> tuple[bytes, int]:
        """
        See `SessionHandle.tokens`. With *reload* this handle takes over what waits for the browser, and brings it.
        After it was ended by this handle, the tokens with which it ended.

        Raises:
            SessionGone: the session ended, here or in another process.
            CookieOutdated: with *reload* only; this request was held up, and the browser has long had newer tokens.
            StoreUnavailable: with *reload* only; nobody can say whether there are newer tokens.
        """
        if self._last is not None and not reload:
            return self._last, self._contents.head.tokens_version
        if self._is_over() or (reload and not self._sessions.alive(self._contents)):
            raise SessionGone("the session has ended")
        if reload:
            started_at = self._sessions.time()
            latest = await self._sessions.generations.latest(self._contents)
            await self._sessions.check(self._contents)
            self._looked_at = started_at
            if latest.head.tokens_version > self._contents.head.tokens_version:
                self.take(latest)
        return self._contents.tokens, self._contents.head.tokens_version

    async def replace_tokens(self, data: bytes, *, version: int) -> None:
        """
        See `SessionHandle.replace_tokens`. They are safe when it returns, even if the browser never gets the cookie.

        Raises:
            SessionGone: the session ended, here or in another process; nobody will use these tokens.
            StaleVersion: another request, perhaps in another process, has replaced the tokens first. Reload.
            CookieTooLarge: *data* does not fit. Nothing has changed.
            StoreUnavailable: *data* may wait for the browser or not. Try again with the same, or reload.
        """
        if self._is_over() or not self._sessions.alive(self._contents):
            raise SessionGone("the session has ended")
        if self._contents.head.tokens_version != version:
            raise StaleVersion("the tokens were replaced meanwhile")
        contents = self._contents.with_tokens(data, generation=version + 1)
        lines = self._sessions.sealed(contents)
        started_at = self._sessions.time()
        await self._sessions.generations.store(contents)
        await self._sessions.check(contents)
        if self._contents.head.tokens_version == version:  # or another call with this handle has taken them over
            self._contents, self._cookies, self._looked_at = contents, lines, started_at

    def take(self, contents: Contents) -> None:
        """Be *contents* from now on, and bring them to the browser."""
        self._contents = contents
        try:
            self._cookies = self._sessions.sealed(contents)
        except CookieTooLarge:
            self._cookies = []  # by a byte or two, as instants differ; whoever made these tokens has them in a cookie

    def set_cookies(self) -> list[bytes]:
        """
        See `SessionHandle.set_cookies`. None at all for a session that another request has ended meanwhile.

        None either for an older generation than this process knows of, or for a request that took so long that nobody
        can tell (`generations.py` says why): the next request brings the newer one, or slides the cookie.
        """
        lines, self._cookies = self._cookies, []
        if self._ended or not lines:
            return lines
        if self._is_over():
            return []
        if self._carried is None:
            return lines
        if self._sessions.generations.is_behind(self._contents.head) or self._is_late(self._carried):
            return []
        self._sessions.generations.handed_out(self._contents.head)
        return lines

    def _is_late(self, carried: Head) -> bool:
        now = self._sessions.time()
        nearly_idle = now - carried.seen_at >= carried.idle_timeout / 2
        return now - self._looked_at > LATE and not nearly_idle

    def _is_over(self) -> bool:
        return self._ended or self._sessions.ended(self.session.id)

    def end(self, lines: list[bytes], last: bytes | None) -> None:
        """
        Be no session any more, and have the response carry *lines* instead of what it had to carry. *last* are the
        tokens with which it ended: for giving them back.
        """
        self._ended, self._last = True, last
        self._cookies = lines
