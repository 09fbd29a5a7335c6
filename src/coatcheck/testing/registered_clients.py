"""The clients that the in-process authorization server knows, and how they prove who they are (RFC 6749 2.3)."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from coatcheck.errors import InvalidIDToken, OAuthError
from coatcheck.oauth.jwks import KeySet
from coatcheck.oauth.jws import parse_jws, read_json
from coatcheck.oauth.jwt import SIGNATURE_ALGORITHMS, import_public_key, public_jwk, signing_key, verify_jws
from coatcheck.oauth.messages import Request

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredClient:
    """
    One registration. With `client_secret` it authenticates by basic or post, with `keys` by private_key_jwt, and with
    neither not at all.

    `redirect_uris` are compared byte for byte; None accepts any, for tests that choose their port late.
    `backchannel_logout_uri` is told when users leave by `AuthorizationServerApp.log_out`.
    """

    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    keys: KeySet | None = None
    redirect_uris: tuple[str, ...] | None = None
    post_logout_redirect_uris: tuple[str, ...] | None = None
    backchannel_logout_uri: str | None = None

    @classmethod
    def with_private_key(
        cls, client_id: str, private_pem: str, *, redirect_uris: tuple[str, ...] | None = None
    ) -> RegisteredClient:
        """Register the public half of a private key, under its thumbprint, for private_key_jwt."""
        key = import_public_key({**public_jwk(private_pem), "kid": signing_key(private_pem).kid})
        return cls(client_id=client_id, keys=KeySet((key,)), redirect_uris=redirect_uris)


class RegisteredClients:
    """Finds and authenticates clients; remembers the `jti` of assertions, which are good for one use."""

    def __init__(self, clients: Sequence[RegisteredClient], *, audiences: tuple[str, ...]) -> None:
        self._clients = {client.client_id: client for client in clients}
        self._audiences = audiences
        self._spent: set[str] = set()

    def __getitem__(self, client_id: str) -> RegisteredClient | None:
        return self._clients.get(client_id)

    def __iter__(self) -> Iterator[RegisteredClient]:
        return iter(self._clients.values())

    def add(self, client: RegisteredClient) -> None:
        """Register one more client, or change one."""
        self._clients[client.client_id] = client

    def authenticate(self, request: Request, form: Mapping[str, str], *, now: float) -> RegisteredClient:
        """Find out which client sent a request to the token, revocation or introspection endpoint."""
        methods = ("authorization" in request.headers) + ("client_secret" in form) + ("client_assertion" in form)
        if methods > 1:
            raise OAuthError("invalid_request", "more than one way of client authentication")
        if "authorization" in request.headers:
            return self._by_secret(*_basic_credentials(request.headers["authorization"]))
        if "client_assertion" in form:
            return self._by_assertion(form, now=now)
        if "client_secret" in form:
            return self._by_secret(form.get("client_id", ""), form["client_secret"])
        client = self[form.get("client_id", "")]
        if client is None or client.client_secret is not None or client.keys is not None:
            raise _invalid_client("this client has to authenticate")
        return client

    def _by_secret(self, client_id: str, client_secret: str) -> RegisteredClient:
        client = self[client_id]
        expected = client.client_secret if client else None
        if client is None or expected is None or not hmac.compare_digest(expected.encode(), client_secret.encode()):
            raise _invalid_client("unknown client or wrong secret")
        return client

    def _by_assertion(self, form: Mapping[str, str], *, now: float) -> RegisteredClient:
        if form.get("client_assertion_type") != JWT_BEARER:
            raise _invalid_client("unknown client_assertion_type")
        assertion = form["client_assertion"]
        try:
            client = self[_issuer_of(assertion)]
            if client is None or client.keys is None:
                raise _invalid_client("this client has no key registered")
            jws = verify_jws(assertion, client.keys, algorithms=SIGNATURE_ALGORITHMS)
            claims = read_json(jws.payload, "payload")
        except InvalidIDToken:
            raise _invalid_client("the client assertion is not signed by a registered key") from None
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("sub") != client.client_id or not set(audiences) & set(self._audiences):
            raise _invalid_client("the client assertion is for somebody else")
        if not now - 60 < float(claims.get("exp", 0)) < now + 3600:
            raise _invalid_client("the client assertion has expired, or lives too long")
        jti = str(claims.get("jti"))
        if jti in self._spent:
            raise _invalid_client("the client assertion was used before")
        self._spent.add(jti)
        return client


def claimed_client_id(request: Request, form: Mapping[str, str]) -> str | None:
    """Who a request says it comes from, unchecked: for the log."""
    try:
        if request.headers.get("authorization", "").lower().startswith("basic "):
            return _basic_credentials(request.headers["authorization"])[0]
        if "client_assertion" in form:
            return _issuer_of(form["client_assertion"])
    except (OAuthError, InvalidIDToken):
        return None
    return form.get("client_id")


def _issuer_of(assertion: str) -> str:
    return str(read_json(parse_jws(assertion).payload, "payload").get("iss"))


def _basic_credentials(header: str) -> tuple[str, str]:
    """Both halves are form-encoded before they are joined (RFC 6749 2.3.1)."""
    scheme, _, encoded = header.partition(" ")
    try:
        client_id, _, client_secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _invalid_client("the Authorization header is not Basic") from None
    if scheme.lower() != "basic":
        raise _invalid_client("the Authorization header is not Basic")
    return unquote_plus(client_id), unquote_plus(client_secret)


def _invalid_client(error_description: str) -> OAuthError:
    return OAuthError("invalid_client", error_description, status=401)
