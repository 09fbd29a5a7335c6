"""Signing and verifying: the only place that touches the JOSE library, and all that it is used for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from coatcheck import base64url, codec
from coatcheck.errors import ConfigurationError, InvalidIDToken, UnknownKey
from coatcheck.oauth.jws import JWS, decode_segment, parse_jws

if TYPE_CHECKING:
    from joserfc.jwa import JWSAlgModel
    from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

    AsymmetricKey = RSAKey | ECKey | OKPKey

SIGNATURE_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
"""All that can be verified or signed here. No HMAC and no `none`: there is no code that could be talked into them."""

_KEY_OF_ALGORITHM = {"RS": ("RSA", None), "PS": ("RSA", None), "Ed": ("OKP", "Ed25519")}
_CURVE_OF_ALGORITHM = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_PUBLIC_MEMBERS: Mapping[tuple[str | None, str | None], tuple[str, ...]] = {
    ("RSA", None): ("n", "e"),
    ("EC", "P-256"): ("crv", "x", "y"),
    ("EC", "P-384"): ("crv", "x", "y"),
    ("EC", "P-521"): ("crv", "x", "y"),
    ("OKP", "Ed25519"): ("crv", "x"),
}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key that verifies signatures, with the members of its JWK that say which ones."""

    kty: str
    crv: str | None
    kid: str | None
    alg: str | None
    _key: Key = field(repr=False, compare=False)

    def suits(self, alg: str) -> bool:
        """Whether a signature of *alg* may be checked with this key (RFC 8725 3.1: type, curve and `alg` agree)."""
        return (self.kty, self.crv) == key_type_of(alg) and self.alg in (None, alg)

    def verifies(self, jws: JWS) -> bool:
        """Whether the signature is this key's. A key that does not suit the algorithm verifies nothing."""
        return self.suits(jws.alg) and _algorithm(jws.alg).verify(jws.signing_input, jws.signature, self._key)


def key_type_of(alg: str) -> tuple[str, str | None]:
    """Return `kty` and `crv` of the keys that an algorithm of `SIGNATURE_ALGORITHMS` uses (RFC 7518 3.1, RFC 8037)."""
    return ("EC", _CURVE_OF_ALGORITHM[alg]) if alg in _CURVE_OF_ALGORITHM else _KEY_OF_ALGORITHM[alg[:2]]


class Keys(Protocol):
    """Where `verify_jws` gets its keys from: the key set of one issuer."""

    def select(self, jws: JWS, /) -> Collection[PublicKey]:
        """Return the keys that may have signed *jws*."""
        ...


def verify_jws(token: str, keys: Keys, *, algorithms: Collection[str]) -> JWS:
    """
    Return the token's parts once its signature is verified.

    The algorithm is checked against *algorithms* (from configuration, never from the token) before a key is looked for;
    the keys are the issuer's own and come from nowhere else.

    Raises:
        InvalidIDToken: malformed, an algorithm that is not allowed, or a wrong signature.
        UnknownKey: *keys* has no such key, or the token names none and none of those that suit verifies it.

    RFC 7515, section 5.2; RFC 8725, sections 3.1 and 3.2.
    """
    jws = parse_jws(token)
    check_algorithm(jws, algorithms)
    check_signature(jws, keys)
    return jws


def check_algorithm(jws: JWS, algorithms: Collection[str]) -> None:
    """Raise InvalidIDToken unless *jws* says that it is signed with one of *algorithms* (RFC 8725 3.1)."""
    if jws.alg not in algorithms or jws.alg not in SIGNATURE_ALGORITHMS:
        raise InvalidIDToken(
            f"the token is signed with alg {jws.alg[:20]!r}, allowed are {', '.join(algorithms)}: "
            "set id_token_signed_response_alg, here or at the authorization server (OpenID Connect Core 3.1.3.7)"
        )


