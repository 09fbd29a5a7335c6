"""PLACEHOLDER, owned by the oauth colleague."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ClientAssertion:
    """`client_assertion` and `client_assertion_type` (RFC 7521 4.2): one value for one attempt."""

    client_assertion: str = field(repr=False)
    client_assertion_type: str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class PrivateKeyJWT:
    """`private_key_jwt`: signs a new assertion for every attempt with *key* (PEM text)."""

    key: str = field(repr=False)
    alg: str | None = None
    kid: str | None = None
    audience: str | None = None


class ClientAssertionService(Protocol):
    """Supplies client assertions in place of a key that coatcheck holds; asked anew before every attempt."""

    async def get_client_assertion(
        self, client: str, *, issuer: str, client_id: str, token_endpoint: str, context: Mapping[str, Any]
    ) -> ClientAssertion | None:
        """Return a *new* assertion for the registration named *client*, or None to use its configured method."""
        ...
