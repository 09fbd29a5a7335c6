from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import warnings
from collections.abc import Collection
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws as independent
from joserfc.jwk import JWKRegistry

from coatcheck.errors import ConfigurationError, InvalidIDToken, UnknownKey
from coatcheck.oauth.jws import JWS, MAX_HEADER, MAX_TOKEN, parse_jws, read_json
from coatcheck.oauth.jwt import (
    SIGNATURE_ALGORITHMS,
    PublicKey,
    generate_private_key,
    import_public_key,
    public_jwk,
    sign_jwt,
    signing_key,
    verify_jws,
)
from tests.oauth.issuer import ALGORITHMS, claims, id_token, jwk, key_set, private_key, segment, signed_bytes


class NoKeyIsLookedFor:
    def select(self, jws: JWS) -> Collection[PublicKey]:
        raise AssertionError(f"a key was looked for, for alg {jws.alg!r}")


@pytest.mark.parametrize("alg", sorted(SIGNATURE_ALGORITHMS))
@pytest.mark.spec("IDT-04")
def test_what_is_signed_here_verifies_here_and_elsewhere(alg: str) -> None:
    pem = private_key(alg)
    token = sign_jwt({"alg": alg, "kid": "first"}, {"sub": "alice"}, pem)

    jws = verify_jws(token, key_set(jwk(alg)), algorithms=[alg])

    assert read_json(jws.payload, "payload") == {"sub": "alice"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warns of the name EdDSA, which providers still use
        read = independent.deserialize_compact(token, JWKRegistry.import_key(public_jwk(pem)), algorithms=[alg])
    assert read.payload == b'{"sub":"alice"}'


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", " none", "", "null", "HS256", "hs256", "ES256 "])
@pytest.mark.spec("IDT-05", "IDT-06")
def test_alg_none_and_others_that_are_not_allowed_are_refused_before_a_key_is_looked_for(alg: str) -> None:
    head = segment(json.dumps({"alg": alg, "kid": "first"}).encode()) + "." + segment(json.dumps(claims()).encode())
    for signature in ("", segment(b"x"), id_token().rpartition(".")[2]):
        with pytest.raises(InvalidIDToken, match="alg"):
            verify_jws(f"{head}.{signature}", NoKeyIsLookedFor(), algorithms=ALGORITHMS)
        with pytest.raises(InvalidIDToken, match="alg"):  # not even if somebody allowed it by mistake
            verify_jws(f"{head}.{signature}", NoKeyIsLookedFor(), algorithms=[*ALGORITHMS, alg])


@pytest.mark.parametrize("alg", [None, 0, True, ["ES256"], {"alg": "ES256"}])
@pytest.mark.spec("IDT-05")
def test_alg_that_is_no_string_or_missing_is_refused(alg: Any) -> None:
    for header in ({"alg": alg, "kid": "first"}, {"kid": "first"}):
        token = signed_bytes(json.dumps(header).encode(), json.dumps(claims()).encode())
        with pytest.raises(InvalidIDToken, match="alg"):
            verify_jws(token, NoKeyIsLookedFor(), algorithms=ALGORITHMS)


@pytest.mark.spec("IDT-05")
def test_the_algorithms_are_those_of_the_configuration_not_of_the_token() -> None:
    with pytest.raises(InvalidIDToken, match="allowed are RS256"):
        verify_jws(id_token(alg="ES256"), NoKeyIsLookedFor(), algorithms=["RS256"])


def _public_key_in_every_form() -> dict[str, bytes]:
    """All spellings of one RSA public key that an attacker may try as an HMAC secret."""
    pem = private_key("RS256").encode()
    private = serialization.load_pem_private_key(pem, None)
    assert isinstance(private, rsa.RSAPrivateKey)
    public = private.public_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "idp")])
    valid_from = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, public, 1, valid_from, valid_from + datetime.timedelta(days=1))
    ).sign(private, SHA256())
    encodings, formats = serialization.Encoding, serialization.PublicFormat
    return {
        "PEM": public.public_bytes(encodings.PEM, formats.SubjectPublicKeyInfo),
        "PEM without its last line end": public.public_bytes(encodings.PEM, formats.SubjectPublicKeyInfo).rstrip(),
        "PKCS1": public.public_bytes(encodings.PEM, formats.PKCS1),
        "DER": public.public_bytes(encodings.DER, formats.SubjectPublicKeyInfo),
        "SSH": public.public_bytes(encodings.OpenSSH, formats.OpenSSH),
        "JWK": json.dumps(jwk("RS256")).encode(),
        "compact JWK": json.dumps(jwk("RS256"), separators=(",", ":")).encode(),
        "modulus": base64.urlsafe_b64decode(jwk("RS256")["n"] + "=="),
        "x5c": base64.b64encode(certificate.public_bytes(encodings.DER)),
        "certificate": certificate.public_bytes(encodings.PEM),
        "nothing": b"",
    }


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
@pytest.mark.spec("IDT-06")
def test_alg_confusion_hmac_with_the_public_key_never_verifies(alg: str) -> None:
    head = segment(json.dumps({"alg": alg, "kid": "first"}).encode()) + "." + segment(json.dumps(claims()).encode())
    for form, secret in _public_key_in_every_form().items():
        signature = hmac.new(secret, head.encode(), getattr(hashlib, f"sha{alg[2:]}")).digest()
        token = f"{head}.{segment(signature)}"
        for algorithms in (ALGORITHMS, (*ALGORITHMS, alg)):
            with pytest.raises(InvalidIDToken, match="alg"):
                verify_jws(token, key_set(jwk("RS256")), algorithms=algorithms)
                pytest.fail(f"{form} worked as an HMAC secret")


