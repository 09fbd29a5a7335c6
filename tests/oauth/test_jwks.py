from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import InvalidIDToken, InvalidMetadata, TransportError, UnknownKey
from coatcheck.oauth.jwks import MAX_ATTEMPTS, KeySet, jwks_request, parse_jwks
from coatcheck.oauth.jws import parse_jws
from coatcheck.oauth.jwt import sign_jwt, verify_jws
from coatcheck.oauth.messages import Response
from tests.oauth.issuer import ALGORITHMS, claims, id_token, jwk, key_set, private_key, segment


def _verifies(token: str, keys: KeySet) -> bool:
    try:
        verify_jws(token, keys, algorithms=ALGORITHMS)
    except InvalidIDToken:
        return False
    return True


@pytest.mark.spec("JOS-01")
def test_the_key_is_the_one_that_the_token_names() -> None:
    keys = key_set(jwk(name="first"), jwk(name="second"), jwk("RS256", "third"))
    for alg, name in (("ES256", "first"), ("ES256", "second"), ("RS256", "third")):
        assert [key.kid for key in keys.select(parse_jws(id_token(alg=alg, name=name)))] == [name]
        assert _verifies(id_token(alg=alg, name=name), keys)


@pytest.mark.spec("JOS-01")
def test_equal_kid_at_two_issuers_never_crosses() -> None:
    here, there = key_set(jwk(name="here", kid="1")), key_set(jwk(name="there", kid="1"))
    token = sign_jwt({"alg": "ES256", "kid": "1"}, claims(), private_key(name="there"))
    assert _verifies(token, there)
    with pytest.raises(InvalidIDToken, match="signature"):
        verify_jws(token, here, algorithms=ALGORITHMS)


@pytest.mark.spec("JOS-01")
def test_equal_kid_of_two_key_types_is_told_apart_by_the_algorithm() -> None:
    keys = key_set(jwk("RS256", kid="1"), jwk("ES256", kid="1"))
    for alg in ("RS256", "ES256"):
        assert _verifies(sign_jwt({"alg": alg, "kid": "1"}, claims(), private_key(alg)), keys)


@pytest.mark.parametrize(
    "key", [jwk("RS256", kid="first"), jwk("ES384", kid="first"), jwk(alg="ES384"), jwk("EdDSA", kid="first")]
)
@pytest.mark.spec("JOS-01")
def test_a_key_of_another_type_curve_or_alg_is_not_used(key: dict[str, Any]) -> None:
    with pytest.raises(InvalidIDToken, match="not one for alg 'ES256'"):
        verify_jws(id_token(), key_set(key), algorithms=ALGORITHMS)


@pytest.mark.spec("JOS-02")
def test_unknown_kid_is_told_apart_from_a_wrong_signature() -> None:
    with pytest.raises(UnknownKey) as unknown:
        verify_jws(id_token(name="second"), key_set(), algorithms=ALGORITHMS)
    assert unknown.value.kid == "second"
    with pytest.raises(UnknownKey):
        verify_jws(id_token(), KeySet(()), algorithms=ALGORITHMS)


@pytest.mark.spec("JOS-05")
def test_without_kid_the_suitable_keys_are_tried() -> None:
    token = sign_jwt({"alg": "ES256"}, claims(), private_key(name="second"))
    assert _verifies(token, key_set(jwk(name="second", kid="whatever")))
    assert _verifies(token, key_set(jwk("RS256"), jwk("EdDSA"), jwk(name="first"), jwk(name="second")))


@pytest.mark.spec("JOS-05")
def test_without_kid_unsuitable_keys_are_never_tried_and_suitable_ones_not_without_end() -> None:
    token = parse_jws(sign_jwt({"alg": "ES256"}, claims(), private_key()))
    many = [jwk(name=f"{number}") for number in range(10)]
    assert len(key_set(*many).select(token)) == MAX_ATTEMPTS
    with pytest.raises(UnknownKey):
        key_set(jwk("RS256"), jwk("EdDSA"), jwk(alg="ES384")).select(token)


