"""How a request proves which client it comes from: one method, nothing in a URL, nothing sent twice."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import unquote_plus, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import ConfigurationError
from coatcheck.oauth import (
    Client,
    ClientAssertion,
    ClientAuthMethod,
    Metadata,
    PrivateKeyJWT,
    Request,
    choose_method,
    client_credentials_form,
    revocation_request,
    token_request,
)
from coatcheck.oauth.client_assertion import JWT_BEARER
from coatcheck.oauth.jwks import KeySet, parse_jwks
from coatcheck.oauth.jwt import generate_private_key, public_jwk, verify_jws
from tests.oauth.samples import CLIENT, ISSUER, METADATA, NOW, form_of

PEM = {alg: generate_private_key(alg) for alg in ("RS256", "ES256", "EdDSA")}
SIGNED = replace(CLIENT, client_secret=None, client_auth=PrivateKeyJWT(PEM["ES256"]))


def metadata(methods: tuple[str, ...] | None) -> Metadata:
    return replace(METADATA, token_endpoint_auth_methods_supported=methods)


def requests(client: Client, metadata: Metadata = METADATA, **more: Any) -> list[Request]:
    """One request of each kind that needs client authentication."""
    revocation = revocation_request(client, metadata, "rt", token_type_hint="refresh_token", now=NOW, **more)
    assert revocation is not None
    return [token_request(client, metadata, client_credentials_form(), now=NOW, **more), revocation]


def basic_credentials(request: Request) -> tuple[str, str]:
    scheme, _, encoded = request.headers["authorization"].partition(" ")
    assert scheme == "Basic"
    client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    return client_id, secret


def assertion_of(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims of the client assertion, unverified."""
    header, claims, _ = dict(form_of(request))["client_assertion"].split(".")
    return _json(header), _json(claims)


def _json(segment: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(segment + "=="))
    return value


def test_metadata_that_is_silent_means_basic() -> None:
    """RFC 8414 section 2: "If omitted, the default is "client_secret_basic"."""
    assert choose_method(CLIENT, metadata(None)) == "client_secret_basic"


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (("client_secret_post", "client_secret_basic"), "client_secret_basic"),
        (("private_key_jwt", "client_secret_post", "none"), "client_secret_post"),
        (("client_secret_basic",), "client_secret_basic"),
    ],
)
def test_basic_is_preferred_and_post_is_used_where_only_that_is_listed(
    methods: tuple[str, ...], expected: ClientAuthMethod
) -> None:
    assert choose_method(CLIENT, metadata(methods)) == expected


@pytest.mark.parametrize("methods", [(), ("private_key_jwt",), ("none",)])
def test_a_secret_where_none_is_accepted_says_what_to_set(methods: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="set client_auth"):
        choose_method(CLIENT, metadata(methods))


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_configured_method_wins_over_metadata(method: ClientAuthMethod) -> None:
    assert choose_method(replace(CLIENT, client_auth=method), metadata(("private_key_jwt",))) == method
    assert choose_method(SIGNED, metadata(("client_secret_basic",))) == "private_key_jwt"


@pytest.mark.spec("CLA-01")
@pytest.mark.parametrize(
    ("client_id", "secret", "header"),
    [
        ("shop", "secret", "shop:secret"),
        ("shop:eu", "a%b:c+d e/f", "shop%3Aeu:a%25b%3Ac%2Bd+e%2Ff"),
        ("läden", "gehéim", "l%C3%A4den:geh%C3%A9im"),
    ],
)
def test_basic_form_encodes_id_and_secret(client_id: str, secret: str, header: str) -> None:
    for request in requests(replace(CLIENT, client_id=client_id, client_secret=secret)):
        assert ":".join(basic_credentials(request)) == header


@pytest.mark.spec("CLA-01")
def test_raw_basic_encodes_nothing() -> None:
    client = replace(CLIENT, client_secret="a%b:c+d e", basic_encoding="raw")
    for request in requests(client):
        assert basic_credentials(request) == ("shop", "a%b:c+d e")


@pytest.mark.spec("CLA-01")
@given(st.text(min_size=1).filter(str.isprintable), st.text(min_size=1).filter(lambda text: text == text.strip()))
def test_whatever_the_secret_a_server_that_decodes_gets_it_back(client_id: str, secret: str) -> None:
    client = Client(issuer=ISSUER, client_id=client_id, client_secret=secret)
    for request in requests(client):
        assert tuple(unquote_plus(part) for part in basic_credentials(request)) == (client_id, secret)


@pytest.mark.spec("CLA-02", "OAU-03")
@pytest.mark.parametrize(
    ("client", "parameters", "in_header"),
    [
        (CLIENT, set(), True),
        (replace(CLIENT, client_auth="client_secret_post"), {"client_id", "client_secret"}, False),
        (SIGNED, {"client_id", "client_assertion", "client_assertion_type"}, False),
        (replace(CLIENT, client_secret=None, client_auth="none"), {"client_id"}, False),
    ],
)
def test_exactly_one_method_and_nothing_in_the_url(client: Client, parameters: set[str], in_header: bool) -> None:
    for request in requests(client):
        names = [name for name, _ in form_of(request)]
        assert len(names) == len(set(names))
        assert {name for name in names if name.startswith("client_")} == parameters
        assert ("authorization" in request.headers) is in_header
        assert request.method == "POST"
        assert urlsplit(request.url).query == ""
        assert "correct horse" not in repr(request)


