"""
Every error that coatcheck raises, one class per *reaction*.

    CoatcheckError
      ConfigurationError        raised while building, never while serving: fix the configuration
      ProtocolError             the other side broke a rule; the message names the section
        InvalidMetadata
        InvalidAuthorizationResponse
        InvalidTokenResponse
        InvalidIDToken
          UnknownKey            the key set lacks this `kid`: fetch it once more, then give up
          InsufficientAuthentication  the user is known, but was not authenticated as strongly or recently as asked
        InvalidLogoutToken      nobody is logged out by it
      OAuthError                the authorization server answered with an `error`
        InvalidGrant            the only code that ends a session
      TransportError            no usable answer from the authorization server; says whether bytes may have left
      LoginRequired             this request needs a user                                  -> 401
        StepUpRequired          ... who is authenticated more strongly, or anew            -> 401
      TokenUnavailable          the user is known, but no token can be had just now        -> 503
      StaleToken                somebody else stored a newer token: load it and use that
      StaleVersion              somebody else wrote this part of the session first: load it again
      SessionGone               the session was deleted meanwhile; nothing was written
      LeaseLost                 somebody else may act in our place by now: send and write nothing
      StoreUnavailable          a store does not answer; nobody knows                      -> 503
        CookieOutdated          the browser has had newer tokens for long: it asks again   -> 503
      UnknownSealKey            a record was sealed with a key that is not in the key ring: an operator's fault
      SealBroken                a sealed value cannot be opened: treat it as absent
      CookieTooLarge            a session does not fit into cookies: use a session store

Messages may name issuers, client ids, paths and keys; never a token, a code, a verifier or a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta


class CoatcheckError(Exception):
    """The root of the tree: catch it to catch everything that coatcheck raises on purpose."""


class ConfigurationError(CoatcheckError):
    """
    The configuration cannot work. Raised while building or starting, never while serving.

    *path* names the setting (`api[0].url`), the message says what is wrong and what to do.
    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class ProtocolError(CoatcheckError):
    """The authorization server (or whoever spoke in its name) broke a rule of a specification."""


class InvalidMetadata(ProtocolError):
    """The metadata document is unusable (RFC 8414, OpenID Connect Discovery 1.0)."""


class InvalidAuthorizationResponse(ProtocolError):
    """The answer at the redirect URI does not belong to the transaction (RFC 6749 4.1.2, RFC 9207)."""


class InvalidTokenResponse(ProtocolError):
    """
    A token endpoint answered, but not with what RFC 6749 section 5 allows.

    *carries_refresh_token*: there is one in it all the same, so the one that was sent may be spent.
    """

    def __init__(self, message: str, *, carries_refresh_token: bool = False) -> None:
        super().__init__(message)
        self.carries_refresh_token = carries_refresh_token


class InvalidIDToken(ProtocolError):
    """An id_token fails a check of OpenID Connect Core 1.0, section 3.1.3.7."""


class UnknownKey(InvalidIDToken):
    """No key of the set has this `kid`. Fetch the set once more and try again; then give up."""

    def __init__(self, kid: str | None) -> None:
        super().__init__(f"no key with kid {kid!r} in the key set of the authorization server")
        self.kid = kid


class InsufficientAuthentication(InvalidIDToken):
    """The id_token is good, but its `acr` or `auth_time` is not what was asked for (RFC 9470). The step-up failed."""


