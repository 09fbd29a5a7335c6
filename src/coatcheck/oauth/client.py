"""The client registration: what the authorization server knows of us, as plain data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, get_args

from coatcheck.errors import ConfigurationError
from coatcheck.oauth.client_assertion import PrivateKeyJWT
from coatcheck.oauth.jwt import SIGNATURE_ALGORITHMS
from coatcheck.oauth.rotation import parse_rotation
from coatcheck.oauth.url import check_url

ClientAuthMethod = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]

ENDPOINTS: Final = (
    "authorization_endpoint",
    "token_endpoint",
    "jwks_uri",
    "end_session_endpoint",
    "revocation_endpoint",
    "userinfo_endpoint",
)
LOGOUT_PARAMETERS: Final = ("client_id", "id_token_hint", "logout_hint", "post_logout_redirect_uri", "state")

_OURS: Final = "coatcheck makes a new one for every login"
_CODE_ONLY: Final = "only the authorization code flow is supported, and its parameters are set for you"
_GRANT: Final = "it belongs to the grant, which sets it"
_SECRET: Final = "use client_secret or client_auth"

PROTECTED_AUTHORIZATION_PARAMS: Final[Mapping[str, str]] = {
    "client_id": "use client_id",
    "redirect_uri": "it is made from public_url",
    "scope": "use scope",
    "resource": "use resource",
    "state": _OURS,
    "nonce": _OURS,
    "code_challenge": _OURS,
    "code_challenge_method": "it is always S256",
    "response_type": _CODE_ONLY,
    "response_mode": _CODE_ONLY,
    "request": "request objects are not supported",
    "request_uri": "pushed authorization requests are not supported",
    "claims": "the claims parameter is not supported",
    "registration": "self-issued providers are not supported",
    "id_token_hint": "tokens do not belong into a URL that the browser keeps",
    "client_secret": f"a secret never belongs into a URL; {_SECRET}",
    "client_assertion": f"a secret never belongs into a URL; {_SECRET}",
    "client_assertion_type": f"a secret never belongs into a URL; {_SECRET}",
    "dpop_jkt": _OURS,
}
PROTECTED_TOKEN_PARAMS: Final[Mapping[str, str]] = {
    "grant_type": _GRANT,
    "code": _GRANT,
    "code_verifier": _GRANT,
    "redirect_uri": "it is made from public_url",
    "refresh_token": _GRANT,
    "subject_token": _GRANT,
    "subject_token_type": _GRANT,
    "actor_token": _GRANT,
    "actor_token_type": _GRANT,
    "assertion": _GRANT,
    "username": "the password grant is not supported",
    "password": "the password grant is not supported",
    "client_id": "use client_id",
    "client_secret": "use client_secret",
    "client_assertion": "use client_auth=PrivateKeyJWT(...) or a ClientAssertionService",
    "client_assertion_type": "use client_auth=PrivateKeyJWT(...) or a ClientAssertionService",
    "scope": "use scope",
    "resource": "use resource",
}

_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21\x22\x24-\x7e]+")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """
    A registration at an authorization server: who it is, who we are there, and how we prove it.

    Everything is checked when it is made, without any network, so that a mistake stops the start.

    *client_secret*, or *client_auth* with a `PrivateKeyJWT`, is the proof; *scope* (one text) and *resource* (RFC 8707)
    are what logins ask for. *authorization_params* and *token_params* add what a provider wants beyond the
    specifications, *endpoints* what its metadata lacks or has wrong. The others are for providers with habits of their
    own: *logout_parameter_names*, *basic_encoding*, *unadvertised_iss*, *id_token_signed_response_alg*,
    *logout_token_without_exp*.

    Raises:
        ConfigurationError: names the setting, what is wrong with it and what to do instead.

    RFC 6749 section 2, RFC 8414 section 2.
    """

    issuer: str
    """Compared byte for byte with the server's metadata: copy it from there, trailing slash or not."""
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    client_auth: ClientAuthMethod | PrivateKeyJWT | None = None
    """
    How we authenticate. None: by `client_secret`, as `client_secret_basic`, or as `client_secret_post` where the
    metadata lists only that. `"private_key_jwt"` leaves the signing to a `ClientAssertionService`. `"none"` is a
    public client, which a BFF must not be.
    """
    scope: str = "openid profile offline_access"
    resource: tuple[str, ...] = ()
    """Resource indicators (RFC 8707): absolute URIs."""
    authorization_params: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Further parameters of the authorization request: `audience` (Auth0), `access_type` and `prompt` (Google)."""
    token_params: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    """Further parameters of every token request. A parameter that the grant itself carries wins."""
    endpoints: Mapping[str, str] = field(default_factory=dict, hash=False)
    """URLs that replace or complete those of the metadata, by name: `end_session_endpoint` (Cognito)."""
    logout_parameter_names: Mapping[str, str] = field(default_factory=dict, hash=False)
    """
    For end-session endpoints that do not speak OpenID Connect RP-Initiated Logout: which of its parameters to send, and
    under which name. Those not listed are not sent. Cognito wants
    `{"client_id": "client_id", "post_logout_redirect_uri": "logout_uri"}`. Empty: all, under their own names.
    """
    basic_encoding: Literal["form", "raw"] = "form"
    """
    `client_secret_basic` form-encodes id and secret before base64 (RFC 6749 2.3.1); `"raw"` does not, for servers that
    decode nothing. It matters only for characters such as `%`, `+`, `:` and `/`.
    """
    unadvertised_iss: Literal["compare", "refuse"] = "compare"
    """
    What to do with an `iss` in an authorization response that the metadata does not announce: compare it, as Google
    needs; or refuse the answer, as RFC 9207 section 2.4 recommends.
    """
    rotation: str = "learn"
    """
    What the authorization server does when a refresh token comes twice: `"none"` answers again, `"grace:10s"` answers
    again for that time, `"strict"` ends the grant. It decides what happens after an answer was lost. `"learn"` takes it
    to be strict until a refresh has kept its refresh token.
    """
    id_token_signed_response_alg: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    """Algorithms accepted for id_tokens and logout tokens, whatever a token's header says."""
    logout_token_without_exp: bool = False
    """
    Accept logout tokens that do not say when they expire, as earlier drafts of OpenID Connect Back-Channel Logout
    allowed. Whether `exp` is there or not, they count for five minutes from `iat` on.
    """

    def __post_init__(self) -> None:
        for name in ("authorization_params", "token_params", "endpoints", "logout_parameter_names"):
            object.__setattr__(self, name, _frozen_strings(name, getattr(self, name)))
        for name in ("resource", "id_token_signed_response_alg"):
            object.__setattr__(self, name, _tuple_of_strings(name, getattr(self, name)))
        parse_rotation(self.rotation)
        _check_url("issuer", self.issuer)
        _check_identifier(self.client_id, self.basic_encoding)
        _check_client_auth(self.client_auth, self.client_secret)
        check_scope(self.scope, path="scope")
        check_resource(self.resource, path="resource")
        refuse_protected(self.authorization_params, PROTECTED_AUTHORIZATION_PARAMS, path="authorization_params")
        _check_max_age(self.authorization_params.get("max_age"))
        refuse_protected(self.token_params, PROTECTED_TOKEN_PARAMS, path="token_params")
        _check_endpoints(self.endpoints)
        _check_logout_parameter_names(self.logout_parameter_names)
        _check_unadvertised_iss(self.unadvertised_iss)
        _check_algorithms(self.id_token_signed_response_alg)


