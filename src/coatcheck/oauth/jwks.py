"""The authorization server's key set: which of its keys may verify a token."""

from __future__ import annotations

from dataclasses import dataclass

from coatcheck import codec
from coatcheck.errors import InvalidIDToken, InvalidMetadata, TransportError, UnknownKey
from coatcheck.oauth.jws import JWS
from coatcheck.oauth.jwt import PublicKey, import_public_key
from coatcheck.oauth.messages import Request, Response

MAX_KEY_SET = 512 * 1024
"""Bytes of a key set."""
MAX_KEYS = 100
MAX_ATTEMPTS = 4
"""Keys that are tried for a token that names none: each attempt costs a signature check."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """The signature keys that one issuer publishes. A newer set replaces it as a whole; sets are never merged."""

    keys: tuple[PublicKey, ...]

    def select(self, jws: JWS) -> tuple[PublicKey, ...]:
        """
        Return the keys that may have signed *jws*: of its `kid`, and made for its `alg`.

        Raises:
            UnknownKey: no key has this `kid`; or the token names none and no key suits. Fetch the set once more.
            InvalidIDToken: the key of this `kid` is of another type, curve or `alg` than the token says.

        OpenID Connect Core 1.0, sections 3.1.3.7 and 10.1.
        """
        named = [key for key in self.keys if jws.kid is None or key.kid == jws.kid]
        suitable = tuple(key for key in named if key.suits(jws.alg))
        if named and not suitable and jws.kid is not None:
            raise InvalidIDToken(f"the key with kid {jws.kid[:80]!r} is not one for alg {jws.alg!r} (RFC 8725 3.1)")
        if not suitable:
            raise UnknownKey(jws.kid and jws.kid[:80])
        return suitable[:MAX_ATTEMPTS]


def jwks_request(jwks_uri: str) -> Request:
    """Ask for the key set (OpenID Connect Discovery 1.0, section 3: `jwks_uri`)."""
    return Request("GET", jwks_uri, {"accept": "application/json"})


def parse_jwks(response: Response | bytes) -> KeySet:
    """
    Read a key set.

    Keys that are not for signatures, symmetric, private, weak or broken are left out; they do not void the others.
    A set of which no key remains is accepted: it verifies nothing.

    Raises:
        TransportError: the answer is not 200; try again later.
        InvalidMetadata: the answer is no key set, or larger than 512 KB or 100 keys.

    RFC 7517, section 5.
    """
    if isinstance(response, Response):
        if response.status != 200:
            raise TransportError(f"jwks_uri answered {response.status} in place of a key set", sent=True, answered=True)
        response = response.body
    try:
        members = codec.decode_object(response, max_bytes=MAX_KEY_SET)
    except ValueError as error:
        raise InvalidMetadata(f"the key set at jwks_uri is unusable: {error} (RFC 7517 5)") from None
    jwks = members.get("keys")
    if not isinstance(jwks, list):
        raise InvalidMetadata("the key set at jwks_uri has no array `keys` (RFC 7517 5)")
    if len(jwks) > MAX_KEYS:
        raise InvalidMetadata(f"the key set at jwks_uri has {len(jwks)} keys, at most {MAX_KEYS} are read")
    return KeySet(tuple(key for jwk in jwks if (key := _usable(jwk)) is not None))


def _usable(jwk: object) -> PublicKey | None:
    if not isinstance(jwk, dict):
        return None
    try:
        return import_public_key(jwk)
    except ValueError:
        return None
