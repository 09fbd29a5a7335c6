"""Authorization server metadata: where to find it, and which of it to believe (RFC 8414, OpenID Connect Discovery)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from coatcheck import codec
from coatcheck.errors import InvalidMetadata
from coatcheck.oauth.client import ENDPOINTS, Client
from coatcheck.oauth.error_response import refuse_unavailable
from coatcheck.oauth.messages import Exchange, Request, Response
from coatcheck.oauth.url import check_url

MAX_METADATA_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """
    What an authorization server says of itself, checked.

    `issuer` equals the configured one byte for byte, every URL is https (http only on loopback). `endpoints` of the
    client registration have been applied. A list is None when the server does not mention it.
    """

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    """None for servers that serve no browser (RFC 8414 section 2)."""
    jwks_uri: str | None = None
    """None for servers that issue no id_token."""
    end_session_endpoint: str | None = None
    revocation_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    code_challenge_methods_supported: tuple[str, ...] | None = None
    id_token_signing_alg_values_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool = False


def discover(client: Client) -> Exchange[Metadata]:
    """
    Fetch the metadata of the client's issuer: the OpenID form first, on 404 the form of RFC 8414.

    Any other answer ends the exchange: a server that fails must not be asked in another way until it gives in.

    Raises:
        InvalidMetadata: no document, or one that cannot be used.
        TransportError: the server cannot answer now.

    RFC 8414 section 3, OpenID Connect Discovery 1.0 section 4.
    """
    urls = metadata_urls(client.issuer)
    for url in urls:
        response = yield Request("GET", url, {"accept": "application/json"})
        if response.status != 404:
            return parse_metadata(response, client)
    raise InvalidMetadata(
        f"no metadata of issuer {client.issuer!r}: 404 at {' and at '.join(urls)}. "
        "Is the issuer right, with its whole path?"
    )


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """
    Say where the metadata of *issuer* may be: the OpenID form appends to its path, RFC 8414 inserts before it.

    RFC 8414 section 3.1, OpenID Connect Discovery 1.0 section 4.1.
    """
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{origin}{path}/.well-known/openid-configuration",
        f"{origin}/.well-known/oauth-authorization-server{path}",
    )


def parse_metadata(response: Response, client: Client) -> Metadata:
    """
    Read a metadata document and put the client's own `endpoints` over it.

    Raises:
        InvalidMetadata: it cannot be used; nothing of it is. The message says which member and what to do.
        TransportError: the server cannot answer now.

    RFC 8414 sections 2 and 3.3, OpenID Connect Discovery 1.0 section 4.3.
    """
    document = _document(response, client.issuer)
    _check_issuer(document.get("issuer"), client.issuer)
    # Only an issuer that is itself on loopback may name http endpoints, and those on loopback.
    loopback_http = client.issuer.startswith("http://")
    missing = [name for name in ENDPOINTS if name not in client.endpoints]
    urls = {name: _url(document, name, loopback_http=loopback_http) for name in missing} | dict(client.endpoints)
    token_endpoint = urls.pop("token_endpoint")
    if token_endpoint is None:
        raise InvalidMetadata(f"the metadata of {client.issuer!r} names no token_endpoint (RFC 8414 section 2)")
    return Metadata(
        issuer=client.issuer,
        token_endpoint=token_endpoint,
        authorization_endpoint=urls["authorization_endpoint"],
        jwks_uri=urls["jwks_uri"],
        end_session_endpoint=urls["end_session_endpoint"],
        revocation_endpoint=urls["revocation_endpoint"],
        userinfo_endpoint=urls["userinfo_endpoint"],
        token_endpoint_auth_methods_supported=_strings(document, "token_endpoint_auth_methods_supported"),
        code_challenge_methods_supported=_strings(document, "code_challenge_methods_supported"),
        id_token_signing_alg_values_supported=_strings(document, "id_token_signing_alg_values_supported"),
        authorization_response_iss_parameter_supported=_boolean(
            document, "authorization_response_iss_parameter_supported"
        ),
    )


def _document(response: Response, issuer: str) -> dict[str, Any]:
    refuse_unavailable(response, endpoint=f"metadata URL of {issuer!r}")
    if 300 <= response.status < 400:
        raise InvalidMetadata(
            f"the metadata URL of {issuer!r} answered {response.status}, a redirect, which is never followed: "
            "configure the issuer that its target belongs to"
        )
    if response.status != 200:
        raise InvalidMetadata(f"the metadata URL of {issuer!r} answered {response.status}, expected 200")
    try:
        return codec.decode_object(response.body, max_bytes=MAX_METADATA_BYTES)
    except ValueError as error:
        raise InvalidMetadata(f"the metadata of {issuer!r} cannot be read: {error}") from None


def _check_issuer(stated: Any, configured: str) -> None:
    # "the values MUST be identical" (RFC 8414 3.3): no slash, case or port is smoothed over, or one server could
    # speak for another.
    if stated != configured:
        raise InvalidMetadata(
            f"the metadata states issuer {stated!r:.200}, configured is {configured!r}: they must be identical "
            "(RFC 8414 section 3.3). If the first one is the server you mean, configure exactly that"
        )


def _url(document: dict[str, Any], name: str, *, loopback_http: bool) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidMetadata(f"{name} in the metadata is not a string")
    try:
        check_url(value, query=True, loopback_http=loopback_http)
    except ValueError as error:
        raise InvalidMetadata(f"{name} in the metadata {error}") from None
    return value


def _strings(document: dict[str, Any], name: str) -> tuple[str, ...] | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidMetadata(f"{name} in the metadata is not a list of strings")
    return tuple(value)


def _boolean(document: dict[str, Any], name: str) -> bool:
    value = document.get(name, False)
    if not isinstance(value, bool):
        raise InvalidMetadata(f"{name} in the metadata is not true or false")
    return value
