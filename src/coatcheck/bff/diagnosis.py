"""
From an error to what an operator needs to hear: a code, the cause, and what to do. The only place that knows.

The cause may repeat what the authorization server said (cut and made printable by the log), never a token, a code or a
secret. None of it reaches a browser outside development mode.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from coatcheck.bff.ending import LoginEnded
from coatcheck.bff.settings import Settings
from coatcheck.bff.transactions import LostLogin, StepUpRefused
from coatcheck.errors import (
    ConfigurationError,
    CookieTooLarge,
    InsufficientAuthentication,
    InvalidAuthorizationResponse,
    InvalidGrant,
    InvalidIDToken,
    InvalidMetadata,
    InvalidTokenResponse,
    OAuthError,
    StoreUnavailable,
    TransportError,
    UnknownKey,
    UnknownSealKey,
)

Stage = Literal["metadata", "authorization_response", "token_request", "session", "logout"]
"""Where it happened: the same error means different things in an answer of the browser and of the token endpoint."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """*code* is one of `coatcheck.bff.problems.CODES`; *cause* and *remedy* are sentences for the log."""

    code: str
    cause: str
    remedy: str


def diagnose_login(error: BaseException, *, stage: Stage, settings: Settings) -> Diagnosis:
    """Say why a login failed and what to do, from the first error in the chain of causes that says it best."""
    for link in _chain(error):
        diagnosis = _diagnose(link, stage, settings)
        if diagnosis is not None:
            return diagnosis
    return Diagnosis(
        "login_failed",
        f"The login failed with {type(error).__name__} at {_place(error)}.",
        "If an event handler or a token store of yours raised it, look there: no session was begun.",
    )


def diagnose_lost_login(lost: LostLogin, *, settings: Settings) -> Diagnosis:
    """Say why the answer of an authorization server found no login under way."""
    match lost.why:
        case "no_cookie" if not lost.other_logins:
            cause = "The browser came back from the authorization server without the cookie of the login it began."
            remedy = (
                f"Cookies may be blocked, or the login began on another host than {settings.public_url.origin}: open "
                "the application by exactly that address. "
            )
            if settings.public_url.loopback and not settings.public_url.secure:
                remedy += (
                    "Safari keeps no secure cookies on http://localhost: use another browser, or write public_url with "
                    "https and start with `coatcheck run --dev-tls` (`coatcheck dev-tls` for a server of your own)."
                )
            else:
                remedy += "The page may also have been opened from the history, or after more than 15 minutes."
        case "no_cookie" | "consumed":
            cause = "The answer of the authorization server was delivered twice, or an old page was opened again."
            remedy = "Nothing to do if it happens now and then: the browser is led home or to a new login."
        case "expired":
            cause = "The login took more than 15 minutes, or our clock jumped."
            remedy = "Start it again. If it happens to everybody, compare the clocks of the nodes."
        case "two_cookies":
            cause = "The browser sent two cookies with the name of this login: another site of this domain planted one."
            remedy = "Find which host of the domain sets cookies that begin with __Host-Http-coatcheck."
        case _:
            cause = "The cookie of this login cannot be opened."
            remedy = "Give all nodes and workers the same `keys`, issuer, client_id and public_url."
    return Diagnosis("login_lost", cause, remedy)


def _place(error: BaseException) -> str:
    """Where an error was raised: enough to find it, and nothing of its text, which may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first; wrappers that say nothing of their own are passed over."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen and len(seen) < 10:
        seen.append(link)
        yield link
        link = link.__cause__


def _diagnose(error: BaseException, stage: Stage, settings: Settings) -> Diagnosis | None:
    match error:
        case LoginEnded():
            return Diagnosis(
                "login_ended",
                f"A login was not completed: {error}.",
                "Nothing to do: the user, or somebody who may, has ended their sessions. They can log in again.",
            )
        case StepUpRefused():
            return Diagnosis(
                "step_up_failed",
                f"A stronger login was not accepted: {error}.",
                "Nothing to do if it is rare: the user starts again, and confirms as the same user.",
            )
        case InsufficientAuthentication():
            return Diagnosis(
                "step_up_failed",
                f"{settings.issuer} logged a user in, but not as it was asked to: {error}",
                "See that it knows the acr_values and max_age that your login options allow, and obeys them.",
            )
        case OAuthError() if stage == "authorization_response":
            return _refused_in_front(error, settings)
        case OAuthError():
            return _refused_behind(error, settings)
        case TransportError():
            return _no_answer(error, settings)
        case UnknownKey():
            return Diagnosis(
                "login_failed",
                f"The id_token of {settings.issuer} is signed with a key that its jwks_uri lacks: {error}",
                "If the provider has just rotated its keys this heals by itself; else compare jwks_uri and issuer.",
            )
        case InvalidIDToken():
            return _bad_id_token(error, settings)
        case InvalidAuthorizationResponse():
            return Diagnosis(
                "login_response_invalid",
                f"The answer at {settings.redirect_uri} was refused: {error}",
                "If it happens to real users, compare the issuer with what the provider sends; else somebody tries.",
            )
        case InvalidMetadata():
            return Diagnosis(
                "login_misconfigured",
                f"The metadata of {settings.issuer} cannot be used: {error}",
                "Give `issuer` as the provider's /.well-known/openid-configuration states it, byte for byte; complete "
                "a document that lacks something by `endpoints`; switch on PKCE with S256 at the provider.",
            )
        case InvalidTokenResponse():
            return Diagnosis(
                "login_failed",
                f"The token endpoint of {settings.issuer} gave an answer that cannot be used: {error}",
                "See that `scope` has openid, and that nothing stands between here and the provider's token_endpoint.",
            )
        case ConfigurationError():
            return Diagnosis("login_misconfigured", f"{error}", "Correct the setting and restart.")
        case CookieTooLarge():
            return Diagnosis(
                "session_too_large",
                f"The session does not fit into cookies: {error}",
                'Keep sessions on the server (sessions="sqlite:///var/lib/app/sessions.db"), or ask for less scope.',
            )
        case UnknownSealKey():
            return Diagnosis("store_unavailable", f"A stored session cannot be opened: {error}", "Restore that key.")
        case StoreUnavailable():
            return Diagnosis("store_unavailable", f"The session store failed: {error}", "See that it runs.")
        case _:
            return None


