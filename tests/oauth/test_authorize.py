"""The front channel: what a browser is sent away with, and which answers are believed when it comes back."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import ConfigurationError, InvalidAuthorizationResponse, InvalidMetadata, OAuthError
from coatcheck.oauth import (
    AuthorizationTransaction,
    Metadata,
    authorization_code_form,
    authorization_url,
    new_transaction,
    read_authorization_response,
    token_request,
)
from coatcheck.oauth.authorize import AUTHORIZATION_ERRORS, UNKNOWN_ERROR, ResponseMode
from tests.oauth.samples import CLIENT, ISSUER, METADATA, NOW, REDIRECT_URI, form_of, query_of, transaction

ANNOUNCES_ISS = replace(METADATA, authorization_response_iss_parameter_supported=True)
UNRESERVED = re.compile(r"[A-Za-z0-9._~-]{43,128}")

Query = Sequence[tuple[str, str]]


def url_of(**more: Any) -> dict[str, str]:
    """Build the URL of a fresh login and return its parameters, each of which must stand there once."""
    begun = more.pop("transaction", None) or transaction(more.get("client", CLIENT))
    query = query_of(authorization_url(more.pop("client", CLIENT), more.pop("metadata", METADATA), begun, **more))
    assert len({name for name, _ in query}) == len(query)
    return dict(query)


def refused(query: Query, begun: AuthorizationTransaction, metadata: Metadata = METADATA, **more: Any) -> str:
    with pytest.raises(InvalidAuthorizationResponse) as caught:
        read_authorization_response(query, begun, metadata, **more)
    return str(caught.value)


def refusal(query: Query, begun: AuthorizationTransaction, metadata: Metadata = METADATA) -> OAuthError:
    with pytest.raises(OAuthError) as caught:
        read_authorization_response(query, begun, metadata)
    return caught.value


# The request


@pytest.mark.spec("OAU-01")
def test_authorization_request_asks_for_a_code_and_nothing_else() -> None:
    begun = transaction()
    url = authorization_url(CLIENT, METADATA, begun)
    assert url.startswith(f"{ISSUER}/authorize?")
    assert dict(query_of(url)) == {
        "response_type": "code",
        "client_id": "shop",
        "redirect_uri": REDIRECT_URI,
        "scope": "openid profile offline_access",
        "state": begun.state,
        "nonce": begun.nonce,
        "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(begun.code_verifier.encode()).digest())
        .rstrip(b"=")
        .decode(),
        "code_challenge_method": "S256",
    }
    assert begun.code_verifier not in url


@pytest.mark.spec("OAU-04")
def test_pkce_verifier_is_fresh_long_enough_and_unreserved() -> None:
    verifiers = {transaction().code_verifier for _ in range(100)}
    assert len(verifiers) == 100
    assert all(UNRESERVED.fullmatch(verifier) for verifier in verifiers)
    assert len({url_of()["code_challenge"] for _ in range(10)}) == 10


@pytest.mark.spec("OAU-04", "OAU-06", "OAU-07")
def test_state_nonce_and_verifier_are_256_bits_each_from_one_source() -> None:
    asked: list[int] = []

    def source(count: int) -> bytes:
        asked.append(count)
        return bytes([len(asked)]) * count

    begun = transaction(token_bytes=source)
    assert asked == [32, 32, 32]
    assert len({begun.state, begun.nonce, begun.code_verifier}) == 3


@pytest.mark.spec("OAU-04")
def test_the_source_of_randomness_is_the_system_one() -> None:
    assert signature(new_transaction).parameters["token_bytes"].default is secrets.token_bytes


@pytest.mark.spec("OAU-07")
def test_nonce_and_pkce_are_both_sent_and_both_the_transactions_own() -> None:
    first, second = transaction(), transaction()
    assert first.nonce != second.nonce
    assert url_of(transaction=first)["nonce"] == first.nonce
    assert url_of(transaction=first)["code_challenge"] != url_of(transaction=second)["code_challenge"]


@pytest.mark.spec("OAU-05")
@pytest.mark.parametrize("methods", [None, ("S256",), ("plain", "S256")])
def test_s256_is_sent_whether_or_not_metadata_mentions_it(methods: tuple[str, ...] | None) -> None:
    parameters = url_of(metadata=replace(METADATA, code_challenge_methods_supported=methods))
    assert parameters["code_challenge_method"] == "S256"


@pytest.mark.spec("OAU-05")
@pytest.mark.parametrize("methods", [("plain",), (), ("s256",), ("S512",)])
def test_pkce_downgrade_methods_without_s256_are_refused(methods: tuple[str, ...]) -> None:
    with pytest.raises(InvalidMetadata, match="S256"):
        url_of(metadata=replace(METADATA, code_challenge_methods_supported=methods))


@pytest.mark.spec("OAU-18")
def test_redirect_uri_is_the_same_in_both_requests() -> None:
    begun = transaction(redirect_uri="https://app.example.com/shop/bff/callback?tenant=a%20b&x=1")
    form = authorization_code_form("code", redirect_uri=begun.redirect_uri, code_verifier=begun.code_verifier)
    sent = dict(form_of(token_request(CLIENT, METADATA, form, now=NOW)))
    assert url_of(transaction=begun)["redirect_uri"] == sent["redirect_uri"] == begun.redirect_uri


@pytest.mark.spec("OAU-19")
@pytest.mark.parametrize(
    "redirect_uri",
    [
        "http://app.example.com/bff/callback",
        "/bff/callback",
        "app.example.com/bff/callback",
        "https://app.example.com/bff/callback#here",
        "https://user@app.example.com/bff/callback",
        "myapp://callback",
        "",
    ],
)
def test_unsafe_redirect_uris_are_refused(redirect_uri: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        transaction(redirect_uri=redirect_uri)
    assert caught.value.path == "public_url"


@pytest.mark.spec("OAU-19")
@pytest.mark.parametrize("origin", ["https://app.example.com", "http://localhost:8000", "http://127.0.0.1:8000"])
def test_https_and_loopback_redirect_uris_are_accepted(origin: str) -> None:
    assert transaction(redirect_uri=f"{origin}/bff/callback").redirect_uri == f"{origin}/bff/callback"


@pytest.mark.spec("OAU-30")
def test_scope_resource_and_configured_parameters_are_sent() -> None:
    client = replace(
        CLIENT,
        scope="openid orders.read",
        resource=("https://orders.example.com", "https://billing.example.com"),
        authorization_params={"audience": "https://orders", "access_type": "offline", "prompt": "consent"},
    )
    query = query_of(authorization_url(client, METADATA, transaction(client)))
    assert ("scope", "openid orders.read") in query
    assert ("audience", "https://orders") in query
    assert ("access_type", "offline") in query
    assert ("prompt", "consent") in query
    assert [value for name, value in query if name == "resource"] == list(client.resource)


def test_what_this_login_asks_goes_before_what_is_configured() -> None:
    client = replace(CLIENT, authorization_params={"prompt": "consent", "ui_locales": "de"})
    parameters = url_of(client=client, prompt="login", login_hint="ada@example.com")
    assert parameters["prompt"] == "login"
    assert parameters["login_hint"] == "ada@example.com"
    assert parameters["ui_locales"] == "de"
    assert url_of(client=client)["prompt"] == "consent"


@pytest.mark.spec("OAU-29")
@pytest.mark.parametrize("name", ["prompt", "login_hint", "ui_locales"])
@pytest.mark.parametrize(
    "value",
    [
        "x&scope=admin",
        "x&redirect_uri=https://evil.example",
        "x#&state=y",
        quote("x&client_id=evil", safe=""),
        "x\r\nset-cookie: a=b",
        "x;nonce=1",
        "x?request_uri=https://evil.example",
    ],
)
def test_parameter_injection_a_browsers_value_stays_one_value(name: str, value: str) -> None:
    begun = transaction()
    plain, injected = url_of(transaction=begun), url_of(transaction=begun, **{name: value})
    assert injected == {**plain, name: value}


@pytest.mark.spec("OAU-29")
def test_a_browser_has_no_way_to_name_other_parameters() -> None:
    accepted = signature(authorization_url).parameters.keys() - {"client", "metadata", "transaction"}
    assert accepted == {"prompt", "login_hint", "ui_locales"}


def test_max_age_is_kept_in_the_transaction_and_sent() -> None:
    """OpenID Connect Core 3.1.2.1: whoever asks for max_age must check auth_time, so the login has to remember it."""
    assert url_of(transaction=transaction(max_age=0))["max_age"] == "0"
    configured = replace(CLIENT, authorization_params={"max_age": "300"})
    assert transaction(configured).max_age == 300
    assert transaction(configured, max_age=60).max_age == 60
    assert url_of(client=configured, transaction=transaction(configured, max_age=60))["max_age"] == "60"
    assert transaction().max_age is None


def test_acr_values_of_a_login_go_before_those_of_the_client() -> None:
    configured = replace(CLIENT, authorization_params={"acr_values": "usual"})
    assert url_of(client=configured)["acr_values"] == "usual"
    assert transaction(configured).acr_values is None  # a wish of the settings is not checked when the answer comes
    begun = transaction(configured, acr_values="phr phrh")
    assert url_of(client=configured, transaction=begun)["acr_values"] == "phr phrh"


def test_form_post_is_asked_for_by_name() -> None:
    assert url_of(transaction=transaction(response_mode="form_post"))["response_mode"] == "form_post"
    assert "response_mode" not in url_of()


@pytest.mark.spec("OAU-16")
@pytest.mark.parametrize("wanted", ["query", "form_post"])
@pytest.mark.parametrize("came", ["query", "form_post"])
def test_the_answer_comes_as_it_was_asked_for_and_in_no_other_way(wanted: ResponseMode, came: ResponseMode) -> None:
    begun = transaction(response_mode=wanted)
    answer = [("code", "c0de"), ("state", begun.state), ("iss", METADATA.issuer)]
    if wanted == came:
        assert read_authorization_response(answer, begun, METADATA, arrived_by=came).code == "c0de"
    else:
        with pytest.raises(InvalidAuthorizationResponse, match="response_mode"):
            read_authorization_response(answer, begun, METADATA, arrived_by=came)


def test_a_query_of_the_endpoint_is_retained() -> None:
    """RFC 6749 3.1: "The endpoint URI MAY include [...] query component, which MUST be retained"."""
    metadata = replace(METADATA, authorization_endpoint="https://login.example.net/authorize?policy=a")
    url = authorization_url(CLIENT, metadata, transaction())
    assert url.startswith("https://login.example.net/authorize?policy=a&response_type=code&")
    assert urlsplit(url).fragment == ""


@pytest.mark.spec("OAU-15")
@pytest.mark.parametrize(
    "preset", ["client_id=evil", "redirect_uri=", "scope=admin", "request_uri=https://evil.example"]
)
def test_an_endpoint_that_presets_our_parameters_is_refused(preset: str) -> None:
    with pytest.raises(InvalidMetadata, match="presets"):
        url_of(metadata=replace(METADATA, authorization_endpoint=f"{ISSUER}/authorize?{preset}"))


def test_a_server_without_authorization_endpoint_serves_no_logins() -> None:
    with pytest.raises(InvalidMetadata, match="authorization_endpoint"):
        url_of(metadata=replace(METADATA, authorization_endpoint=None))


@pytest.mark.spec("OAU-10")
def test_mix_up_client_metadata_and_transaction_belong_together() -> None:
    other = replace(CLIENT, issuer="https://other.example.com")
    for client, metadata, begun in (
        (other, METADATA, transaction()),
        (CLIENT, replace(METADATA, issuer=other.issuer), transaction()),
        (CLIENT, METADATA, transaction(other)),
        (replace(CLIENT, client_id="another"), METADATA, transaction()),
    ):
        with pytest.raises(ConfigurationError, match="the login began"):
            authorization_url(client, metadata, begun)


def test_a_transaction_remembers_what_the_answer_will_need() -> None:
    begun = transaction(replace(CLIENT, scope="openid"), return_url="/orders?page=2", ticket_hash="h", scope="openid a")
    assert (begun.issuer, begun.client, begun.client_id) == (ISSUER, "default", "shop")
    assert (begun.created_at, begun.return_url, begun.ticket_hash) == (NOW, "/orders?page=2", "h")
    assert begun.scope == "openid a"
    with pytest.raises(ConfigurationError):
        transaction(scope="a  b")


@pytest.mark.spec("OAU-32")
def test_repr_of_a_transaction_shows_no_secret() -> None:
    begun = transaction()
    code = read_authorization_response([("code", "c0de"), ("state", begun.state)], begun, METADATA)
    for secret in (begun.state, begun.nonce, begun.code_verifier, "c0de"):
        assert secret not in repr(begun) + repr(code)


# The answer


def test_a_good_answer_yields_the_code() -> None:
    begun = transaction()
    query = [("code", "SplxlOBeZQQYbYS6WxSbIA"), ("state", begun.state), ("session_state", "from-keycloak")]
    assert read_authorization_response(query, begun, METADATA).code == "SplxlOBeZQQYbYS6WxSbIA"


@pytest.mark.spec("OAU-06", "OAU-09")
def test_login_csrf_state_of_another_browsers_login_is_refused() -> None:
    mine, theirs = transaction(), transaction()
    message = refused([("code", "c"), ("state", theirs.state)], mine)
    assert "another login" in message
    assert theirs.state not in message


@pytest.mark.spec("OAU-06")
@pytest.mark.parametrize(
    "state",
    [None, "", "x", "\ud800", "ü", lambda s: s[:-1], lambda s: s + "A", lambda s: s.swapcase(), lambda s: s + "="],
)
def test_missing_and_altered_state_is_refused(state: Any) -> None:
    begun = transaction()
    sent = state(begun.state) if callable(state) else state
    assert "state" in refused([("code", "c"), *([] if sent is None else [("state", sent)])], begun)


@pytest.mark.spec("OAU-15")
@pytest.mark.parametrize("name", ["code", "state", "iss", "error", "error_description", "response", "session_state"])
def test_duplicated_parameters_are_refused_whatever_their_order(name: str) -> None:
    begun = transaction()
    good = {"code": "c", "state": begun.state, "iss": ISSUER}
    for values in ((good.get(name, "x"), "evil"), ("evil", good.get(name, "x")), (good.get(name, "x"),) * 2):
        query = [pair for pair in good.items() if pair[0] != name] + [(name, value) for value in values]
        assert "2 times" in refused(query, begun)


@pytest.mark.spec("OAU-11")
@pytest.mark.parametrize("metadata", [METADATA, ANNOUNCES_ISS])
@pytest.mark.parametrize(
    "iss",
    [
        "https://evil.example",
        f"{ISSUER}/",
        "https://IDP.example.com",
        "https://idp.example.com:443",
        "https%3A%2F%2Fidp.example.com",
        "http://idp.example.com",
        "",
    ],
)
@pytest.mark.parametrize("answer", [("code", "c"), ("error", "access_denied")])
def test_mix_up_an_iss_that_is_not_the_issuer_is_refused(metadata: Metadata, iss: str, answer: tuple[str, str]) -> None:
    begun = transaction()
    assert "RFC 9207" in refused([answer, ("state", begun.state), ("iss", iss)], begun, metadata)


@pytest.mark.spec("OAU-12")
@pytest.mark.parametrize("answer", [("code", "c"), ("error", "access_denied")])
def test_mix_up_a_stripped_iss_is_refused_where_it_is_announced(answer: tuple[str, str]) -> None:
    begun = transaction()
    assert "no iss" in refused([answer, ("state", begun.state)], begun, ANNOUNCES_ISS)


@pytest.mark.spec("OAU-11", "OAU-12", "OAU-13")
@pytest.mark.parametrize("metadata", [METADATA, ANNOUNCES_ISS])
def test_the_right_iss_is_accepted_announced_or_not(metadata: Metadata) -> None:
    begun = transaction()
    query = [("code", "c"), ("state", begun.state), ("iss", ISSUER)]
    assert read_authorization_response(query, begun, metadata).code == "c"


@pytest.mark.spec("OAU-13")
def test_policy_can_discard_an_iss_that_was_not_announced() -> None:
    begun = transaction()
    query = [("code", "c"), ("state", begun.state), ("iss", ISSUER)]
    assert "does not announce" in refused(query, begun, unadvertised_iss="refuse")
    assert read_authorization_response(query, begun, ANNOUNCES_ISS, unadvertised_iss="refuse").code == "c"
    assert read_authorization_response(query[:2], begun, METADATA, unadvertised_iss="refuse").code == "c"


@pytest.mark.spec("OAU-10")
def test_mix_up_an_answer_is_only_read_for_the_issuer_where_the_login_began() -> None:
    begun = transaction()
    other = replace(METADATA, issuer="https://other.example.com")
    assert "began at" in refused([("code", "c"), ("state", begun.state)], begun, other)


@pytest.mark.spec("OAU-01")
@pytest.mark.parametrize("name", ["access_token", "id_token", "token_type", "refresh_token", "expires_in", "response"])
def test_tokens_in_the_front_channel_are_refused(name: str) -> None:
    begun = transaction()
    message = refused([("code", "c"), ("state", begun.state), (name, "s3cr3t")], begun)
    assert name in message
    assert "s3cr3t" not in message


@pytest.mark.parametrize("code", [None, "", "a\nb", "ü", "c" * 8193])
def test_an_answer_without_usable_code_is_refused(code: str | None) -> None:
    begun = transaction()
    assert "usable code" in refused([("state", begun.state), *([] if code is None else [("code", code)])], begun)


def test_code_and_error_together_are_refused() -> None:
    begun = transaction()
    assert "both" in refused([("code", "c"), ("error", "access_denied"), ("state", begun.state)], begun)


@pytest.mark.spec("OAU-17")
@pytest.mark.parametrize("error", sorted(AUTHORIZATION_ERRORS))
def test_registered_errors_keep_their_code(error: str) -> None:
    begun = transaction()
    caught = refusal([("error", error), ("error_description", "no"), ("state", begun.state)], begun)
    assert (caught.error, caught.error_description) == (error, "no")


@pytest.mark.spec("OAU-17")
@pytest.mark.parametrize("state", [None, "", "forged"])
def test_an_error_without_our_state_is_no_answer_of_the_server(state: str | None) -> None:
    begun = transaction()
    refused([("error", "access_denied"), *([] if state is None else [("state", state)])], begun)


@pytest.mark.spec("OAU-17")
@pytest.mark.parametrize(
    "error",
    [
        "<script>alert(1)</script>",
        "javascript:alert(1)",
        "access_denied\r\nset-cookie: a=b",
        "ACCESS_DENIED",
        "",
        "x" * 9000,
    ],
)
def test_reflected_error_unregistered_codes_become_one_fixed_code(error: str) -> None:
    begun = transaction()
    query = [("error", error), ("error_uri", "javascript:alert(1)"), ("state", begun.state)]
    caught = refusal(query, begun)
    assert caught.error == UNKNOWN_ERROR
    assert "javascript:alert(1)" not in (caught.error_description or "") or error.startswith("javascript")
    assert len(str(caught)) < 600
    assert str(caught).isprintable()


@pytest.mark.spec("OAU-17")
@given(st.text(), st.text())
def test_whatever_the_error_says_it_fits_one_log_line(error: str, description: str) -> None:
    begun = transaction()
    caught = refusal([("error", error), ("error_description", description), ("state", begun.state)], begun)
    assert caught.error in AUTHORIZATION_ERRORS | {UNKNOWN_ERROR}
    assert str(caught).isprintable()


@given(st.lists(st.tuples(st.sampled_from(["code", "state", "iss", "error", "x"]), st.text(max_size=10)), max_size=6))
def test_no_answer_is_believed_without_our_state(query: list[tuple[str, str]]) -> None:
    refused(query, transaction())


@pytest.mark.spec("OAU-17")
def test_the_errors_that_are_known_are_those_of_the_specifications() -> None:
    of_oauth = {
        "invalid_request",
        "unauthorized_client",
        "access_denied",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "invalid_target",
    }
    of_openid_connect = {
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
        "invalid_request_uri",
        "invalid_request_object",
        "request_not_supported",
        "request_uri_not_supported",
        "registration_not_supported",
        "unmet_authentication_requirements",
    }
    assert of_oauth | of_openid_connect == AUTHORIZATION_ERRORS
    assert UNKNOWN_ERROR == "unknown_error"


def test_a_code_has_a_greatest_length() -> None:
    begun = transaction()
    assert (
        len(read_authorization_response([("code", "c" * 8192), ("state", begun.state)], begun, METADATA).code) == 8192
    )
    refused([("code", "c" * 8193), ("state", begun.state)], begun)


def test_a_client_that_asks_for_no_scope_sends_none() -> None:
    begun = replace(transaction(), scope="")
    assert "scope" not in url_of(transaction=begun)
    assert "of-a-ticket" not in repr(replace(begun, ticket_hash="of-a-ticket"))