def refuse_protected(names: Iterable[str], protected: Mapping[str, str], *, path: str) -> None:
    """Raise ConfigurationError for the first of *names* that the protocol itself has to set."""
    for name in names:
        if name in protected:
            raise ConfigurationError(f"{name!r} cannot be set here: {protected[name]}", path=path)


def check_scope(scope: str, *, path: str) -> None:
    """Raise ConfigurationError unless *scope* is space-separated scope tokens, or empty (RFC 6749 3.3)."""
    if scope and not _SCOPE.fullmatch(scope):
        raise ConfigurationError(
            f"scope is {scope!r}: expected one string with single spaces between the scopes", path=path
        )


def check_resource(resource: Iterable[str], *, path: str) -> None:
    """Raise ConfigurationError unless every *resource* is an absolute URI without a fragment (RFC 8707 2)."""
    for uri in resource:
        if not _ABSOLUTE_URI.fullmatch(uri):
            raise ConfigurationError(f"{uri!r} is not an absolute URI without fragment", path=path)


def _frozen_strings(name: str, value: Mapping[object, object]) -> Mapping[str, str]:
    table = {key: text for key, text in value.items() if isinstance(key, str) and isinstance(text, str)}
    if len(table) != len(value):
        raise ConfigurationError("expected a table of strings: put numbers and booleans in quotes", path=name)
    return MappingProxyType(table)