def _refused_in_front(error: OAuthError, settings: Settings) -> Diagnosis:
    """An error that the browser brought back from the authorization endpoint (RFC 6749 4.1.2.1)."""
    said = f"{settings.issuer} refused the login of client {settings.client_id!r}: {error}"
    match error.error:
        case "access_denied":
            return Diagnosis("login_refused", said, "The user cancelled, or may not use this application: ask there.")
        case "invalid_scope":
            return _misconfigured(
                said, "Allow every scope in `scope` for this client at the provider, or ask for less."
            )
        case "unauthorized_client" | "unsupported_response_type":
            return _misconfigured(said, "Allow the authorization code flow (response_type=code) for this client.")
        case "invalid_target":
            return _misconfigured(said, "Ask for a `resource` that the provider knows and this client may have.")
        case "invalid_request" | "request_not_supported":
            return _misconfigured(
                said,
                f"Compare the client's registration: redirect URI {settings.redirect_uri}, PKCE with S256, and "
                "whatever `authorization_params` adds.",
            )
        case "server_error" | "temporarily_unavailable":
            return Diagnosis("login_unavailable", said, "Wait, and look at the provider's own log.")
        case "unmet_authentication_requirements":
            return Diagnosis(
                "step_up_failed", said, "The user has no such way to authenticate: offer it to them there."
            )
        case "login_required" | "interaction_required" | "consent_required" | "account_selection_required":
            return Diagnosis("login_refused", said, "It wants to show the user a page: log in without prompt=none.")
        case _:
            return Diagnosis("login_refused", said, "Look at the provider's own log for this client.")


def _refused_behind(error: OAuthError, settings: Settings) -> Diagnosis:
    """An error that the token endpoint answered to us (RFC 6749 5.2)."""
    said = f"The token endpoint of {settings.issuer} refused client {settings.client_id!r}: {error}"
    match error.error:
        case "invalid_client":
            return _misconfigured(
                said,
                "Check client_id and client_secret (expired? a line break at its end?) and `client_auth`; if the "
                'secret has special characters, try basic_encoding="raw"; with private_key_jwt see the clock, too.',
            )
        case "unauthorized_client" | "unsupported_grant_type":
            return _misconfigured(said, "Allow the grant type authorization_code for this client at the provider.")
        case "invalid_scope" | "invalid_target":
            return _misconfigured(said, "Allow what `scope` and `resource` ask for, or ask for less.")
        case "invalid_request":
            return _misconfigured(said, "Compare `token_params` and `client_auth` with what the provider documents.")
        case _ if isinstance(error, InvalidGrant):
            return Diagnosis(
                "login_failed",
                said,
                f"The code was used or too old, or {settings.redirect_uri} is not the redirect URI that is registered.",
            )
        case _:
            return Diagnosis("login_unavailable", said, "Wait, and look at the provider's own log.")


def _no_answer(error: TransportError, settings: Settings) -> Diagnosis:
    said = f"The authorization server {settings.issuer} gave no usable answer: {error}"
    return Diagnosis("login_unavailable", said, "Logins work again by themselves as soon as it answers.")


def _bad_id_token(error: InvalidIDToken, settings: Settings) -> Diagnosis:
    said = f"The id_token of {settings.issuer} was refused: {error}"
    if "clock" in str(error):
        return _misconfigured(said, "Set this machine's clock (or the provider's): they must agree within a minute.")
    return Diagnosis(
        "login_failed", said, "Compare `issuer`, `client_id` and id_token_signed_response_alg with the provider."
    )


def _misconfigured(cause: str, remedy: str) -> Diagnosis:
    return Diagnosis("login_misconfigured", cause, remedy)
