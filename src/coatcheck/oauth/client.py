"""The client registration: what the authorization server knows of us, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from coatcheck.oauth.client_auth import PrivateKeyJWT

ClientAuthMethod = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """PLACEHOLDER, owned by the oauth colleague: fields are the contract, validation is theirs (__post_init__)."""

    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    client_auth: ClientAuthMethod | PrivateKeyJWT | None = None
    """None: `client_secret_basic` or `_post`, whichever the metadata lists first in that order."""
    scope: str = "openid profile offline_access"
    resource: tuple[str, ...] = ()
    authorization_params: Mapping[str, str] = field(default_factory=dict)
    token_params: Mapping[str, str] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    basic_encoding: Literal["form", "raw"] = "form"
    id_token_signed_response_alg: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
