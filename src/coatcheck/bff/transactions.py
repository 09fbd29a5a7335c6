"""
Logins under way: each in a sealed cookie of the browser that began it, each used once.

Nothing of a login is kept here before its answer comes: however many are begun, by whomever, no state grows. What is
kept then, for as long as its cookie could still be shown, is that it was used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal

from coatcheck import base64url, codec
from coatcheck.bff.once import UsedOnceByAll
from coatcheck.coordination import ExpiringStore
from coatcheck.errors import CoatcheckError, SealBroken, UnknownSealKey
from coatcheck.oauth.authorize import AuthorizationTransaction
from coatcheck.sessions.cookie import CookiePolicy, Cookies, SameSite, delete_cookie, set_cookie
from coatcheck.sessions.seal import KeyRing

LIFETIME = 15 * 60.0
"""Seconds that a person has for the pages of the authorization server."""

CLOCK_SKEW = 60.0
"""Seconds that the clocks of two of our own nodes may differ."""

MAX_ATTEMPTS = 7
"""Logins under way in one browser: tabs may finish in any order, but a page that starts logins cannot fill the jar."""

MAX_BYTES = 6000
"""Of all these cookies together: servers refuse requests (431) from 8 KB of headers on."""

TABS = 5.0
"""Seconds within which a browser may begin several logins without any of them looking forgotten: its tabs do that."""

_PURPOSE = "login transaction"
_SECOND = ".2"
_SILENT = ".silent"


@dataclass(frozen=True, slots=True)
class StepUp:
    """
    The session that a login is to strengthen, or that a silent login goes on with: whose it is, and which one it is.

    Whoever authenticates must be the same user, and the session must still be there: else somebody would complete, in
    their own name, what somebody else had begun.
    """

    iss: str
    sub: str
    session_id: str = field(repr=False)


class StepUpRefused(CoatcheckError):
    """The login is good, but does not belong to the session that it was begun for. That session stays as it is."""


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """One transaction, and what the browser's request added to it."""

    transaction: AuthorizationTransaction
    prompt: str | None = None
    step_up: StepUp | None = None

    @property
    def is_second(self) -> bool:
        """Whether this login was started by us because the answer to an earlier one could not be used."""
        return self.transaction.state.endswith(_SECOND)

    def as_second(self) -> LoginAttempt:
        """The same, marked in its `state`: the only thing that comes back even from a browser without cookies."""
        return self._marked(_SECOND)

    @property
    def is_silent(self) -> bool:
        """Whether this login goes on in a frame that nobody sees."""
        return is_silent(self.transaction.state)

    def as_silent(self) -> LoginAttempt:
        """The same, marked in its `state`, so that even a lost answer is known to have come into a frame."""
        return self._marked(_SILENT)

    def _marked(self, mark: str) -> LoginAttempt:
        return replace(self, transaction=replace(self.transaction, state=self.transaction.state + mark))


def is_silent(state: str) -> bool:
    """Whether *state* is, or pretends to be, that of a silent login."""
    return state.endswith(_SILENT)


WhyLost = Literal["no_cookie", "two_cookies", "unreadable", "expired", "consumed"]


@dataclass(frozen=True, slots=True)
class LostLogin:
    """Why the answer of an authorization server finds no transaction. *second*: even the restart was lost."""

    why: WhyLost
    second: bool
    other_logins: bool
    """Whether the browser brought cookies of other logins: then it does keep cookies."""


_decode = codec.decoder(LoginAttempt).decode


