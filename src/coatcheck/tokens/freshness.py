"""How fresh a token is: use it, use it and renew it meanwhile, or wait for a new one."""

from __future__ import annotations

from enum import Enum
from zlib import crc32

DEFAULT_LIFETIME = 300.0
"""Seconds that a token is taken to live when its authorization server did not say."""

_LONGEST_WINDOW = 60.0
_LONGEST_MARGIN = 5.0


class TokenState(Enum):
    """What to do with a token now. The windows follow from its lifetime: a 30-second token renews in time too."""

    FRESH = "fresh"
    """Use it."""
    STALE = "stale"
    """It still works: use it, and renew it once meanwhile."""
    EXPIRED = "expired"
    """Wait for the renewal."""


def token_state(access_token: str, *, issued_at: float, expires_at: float, now: float) -> TokenState:
    """
    Judge a token by its instants (seconds since the epoch).

    *Stale* begins `min(60 s, lifetime / 5)` before the end, a little later for some tokens than for others, so that
    tokens that were issued together are not renewed together. *Expired* begins `min(5 s, lifetime / 20)` before the
    end: the request that carries the token still has a way to go.
    """
    remaining = expires_at - now
    lifetime = expires_at - issued_at
    window = min(_LONGEST_WINDOW, lifetime / 5)
    if remaining > window:
        return TokenState.FRESH
    if remaining <= expiry_margin(lifetime):
        return TokenState.EXPIRED
    return TokenState.STALE if remaining <= window * _jitter(access_token) else TokenState.FRESH


def expiry_margin(lifetime: float) -> float:
    """Seconds before its end from which a token is not sent any more."""
    return min(_LONGEST_MARGIN, lifetime / 20)


def _jitter(access_token: str) -> float:
    """Between 0.5 and 1, the same for the same token in every process: all agree on when it becomes stale."""
    return 0.5 + crc32(access_token.encode("utf-8", "surrogatepass")) / 2**33
