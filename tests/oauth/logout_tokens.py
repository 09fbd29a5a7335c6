"""Logout tokens in a few lines: honest ones, and a table of all that must be refused."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from coatcheck.oauth.jwt import public_jwk
from tests.oauth.issuer import MISSING, private_key, segment

EVENT = "http://schemas.openid.net/event/backchannel-logout"


@dataclass(frozen=True)
class Mint:
    """Makes logout tokens (RS256) in the name of an issuer whose key it holds."""

    issuer: str
    client_id: str
    now: float
    private_pem: str = field(repr=False)
    kid: str
    about: Mapping[str, str]
    """`sub` and `sid` of the session that honest tokens end."""

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of an honest logout token; MISSING leaves one out."""
        honest = {
            "iss": self.issuer,
            "aud": self.client_id,
            "iat": self.now,
            "exp": self.now + 120,
            "jti": "jti-1",
            "events": {EVENT: {}},
            **self.about,
        }
        return {name: value for name, value in {**honest, **changes}.items() if value is not MISSING}

    def token(self, header: Mapping[str, Any] | None = None, /, **changes: Any) -> str:
        """A correctly signed token with these claims changed."""
        return self.signed(json.dumps(self.claims(**changes)).encode(), header)

    def signed(self, payload: bytes, header: Mapping[str, Any] | None = None, *, pem: str | None = None) -> str:
        """Sign any bytes, by any key."""
        whole = {"alg": "RS256", "kid": self.kid, "typ": "logout+jwt", **(header or {})}
        written = {name: value for name, value in whole.items() if value is not MISSING}
        signing_input = segment(json.dumps(written).encode()) + "." + segment(payload)
        signature = _key(pem or self.private_pem).sign(signing_input.encode(), PKCS1v15(), SHA256())
        return signing_input + "." + segment(signature)

    def by_public_key(self) -> str:
        """An HMAC whose secret is the public key, for verifiers that let the token choose the algorithm."""
        header, payload, _ = self.token({"alg": "HS256"}).split(".")
        secret = json.dumps(public_jwk(self.private_pem)).encode()
        return f"{header}.{payload}." + segment(hmac.digest(secret, f"{header}.{payload}".encode(), "sha256"))

    def unsigned(self) -> str:
        """`alg` is `none`, and there is no signature (Keycloak CVE-2026-18569)."""
        header, payload, _ = self.token({"alg": "none"}).split(".")
        return f"{header}.{payload}."

    def altered(self) -> str:
        """Signed for one user, and then made out to another."""
        header, _, signature = self.token(sub="somebody else").split(".")
        return f"{header}.{segment(json.dumps(self.claims()).encode())}.{signature}"

    def written_twice(self, name: str, value: Any) -> str:
        """A member stands twice: some parsers take the first, others the last."""
        honest = json.dumps(self.claims()).encode()
        return self.signed(b'{"%b": %b, ' % (name.encode(), json.dumps(value).encode()) + honest[1:])

    def id_token(self) -> str:
        return self.token({"typ": "JWT"}, events=MISSING, jti=MISSING, nonce="n", auth_time=self.now)

    def access_token(self) -> str:
        """As RFC 9068 has it, with us as the audience."""
        return self.token({"typ": "at+jwt"}, events=MISSING, client_id=self.client_id, scope="openid")