@pytest.mark.spec("IDT-06")
def test_alg_confusion_an_hmac_key_in_the_key_set_verifies_nothing() -> None:
    secret = {"kty": "oct", "k": segment(b"0" * 32), "kid": "first", "alg": "HS256"}
    head = segment(b'{"alg":"HS256","kid":"first"}') + "." + segment(json.dumps(claims()).encode())
    token = head + "." + segment(hmac.new(b"0" * 32, head.encode(), hashlib.sha256).digest())
    with pytest.raises(InvalidIDToken, match="alg"):
        verify_jws(token, key_set(secret), algorithms=(*ALGORITHMS, "HS256"))


@pytest.mark.spec("IDT-06", "JOS-01")
def test_alg_confusion_between_key_types_and_curves() -> None:
    for signed, claimed in (("RS256", "PS256"), ("ES256", "ES384"), ("ES256", "RS256"), ("EdDSA", "ES256")):
        _, payload, signature = id_token(alg=signed).split(".")
        token = f"{segment(json.dumps({'alg': claimed, 'kid': 'first'}).encode())}.{payload}.{signature}"
        with pytest.raises(InvalidIDToken):
            verify_jws(token, key_set(jwk(signed)), algorithms=SIGNATURE_ALGORITHMS)


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": ["b64"], "b64": False},
        {"crit": ["b64"], "b64": True},
        {"crit": ["unknown"], "unknown": "x"},
        {"crit": ["alg"]},
        {"crit": []},
        {"crit": None},
        {"crit": "alg"},
        {"b64": False},
        {"b64": 0},
        {"b64": None},
    ],
)
@pytest.mark.spec("IDT-12")
def test_critical_extensions_and_unencoded_payloads_are_refused(header: dict[str, Any]) -> None:
    with pytest.raises(InvalidIDToken, match="extension"):
        verify_jws(id_token(header=header), key_set(), algorithms=ALGORITHMS)


@pytest.mark.spec("IDT-13")
def test_a_key_in_the_header_is_never_used() -> None:
    theirs = jwk(name="attacker", kid="first")
    for header in (
        {"jwk": theirs},
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["MIIB"]},
        {"x5t#S256": "x", "jwk": theirs, "jku": "https://evil.example/jwks"},
    ):
        forged = sign_jwt({"alg": "ES256", "kid": "first", **header}, claims(), private_key(name="attacker"))
        with pytest.raises(InvalidIDToken, match="signature"):
            verify_jws(forged, key_set(), algorithms=ALGORITHMS)
        # Signed with the right key, the same header is harmless: providers do put x5t and jku there.
        assert verify_jws(id_token(header=header), key_set(), algorithms=ALGORITHMS).kid == "first"