def _rsa(bits: int) -> dict[str, Any]:
    numbers = rsa.generate_private_key(65537, bits).public_key().public_numbers()
    return {"kty": "RSA", "kid": "first", "n": segment(numbers.n.to_bytes(bits // 8, "big")), "e": "AQAB"}


UNUSABLE = {
    "for encryption": jwk(use="enc"),
    "for wrapping keys": jwk(use=None, key_ops=["wrapKey"]),
    "key_ops of the wrong type": jwk(key_ops="verify"),
    "symmetric": {"kty": "oct", "k": segment(b"0" * 32), "kid": "first"},
    "private": jwk(d=segment(b"1" * 32)),
    "RSA of 1024 bits": _rsa(1024),
    "RSA of 16384 bits": {"kty": "RSA", "kid": "first", "n": segment(b"\xff" * 2048), "e": "AQAB"},
    "RSA padded to look long": {"kty": "RSA", "kid": "first", "n": segment(b"\0" * 200 + b"\xff" * 128), "e": "AQAB"},
    "RSA with exponent 1": jwk("RS256", e="AQ"),
    "RSA with an even exponent": jwk("RS256", e="Ag"),
    "RSA without exponent": jwk("RS256", e=None),
    "RSA with a broken modulus": jwk("RS256", n="!" * 400),
    "a point off the curve": jwk(x=segment(b"\1" * 32)),
    "the point at infinity": jwk(x=segment(b"\0" * 32), y=segment(b"\0" * 32)),
    "a coordinate too long": jwk(x=segment(b"\1" * 64)),
    "a curve that nobody signs with": jwk(crv="secp256k1"),
    "a key for key agreement": {"kty": "OKP", "crv": "X25519", "x": segment(b"\1" * 32), "kid": "first"},
    "Ed25519 of the wrong size": jwk("EdDSA", x=segment(b"\1" * 31)),
    "unknown kty": jwk(kty="AKP"),
    "kty of the wrong type": jwk(kty=["EC"]),
    "kid of the wrong type": jwk(kid=7),
    "alg of the wrong type": jwk(alg=["ES256"]),
    "no members": {},
    "no object": "key",
    "nothing": None,
}


@pytest.mark.parametrize("key", UNUSABLE.values(), ids=UNUSABLE.keys())
@pytest.mark.spec("JOS-06")
def test_an_unusable_key_is_left_out_and_does_not_void_the_others(key: Any) -> None:
    keys = parse_jwks(json.dumps({"keys": [key, jwk(name="good")]}).encode())
    assert [usable.kid for usable in keys.keys] == ["good"]
    assert _verifies(id_token(name="good"), keys)


@pytest.mark.spec("JOS-06")
def test_only_the_key_itself_is_read_and_certificates_beside_it_are_not() -> None:
    key = jwk(x5c=["not a certificate"], x5u="file:///etc/passwd", x5t=5, ext=True)
    assert _verifies(id_token(), key_set(key))


@pytest.mark.spec("JOS-07")
def test_oversized_sets_are_refused() -> None:
    with pytest.raises(InvalidMetadata, match="larger than"):
        parse_jwks(json.dumps({"keys": [jwk()], "padding": "x" * 512 * 1024}).encode())
    with pytest.raises(InvalidMetadata, match="101 keys"):
        parse_jwks(json.dumps({"keys": [jwk()] * 101}).encode())
    assert len(parse_jwks(json.dumps({"keys": [jwk()] * 100}).encode()).keys) == 100


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"keys":{}}', b'{"keys":null}', b'{"keys":[],"keys":[]}']
)
@pytest.mark.spec("JOS-07", "MET-08")
def test_a_document_that_is_no_key_set_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidMetadata, match="key set"):
        parse_jwks(Response(200, {}, body))


@pytest.mark.parametrize("status", [204, 301, 307, 404, 429, 500, 503])
@pytest.mark.spec("MET-05", "MET-08")
def test_any_other_status_is_no_key_set(status: int) -> None:
    with pytest.raises(TransportError, match=str(status)):
        parse_jwks(Response(status, {"location": "https://evil.example/"}, json.dumps({"keys": [jwk()]}).encode()))


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text(), st.lists).map(lambda j: json.dumps(j).encode()))
@pytest.mark.spec("JOS-06", "JOS-07")
def test_any_bytes_are_a_key_set_or_refused(body: bytes) -> None:
    with suppress(InvalidMetadata):
        assert not parse_jwks(b'{"keys":' + body + b"}").keys


def test_the_request_asks_for_json() -> None:
    request = jwks_request("https://idp.example.com/jwks")
    assert (request.method, request.url, request.headers) == (
        "GET",
        "https://idp.example.com/jwks",
        {"accept": "application/json"},
    )