def _tuple_of_strings(name: str, value: Iterable[object]) -> tuple[str, ...]:
    items = tuple(value)
    strings = tuple(item for item in items if isinstance(item, str))
    if isinstance(value, str) or len(strings) != len(items):
        raise ConfigurationError("expected a list of strings", path=name)
    return strings


def _check_url(path: str, url: str, *, query: bool = False) -> None:
    try:
        check_url(url, query=query)
    except ValueError as error:
        raise ConfigurationError(f"{path} {error}", path=path) from None


def _check_identifier(client_id: str, basic_encoding: str) -> None:
    if not client_id or not client_id.isprintable():
        raise ConfigurationError("expected the identifier that the authorization server gave", path="client_id")
    if basic_encoding not in ("form", "raw"):
        raise ConfigurationError(f"expected 'form' or 'raw', not {basic_encoding!r}", path="basic_encoding")
    if basic_encoding == "raw" and ":" in client_id:
        raise ConfigurationError(
            "a client_id with a colon cannot be sent unencoded: use 'form', or client_auth='client_secret_post'",
            path="basic_encoding",
        )


def _check_client_auth(client_auth: ClientAuthMethod | PrivateKeyJWT | None, client_secret: str | None) -> None:
    if client_secret is not None and (not client_secret or client_secret != client_secret.strip()):
        raise ConfigurationError(
            "it is empty or has white space around it: is the variable or file it comes from right?",
            path="client_secret",
        )
    if isinstance(client_auth, PrivateKeyJWT):
        client_auth = "private_key_jwt"
    elif client_auth is not None and client_auth not in get_args(ClientAuthMethod):
        raise ConfigurationError(
            f"expected one of {', '.join(get_args(ClientAuthMethod))} or PrivateKeyJWT(...)", path="client_auth"
        )
    if client_auth is None and client_secret is None:
        raise ConfigurationError(
            "nothing to authenticate with: give client_secret, or client_auth=PrivateKeyJWT(pem), "
            "or client_auth='private_key_jwt' with a ClientAssertionService, or client_auth='none' (not for a BFF)",
            path="client_auth",
        )
    if client_auth in ("client_secret_basic", "client_secret_post") and client_secret is None:
        raise ConfigurationError(f"{client_auth} needs it", path="client_secret")
    if client_auth in ("none", "private_key_jwt") and client_secret is not None:
        raise ConfigurationError(
            f"it would never be used: client_auth is {client_auth!r}; remove one of them", path="client_secret"
        )


def _check_max_age(max_age: str | None) -> None:
    if max_age is not None and not (max_age.isascii() and max_age.isdigit()):
        raise ConfigurationError(
            f"max_age is {max_age!r}: expected a whole number of seconds", path="authorization_params"
        )


def _check_endpoints(endpoints: Mapping[str, str]) -> None:
    for name, url in endpoints.items():
        if name not in ENDPOINTS:
            raise ConfigurationError(f"unknown endpoint {name!r}: expected {', '.join(ENDPOINTS)}", path="endpoints")
        _check_url(f"endpoints.{name}", url, query=True)


def _check_logout_parameter_names(names: Mapping[str, str]) -> None:
    for name in names:
        if name not in LOGOUT_PARAMETERS:
            raise ConfigurationError(
                f"unknown parameter {name!r}: expected {', '.join(LOGOUT_PARAMETERS)}", path="logout_parameter_names"
            )


def _check_unadvertised_iss(policy: str) -> None:
    if policy not in ("compare", "refuse"):
        raise ConfigurationError(f"expected 'compare' or 'refuse', not {policy!r}", path="unadvertised_iss")


def _check_algorithms(algorithms: tuple[str, ...]) -> None:
    if not algorithms:
        raise ConfigurationError("expected at least one algorithm", path="id_token_signed_response_alg")
    for alg in algorithms:
        if alg not in SIGNATURE_ALGORITHMS:
            raise ConfigurationError(
                f"{alg!r} cannot be accepted: expected some of {', '.join(sorted(SIGNATURE_ALGORITHMS))}",
                path="id_token_signed_response_alg",
            )
