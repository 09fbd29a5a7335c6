"""DPoP keys and proofs: a token that only the holder of a key can use (RFC 9449)."""

from __future__ import annotations

import hashlib
import secrets
from functools import lru_cache
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from coatcheck import base64url, codec

_ES256 = ec.ECDSA(SHA256())
_SIZE = 32
"""Bytes of a P-256 coordinate, of the private number, and of each half of an ES256 signature (RFC 7518 3.4)."""


class DPoPKey:
    """
    A private EC P-256 key that signs proofs. It prints as its thumbprint only.

    Proofs are put together by hand: the header never changes for a key, so it is encoded once, and what is left is one
    small JSON object and one signature.
    """

    __slots__ = ("_header", "_private_key", "jkt")

    jkt: str
    """The JWK SHA-256 thumbprint that binds tokens to this key (RFC 9449, section 6.1; RFC 7638)."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(private_key.curve, ec.SECP256R1):
            raise ValueError(f"a DPoP key is on curve P-256, not {private_key.curve.name}")
        self._private_key = private_key
        jwk = _public_jwk(private_key)
        self._header = base64url.encode(codec.encode({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}))
        # RFC 7638 3: the required members in the order of their names, without white space.
        self.jkt = base64url.encode(hashlib.sha256(codec.encode(dict(sorted(jwk.items())))).digest())

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the system's randomness."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @staticmethod
    def from_jwk(text: str) -> DPoPKey:
        """
        Read the JWK text that `to_jwk` wrote. The most recently used keys are remembered, so call it per request.

        Raises:
            ValueError: the text is not a private EC P-256 key as a JWK.
        """
        return _read_jwk(text)

    def to_jwk(self) -> str:
        """Write the key, private part included, as JSON text: seal it before it is stored (RFC 7518, section 6.2)."""
        number = self._private_key.private_numbers().private_value
        return codec.encode({**_public_jwk(self._private_key), "d": _number(number)}).decode("ascii")

    def proof(
        self,
        htm: str,
        htu: str,
        *,
        now: float,
        access_token: str | None = None,
        nonce: str | None = None,
        jti: str | None = None,
    ) -> str:
        """
        Make the `DPoP` header value of one request; never use one twice.

        *htu* is the URL that is really sent, after every rewriting; its query and fragment are cut off here. Give
        *access_token* for requests to an API (it becomes `ath`), not for those to the token endpoint. *nonce* is what
        that server last sent in `DPoP-Nonce`. *now* is seconds since the epoch.

        RFC 9449, section 4.2.
        """
        claims: dict[str, Any] = {
            "jti": jti or secrets.token_urlsafe(16),
            "htm": htm,
            "htu": htu.partition("#")[0].partition("?")[0],
            "iat": int(now),
        }
        if access_token is not None:
            claims["ath"] = base64url.encode(hashlib.sha256(access_token.encode("ascii")).digest())
        if nonce is not None:
            claims["nonce"] = nonce
        signing_input = f"{self._header}.{base64url.encode(codec.encode(claims))}"
        # ES256 is r and s side by side, not the DER that the library makes (RFC 7518 3.4).
        r, s = decode_dss_signature(self._private_key.sign(signing_input.encode("ascii"), _ES256))
        signature = base64url.encode(r.to_bytes(_SIZE, "big") + s.to_bytes(_SIZE, "big"))
        return f"{signing_input}.{signature}"

    def __repr__(self) -> str:
        return f"DPoPKey(jkt={self.jkt!r})"

    def __reduce__(self) -> str:
        raise TypeError("a DPoPKey is not pickled: store to_jwk(), sealed")


@lru_cache(maxsize=1024)  # by JWK text: reading a key costs more than signing with it, and a session signs many proofs
def _read_jwk(text: str) -> DPoPKey:
    try:
        jwk = codec.decode_object(text.encode("ascii"), max_bytes=4096)
        if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256":
            raise ValueError("kty and crv are not EC and P-256")
        key = ec.derive_private_key(_parse_number(jwk.get("d")), ec.SECP256R1())
        if _public_jwk(key).items() <= jwk.items():
            return DPoPKey(key)
    except (ValueError, TypeError):
        pass
    # One message for all, and no chain: what went wrong inside could quote the key.
    raise ValueError(
        "a DPoP key must be a private EC P-256 JWK as JSON text with kty, crv, x, y and d, as to_jwk() writes"
    )


def _public_jwk(private_key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    numbers = private_key.public_key().public_numbers()
    return {"kty": "EC", "crv": "P-256", "x": _number(numbers.x), "y": _number(numbers.y)}


def _number(value: int) -> str:
    return base64url.encode(value.to_bytes(_SIZE, "big"))


def _parse_number(text: object) -> int:
    if not isinstance(text, str) or len(text) != 43:
        raise ValueError("not the base64url of 32 bytes")
    return int.from_bytes(base64url.decode(text), "big")
