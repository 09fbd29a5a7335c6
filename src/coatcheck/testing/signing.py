"""The keys that the in-process authorization server signs id_tokens with, and their rotation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from coatcheck import base64url
from coatcheck.oauth.jwt import generate_private_key, public_jwk, sign_jwt


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its name."""

    alg: str
    kid: str
    private_pem: str = field(repr=False)

    @classmethod
    def generate(cls, alg: str) -> SigningKey:
        """Make a new key for *alg*. RSA takes about a tenth of a second, the others nothing."""
        private_pem = generate_private_key(alg)
        name = hashlib.sha256(private_pem.encode()).digest()[:6]
        return cls(alg, base64url.encode(name), private_pem)

    @property
    def jwk(self) -> dict[str, Any]:
        return public_jwk(self.private_pem) | {"kid": self.kid, "alg": self.alg, "use": "sig"}


class SigningKeys:
    """The newest key signs; the key set publishes it, and those before it that rotation kept."""

    def __init__(self, alg: str) -> None:
        self._keys = [_first_key(alg)]

    def rotate(self, *, keep: bool = True, alg: str | None = None) -> None:
        """Sign with a new key; keep the old ones published or forget them."""
        self._keys = [SigningKey.generate(alg or self.newest.alg), *(self._keys if keep else ())]

    @property
    def newest(self) -> SigningKey:
        return self._keys[0]

    def jwks(self) -> dict[str, Any]:
        """What the key set endpoint publishes (RFC 7517 5)."""
        return {"keys": [key.jwk for key in self._keys]}

    def sign(self, claims: Mapping[str, Any], header: Mapping[str, Any]) -> str:
        """Sign with the newest key; the header's `alg` must suit it."""
        return sign_jwt(header, claims, self.newest.private_pem)


@cache
def _first_key(alg: str) -> SigningKey:
    """One per process: a test suite starts hundreds of servers and would wait for as many RSA keys."""
    return SigningKey.generate(alg)


def hash_claim(value: str, alg: str) -> str:
    """`at_hash` and its like: the left half of the hash that the signature algorithm uses (OIDC Core 3.1.3.6)."""
    bits = "512" if alg in ("EdDSA", "Ed25519") else alg[-3:]
    digest = hashlib.new(f"sha{bits}", value.encode("ascii")).digest()
    return base64url.encode(digest[: len(digest) // 2])
