"""Client authentication: how a request to the token endpoint and its siblings proves which client it comes from."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote_plus

from coatcheck.errors import ConfigurationError
from coatcheck.oauth.client import Client, ClientAuthMethod
from coatcheck.oauth.client_assertion import ClientAssertion as ClientAssertion
from coatcheck.oauth.client_assertion import ClientAssertionService as ClientAssertionService
from coatcheck.oauth.client_assertion import PrivateKeyJWT as PrivateKeyJWT
from coatcheck.oauth.messages import Form
from coatcheck.oauth.metadata import Metadata


@dataclass(frozen=True, slots=True)
class ClientAuthentication:
    """What to add to one request: form parameters, headers. Made anew for every attempt."""

    form: Form = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def authenticate(
    client: Client, metadata: Metadata, *, now: float, assertion: ClientAssertion | None = None
) -> ClientAuthentication:
    """
    Authenticate one request, by exactly one method. An *assertion* that was supplied goes before everything else.

    Raises:
        ConfigurationError: the chosen method lacks what it needs, or *metadata* is another server's.

    RFC 6749 section 2.3, RFC 7521 section 4.2.
    """
    if metadata.issuer != client.issuer:
        # Our secret for one server must never reach another, however requests got crossed (a mix-up).
        raise ConfigurationError(f"client {client.client_id!r} is of {client.issuer!r}, not of {metadata.issuer!r}")
    if assertion is not None:
        return _by_assertion(client, assertion)
    match choose_method(client, metadata):
        case "client_secret_basic":
            return ClientAuthentication(headers={"authorization": _basic(client)})
        case "client_secret_post":
            return ClientAuthentication((("client_id", client.client_id), ("client_secret", _secret(client))))
        case "private_key_jwt":
            return _by_assertion(client, _sign(client, now))
        case "none":
            return ClientAuthentication((("client_id", client.client_id),))


def choose_method(client: Client, metadata: Metadata) -> ClientAuthMethod:
    """
    Choose how to authenticate: what the registration says, else `client_secret_basic` or `_post` as metadata allows.

    Metadata that is silent means `client_secret_basic`.

    Raises:
        ConfigurationError: the server lists neither.

    RFC 8414 section 2, `token_endpoint_auth_methods_supported`.
    """
    if isinstance(client.client_auth, PrivateKeyJWT):
        return "private_key_jwt"
    if client.client_auth is not None:
        return client.client_auth
    supported = metadata.token_endpoint_auth_methods_supported
    if supported is None or "client_secret_basic" in supported:
        return "client_secret_basic"
    if "client_secret_post" in supported:
        return "client_secret_post"
    raise ConfigurationError(
        f"{client.issuer!r} lists only {', '.join(supported) or 'no method'} for client authentication, and only a "
        "client_secret is configured: set client_auth to what the client is registered for",
        path="client_auth",
    )


def _by_assertion(client: Client, assertion: ClientAssertion) -> ClientAuthentication:
    # `client_id` is optional here (RFC 7521 4.2), but Entra ID refuses requests without it.
    return ClientAuthentication(
        (
            ("client_id", client.client_id),
            ("client_assertion_type", assertion.client_assertion_type),
            ("client_assertion", assertion.client_assertion),
        )
    )


def _sign(client: Client, now: float) -> ClientAssertion:
    if not isinstance(client.client_auth, PrivateKeyJWT):
        raise ConfigurationError(
            "'private_key_jwt' without a key needs a ClientAssertionService that returns an assertion: "
            "give client_assertions=..., or client_auth=PrivateKeyJWT(pem)",
            path="client_auth",
        )
    return client.client_auth.assertion(client_id=client.client_id, issuer=client.issuer, now=now)


def _basic(client: Client) -> str:
    # "encoded using the application/x-www-form-urlencoded encoding algorithm" (RFC 6749 2.3.1), then Basic.
    encode = quote_plus if client.basic_encoding == "form" else str
    credentials = f"{encode(client.client_id)}:{encode(_secret(client))}"
    return "Basic " + base64.b64encode(credentials.encode()).decode("ascii")


def _secret(client: Client) -> str:
    if client.client_secret is None:
        raise ConfigurationError("it is needed to authenticate", path="client_secret")
    return client.client_secret
