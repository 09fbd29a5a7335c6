"""Client assertions: a signed statement in the place of a client secret (RFC 7521, RFC 7523)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from coatcheck import base64url
from coatcheck.errors import ConfigurationError
from coatcheck.oauth.jwt import sign_jwt, signing_key

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class ClientAssertion:
    """`client_assertion` and `client_assertion_type` (RFC 7521 4.2): one value for one attempt."""

    client_assertion: str = field(repr=False)
    client_assertion_type: str = JWT_BEARER


class ClientAssertionService(Protocol):
    """Supplies client assertions in place of a key that coatcheck holds; asked anew before every attempt."""

    async def get_client_assertion(
        self, client: str, *, issuer: str, client_id: str, token_endpoint: str, context: Mapping[str, Any]
    ) -> ClientAssertion | None:
        """Return a *new* assertion for the registration named *client*, or None to use its configured method."""
        ...


@dataclass(frozen=True, slots=True)
class PrivateKeyJWT:
    """
    `private_key_jwt`: sign a new assertion for every attempt with a private key of our own.

    *key_pem* is the text of a PEM file: RSA of at least 2048 bits, EC or Ed25519. The algorithm follows from the key
    (PS256, ES256, EdDSA); *alg* `RS256` is for authorization servers that know no PS256. *kid* defaults to
    the thumbprint of the public key (RFC 7638). *audience* defaults to the issuer, so that no other server can use the
    assertion; give the URL of the token endpoint here for the authorization servers that accept nothing else.

    Raises:
        ConfigurationError: the key cannot be read, is too weak, or does not fit *alg*.

    RFC 7523 section 3, OpenID Connect Core 1.0 section 9.
    """

    key_pem: str = field(repr=False)
    alg: str | None = field(default=None, kw_only=True)
    kid: str | None = field(default=None, kw_only=True)
    audience: str | None = field(default=None, kw_only=True)
    lifetime: timedelta = field(default=timedelta(seconds=60), kw_only=True)

    def __post_init__(self) -> None:
        if not timedelta(seconds=1) <= self.lifetime <= timedelta(minutes=10):
            raise ConfigurationError(f"lifetime of an assertion is {self.lifetime}: use 1 second to 10 minutes")
        # "PS256, ES256, or EdDSA" (FAPI 2.0 Security Profile 5.4): PKCS #1 v1.5 only where it is asked for.
        key = signing_key(self.key_pem, alg=self.alg)
        object.__setattr__(self, "alg", key.alg)
        object.__setattr__(self, "kid", self.kid or key.kid)

    def assertion(
        self, *, client_id: str, issuer: str, now: float, token_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> ClientAssertion:
        """
        Sign one assertion. Never send it twice: servers refuse a `jti` they have seen.

        RFC 7523 section 3.
        """
        issued_at = int(now)
        claims: dict[str, Any] = {
            "iss": client_id,
            "sub": client_id,
            # A single string: a server that sees another audience beside its own could replay the assertion there.
            "aud": self.audience or issuer,
            "iat": issued_at,
            "exp": issued_at + int(self.lifetime.total_seconds()),
            "jti": base64url.encode(token_bytes(24)),
        }
        header = {"alg": self.alg, "kid": self.kid, "typ": "JWT"}
        return ClientAssertion(sign_jwt(header, claims, self.key_pem))
