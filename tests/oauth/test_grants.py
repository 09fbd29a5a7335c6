"""One form for each grant, and whose parameters win in the request that carries it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from inspect import isfunction, signature
from pathlib import Path

import pytest

import coatcheck.oauth
from coatcheck.errors import ConfigurationError
from coatcheck.oauth import (
    ACCESS_TOKEN_TYPE,
    Form,
    authorization_code_form,
    client_credentials_form,
    read_authorization_response,
    refresh_form,
    token_exchange_form,
    token_request,
)
from coatcheck.oauth.client import PROTECTED_TOKEN_PARAMS
from tests.oauth.samples import CLIENT, ISSUER, METADATA, NOW, REDIRECT_URI, form_of, transaction

POST = replace(CLIENT, client_auth="client_secret_post")


def sent(form: Form, extra: Form = ()) -> list[tuple[str, str]]:
    return form_of(token_request(CLIENT, METADATA, form, now=NOW, extra=extra))


def test_authorization_code() -> None:
    begun = transaction()
    code = read_authorization_response([("code", "a b&c"), ("state", begun.state)], begun, METADATA)
    form = authorization_code_form(code, redirect_uri=begun.redirect_uri, code_verifier=begun.code_verifier)
    assert sent(form) == [
        ("grant_type", "authorization_code"),
        ("code", "a b&c"),
        ("redirect_uri", REDIRECT_URI),
        ("code_verifier", begun.code_verifier),
    ]


@pytest.mark.spec("OAU-30")
def test_refresh() -> None:
    assert sent(refresh_form("rt")) == [("grant_type", "refresh_token"), ("refresh_token", "rt")]
    assert sent(refresh_form("rt", scope="a b", resource=["https://a.example", "https://b.example"])) == [
        ("grant_type", "refresh_token"),
        ("refresh_token", "rt"),
        ("scope", "a b"),
        ("resource", "https://a.example"),
        ("resource", "https://b.example"),
    ]


def test_client_credentials() -> None:
    assert sent(client_credentials_form()) == [("grant_type", "client_credentials")]
    assert sent(client_credentials_form(scope="a", resource=["urn:orders"])) == [
        ("grant_type", "client_credentials"),
        ("scope", "a"),
        ("resource", "urn:orders"),
    ]


def test_token_exchange_for_impersonation() -> None:
    assert sent(token_exchange_form("at", audience="https://billing.internal", scope="billing.read")) == [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", "at"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", "https://billing.internal"),
        ("scope", "billing.read"),
    ]


def test_token_exchange_for_delegation() -> None:
    form = dict(
        sent(
            token_exchange_form(
                "at",
                subject_token_type="urn:ietf:params:oauth:token-type:jwt",
                actor_token="actor",
                requested_token_type=ACCESS_TOKEN_TYPE,
                resource=["https://billing.internal"],
            )
        )
    )
    assert form["subject_token_type"] == "urn:ietf:params:oauth:token-type:jwt"
    assert (form["actor_token"], form["actor_token_type"]) == ("actor", ACCESS_TOKEN_TYPE)
    assert form["requested_token_type"] == ACCESS_TOKEN_TYPE
    assert form["resource"] == "https://billing.internal"


def test_actor_token_type_never_stands_alone() -> None:
    """RFC 8693 2.1: actor_token_type "MUST NOT be included otherwise"."""
    assert "actor_token_type" not in dict(token_exchange_form("at", actor_token_type=ACCESS_TOKEN_TYPE))
    form = dict(token_exchange_form("at", actor_token="a", actor_token_type="urn:example:type"))
    assert form["actor_token_type"] == "urn:example:type"


@pytest.mark.parametrize("make", [refresh_form, token_exchange_form])
def test_malformed_scope_and_resource_are_refused(make: Callable[..., Form]) -> None:
    with pytest.raises(ConfigurationError, match="single spaces"):
        make("token", scope="a  b")
    with pytest.raises(ConfigurationError, match="absolute URI"):
        make("token", resource=["orders"])


def test_request_is_a_form_to_the_token_endpoint_that_asks_for_json() -> None:
    request = token_request(CLIENT, METADATA, refresh_form("rt"), now=NOW)
    assert (request.method, request.url) == ("POST", f"{ISSUER}/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["accept"] == "application/json"


@pytest.mark.spec("OAU-32")
def test_repr_of_a_request_shows_no_secret() -> None:
    for client in (CLIENT, POST):
        shown = repr(token_request(client, METADATA, refresh_form("s3cr3t-rt"), now=NOW))
        assert "s3cr3t" not in shown
        assert "correct" not in shown
        assert "Basic" not in shown


def test_the_grants_own_parameters_win_over_extra_and_those_over_token_params() -> None:
    client = replace(CLIENT, token_params={"audience": "configured", "tenant": "configured", "region": "eu"})
    form = token_exchange_form("at", audience="asked")
    request = token_request(client, METADATA, form, now=NOW, extra=[("audience", "extra"), ("tenant", "extra")])
    values = form_of(request)
    assert len({name for name, _ in values}) == len(values)
    assert dict(values).items() >= {"audience": "asked", "tenant": "extra", "region": "eu"}.items()


def test_extra_may_repeat_a_name() -> None:
    extra = [("audience", "a"), ("audience", "b")]
    assert [pair for pair in sent(client_credentials_form(), extra=extra) if pair[0] == "audience"] == extra


@pytest.mark.spec("OAU-02")
@pytest.mark.parametrize("name", sorted(PROTECTED_TOKEN_PARAMS))
def test_extra_cannot_set_what_a_grant_sets(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sent(refresh_form("rt"), extra=[(name, "x")])
    assert caught.value.path == "form_parameters"


@pytest.mark.spec("OAU-02")
def test_no_password_grant_anywhere() -> None:
    source = "".join(path.read_text() for path in Path(coatcheck.oauth.__file__).parent.parent.rglob("*.py"))
    built = set(re.findall(r'"grant_type", ("\w+"|\w+)\)', source))
    assert built == {'"authorization_code"', '"refresh_token"', '"client_credentials"', "TOKEN_EXCHANGE"}
    functions = [value for name in coatcheck.oauth.__all__ if isfunction(value := getattr(coatcheck.oauth, name))]
    assert not {name for each in functions for name in signature(each).parameters} & {"username", "password"}