@pytest.mark.spec("CLA-02")
@pytest.mark.parametrize("client", [CLIENT, replace(CLIENT, client_auth="client_secret_post"), SIGNED])
def test_a_supplied_assertion_replaces_the_configured_method(client: Client) -> None:
    for request in requests(client, assertion=ClientAssertion("from.the.service")):
        form = dict(form_of(request))
        assert form["client_assertion"] == "from.the.service"
        assert form["client_assertion_type"] == JWT_BEARER
        assert "client_secret" not in form
        assert "authorization" not in request.headers


def test_private_key_jwt_without_a_key_needs_the_service() -> None:
    client = replace(CLIENT, client_secret=None, client_auth="private_key_jwt")
    assert dict(form_of(requests(client, assertion=ClientAssertion("a.b.c"))[0]))["client_assertion"] == "a.b.c"
    with pytest.raises(ConfigurationError, match="ClientAssertionService"):
        requests(client)


@pytest.mark.spec("CLA-03")
@pytest.mark.parametrize("key", ["RS256", "ES256", "EdDSA"])
def test_private_key_jwt_says_who_for_whom_and_until_when(key: str) -> None:
    client = replace(SIGNED, client_auth=PrivateKeyJWT(PEM[key], kid="2025-01"))
    for request in requests(client):
        header, claims = assertion_of(request)
        assert header["kid"] == "2025-01"
        assert claims["iss"] == claims["sub"] == "shop"
        assert claims["iat"] == int(NOW)
        assert claims["exp"] == int(NOW) + 60
        assert len(base64.urlsafe_b64decode(claims["jti"])) >= 16


@pytest.mark.spec("CLA-03")
def test_lifetime_is_short_and_can_be_shorter() -> None:
    client = replace(SIGNED, client_auth=PrivateKeyJWT(PEM["ES256"], lifetime=timedelta(seconds=20)))
    assert assertion_of(requests(client)[0])[1]["exp"] == int(NOW) + 20
    for lifetime in (timedelta(0), timedelta(hours=1)):
        with pytest.raises(ConfigurationError, match="lifetime"):
            PrivateKeyJWT(PEM["ES256"], lifetime=lifetime)


@pytest.mark.spec("CLA-04")
def test_audience_injection_assertion_is_for_the_issuer_whatever_the_endpoints_say() -> None:
    """A server that names a victim's token endpoint in its metadata gets an assertion that is useless there."""
    poisoned = replace(
        METADATA,
        token_endpoint="https://victim.example.com/token",
        revocation_endpoint="https://victim.example.com/revoke",
    )
    for request in requests(SIGNED, poisoned):
        assert request.url.startswith("https://victim.example.com/")
        assert assertion_of(request)[1]["aud"] == ISSUER


@pytest.mark.spec("CLA-04")
def test_another_audience_only_where_it_is_spelled_out() -> None:
    client = replace(SIGNED, client_auth=PrivateKeyJWT(PEM["ES256"], audience=f"{ISSUER}/token"))
    for request in requests(client):
        assert assertion_of(request)[1]["aud"] == f"{ISSUER}/token"


@pytest.mark.spec("CLA-05")
def test_every_attempt_gets_a_new_assertion() -> None:
    seen = [assertion_of(request)[1]["jti"] for _ in range(5) for request in requests(SIGNED)]
    assert len(set(seen)) == len(seen) == 10


@pytest.mark.spec("CLA-05")
def test_every_attempt_dates_its_assertion_anew() -> None:
    later = token_request(SIGNED, METADATA, client_credentials_form(), now=NOW + 30)
    assert assertion_of(later)[1]["iat"] == int(NOW) + 30


@pytest.mark.spec("CLA-06")
@pytest.mark.parametrize(("key", "alg"), [("RS256", "PS256"), ("ES256", "ES256"), ("EdDSA", "EdDSA")])
def test_algorithm_follows_from_the_key_and_the_signature_verifies(key: str, alg: str) -> None:
    service = PrivateKeyJWT(PEM[key])
    request = requests(replace(SIGNED, client_auth=service))[0]
    assert assertion_of(request)[0] == {"alg": alg, "kid": service.kid, "typ": "JWT"}
    verify_jws(dict(form_of(request))["client_assertion"], published(PEM[key], str(service.kid)), algorithms=[alg])


def published(pem: str, kid: str) -> KeySet:
    """The key set that our registration at the authorization server holds."""
    return parse_jwks(json.dumps({"keys": [{**public_jwk(pem), "kid": kid}]}).encode())


@pytest.mark.spec("CLA-06")
def test_rs256_only_where_it_is_asked_for() -> None:
    client = replace(SIGNED, client_auth=PrivateKeyJWT(PEM["RS256"], alg="RS256"))
    assert assertion_of(requests(client)[0])[0]["alg"] == "RS256"


@pytest.mark.spec("CLA-06")
@pytest.mark.parametrize("alg", ["none", "HS256", "HS512", "RS256", "ES384", ""])
def test_algorithms_that_do_not_fit_the_key_are_refused_at_the_start(alg: str) -> None:
    with pytest.raises(ConfigurationError):
        PrivateKeyJWT(PEM["ES256"], alg=alg)


@pytest.mark.spec("CLA-06")
def test_weak_and_unreadable_keys_are_refused_without_being_shown() -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that it is refused is the point
    weak_pem = weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for pem in ("", "not a key", weak_pem):
        with pytest.raises(ConfigurationError) as caught:
            PrivateKeyJWT(pem)
        assert "BEGIN" not in str(caught.value)


@pytest.mark.spec("OAU-10", "MET-03")
def test_mix_up_a_secret_never_goes_to_another_server() -> None:
    other = replace(METADATA, issuer="https://evil.example", token_endpoint="https://evil.example/token")
    for client in (CLIENT, SIGNED):
        with pytest.raises(ConfigurationError, match="evil"):
            requests(client, other)
