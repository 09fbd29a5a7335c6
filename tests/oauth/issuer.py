"""An issuer of ID tokens in a few lines: its keys, honest tokens, and every dishonest one that a test wants."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import cache
from types import EllipsisType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from coatcheck.oauth.jwks import KeySet, parse_jwks
from coatcheck.oauth.jwt import generate_private_key, public_jwk, sign_jwt

ISSUER = "https://idp.example.com"
CLIENT_ID = "shop"
NONCE = "nonce-of-this-login"
NOW = 1_800_000_000.0
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
MISSING = ...


def private_key(alg: str = "ES256", name: str = "first") -> str:
    """The private key called *name*, as PEM text."""
    return _private_key(alg, name)


@cache  # RSA keys take a while to make: the whole run shares them
def _private_key(alg: str, _name: str) -> str:
    return generate_private_key(alg)


def jwk(signs: str = "ES256", /, name: str = "first", **members: Any) -> dict[str, Any]:
    """The public half of a key as the key set publishes it, with members added or changed."""
    return {**public_jwk(private_key(signs, name)), "kid": name, "use": "sig", **members}


def key_set(*keys: Mapping[str, Any]) -> KeySet:
    return parse_jwks(json.dumps({"keys": keys or [jwk()]}).encode())


def claims(**changes: Any | EllipsisType) -> dict[str, Any]:
    """The claims of an honest ID token; MISSING leaves one out."""
    honest = {"iss": ISSUER, "sub": "alice", "aud": CLIENT_ID, "exp": NOW + 300, "iat": NOW, "nonce": NONCE}
    return {name: value for name, value in {**honest, **changes}.items() if value is not MISSING}


def id_token(
    *, alg: str = "ES256", name: str = "first", header: Mapping[str, Any] | None = None, **changes: Any
) -> str:
    """A correctly signed ID token with the given claims changed."""
    return sign_jwt({"alg": alg, "kid": name, **(header or {})}, claims(**changes), private_key(alg, name))


def signed_bytes(header: bytes, payload: bytes, pem: str | None = None) -> str:
    """Sign any two byte strings with ES256: for headers and payloads that no honest encoder writes."""
    key = load_pem_private_key((pem or private_key()).encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signing_input = segment(header) + "." + segment(payload)
    r, s = decode_dss_signature(key.sign(signing_input.encode(), ec.ECDSA(SHA256())))
    return signing_input + "." + segment(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
