"""What a retriever answers: four frozen values, made for `match`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class BearerTokenResult:
    """Attach `Authorization: Bearer`. *expires_at* (seconds since the epoch) is None when nobody knows (RFC 6750)."""

    access_token: str = field(repr=False)
    expires_at: float | None = None
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class DPoPTokenResult:
    """Attach `Authorization: DPoP` and a proof that is signed with *dpop_key*, a private JWK as text (RFC 9449)."""

    access_token: str = field(repr=False)
    dpop_key: str = field(repr=False)
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class NoAccessTokenResult:
    """Call the remote API without a token, on purpose."""


@dataclass(frozen=True, slots=True)
class AccessTokenRetrievalError:
    """
    Do not call the remote API: answer *status* with the code *error* instead.

    *error_description* goes to the log, not to the browser.
    """

    error: str
    error_description: str | None = None
    status: int = 401
    retry_after: timedelta | None = None


AccessTokenResult: TypeAlias = BearerTokenResult | DPoPTokenResult | NoAccessTokenResult | AccessTokenRetrievalError