class InvalidLogoutToken(ProtocolError):
    """
    A logout token fails a check of OpenID Connect Back-Channel Logout 1.0, section 2.6: it ends no session.

    *reason* is one word for logs and counters: `malformed`, `typ`, `alg`, `issuer`, `audience`, `iat`, `exp`, `nbf`,
    `events`, `nonce`, `jti`, `sub_sid`, `signature`, `unknown_key` or `replayed`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class OAuthError(CoatcheckError):
    """The authorization server refused, with the members of RFC 6749 sections 4.1.2.1 and 5.2."""

    def __init__(
        self,
        error: str,
        error_description: str | None = None,
        *,
        status: int = 400,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(f"{error}: {error_description}" if error_description else error)
        self.error = error
        self.error_description = error_description
        self.status = status
        self.retry_after = retry_after


class InvalidGrant(OAuthError):
    """The grant is over: the refresh token is expired, revoked or used twice (RFC 6749 5.2)."""


class TransportError(CoatcheckError):
    """
    No usable HTTP answer arrived.

    *sent* is False only when it is certain that no byte of the request left (DNS, connect, TLS): then it may be sent
    again. *answered* is True when an answer came that says that nothing was done, or that somebody else answered. With
    neither, the request is *in doubt*: what it asked for may have been done.
    """

    def __init__(
        self, message: str, *, sent: bool, answered: bool = False, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(message)
        self.sent = sent
        self.answered = answered
        self.retry_after = retry_after

    @property
    def in_doubt(self) -> bool:
        """Whether nobody knows if the request was carried out."""
        return self.sent and not self.answered


class LoginRequired(CoatcheckError):
    """
    This request needs a user who logs in (again). *code* is the `Coatcheck-Error` that the browser sees, for instance
    `session_missing`, `session_expired`, `session_ended` or `token_expired_no_refresh_token`.
    """

    def __init__(self, message: str = "a login is required", *, code: str = "session_missing") -> None:
        super().__init__(message)
        self.code = code


class StepUpRequired(LoginRequired):
    """
    The user is logged in, but this request needs a stronger or a more recent login. Let it leave your handler.

    *acr_values* are ways of authentication of which one will do, *max_age* is how many seconds ago it may have been, at
    most. What a login may ask for has to be listed in `LoginOptions`. A script is answered 401 `step_up_required` with
    a `login_url` that asks for it; a page goes there by itself.

    RFC 9470.
    """

    def __init__(
        self,
        message: str = "a stronger login is required",
        *,
        acr_values: Sequence[str] = (),
        max_age: int | None = None,
    ) -> None:
        super().__init__(message, code="step_up_required")
        self.acr_values = tuple(acr_values)
        self.max_age = max_age


class TokenUnavailable(CoatcheckError):
    """No token can be had at the moment; the session lives on. Answer 503 and let the caller try again."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StaleToken(CoatcheckError):
    """Compare-and-swap failed: another token is stored than the one to be replaced. Load it and use it."""


class StaleVersion(CoatcheckError):
    """Compare-and-swap failed in a session store: the part was written by somebody else first. Load it and use that."""


class SessionGone(CoatcheckError):
    """The session was deleted meanwhile. Nothing was written: an update never creates a session."""


class LeaseLost(CoatcheckError):
    """The lease ran out, or somebody else took it. Do nothing in its name any more; nothing was changed."""


class StoreUnavailable(CoatcheckError):
    """The store did not answer. This says nothing about the session: answer 503, never "not logged in"."""


class CookieOutdated(StoreUnavailable):
    """
    A request was held up for so long that its browser has newer tokens, and this process can no longer have them.

    Its own were renewed and must not be used for a renewal. Nothing is lost: let the browser ask again.
    """


class UnknownSealKey(CoatcheckError):
    """A record was sealed under a `kid` that the key ring lacks. Put the key back; nothing was deleted."""

    def __init__(self, kid: str) -> None:
        super().__init__(f"sealed with key {kid!r}, which is not in the key ring: add it back to `keys`")
        self.kid = kid


class SealBroken(CoatcheckError):
    """A sealed value is damaged, forged or sealed for another purpose. Treat it as absent."""


class CookieTooLarge(CoatcheckError):
    """What has to go into a cookie does not fit into what browsers keep. Use a session store instead of cookies."""


def missing_extra(error: ModuleNotFoundError, extra: str) -> ModuleNotFoundError:
    """Say what to install for a part of coatcheck whose libraries are not there: the core comes without them."""
    message = f"{error.name} is not installed, which this part of coatcheck needs: pip install 'coatcheck[{extra}]'"
    return ModuleNotFoundError(message, name=error.name, path=error.path)
