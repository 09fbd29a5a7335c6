"""
Ends the loop of a browser that logs in again and again because it never brings the session's cookie back.

Provider, login and page are each content, and would send such a browser around for ever: cookies of this name are
blocked, other applications of the host crowd them out of the jar, or the page asks for more than a login can give.
"""

from __future__ import annotations

import re

from coatcheck.sessions.cookie import CookiePolicy, Cookies, SameSite, delete_cookie, set_cookie

MAX_LOGINS = 3
"""Logins in a row after which somebody without a session is not sent around once more."""

WINDOW = 60.0
"""Seconds in which these must have ended. A person does not need so many logins in that time."""


class LoginLoop:
    """
    Counts, in a short-lived cookie of the browser, the logins that ended well.

    The cookie is not sealed: whoever can forge it can make a page appear that has a link to the login, no more.
    """

    def __init__(self, policy: CookiePolicy, *, same_site: SameSite = "Lax") -> None:
        self._name = policy.logins
        # It has to arrive with the answer of the authorization server, as the cookie of the login has.
        self._same_site: SameSite = same_site

    def is_on(self, cookies: Cookies, *, now: float) -> bool:
        """Whether this browser has logged in so often, just now, that one more login would not help."""
        count, _ = self._read(cookies, now=now)
        return count >= MAX_LOGINS

    def count(self, cookies: Cookies, *, now: float) -> bytes:
        """Return the `Set-Cookie` value that counts one more login."""
        count, began = self._read(cookies, now=now)
        return set_cookie(
            self._name, f"{min(count, MAX_LOGINS) + 1}-{began}", same_site=self._same_site, max_age=int(WINDOW)
        )

    def forget(self, cookies: Cookies) -> list[bytes]:
        """Return the `Set-Cookie` value that begins anew, if need be: after a logout, or when the user was told."""
        return [delete_cookie(self._name, same_site=self._same_site)] if cookies.presented(self._name) else []

    def _read(self, cookies: Cookies, *, now: float) -> tuple[int, int]:
        """How many logins there were, and when the first one ended (seconds since the epoch)."""
        match = _COUNT.fullmatch(cookies.get(self._name) or "")
        if match is None or not 0 <= now - int(match[2]) < WINDOW:
            return 0, int(now)
        return int(match[1]), int(match[2])


_COUNT = re.compile(r"([0-9])-([0-9]{1,12})")
