"""The front channel: the authorization request that a browser carries away, and the answer it brings back."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qsl, urlencode

from coatcheck import base64url
from coatcheck.errors import ConfigurationError, InvalidAuthorizationResponse, InvalidMetadata, OAuthError
from coatcheck.oauth.client import PROTECTED_AUTHORIZATION_PARAMS, Client, check_scope
from coatcheck.oauth.error_response import readable
from coatcheck.oauth.metadata import Metadata
from coatcheck.oauth.url import check_url

AUTHORIZATION_ERRORS: Final = frozenset(
    {
        # RFC 6749 4.1.2.1
        "invalid_request",
        "unauthorized_client",
        "access_denied",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        # OpenID Connect Core 3.1.2.6
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
        "invalid_request_uri",
        "invalid_request_object",
        "request_not_supported",
        "request_uri_not_supported",
        "registration_not_supported",
        # RFC 8707 2, OpenID Connect Core Unmet Authentication Requirements
        "invalid_target",
        "unmet_authentication_requirements",
    }
)
UNKNOWN_ERROR: Final = "unknown_error"
"""Stands for every `error` that no specification registers: what a browser sent never becomes a code of ours."""

ResponseMode = Literal["query", "form_post"]

_MAX_CODE = 8192
_CODE = re.compile(r"[\x20-\x7e]+")
_TOKENS = frozenset({"access_token", "id_token", "token_type", "refresh_token", "expires_in"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationTransaction:
    """
    One login under way: what was asked, of whom, and the secrets that the answer must match.

    It is kept where only the browser that started the login can bring it back (a sealed cookie of that browser), and
    used once. `client` is the name of the registration.
    """

    issuer: str
    client: str
    client_id: str
    redirect_uri: str
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    code_verifier: str = field(repr=False)
    created_at: float
    return_url: str
    ticket_hash: str | None = field(default=None, repr=False)
    """Hash of the ticket of the session that was alive when the login began."""
    scope: str
    max_age: int | None = None
    """Seconds since the user was last authenticated, at most; the id_token must prove it."""
    acr_values: str | None = None
    """Of which the id_token must name one (a step-up). Those of the client's settings are a wish only."""
    response_mode: ResponseMode = "query"
    """How the answer must come, and in no other way."""


@dataclass(frozen=True, slots=True)
class AuthorizationCode:
    """A code whose answer has been checked against its transaction. `read_authorization_response` makes them."""

    code: str = field(repr=False)