@pytest.mark.spec("IDT-04")
def test_a_signature_by_another_key_of_the_same_name_is_refused() -> None:
    forged = sign_jwt({"alg": "ES256", "kid": "first"}, claims(), private_key(name="attacker"))
    with pytest.raises(InvalidIDToken, match="signature"):
        verify_jws(forged, key_set(), algorithms=ALGORITHMS)


@pytest.mark.spec("IDT-04")
def test_a_signature_belongs_to_its_header_and_payload() -> None:
    header, payload, signature = id_token().split(".")
    other_header, other_payload, _ = id_token(header={"typ": "JWT"}, sub="mallory").split(".")
    for token in (f"{other_header}.{payload}.{signature}", f"{header}.{other_payload}.{signature}"):
        with pytest.raises(InvalidIDToken, match="signature"):
            verify_jws(token, key_set(), algorithms=ALGORITHMS)


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\0" * 63, b"\xff" * 64, b"\1" * 128])
@pytest.mark.spec("IDT-04")
def test_psychic_and_misshapen_signatures_are_refused(signature: bytes) -> None:
    for alg in ("ES256", "ES512", "RS256", "PS256", "EdDSA"):
        unsigned = id_token(alg=alg).rpartition(".")[0]
        with pytest.raises(InvalidIDToken, match="signature"):
            verify_jws(f"{unsigned}.{segment(signature)}", key_set(jwk(alg)), algorithms=[alg])


@pytest.mark.spec("IDT-18")
def test_only_three_segments_of_canonical_base64url_are_a_token() -> None:
    header, payload, signature = id_token(header={"x": "??>>"}).split(".")
    assert verify_jws(f"{header}.{payload}.{signature}", key_set(), algorithms=ALGORITHMS).alg == "ES256"
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for token in (
        "",
        ".",
        "..",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature}.",
        f"{header}.{payload}.{signature}.x.y",
        f"{header}=.{payload}.{signature}",
        f"{header}.{payload}=.{signature}",
        f"{header}.{payload}.{signature}=",
        f"{header}.{payload}.{signature}==",
        f" {header}.{payload}.{signature}",
        f"{header}.{payload}.{signature}\n",
        f"{header}.{payload[:5]}\n{payload[5:]}.{signature}",
        f"{header}.{payload}.{signature[:-1]}{last[last.index(signature[-1]) ^ 1]}",  # stray bits: the same 64 bytes
        f"{header}.{payload}.{signature[:-1]}",
        f"{header.translate({ord('-'): '+', ord('_'): '/'})}+.{payload}.{signature}",
        f"{header}.{payload}.é{signature[1:]}",
        json.dumps({"protected": header, "payload": payload, "signature": signature}),
        json.dumps({"payload": payload, "signatures": [{"header": {"alg": "ES256"}, "signature": signature}]}),
    ):
        with pytest.raises(InvalidIDToken):
            verify_jws(token, key_set(), algorithms=ALGORITHMS)


@pytest.mark.spec("IDT-19")
def test_oversized_tokens_are_refused_before_anything_is_decoded() -> None:
    # Not base64url at all, so that decoding it would be noticed.
    with pytest.raises(InvalidIDToken, match="longer than 65536"):
        parse_jws("!" * (MAX_TOKEN + 1))
    with pytest.raises(InvalidIDToken, match="header is longer than 8192"):
        parse_jws("!" * (MAX_HEADER + 1) + ".e30.e30")


@pytest.mark.parametrize(
    "document",
    [
        b'{"alg":"ES256","alg":"none"}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":[[[[[[[[1]]]]]]]]}',
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{}}}}}}}}}',
        b'{"exp":123456789012345678901234567890}',
        b'{"exp":1' + b"0" * 5000 + b"}",
        b'{"exp":1e400}',
        b'{"exp":-1e300}',
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b'{"sub":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"sub":"\xff"}',
        b"[]",
        b'"text"',
        b"null",
        b"",
        b"{",
        b'{"a":1}x',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-32-le"),
    ],
)
@pytest.mark.spec("IDT-19", "IDT-07")
def test_json_that_two_readers_could_read_differently_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidIDToken, match="payload"):
        read_json(document, "payload")
    header = document.replace(b'{"', b'{"alg":"ES256","', 1) if document.startswith(b'{"') else document
    with pytest.raises(InvalidIDToken, match="header"):
        parse_jws(signed_bytes(header, b"{}"))


