"""A client registration is checked when it is made: every mistake stops the start and says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import ConfigurationError
from coatcheck.oauth import Client, PrivateKeyJWT
from coatcheck.oauth.client import PROTECTED_AUTHORIZATION_PARAMS, PROTECTED_TOKEN_PARAMS
from coatcheck.oauth.jwt import generate_private_key
from tests.oauth.samples import CLIENT, ISSUER


def client(**changes: Any) -> Client:
    return Client(**{"issuer": ISSUER, "client_id": "shop", "client_secret": "correct horse", **changes})


def refused(path: str, /, **changes: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        client(**changes)
    assert caught.value.path == path
    return str(caught.value)


@pytest.mark.parametrize(
    "issuer",
    [
        "https://idp.example.com",
        "https://idp.example.com/",
        "https://idp.example.com:8443/realms/shop",
        "http://localhost:9000",
        "http://127.0.0.1:9000/op",
        "http://[::1]:9000",
    ],
)
def test_issuer_is_kept_as_it_was_written(issuer: str) -> None:
    assert client(issuer=issuer).issuer == issuer


@pytest.mark.spec("MET-02", "MET-04")
@pytest.mark.parametrize(
    ("issuer", "says"),
    [
        ("http://idp.example.com", "must be https"),
        ("http://localhost.example.com", "must be https"),
        ("http://127.0.0.1.example.com", "must be https"),
        ("http://10.0.0.1", "must be https"),
        ("HTTPS://idp.example.com", "expected https://HOST"),
        ("idp.example.com", "expected https://HOST"),
        ("https://", "expected https://HOST"),
        ("ftp://idp.example.com", "expected https://HOST"),
        ("https://user@idp.example.com", "user information"),
        ("https://user:secret@idp.example.com", "user information"),
        ("https://idp.example.com?tenant=a", "query"),
        ("https://idp.example.com/?", "query"),
        ("https://idp.example.com#here", "fragment"),
        ("https://idp.example.com#", "fragment"),
        ("https://idp.example.com\\@evil.example", "backslash"),
        ("https://idp.example.com ", "visible ASCII"),
        ("https://idp.exämple.com", "visible ASCII"),
        ("https://idp.example.com:port", "not a URL"),
        ("https://[::1", "not a URL"),
        ("", "visible ASCII"),
    ],
)
def test_unsafe_issuers_are_refused(issuer: str, says: str) -> None:
    message = refused("issuer", issuer=issuer)
    assert says in message
    assert "secret" not in message


@pytest.mark.spec("OAU-01", "OAU-29")
@pytest.mark.parametrize("response_type", ["token", "id_token token", "code id_token", "code"])
def test_other_flows_cannot_be_configured(response_type: str) -> None:
    message = refused("authorization_params", authorization_params={"response_type": response_type})
    assert "only the authorization code flow" in message


@pytest.mark.spec("OAU-29")
@pytest.mark.parametrize("name", sorted(PROTECTED_AUTHORIZATION_PARAMS))
def test_protected_authorization_params_name_the_setting_to_use(name: str) -> None:
    message = refused("authorization_params", authorization_params={"audience": "https://orders", name: "x"})
    assert repr(name) in message
    assert PROTECTED_AUTHORIZATION_PARAMS[name] in message


def test_protected_authorization_params_cover_the_protocol() -> None:
    assert PROTECTED_AUTHORIZATION_PARAMS.keys() >= {
        *("client_id", "redirect_uri", "scope", "resource", "state", "nonce", "claims", "request", "request_uri"),
        *("response_type", "response_mode", "code_challenge", "code_challenge_method"),
        *("client_secret", "client_assertion", "client_assertion_type"),
    }


@pytest.mark.spec("OAU-02")
@pytest.mark.parametrize("name", sorted(PROTECTED_TOKEN_PARAMS))
def test_protected_token_params_name_the_setting_to_use(name: str) -> None:
    message = refused("token_params", token_params={name: "x"})
    assert repr(name) in message
    assert PROTECTED_TOKEN_PARAMS[name] in message


def test_protected_token_params_cover_the_protocol() -> None:
    assert PROTECTED_TOKEN_PARAMS.keys() >= {
        *("grant_type", "code", "code_verifier", "redirect_uri", "refresh_token", "scope", "resource"),
        *("subject_token", "subject_token_type", "actor_token", "actor_token_type", "username", "password"),
        *("client_id", "client_secret", "client_assertion", "client_assertion_type"),
    }


def test_parameters_of_real_providers_are_accepted() -> None:
    made = client(
        authorization_params={"audience": "https://orders", "access_type": "offline", "prompt": "consent"},
        token_params={"audience": "https://orders"},
    )
    assert made.authorization_params["access_type"] == "offline"


@pytest.mark.parametrize("name", ["authorization_params", "token_params", "endpoints", "logout_parameter_names"])
def test_tables_hold_strings_and_cannot_be_changed_afterwards(name: str) -> None:
    assert "in quotes" in refused(name, **{name: {"token_endpoint": 1}})
    given_table = {"state": "state"} if name == "logout_parameter_names" else {}
    table: Mapping[str, str] = getattr(client(**{name: given_table}), name)
    given_table["client_id"] = "slipped in"
    assert "client_id" not in table
    with pytest.raises(TypeError):
        table["client_id"] = "slipped in"  # type: ignore[index]


def test_max_age_is_seconds() -> None:
    assert client(authorization_params={"max_age": "300"}).authorization_params["max_age"] == "300"
    for max_age in ("5m", "-1", "", "١٢"):
        assert "whole number of seconds" in refused("authorization_params", authorization_params={"max_age": max_age})


@pytest.mark.spec("MET-02")
def test_endpoints_are_known_and_safe() -> None:
    made = client(endpoints={"end_session_endpoint": "https://idp.example.com/logout?tenant=a"})
    assert made.endpoints["end_session_endpoint"].endswith("?tenant=a")
    assert "unknown endpoint 'logout'" in refused("endpoints", endpoints={"logout": "https://idp.example.com"})
    assert "must be https" in refused("endpoints.token_endpoint", endpoints={"token_endpoint": "http://idp.example/t"})


def test_logout_parameter_names_are_known() -> None:
    assert "'redirect'" in refused("logout_parameter_names", logout_parameter_names={"redirect": "returnTo"})


@pytest.mark.spec("OAU-03")
def test_a_client_without_credentials_is_refused_unless_it_says_none() -> None:
    message = refused("client_auth", client_secret=None)
    assert "client_secret" in message
    assert "PrivateKeyJWT" in message
    assert client(client_secret=None, client_auth="none").client_auth == "none"


@pytest.mark.parametrize("client_auth", ["client_secret_basic", "client_secret_post"])
def test_secret_methods_need_a_secret(client_auth: str) -> None:
    assert "needs it" in refused("client_secret", client_secret=None, client_auth=client_auth)


@pytest.mark.spec("CLA-02")
@pytest.mark.parametrize("client_auth", ["none", "private_key_jwt", PrivateKeyJWT(generate_private_key("EdDSA"))])
def test_a_secret_that_would_never_be_used_is_refused(client_auth: object) -> None:
    assert "never be used" in refused("client_secret", client_auth=client_auth)


def test_unknown_client_auth_is_refused() -> None:
    assert "expected one of client_secret_basic" in refused("client_auth", client_auth="client_secret_jwt")


@pytest.mark.parametrize("secret", ["", " ", "secret\n", "\tsecret"])
def test_a_secret_with_white_space_around_it_is_refused_without_being_shown(secret: str) -> None:
    message = refused("client_secret", client_secret=secret)
    assert "white space" in message
    assert not secret.strip() or f"'{secret.strip()}" not in message


def test_client_id_is_text() -> None:
    for client_id in ("", "shop\n", "sh\x00op"):
        assert "identifier" in refused("client_id", client_id=client_id)


def test_raw_encoding_cannot_carry_a_colon_in_the_client_id() -> None:
    assert "colon" in refused("basic_encoding", client_id="urn:shop", basic_encoding="raw")
    assert client(client_id="urn:shop").basic_encoding == "form"
    assert "'form' or 'raw'" in refused("basic_encoding", basic_encoding="base64")


@pytest.mark.parametrize("scope", ["", "openid", "openid profile api://orders/read", "https://example.com/a.b"])
def test_scope_is_one_string(scope: str) -> None:
    assert client(scope=scope).scope == scope


@pytest.mark.parametrize("scope", [" openid", "openid ", "openid  profile", 'open"id', "openid\tprofile", "é", "a\\b"])
def test_malformed_scope_is_refused(scope: str) -> None:
    assert "single spaces" in refused("scope", scope=scope)


def test_resource_is_a_list_of_absolute_uris() -> None:
    assert client(resource=["https://orders.example.com", "urn:billing"]).resource == (
        "https://orders.example.com",
        "urn:billing",
    )
    assert "list of strings" in refused("resource", resource="https://orders.example.com")
    for uri in ("orders", "/orders", "https://orders.example.com#a", "https:", "1a:b", "urn:a b"):
        assert "absolute URI" in refused("resource", resource=(uri,))


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "ES256K", ""])
def test_algorithms_that_prove_nothing_are_refused(alg: str) -> None:
    assert "cannot be accepted" in refused("id_token_signed_response_alg", id_token_signed_response_alg=("RS256", alg))


@pytest.mark.spec("OAU-13")
def test_what_to_do_with_an_iss_that_was_not_announced_is_a_setting() -> None:
    assert CLIENT.unadvertised_iss == "compare"
    assert client(unadvertised_iss="refuse").unadvertised_iss == "refuse"
    assert "'compare' or 'refuse'" in refused("unadvertised_iss", unadvertised_iss="ignore")


@pytest.mark.spec("BCL-05")
def test_logout_tokens_without_exp_are_a_setting() -> None:
    assert CLIENT.logout_token_without_exp is False
    assert client(logout_token_without_exp=True).logout_token_without_exp is True


def test_algorithms_are_a_list() -> None:
    assert "at least one" in refused("id_token_signed_response_alg", id_token_signed_response_alg=())
    assert "list of strings" in refused("id_token_signed_response_alg", id_token_signed_response_alg="RS256")


@pytest.mark.spec("OAU-32")
def test_repr_shows_no_secret() -> None:
    pem = generate_private_key("ES256")
    shown = repr(client(client_secret="s3cr3t", token_params={"api_key": "k3y"})) + repr(
        client(client_secret=None, client_auth=PrivateKeyJWT(pem))
    )
    assert "s3cr3t" not in shown
    assert "k3y" not in shown
    assert "PRIVATE KEY" not in shown


def test_clients_are_values() -> None:
    assert replace(CLIENT) == CLIENT
    assert hash(replace(CLIENT)) == hash(CLIENT)
    assert replace(CLIENT, scope="openid") != CLIENT
    with pytest.raises(ConfigurationError):
        replace(CLIENT, issuer="http://idp.example.com")


@given(st.text())
def test_any_text_as_issuer_is_accepted_or_refused_with_the_path(issuer: str) -> None:
    try:
        made = client(issuer=issuer)
    except ConfigurationError as error:
        assert error.path == "issuer"
    else:
        assert made.issuer.startswith(("https://", "http://"))
