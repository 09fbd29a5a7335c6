from __future__ import annotations

import base64
import hashlib
import json
import pickle
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt as independent
from joserfc.jwk import ECKey

from coatcheck.oauth.dpop import DPoPKey
from tests.oauth.issuer import NOW, segment


def read(proof: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Verify a proof with another implementation and the key in its own header; return header and claims."""
    header = json.loads(base64.urlsafe_b64decode(proof.split(".")[0] + "=="))
    token = independent.decode(proof, ECKey.import_key(header["jwk"]), algorithms=["ES256"])
    return token.header, token.claims


@pytest.mark.spec("DPO-01")
def test_the_header_carries_the_public_key_and_nothing_private() -> None:
    key = DPoPKey.generate()
    header, _ = read(key.proof("GET", "https://api.example.com/orders", now=NOW))
    public = {name: value for name, value in json.loads(key.to_jwk()).items() if name != "d"}
    assert header == {"typ": "dpop+jwt", "alg": "ES256", "jwk": public}


@pytest.mark.spec("DPO-02")
def test_the_claims_of_a_proof() -> None:
    _, claims = read(DPoPKey.generate().proof("POST", "https://api.example.com/orders", now=NOW + 0.9))
    jti = claims.pop("jti")
    assert len(base64.urlsafe_b64decode(jti + "==")) >= 96 // 8
    assert claims == {"htm": "POST", "htu": "https://api.example.com/orders", "iat": int(NOW)}


@pytest.mark.parametrize(
    ("url", "htu"),
    [
        ("https://api.example.com/a?b=c#d", "https://api.example.com/a"),
        ("https://api.example.com/a#d?b=c", "https://api.example.com/a"),
        ("https://api.example.com/a%3Fb?", "https://api.example.com/a%3Fb"),
        ("https://api.example.com:8443/a%20b/", "https://api.example.com:8443/a%20b/"),
        ("https://api.example.com", "https://api.example.com"),
        ("https://api.example.com/ä/%E4", "https://api.example.com/ä/%E4"),
    ],
)
@pytest.mark.spec("DPO-02")
def test_htu_is_the_url_that_was_given_without_query_and_fragment(url: str, htu: str) -> None:
    assert read(DPoPKey.generate().proof("GET", url, now=NOW))[1]["htu"] == htu


@pytest.mark.spec("DPO-02")
def test_no_two_proofs_are_the_same() -> None:
    key = DPoPKey.generate()
    proofs = [key.proof("GET", "https://api.example.com/", now=NOW) for _ in range(200)]
    assert len({read(proof)[1]["jti"] for proof in proofs}) == 200


@pytest.mark.spec("DPO-03")
def test_ath_of_the_example_of_the_specification() -> None:
    """RFC 9449, section 7.1."""
    access_token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    _, claims = read(DPoPKey.generate().proof("GET", "https://api.example.com/", now=NOW, access_token=access_token))
    assert claims["ath"] == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


@pytest.mark.spec("DPO-03")
def test_nonce_and_jti_are_taken_as_given_and_ath_left_out_without_a_token() -> None:
    _, claims = read(DPoPKey.generate().proof("POST", "https://idp.example.com/token", now=NOW, nonce="n1", jti="j1"))
    assert (claims["nonce"], claims["jti"]) == ("n1", "j1")
    assert "ath" not in claims


def test_every_generated_key_is_another_one() -> None:
    assert len({DPoPKey.generate().jkt for _ in range(50)}) == 50


@pytest.mark.spec("DPO-13")
def test_a_key_survives_being_written_and_read() -> None:
    for _ in range(50):  # coordinates with leading zeros turn up once in a while
        key = DPoPKey.generate()
        again = DPoPKey.from_jwk(key.to_jwk())
        assert again.jkt == key.jkt == ECKey.import_key(json.loads(key.to_jwk())).thumbprint()
        assert again.to_jwk() == key.to_jwk()
        assert read(again.proof("GET", "https://api.example.com/", now=NOW))


@pytest.mark.spec("DPO-13")
def test_a_key_with_leading_zeros_keeps_its_length() -> None:
    key = DPoPKey(ec.derive_private_key(1, ec.SECP256R1()))
    assert json.loads(key.to_jwk())["d"] == segment(b"\0" * 31 + b"\1")
    assert DPoPKey.from_jwk(key.to_jwk()).jkt == key.jkt


def test_reading_a_key_again_costs_nothing_and_the_memory_of_it_is_bounded() -> None:
    text = DPoPKey.generate().to_jwk()
    first = DPoPKey.from_jwk(text)
    assert DPoPKey.from_jwk(text) is first
    jwk = json.loads(text)
    for number in range(1100):  # as many other spellings push it out
        DPoPKey.from_jwk(json.dumps({**jwk, "kid": str(number)}))
    assert DPoPKey.from_jwk(text) is not first


def _spoiled(**changes: Any) -> str:
    jwk = json.loads(DPoPKey.generate().to_jwk())
    return json.dumps({name: value for name, value in {**jwk, **changes}.items() if value is not ...})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "{}",
        "[]",
        _spoiled(d=...),
        _spoiled(d=""),
        _spoiled(d="A" * 43),
        _spoiled(d="_" * 43),
        _spoiled(d=7),
        _spoiled(d="é" * 43),
        _spoiled(x=...),
        _spoiled(x=json.loads(DPoPKey.generate().to_jwk())["x"]),
        _spoiled(kty="RSA"),
        _spoiled(crv="P-384"),
        _spoiled(padding="x" * 5000),
        _spoiled().replace('"crv"', '"crv":"P-256","crv"'),
    ],
)
def test_what_is_no_private_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="DPoP key must be") as refused:
        DPoPKey.from_jwk(text)
    assert refused.value.__cause__ is None
    if text.startswith('{"') and isinstance(json.loads(text).get("d"), str) and json.loads(text)["d"]:
        assert json.loads(text)["d"] not in str(refused.value)


def test_a_key_on_another_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="P-256"):
        DPoPKey(ec.generate_private_key(ec.SECP384R1()))


@pytest.mark.spec("LOG-01")
def test_a_key_prints_as_its_thumbprint_and_is_never_pickled() -> None:
    key = DPoPKey.generate()
    for shown in (repr(key), str(key), f"{key}", repr([key]), repr({"key": key})):
        assert json.loads(key.to_jwk())["d"] not in shown
        assert key.jkt in shown
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(key)


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    key = DPoPKey.generate()
    jwk = json.loads(key.to_jwk())
    canonical = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    assert key.jkt == segment(hashlib.sha256(canonical.encode()).digest())
