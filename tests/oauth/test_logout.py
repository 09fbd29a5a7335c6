"""Ending it at the authorization server."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from coatcheck.errors import InvalidTokenResponse, OAuthError, TransportError
from coatcheck.oauth import Client, Metadata, end_session_url, parse_revocation_response, revocation_request
from coatcheck.oauth.logout import MAX_ID_TOKEN_HINT
from tests.oauth.samples import CLIENT, ISSUER, METADATA, NOW, answer, form_of, query_of

LOGGED_OUT = "https://app.example.com/bff/logged-out"


def url_of(
    client: Client = CLIENT,
    metadata: Metadata = METADATA,
    *,
    id_token_hint: str | None = "h.p.s",
    logout_hint: str | None = None,
) -> str:
    url = end_session_url(
        client,
        metadata,
        id_token_hint=id_token_hint,
        post_logout_redirect_uri=LOGGED_OUT,
        state="st&te",
        logout_hint=logout_hint,
    )
    assert url is not None
    return url


def test_end_session_url_says_who_asks_who_leaves_and_where_to_go() -> None:
    assert url_of().startswith(f"{ISSUER}/logout?")
    assert query_of(url_of()) == [
        ("client_id", "shop"),
        ("id_token_hint", "h.p.s"),
        ("post_logout_redirect_uri", LOGGED_OUT),
        ("state", "st&te"),
    ]


def test_a_server_without_end_session_endpoint_has_no_url() -> None:
    assert (
        end_session_url(
            CLIENT,
            replace(METADATA, end_session_endpoint=None),
            id_token_hint="h.p.s",
            post_logout_redirect_uri=LOGGED_OUT,
            state=None,
        )
        is None
    )


def test_id_token_that_is_too_long_for_a_url_is_replaced_by_the_hint() -> None:
    longest, too_long = "x" * MAX_ID_TOKEN_HINT, "x" * (MAX_ID_TOKEN_HINT + 1)
    assert dict(query_of(url_of(id_token_hint=longest, logout_hint="ada"))).keys() >= {"id_token_hint"}
    query = dict(query_of(url_of(id_token_hint=too_long, logout_hint="ada")))
    assert "id_token_hint" not in query
    assert (query["client_id"], query["logout_hint"]) == ("shop", "ada")
    assert len(url_of(id_token_hint=longest)) < 4096


def test_the_hint_names_the_user_only_where_no_id_token_does() -> None:
    assert "logout_hint" not in dict(query_of(url_of(logout_hint="ada")))
    assert dict(query_of(url_of(id_token_hint=None, logout_hint="ada")))["logout_hint"] == "ada"


def test_names_of_the_servers_own_replace_the_standard_ones_and_drop_the_rest() -> None:
    client = replace(
        CLIENT,
        endpoints={"end_session_endpoint": "https://shop.example.com/v2/logout?federated"},
        logout_parameter_names={"client_id": "client_id", "post_logout_redirect_uri": "returnTo"},
    )
    metadata = replace(METADATA, end_session_endpoint=client.endpoints["end_session_endpoint"])
    url = url_of(client, metadata)
    assert url.startswith("https://shop.example.com/v2/logout?federated&")
    assert url.partition("?federated&")[2] == "client_id=shop&returnTo=https%3A%2F%2Fapp.example.com%2Fbff%2Flogged-out"


@pytest.mark.parametrize("hint", ["access_token", "refresh_token"])
def test_revocation_names_the_token_and_its_kind(hint: Literal["access_token", "refresh_token"]) -> None:
    request = revocation_request(CLIENT, METADATA, "rt&1", token_type_hint=hint, now=NOW)
    assert request is not None
    assert (request.method, request.url) == ("POST", f"{ISSUER}/revoke")
    assert form_of(request) == [("token", "rt&1"), ("token_type_hint", hint)]
    assert request.headers["authorization"].startswith("Basic ")
    assert "rt&1" not in repr(request)


def test_a_server_without_revocation_endpoint_gets_no_request() -> None:
    metadata = replace(METADATA, revocation_endpoint=None)
    assert revocation_request(CLIENT, metadata, "rt", token_type_hint="refresh_token", now=NOW) is None


def test_revoked_and_already_invalid_are_both_success() -> None:
    parse_revocation_response(answer(b"", 200))
    parse_revocation_response(answer({}, 200))
    parse_revocation_response(answer(b"", 204))
    parse_revocation_response(answer({"error": "invalid_token", "error_description": "Token expired"}, 400))


def test_refused_revocations_say_why() -> None:
    for code in ("unsupported_token_type", "invalid_client", "invalid_request"):
        with pytest.raises(OAuthError) as caught:
            parse_revocation_response(answer({"error": code}, 400))
        assert caught.value.error == code


def test_unavailable_revocation_can_be_tried_again() -> None:
    for status in (429, 503):
        with pytest.raises(TransportError):
            parse_revocation_response(answer({"error": "invalid_token"}, status))


@pytest.mark.spec("MET-05")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirected_revocation_is_an_error(status: int) -> None:
    with pytest.raises(InvalidTokenResponse, match="redirect"):
        parse_revocation_response(answer(b"", status, {"location": "https://evil.example"}))