def check_signature(jws: JWS, keys: Keys) -> None:
    """
    Check the signature of a token whose algorithm was found to be allowed: the second half of `verify_jws`.

    Raises:
        InvalidIDToken, UnknownKey: as there.
    """
    if not any(key.verifies(jws) for key in keys.select(jws)):
        if jws.kid is None:
            # Where keys have no names, a rotation looks like a wrong signature: let the caller fetch the set once more.
            raise UnknownKey(None)
        raise InvalidIDToken("the token's signature is wrong (OpenID Connect Core 3.1.3.7)")


def sign_jwt(header: Mapping[str, Any], claims: Mapping[str, Any], private_pem: str) -> str:
    """
    Sign *claims*; the header's `alg` decides how and must suit the key.

    Raises:
        ConfigurationError: the key is not a private key in PEM, or not one for this `alg`.

    RFC 7515, section 5.1.
    """
    alg = str(header.get("alg"))
    key = _private_key(private_pem)
    if alg not in SIGNATURE_ALGORITHMS or (key.key_type, _curve(key)) != key_type_of(alg):
        raise ConfigurationError(f"a private key of type {key.key_type} cannot sign with alg {alg!r}")
    signing_input = f"{base64url.encode(codec.encode(header))}.{base64url.encode(codec.encode(claims))}"
    return f"{signing_input}.{base64url.encode(_algorithm(alg).sign(signing_input.encode(), key))}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What a private key will write into the header of the JWTs it signs."""

    alg: str
    kid: str
    """The thumbprint of the public key (RFC 7638)."""


def signing_key(private_pem: str, *, alg: str | None = None) -> SigningKey:
    """
    Check that a private key can sign, with *alg* or with the algorithm that follows from its kind: PS256 for RSA,
    ES256 / ES384 / ES512 by curve, EdDSA for Ed25519.

    Raises:
        ConfigurationError: the key is not an unencrypted private key as PEM text, too weak, or does not fit *alg*.
    """
    key = _private_key(private_pem)
    kind = (key.key_type, _curve(key))
    suitable = [name for name in _PREFERRED if key_type_of(name) == kind]
    if not suitable or alg not in (None, *suitable):
        named = f"a private key of kind {kind[1] or kind[0]}"
        remedy = f"use {' or '.join(suitable)}" if suitable else "use an RSA, P-256 or Ed25519 key"
        raise ConfigurationError(f"{named} cannot sign{f' with alg {alg!r}' if alg else ''}: {remedy}")
    return SigningKey(alg or suitable[0], key.thumbprint())