def new_transaction(
    client: Client,
    *,
    name: str,
    redirect_uri: str,
    return_url: str,
    now: float,
    scope: str | None = None,
    max_age: int | None = None,
    acr_values: str | None = None,
    response_mode: ResponseMode = "query",
    ticket_hash: str | None = None,
    token_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> AuthorizationTransaction:
    """
    Begin a login: fresh `state`, `nonce` and `code_verifier`, 256 bits each.

    *scope* defaults to the client's; *max_age* (seconds) to that of the client's
    `authorization_params`, which it can only make stricter. With *acr_values* the
    id_token must say that the user was authenticated in one of these ways (RFC 9470).

    Raises:
        ConfigurationError: *redirect_uri* is not https (http on loopback), or *scope* is malformed.

    RFC 6749 sections 3.1.2 and 10.12, RFC 7636 section 4.1, OpenID Connect Core 1.0 section 3.1.2.1.
    """
    try:
        check_url(redirect_uri, query=True)
    except ValueError as error:
        raise ConfigurationError(f"the redirect URI {error}", path="public_url") from None
    scope = client.scope if scope is None else scope
    check_scope(scope, path="scope")
    if (configured := client.authorization_params.get("max_age")) is not None:
        max_age = int(configured) if max_age is None else min(max_age, int(configured))
    return AuthorizationTransaction(
        issuer=client.issuer,
        client=name,
        client_id=client.client_id,
        redirect_uri=redirect_uri,
        state=base64url.encode(token_bytes(32)),
        nonce=base64url.encode(token_bytes(32)),
        code_verifier=base64url.encode(token_bytes(32)),
        created_at=now,
        return_url=return_url,
        ticket_hash=ticket_hash,
        scope=scope,
        max_age=max_age,
        acr_values=acr_values,
        response_mode=response_mode,
    )


def authorization_url(
    client: Client,
    metadata: Metadata,
    transaction: AuthorizationTransaction,
    *,
    prompt: str | None = None,
    login_hint: str | None = None,
    ui_locales: str | None = None,
) -> str:
    """
    Build the URL that starts a login at the authorization server.

    The keyword arguments, and `acr_values` and `max_age` of the transaction, are all that a browser may influence; each
    goes before the same name in the client's `authorization_params`. PKCE is always used, with S256, also where the
    metadata does not mention it.

    Raises:
        InvalidMetadata: no authorization endpoint, one that presets parameters of ours, or PKCE without S256.
        ConfigurationError: client, metadata and transaction do not belong together.

    RFC 6749 section 4.1.1, RFC 7636 section 4.3, RFC 8707 section 2.1.
    """
    if not (client.issuer == metadata.issuer == transaction.issuer and client.client_id == transaction.client_id):
        raise ConfigurationError(
            f"the login began for client {transaction.client_id!r} of {transaction.issuer!r}, "
            f"not for {client.client_id!r} of {metadata.issuer!r}"
        )
    endpoint = _authorization_endpoint(metadata)
    _require_s256(metadata)
    acr_values = transaction.acr_values
    asked = {"prompt": prompt, "login_hint": login_hint, "ui_locales": ui_locales, "acr_values": acr_values}
    parameters: dict[str, str] = {
        **client.authorization_params,
        **{name: value for name, value in asked.items() if value},
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": transaction.redirect_uri,
        "state": transaction.state,
        "nonce": transaction.nonce,
        "code_challenge": code_challenge(transaction.code_verifier),
        "code_challenge_method": "S256",
    }
    if transaction.scope:
        parameters["scope"] = transaction.scope
    if transaction.max_age is not None:
        parameters["max_age"] = str(transaction.max_age)
    if (
        transaction.response_mode != "query"
    ):  # the default of response_type=code (OAuth 2.0 Multiple Response Types 2.1)
        parameters["response_mode"] = transaction.response_mode
    query = urlencode([*parameters.items(), *(("resource", uri) for uri in client.resource)])
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"


def code_challenge(code_verifier: str) -> str:
    """Return the S256 challenge of a verifier (RFC 7636 4.2)."""
    return base64url.encode(hashlib.sha256(code_verifier.encode("ascii")).digest())


def read_authorization_response(
    query: Sequence[tuple[str, str]],
    transaction: AuthorizationTransaction,
    metadata: Metadata,
    *,
    arrived_by: ResponseMode = "query",
    unadvertised_iss: Literal["compare", "refuse"] = "compare",
) -> AuthorizationCode:
    """
    Check the answer at the redirect URI against the transaction that *this* browser began.

    *query* is all parameters that arrived, in order, from query and form together; *arrived_by* says in which of them
    they must have come, which is refused unless the login asked for it. Nothing may be sent to a token endpoint before
    this returns. An `iss` is compared whether or not the metadata announces it; *unadvertised_iss*
    `"refuse"` (a setting of the client) discards answers with an `iss` that was not announced.

    Raises:
        InvalidAuthorizationResponse: the answer does not belong to the transaction, or breaks a rule.
        OAuthError: the authorization server refused; `error` is one that a specification registers, or `unknown_error`.
            Safe to map to a page of your own; never show `error_description` unescaped.

    RFC 6749 sections 3.1, 4.1.2 and 10.12, RFC 9207 section 2.4, FAPI 2.0 Security Profile section 6.5.
    """
    parameters = _once_each(query)
    if arrived_by != transaction.response_mode:
        raise InvalidAuthorizationResponse(
            f"the answer came by {arrived_by}, asked was response_mode {transaction.response_mode}"
        )
    if metadata.issuer != transaction.issuer:
        raise InvalidAuthorizationResponse(
            f"the login began at {transaction.issuer!r}, but its answer is read for {metadata.issuer!r}"
        )
    _check_state(parameters.get("state"), transaction.state)
    _check_iss(parameters.get("iss"), metadata, unadvertised_iss)
    if unasked := sorted(_TOKENS.intersection(parameters) | {"response"}.intersection(parameters)):
        raise InvalidAuthorizationResponse(f"the answer carries {unasked[0]!r}, which only other flows return")
    error, code = parameters.get("error"), parameters.get("code")
    if error is not None and code is not None:
        raise InvalidAuthorizationResponse("the answer carries both code and error (RFC 6749 4.1.2)")
    if error is not None:
        raise _authorization_error(error, parameters.get("error_description"))
    if not code or len(code) > _MAX_CODE or not _CODE.fullmatch(code):
        raise InvalidAuthorizationResponse("the answer carries neither a usable code nor an error (RFC 6749 4.1.2)")
    return AuthorizationCode(code)


def _authorization_endpoint(metadata: Metadata) -> str:
    endpoint = metadata.authorization_endpoint
    if endpoint is None:
        raise InvalidMetadata(f"{metadata.issuer!r} names no authorization_endpoint: nobody can log in there")
    # "The endpoint URI MAY include a query component, which MUST be retained" (RFC 6749 3.1), but a parameter that
    # stands there already would be sent twice.
    preset = {name for name, _ in parse_qsl(endpoint.partition("?")[2], keep_blank_values=True)}
    if clash := sorted(preset.intersection(PROTECTED_AUTHORIZATION_PARAMS)):
        raise InvalidMetadata(f"the authorization_endpoint of {metadata.issuer!r} presets {clash[0]!r}")
    return endpoint


def _require_s256(metadata: Metadata) -> None:
    methods = metadata.code_challenge_methods_supported
    if methods is not None and "S256" not in methods:
        raise InvalidMetadata(
            f"{metadata.issuer!r} lists PKCE methods {', '.join(methods) or '(none)'} without S256; "
            "`plain` is never used (RFC 7636 section 7.2)"
        )


def _once_each(query: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    # "Request and response parameters MUST NOT be included more than once" (RFC 6749 3.1). Taking the first or the
    # last would let two readers see two answers.
    for name, count in Counter(name for name, _ in query).items():
        if count > 1:
            raise InvalidAuthorizationResponse(f"the answer carries {name[:40]!r} {count} times (RFC 6749 3.1)")
    return dict(query)


def _check_state(received: str | None, expected: str) -> None:
    if not received:
        raise InvalidAuthorizationResponse("the answer carries no state (RFC 6749 10.12)")
    if not hmac.compare_digest(received.encode("utf-8", "surrogatepass"), expected.encode()):
        raise InvalidAuthorizationResponse("the answer's state belongs to another login (RFC 6749 10.12)")


def _check_iss(received: str | None, metadata: Metadata, unadvertised_iss: Literal["compare", "refuse"]) -> None:
    announced = metadata.authorization_response_iss_parameter_supported
    if received is None:
        if announced:
            raise InvalidAuthorizationResponse(
                f"the answer carries no iss, though {metadata.issuer!r} announces that it sends it (RFC 9207 2.4)"
            )
        return
    if received != metadata.issuer:
        raise InvalidAuthorizationResponse(
            f"the answer comes from {received[:200]!r}, asked was {metadata.issuer!r} (RFC 9207 2.4): a mix-up"
        )
    if not announced and unadvertised_iss == "refuse":
        raise InvalidAuthorizationResponse(f"{metadata.issuer!r} sends an iss that it does not announce (RFC 9207 2.4)")


def _authorization_error(error: str, description: str | None) -> OAuthError:
    if error in AUTHORIZATION_ERRORS:
        return OAuthError(error, readable(description))
    return OAuthError(UNKNOWN_ERROR, readable(f"the authorization server sent the unregistered error {error!r}"))
