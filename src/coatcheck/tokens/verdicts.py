"""What a failed token request means for the user: over, ask them, fix the configuration, or try again later."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum

from coatcheck.errors import (
    CoatcheckError,
    ConfigurationError,
    CookieOutdated,
    InvalidGrant,
    LoginRequired,
    OAuthError,
    ProtocolError,
    StoreUnavailable,
    TokenUnavailable,
    TransportError,
)
from coatcheck.oauth.error_response import MAX_RETRY_AFTER
from coatcheck.tokens.values import DEFAULT_PARAMETERS


class VerdictKind(Enum):
    """The four reactions. Only the first ends a session."""

    ENDED = "ended"
    NEEDS_USER = "needs_user"
    MISCONFIGURED = "misconfigured"
    TRANSIENT = "transient"


class Reach(Enum):
    """Whose other requests a failure is about, from the narrowest to the widest: who had better wait."""

    REQUEST = "request"
    """Nobody else's: this grant, this scope, or something of our own, such as a store."""
    GRANT_TYPE = "grant_type"
    """All of the registration with this grant type."""
    CLIENT = "client"
    """All of the registration."""
    ISSUER = "issuer"
    """All to this authorization server."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    A judged failure, as a value: every waiter gets an exception of its own from `error()`.

    *reason* is for the audit log: the error code of the authorization server, or a word of ours.
    """

    kind: VerdictKind
    message: str
    code: str = ""
    retry_after: timedelta | None = None
    reach: Reach = Reach.REQUEST
    reason: str = ""

    def silence(self, *, at_least: float) -> float:
        """Return for how many seconds not to ask again: as long as the authorization server wants, up to a minute."""
        asked_for = self.retry_after.total_seconds() if self.retry_after is not None else 0.0
        return min(max(at_least, asked_for), _LONGEST_RETRY_AFTER)

    def error(self, *, client: str) -> CoatcheckError:
        """Make the exception that tells a caller what to do about a token of the registration *client*."""
        if self.kind in (VerdictKind.ENDED, VerdictKind.NEEDS_USER):
            return LoginRequired(self.message, code=self.code or ended_code(client))
        if self.code == "store_unavailable":
            return StoreUnavailable(self.message)
        return TokenUnavailable(self.message, retry_after=self.retry_after)


NOT_SENT = "not_sent"
"""The code of a verdict that follows from another one: nothing was asked. Who logs it repeats what is in the log."""

_LONGEST_RETRY_AFTER = MAX_RETRY_AFTER.total_seconds()
_NEEDS_USER = frozenset({"interaction_required", "login_required", "consent_required", "account_selection_required"})

_REMEDIES = {
    "invalid_client": "check client_id, client_secret and client_auth",
    "unauthorized_client": "allow this grant type for the client at the authorization server",
    "unsupported_grant_type": "allow this grant type for the client at the authorization server",
    "invalid_scope": "ask for a scope that the client may have",
    "invalid_target": "ask for a resource or audience that the client may have",
    "invalid_request": "compare the parameters that were sent with what the authorization server documents",
    "invalid_dpop_proof": "compare the clocks of both machines",
}


_REACHES = {
    "invalid_client": Reach.CLIENT,
    "unauthorized_client": Reach.GRANT_TYPE,
    "unsupported_grant_type": Reach.GRANT_TYPE,
}
_BUSY = frozenset({"temporarily_unavailable", "server_error", "slow_down"})


def ended(message: str, *, reason: str) -> Verdict:
    """The grant is over; nothing but a new login helps."""
    return Verdict(VerdictKind.ENDED, message, reason=reason)


def ended_code(client: str) -> str:
    """Say what the end of a grant means: the session stands on the login's own, and on no other registration's."""
    return "session_ended" if client == DEFAULT_PARAMETERS.client else "login_required"


def renewal_lost(issuer: str, what: str, *, client: str) -> Verdict:
    """
    A refresh token may have been used up by a request whose answer never arrived; it must not be sent again.

    *what* says what happened to the request. Whoever wants to tell this from a grant that the authorization server
    ended looks at the code.
    """
    message = (
        f"the answer of {issuer} to a renewal was lost ({what}), and its refresh tokens must not be sent twice: "
        'a login is needed; if it permits it, set rotation to "none" or "grace:<seconds>s"'
    )
    code = "renewal_lost" if client == DEFAULT_PARAMETERS.client else "login_required"
    return Verdict(VerdictKind.ENDED, message, code=code, reason="renewal_lost")