# "PS256, ES256, or EdDSA" (FAPI 2.0 Security Profile 5.4.1) come first: PKCS #1 v1.5 only where it is asked for.
_PREFERRED = ("PS256", "RS256", "PS384", "PS512", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")


def generate_private_key(alg: str) -> str:
    """Make a new private key for *alg*, as PEM text (PKCS #8). RSA keys have 2048 bits and take a moment."""
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    kty, crv = key_type_of(alg)
    if kty == "RSA":
        return RSAKey.generate_key(2048).as_pem(private=True).decode("ascii")
    key = ECKey.generate_key(crv) if kty == "EC" else OKPKey.generate_key("Ed25519")
    return key.as_pem(private=True).decode("ascii")


def public_jwk(private_pem: str) -> dict[str, Any]:
    """
    Return the public half of a private key as a JWK, to be published (RFC 7517, section 4).

    Raises:
        ConfigurationError: the key is not a private key in PEM.
    """
    return dict(_private_key(private_pem).as_dict(private=False))


def import_public_key(jwk: Mapping[str, Any]) -> PublicKey:
    """
    Read one signature key of a key set.

    Raises:
        ValueError: it is not a key that may verify signatures: symmetric, private, for encryption, of an unknown type,
            an RSA modulus outside 2048 to 8192 bits, or a point that is not on its curve.

    RFC 7517, section 4; RFC 7518, section 6; RFC 8725, section 3.5.
    """
    kty, crv, kid, alg, use = (_optional_string(jwk, name) for name in ("kty", "crv", "kid", "alg", "use"))
    if use not in (None, "sig") or not _permits_verifying(jwk.get("key_ops")):
        raise ValueError("the key is not for signatures")
    if "d" in jwk:
        raise ValueError("a private key has no place in a published key set")
    if kty == "RSA":
        crv = None
    members = _PUBLIC_MEMBERS.get((kty, crv), ())
    if kty is None or not members or not all(isinstance(jwk.get(name), str) for name in members):
        raise ValueError(f"no signature key of kty {kty!r} and crv {crv!r} has these members")
    if kty == "RSA" and not 2048 <= _bits(jwk["n"]) <= 8192:
        raise ValueError("an RSA key has 2048 to 8192 bits")
    # Only the members that make the key: nothing else in the JWK (x5c, x5u, oth) reaches the library.
    return PublicKey(kty, crv, kid, alg, _import_jwk({"kty": kty, **{name: jwk[name] for name in members}}))


def _optional_string(jwk: Mapping[str, Any], name: str) -> str | None:
    value = jwk.get(name)
    if not isinstance(value, str | None):
        raise ValueError(f"{name} of a key is a string")
    return value


def _permits_verifying(key_ops: object) -> bool:
    return key_ops is None or (isinstance(key_ops, list) and "verify" in key_ops)


def _bits(number: str) -> int:
    try:
        return int.from_bytes(decode_segment(number, "modulus"), "big").bit_length()
    except InvalidIDToken:
        raise ValueError("the modulus of an RSA key is not base64url") from None


# The JOSE library costs about 55 ms to import and is first needed at a login or for a client assertion, so it is
# imported where it is used: `import coatcheck.tokens` stays cheap for command-line workers.


@cache
def _algorithms() -> Mapping[str, JWSAlgModel]:
    from joserfc import jwa

    models: list[JWSAlgModel] = [
        jwa.RSAAlgorithm(256),
        jwa.RSAAlgorithm(384),
        jwa.RSAAlgorithm(512),
        jwa.RSAPSSAlgorithm(256),
        jwa.RSAPSSAlgorithm(384),
        jwa.RSAPSSAlgorithm(512),
        jwa.ESAlgorithm("ES256", "P-256", 256),
        jwa.ESAlgorithm("ES384", "P-384", 384),
        jwa.ESAlgorithm("ES512", "P-521", 512),
        jwa.EdDSAAlgorithm(),
    ]
    algorithms = {model.name: model for model in models}
    # RFC 9864 gives EdDSA with Ed25519 a name of its own; providers still write the old one, which the library's
    # own registry would answer with a warning.
    return {**algorithms, "Ed25519": algorithms["EdDSA"]}


def _algorithm(alg: str) -> JWSAlgModel:
    return _algorithms()[alg]


def _import_jwk(jwk: dict[str, Any]) -> Key:
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    try:
        return JWKRegistry.import_key(jwk)
    except (JoseError, ValueError, KeyError, TypeError, OverflowError):
        raise ValueError(f"the members of an {jwk['kty']} key make no key") from None


@lru_cache(maxsize=16)  # reading an RSA key costs more than signing with it; one entry per client registration
def _private_key(private_pem: str) -> AsymmetricKey:
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    pem = private_pem.encode()
    if b"ENCRYPTED" in pem or b"PRIVATE KEY" not in pem:
        raise ConfigurationError(_NO_PRIVATE_KEY)
    kinds: tuple[type[AsymmetricKey], ...] = (RSAKey, ECKey, OKPKey)
    for kind in kinds:
        with suppress(JoseError, ValueError, TypeError):
            # Not `import_key`, which only warns of a short RSA key, and by a process-wide filter at that.
            raw = kind.binding.import_from_bytes(pem)
            if getattr(raw, "key_size", 2048) < 2048 and kind is RSAKey:
                break
            return kind(raw, raw)
    raise ConfigurationError(_NO_PRIVATE_KEY)


_NO_PRIVATE_KEY = (
    "the signing key is not an unencrypted private key as PEM text (RSA of 2048 bits or more, EC, Ed25519)"
)


def _curve(key: AsymmetricKey) -> str | None:
    return getattr(key, "curve_name", None)