class LoginAttempts:
    """Seals attempts into correlation cookies, opens them for the callback, and remembers which were used."""

    def __init__(
        self,
        ring: KeyRing,
        policy: CookiePolicy,
        *,
        issuer: str,
        shared: ExpiringStore,
        same_site: SameSite = "Lax",
    ) -> None:
        self._ring = ring.bound_to(policy.application_id)
        self._policy = policy
        self._issuer = issuer
        self._used = UsedOnceByAll(shared, self._ring, purpose="used logins")
        # Lax, because the answer comes as a navigation from another site; None, where it comes as a form from there.
        self._same_site: SameSite = same_site
        self._answered_at = float("-inf")

    def remember(self, attempt: LoginAttempt, cookies: Cookies) -> list[bytes]:
        """Return `Set-Cookie` values: one for *attempt*, and deletions of the oldest where there are too many."""
        name = self._name(attempt.transaction.state)
        sealed = self._ring.seal(codec.encode(attempt), purpose=_PURPOSE, aad=self._aad(name))
        value = base64url.encode(sealed)
        surplus = self._surplus(cookies, room=MAX_BYTES - len(name) - len(value))
        kept = set_cookie(name, value, same_site=self._same_site, max_age=int(LIFETIME))
        return [kept, *(delete_cookie(old, same_site=self._same_site) for old in surplus)]

    def recall(self, state: str, cookies: Cookies, *, now: float) -> LoginAttempt | LostLogin:
        """Find the attempt that this browser began with *state*. The state alone opens nothing."""
        name = self._name(state)
        value = cookies.get(name)
        if value is None:
            return self._lost("two_cookies" if cookies.duplicated(name) else "no_cookie", state, cookies)
        attempt = self._open(name, value)
        if attempt is None or attempt.transaction.state != state:
            return self._lost("unreadable", state, cookies)
        if not -CLOCK_SKEW <= now - attempt.transaction.created_at < LIFETIME:
            return self._lost("expired", state, cookies)
        self._answered_at = now
        return attempt

    def unanswered(self, cookies: Cookies, *, now: float) -> float | None:
        """
        Return how many seconds ago this browser began a login whose answer should have come by now, or None.

        One answer in any browser since then shows that the authorization server sends them; that somebody thinks twice
        on its pages is everyday life.
        """
        began = max((when for when, _, _ in self._under_way(cookies)), default=0.0)
        if not TABS <= now - began < LIFETIME or began <= self._answered_at:
            return None
        return now - began

    async def consume(self, attempt: LoginAttempt, cookies: Cookies, *, now: float) -> LostLogin | None:
        """
        Use *attempt* up, before anything is sent for it. Of requests that arrive together, anywhere, one gets None.

        Raises:
            StoreUnavailable: nobody can say whether it was used. It was not used up by this call, or not for sure.
        """
        state = attempt.transaction.state
        until = attempt.transaction.created_at + LIFETIME + CLOCK_SKEW
        return None if await self._used.use(state, now=now, until=until) else self._lost("consumed", state, cookies)

    def forget(self, state: str, cookies: Cookies) -> list[bytes]:
        """Return the `Set-Cookie` values that delete the cookie of *state*, if the browser has one."""
        name = self._name(state)
        return [delete_cookie(name, same_site=self._same_site)] if cookies.presented(name) else []

    def _name(self, state: str) -> str:
        return self._policy.login(base64url.encode(sha256(state.encode("utf-8", "replace")).digest()[:9]))

    def _names(self, cookies: Cookies) -> list[str]:
        """The names of all logins of this browser. A longer one is forged, and might be too long to be deleted."""
        length = len(self._name(""))
        return [name for name in cookies.starting_with(self._policy.login("")) if len(name) == length]

    def _aad(self, name: str) -> tuple[bytes, bytes]:
        return self._issuer.encode(), name.encode("ascii")

    def _open(self, name: str, value: str) -> LoginAttempt | None:
        try:
            return _decode(self._ring.open(base64url.decode(value), purpose=_PURPOSE, aad=self._aad(name)))
        except (SealBroken, UnknownSealKey, ValueError):  # codec.DecodeError is a ValueError
            return None

    def _surplus(self, cookies: Cookies, *, room: int) -> list[str]:
        """The cookies that have to go so that one more fits: first what does not open, then the oldest."""
        surplus: list[str] = []
        size = kept = 0
        for began, name, length in sorted(self._under_way(cookies), reverse=True):
            size += length
            if began and kept < MAX_ATTEMPTS - 1 and size <= room:
                kept += 1
            else:
                surplus.append(name)
        return surplus

    def _under_way(self, cookies: Cookies) -> Iterator[tuple[float, str, int]]:
        """Yield when each login of this browser began (0 if that cannot be read), its cookie's name and length."""
        for name in self._names(cookies):
            value = cookies.get(name)
            attempt = None if value is None else self._open(name, value)
            yield attempt.transaction.created_at if attempt else 0.0, name, len(name) + len(value or "")

    def _lost(self, why: WhyLost, state: str, cookies: Cookies) -> LostLogin:
        others = [name for name in self._names(cookies) if name != self._name(state)]
        return LostLogin(why, second=state.endswith(_SECOND), other_logins=bool(others))
