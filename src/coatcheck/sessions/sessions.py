"""The protocols through which everything above reaches a session, wherever it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from coatcheck.sessions.cookie import Cookies
from coatcheck.sessions.session import Session, SessionFilter


class SessionHandle(Protocol):
    """
    One live session within one request: who it is, and the tokens, as bytes that only `coatcheck.tokens` understands.

    Both methods that touch tokens raise `SessionGone` once the session was ended, here or elsewhere.
    """

    @property
    def session(self) -> Session:
        """The session as it was when this request opened it."""
        ...

    @property
    def renews_inline(self) -> bool:
        """Whether new tokens travel in this very response (cookie sessions), so nothing may renew in the background."""
        ...

    async def tokens(self, *, reload: bool = False) -> tuple[bytes, int]:
        """Return the tokens and their version; with *reload* as they are stored now, not when the request began."""
        ...

    async def replace_tokens(self, data: bytes, *, version: int) -> None:
        """Store *data* if the version is still *version*; raises `StaleVersion` if it is not."""
        ...

    def set_cookies(self) -> list[bytes]:
        """Return the `Set-Cookie` values that this response still has to carry, and forget them."""
        ...


class SearchableSessions(Protocol):
    """Sessions that can be found without their browser, because they are kept here."""

    async def find_all(self, who: SessionFilter, *, now: float) -> list[SessionHandle]:
        """
        Return the live sessions of *who*. It does not count as a use.

        Raises what `Sessions.open` raises.
        """
        ...


class Sessions(Protocol):
    """Opens, creates and ends sessions. Two of them exist: `ServerSideSessions` and `CookieSessions`."""

    async def open(self, cookies: Cookies, *, now: float, slide: bool = True) -> SessionHandle | None:
        """
        Return the live session that *cookies* present, or None. Only with *slide* does the request count as a use.

        Raises:
            StoreUnavailable: nobody knows whether there is a session. Never treat it as "not logged in".
            UnknownSealKey: the key ring lacks the key of a stored session.
        """
        ...

    async def find(self, session_id: str, *, now: float) -> SessionHandle | None:
        """
        Return the live session of which only `Session.id` was kept. One that travels in cookies is found while it is
        held (`hold`).

        It does not count as a use. Raises what `open` raises.
        """
        ...

    async def hold(self, handle: SessionHandle, *, until: float) -> None:
        """
        Let `find` find the session of *handle* until *until* (seconds since the epoch), though its browser be away.

        Nothing is to be done for sessions that are kept here anyway. However often it is held, one value is kept.

        Raises:
            StoreUnavailable: it may not be found.
        """
        ...

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
        """Begin a session under a new ticket, whatever the browser presented, and delete the one it *replaces*."""
        ...

    async def end(self, handle: SessionHandle) -> bool:
        """
        Delete the session; its ticket is worthless from now on. False if somebody else was faster.

        `handle.set_cookies()` then expires the cookie, and `handle.tokens()` is what the session ended with: for giving
        them back.
        """
        ...

    async def reopen(self, handle: SessionHandle, *, now: float) -> SessionHandle | None:
        """
        Return the session of *handle* as it is now, or None if it is over. It does not count as a use.

        Raises what `open` raises.
        """
        ...

    def presented(self, cookies: Cookies) -> bool:
        """Say whether the request carries a cookie of ours, good or bad."""
        ...

    def expire_cookies(self, cookies: Cookies) -> list[bytes]:
        """Return the `Set-Cookie` values that remove what *cookies* presented, for a cookie that leads nowhere."""
        ...

    async def aclose(self) -> None:
        """Close what the store holds open for this event loop. A later use opens it again."""
        ...