@pytest.mark.spec("IDT-19")
def test_eight_levels_and_large_but_honest_tokens_are_read() -> None:
    assert read_json(b'{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}}}', "payload")
    token = id_token(groups=[f"group-{number}" for number in range(2000)])
    assert verify_jws(token, key_set(), algorithms=ALGORITHMS).kid == "first"


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}"))
@pytest.mark.spec("IDT-18", "IDT-19")
def test_any_text_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(InvalidIDToken) as refused:
        verify_jws(text, key_set(), algorithms=ALGORITHMS)
    assert len(str(refused.value)) < 300


TOKEN = id_token(name="first")


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="latin-1"))
@pytest.mark.spec("IDT-18")
def test_no_single_changed_character_leaves_a_token_valid(position: int, character: str) -> None:
    changed = TOKEN[:position] + character + TOKEN[position + 1 :]
    if changed != TOKEN:
        with pytest.raises(InvalidIDToken):
            verify_jws(changed, key_set(), algorithms=ALGORITHMS)


@pytest.mark.spec("LOG-01")
def test_neither_errors_nor_reprs_repeat_the_token() -> None:
    token = id_token(sub="canary-4711")
    jws = parse_jws(token)
    assert token.split(".")[1] not in repr(jws)
    assert token.split(".")[2] not in repr(jws)
    assert "canary" not in repr(jws)
    with pytest.raises(InvalidIDToken) as refused:
        verify_jws(token[:-4] + "AAAA", key_set(), algorithms=ALGORITHMS)
    assert token.split(".")[1] not in str(refused.value)


@pytest.mark.spec("JOS-04")
def test_a_wrong_signature_of_a_token_without_kid_asks_for_newer_keys() -> None:
    token = sign_jwt({"alg": "ES256"}, claims(), private_key(name="new"))
    with pytest.raises(UnknownKey):
        verify_jws(token, key_set(), algorithms=ALGORITHMS)


@pytest.mark.parametrize(
    ("alg", "usual"), [("RS256", "PS256"), ("ES256", "ES256"), ("ES384", "ES384"), ("EdDSA", "EdDSA")]
)
def test_the_algorithm_and_name_of_a_signing_key_follow_from_the_key(alg: str, usual: str) -> None:
    key = signing_key(private_key(alg))
    assert key.alg == usual
    assert key.kid == JWKRegistry.import_key(public_jwk(private_key(alg))).thumbprint()
    assert signing_key(private_key(alg), alg=alg).alg == alg


def test_a_signing_key_that_cannot_sign_is_a_configuration_error() -> None:
    ours = serialization.load_pem_private_key(private_key().encode(), None)
    pem = serialization.Encoding.PEM
    public = ours.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    encrypted = ours.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password")
    )
    plain = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    weak = rsa.generate_private_key(65537, 1024).private_bytes(*plain)  # noqa: S505
    koblitz = ec.generate_private_key(ec.SECP256K1()).private_bytes(*plain)
    for text in ("", "secret", public.decode(), encrypted.decode(), weak.decode(), koblitz.decode()):
        with pytest.raises(ConfigurationError) as refused:
            signing_key(text)
        assert "use" in str(refused.value) or "PEM" in str(refused.value)
        assert not text or text not in str(refused.value)


@pytest.mark.parametrize("alg", ["RS256", "ES384", "HS256", "none", ""])
def test_an_algorithm_that_does_not_suit_the_key_is_a_configuration_error(alg: str) -> None:
    with pytest.raises(ConfigurationError, match="alg"):
        sign_jwt({"alg": alg}, claims(), private_key("ES256"))
    with pytest.raises(ConfigurationError, match="ES256"):
        signing_key(private_key("ES256"), alg=alg)


def test_the_legacy_pem_formats_of_openssl_are_read() -> None:
    for alg in ("RS256", "ES256"):
        key = serialization.load_pem_private_key(generate_private_key(alg).encode(), None)
        legacy = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ).decode()
        assert "PRIVATE KEY" in legacy
        token = sign_jwt({"alg": alg}, claims(), legacy)
        assert import_public_key(public_jwk(legacy)).verifies(parse_jws(token))