def no_refresh_token(client: str) -> Verdict:
    """The access token is spent and there is nothing to renew it with."""
    return Verdict(
        VerdictKind.NEEDS_USER,
        f"the access token (registration {client!r}) has expired and the login brought no refresh token: "
        "ask for the scope offline_access, or for what the authorization server wants instead",
        code="token_expired_no_refresh_token",
    )


def refresh_token_expired(issuer: str) -> Verdict:
    """The access token is spent, and the refresh token dead: its end was announced when it came."""
    return Verdict(
        VerdictKind.ENDED,
        f"the refresh token has reached the end that {issuer} announced for it: the grant is over",
        reason="refresh_token_expired",
    )


def judge(error: CoatcheckError, *, issuer: str) -> Verdict:
    """
    Say what a failed token request means. Only `invalid_grant` ends anything; what is unknown is transient.

    RFC 6749 section 5.2, OpenID Connect Core 1.0 section 3.1.2.6.
    """
    return replace(_judged(error, issuer), reason=_reason(error))


def _reason(error: CoatcheckError) -> str:
    match error:
        case OAuthError(error=code):
            return code
        case ConfigurationError():
            return "configuration"
        case TransportError():
            return "no_answer"
        case ProtocolError():
            return "invalid_answer"
        case StoreUnavailable():
            return "store_unavailable"
    return ""


def _judged(error: CoatcheckError, issuer: str) -> Verdict:
    match error:
        case InvalidGrant():
            return Verdict(VerdictKind.ENDED, f"{issuer} says that the grant is over: {error}")
        case OAuthError(error=code) if code in _NEEDS_USER:
            return Verdict(VerdictKind.NEEDS_USER, f"{issuer} wants to see the user: {error}", code="login_required")
        case OAuthError(error=code, retry_after=retry_after) if code in _REMEDIES:
            message = f"{issuer} refused the token request: {error}; {_REMEDIES[code]}"
            return Verdict(
                VerdictKind.MISCONFIGURED, message, retry_after=retry_after, reach=_REACHES.get(code, Reach.REQUEST)
            )
        case ConfigurationError():
            return Verdict(
                VerdictKind.MISCONFIGURED, f"no token request to {issuer} can be made: {error}", reach=Reach.CLIENT
            )
        case OAuthError(error=code, retry_after=retry_after):
            # A code that we do not know may be about this one grant: no reason to keep everybody else waiting.
            reach = Reach.ISSUER if code in _BUSY or retry_after is not None else Reach.REQUEST
            return Verdict(
                VerdictKind.TRANSIENT, f"{issuer} gave no token: {error}", retry_after=retry_after, reach=reach
            )
        case TransportError(retry_after=retry_after):
            message = f"{issuer} gave no token: {error}"
            return Verdict(VerdictKind.TRANSIENT, message, retry_after=retry_after, reach=Reach.ISSUER)
        case ProtocolError():
            return Verdict(VerdictKind.TRANSIENT, f"{issuer} gave no usable token: {error}", reach=Reach.ISSUER)
        case TokenUnavailable(retry_after=retry_after):
            return Verdict(VerdictKind.TRANSIENT, str(error), code=NOT_SENT, retry_after=retry_after)
        case StoreUnavailable():
            return store_unavailable(error)
        case _:
            return Verdict(VerdictKind.TRANSIENT, f"{issuer} gave no usable token: {error}")


def store_unavailable(error: StoreUnavailable) -> Verdict:
    """The tokens cannot be read or written: nobody knows anything about the session."""
    if isinstance(error, CookieOutdated):
        return Verdict(VerdictKind.TRANSIENT, str(error))  # nothing is wrong with a store
    return Verdict(VerdictKind.TRANSIENT, str(error), code="store_unavailable")


def told(error: Exception) -> str:
    """
    Say for the log what went wrong.

    Of an error that is not ours, its kind and its place: databases, for instance, repeat the row that they refuse.
    """
    if isinstance(error, CoatcheckError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