@cache  # loading checks that the numbers are primes, which takes far longer than signing
def _key(pem: str) -> rsa.RSAPrivateKey:
    key = load_pem_private_key(pem.encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


Make = Callable[[Mint], str]

MALFORMED: dict[str, tuple[str, Make]] = {
    # no token at all
    "empty": ("malformed", lambda m: ""),
    "garbage": ("malformed", lambda m: "logout, please"),
    "two segments": ("malformed", lambda m: m.token().rpartition(".")[0]),
    "encrypted (five segments)": ("malformed", lambda m: "eyJhbGciOiJSU0EtT0FFUCJ9.a.b.c.d"),
    "JSON serialization": ("malformed", lambda m: json.dumps({"payload": m.token().split(".")[1]})),
    "padded base64": ("malformed", lambda m: m.token() + "=="),
    "line break": ("malformed", lambda m: m.token() + "\n"),
    "header too large": ("malformed", lambda m: m.token({"padding": "x" * 9_000})),
    "payload is no JSON": ("malformed", lambda m: m.signed(b"sub=alice")),
    "payload is no object": ("malformed", lambda m: m.signed(b"[]")),
    "member twice": ("malformed", lambda m: m.written_twice("sub", "somebody else")),
    "nested": ("malformed", lambda m: m.token(events={EVENT: [[[[[[[[[]]]]]]]]]})),
    "critical extension": ("malformed", lambda m: m.token({"crit": ["b64"], "b64": True})),
    # another kind of token
    "typ of an access token": ("typ", lambda m: m.token({"typ": "at+jwt"})),
    "typ of a security event": ("typ", lambda m: m.token({"typ": "secevent+jwt"})),
    "typ is no string": ("typ", lambda m: m.token({"typ": ["logout+jwt"]})),
    "typ is empty": ("typ", lambda m: m.token({"typ": ""})),
    "ID token": ("events", Mint.id_token),
    "access token": ("typ", Mint.access_token),
    # signature
    "alg none": ("alg", Mint.unsigned),
    "alg None": ("alg", lambda m: m.token({"alg": "None"})),
    "HMAC by the public key": ("alg", Mint.by_public_key),
    "alg of another family": ("signature", lambda m: m.token({"alg": "ES256"})),
    "no signature": ("signature", lambda m: m.token().rpartition(".")[0] + "."),
    "signed by a stranger": (
        "signature",
        lambda m: m.signed(json.dumps(m.claims()).encode(), pem=private_key("RS256", "stranger")),
    ),
    "made out to another user later": ("signature", Mint.altered),
    "unknown kid": ("unknown_key", lambda m: m.token({"kid": "invented"})),
    "key of its own": (
        "unknown_key",
        lambda m: m.signed(
            json.dumps(m.claims()).encode(),
            {"kid": "own", "jwk": public_jwk(private_key("RS256", "stranger")), "jku": "https://evil.example/jwks"},
            pem=private_key("RS256", "stranger"),
        ),
    ),
    # issuer and audience
    "iss missing": ("issuer", lambda m: m.token(iss=MISSING)),
    "iss of another server": ("issuer", lambda m: m.token(iss="https://evil.example")),
    "iss with a slash more": ("issuer", lambda m: m.token(iss=m.issuer + "/")),
    "iss in a list": ("issuer", lambda m: m.token(iss=[m.issuer])),
    "aud missing": ("audience", lambda m: m.token(aud=MISSING)),
    "aud of another client": ("audience", lambda m: m.token(aud="other")),
    "aud of two clients": ("audience", lambda m: m.token(aud=[m.client_id, "other"])),
    "aud empty": ("audience", lambda m: m.token(aud=[])),
    # instants
    "iat missing": ("iat", lambda m: m.token(iat=MISSING)),
    "iat as text": ("iat", lambda m: m.token(iat=str(m.now))),
    "iat true": ("iat", lambda m: m.token(iat=True)),
    "iat long ago": ("iat", lambda m: m.token(iat=m.now - 3600, exp=m.now + 3600)),
    "iat to come": ("iat", lambda m: m.token(iat=m.now + 600, exp=m.now + 900)),
    "exp missing": ("exp", lambda m: m.token(exp=MISSING)),
    "exp null": ("exp", lambda m: m.token(exp=None)),
    "exp passed": ("exp", lambda m: m.token(iat=m.now - 200, exp=m.now - 100)),
    "nbf to come": ("nbf", lambda m: m.token(nbf=m.now + 600)),
    # what it is about
    "events missing": ("events", lambda m: m.token(events=MISSING)),
    "events null": ("events", lambda m: m.token(events=None)),
    "events as text": ("events", lambda m: m.token(events=EVENT)),
    "events as a list": ("events", lambda m: m.token(events=[EVENT])),
    "events of another kind": ("events", lambda m: m.token(events={"http://schemas.openid.net/event/other": {}})),
    "event null": ("events", lambda m: m.token(events={EVENT: None})),
    "event true": ("events", lambda m: m.token(events={EVENT: True})),
    "event in a list": ("events", lambda m: m.token(events={EVENT: [{}]})),
    "nonce": ("nonce", lambda m: m.token(nonce="n")),
    "nonce empty": ("nonce", lambda m: m.token(nonce="")),
    "nonce null": ("nonce", lambda m: m.token(nonce=None)),
    "nonce false": ("nonce", lambda m: m.token(nonce=False)),
    "nonce as an object": ("nonce", lambda m: m.token(nonce={})),
    "jti missing": ("jti", lambda m: m.token(jti=MISSING)),
    "jti empty": ("jti", lambda m: m.token(jti="")),
    "jti a number": ("jti", lambda m: m.token(jti=7)),
    "jti null": ("jti", lambda m: m.token(jti=None)),
    "neither sub nor sid": ("sub_sid", lambda m: m.token(sub=MISSING, sid=MISSING)),
    "sub empty": ("sub_sid", lambda m: m.token(sub="")),
    "sid empty": ("sub_sid", lambda m: m.token(sid="")),
    "sub null": ("sub_sid", lambda m: m.token(sub=None)),
    "sid null": ("sub_sid", lambda m: m.token(sid=None)),
    "sub in a list": ("sub_sid", lambda m: m.token(sub=["alice"])),
    "sid a number": ("sub_sid", lambda m: m.token(sid=7)),
}
"""What is wrong, by name: the reason that is given, and how to make it. All else about such a token is right."""
