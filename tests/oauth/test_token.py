"""What a token endpoint answered: believed when it is sound, and otherwise sorted by how to react."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import CoatcheckError, InvalidGrant, InvalidTokenResponse, OAuthError, TransportError
from coatcheck.oauth import Response, TokenSet, parse_token_exchange_response, parse_token_response, require_id_token
from coatcheck.oauth.client import Client
from tests.oauth.samples import CLIENT, NOW, answer

GOOD: dict[str, Any] = {"access_token": "at", "token_type": "Bearer", "expires_in": 300}
DAY = 24 * 3600.0


def parsed(**changes: Any) -> TokenSet:
    return parse_token_response(answer({**GOOD, **changes}), requested_at=NOW)


def failure(response: Response) -> CoatcheckError:
    with pytest.raises(CoatcheckError) as caught:
        parse_token_response(response, requested_at=NOW)
    return caught.value


def test_a_whole_answer() -> None:
    tokens = parsed(refresh_token="rt", id_token="h.p.s", scope="openid a", unknown={"deep": [1]})
    assert tokens == TokenSet(
        access_token="at",
        token_type="Bearer",
        requested_at=NOW,
        expires_at=NOW + 300,
        refresh_token="rt",
        id_token="h.p.s",
        scope="openid a",
    )


@pytest.mark.spec("OAU-32")
def test_repr_shows_no_token() -> None:
    shown = repr(parsed(access_token="s3cr3t-at", refresh_token="s3cr3t-rt", id_token="s3cr3t-it"))
    assert "s3cr3t" not in shown
    assert "Bearer" in shown


@pytest.mark.spec("OAU-21")
@pytest.mark.parametrize(
    ("stated", "meant"),
    [("Bearer", "Bearer"), ("bearer", "Bearer"), ("BEARER", "Bearer"), ("DPoP", "DPoP"), ("dpop", "DPoP")],
)
def test_token_types_are_compared_without_case(stated: str, meant: str) -> None:
    assert parsed(token_type=stated).token_type == meant


@pytest.mark.spec("OAU-21")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"true",
        b"[]",
        b'"at"',
        b"access_token=at&token_type=Bearer&expires_in=300",
        b"<html><body>Welcome</body></html>",
        b'{"access_token": "at", "token_type": "Bearer"',
        b'{"access_token": "at", "token_type": "Bearer"} trailing',
        b'{"access_token": "a", "access_token": "b", "token_type": "Bearer"}',
        b'{"access_token": "at", "token_type": "Bearer", "expires_in": NaN}',
        b'{"access_token": "at", "token_type": "Bearer", "expires_in": -Infinity}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"access_token": "at", "token_type": "Bearer", "pad": "' + b"x" * 1_000_000 + b'"}',
        *(
            json.dumps({name: value for name, value in {**GOOD, **change}.items() if value != "absent"}).encode()
            for change in (
                {"access_token": "absent"},
                {"access_token": None},
                {"access_token": ""},
                {"access_token": 42},
                {"access_token": ["at"]},
                {"access_token": {"value": "at"}},
                {"access_token": "a t"},
                {"access_token": "at\r\nX-Injected: 1"},
                {"access_token": "ät"},
                {"access_token": "at\x00"},
                {"token_type": "absent"},
                {"token_type": None},
                {"token_type": ""},
                {"token_type": "mac"},
                {"token_type": "N_A"},
                {"token_type": "pop"},
                {"token_type": "Bearer "},
                {"token_type": ["Bearer"]},
                {"token_type": 1},
                {"refresh_token": 42},
                {"refresh_token": ["rt"]},
                {"id_token": {"sub": "ada"}},
                {"scope": ["openid"]},
                {"issued_token_type": 1},
                {"error": "invalid_grant"},
                {"error": None},
            )
        ),
    ],
)
def test_malformed_successes_are_unusable(body: bytes) -> None:
    error = failure(answer(body))
    assert type(error) is InvalidTokenResponse
    assert "at\r" not in str(error)


@pytest.mark.spec("OAU-21")
@pytest.mark.parametrize("status", [201, 202, 203, 204, 206])
def test_other_successes_than_200_are_unusable(status: int) -> None:
    assert type(failure(answer(GOOD, status))) is InvalidTokenResponse


@pytest.mark.spec("REF-22", "MET-05")
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_redirects_are_an_error_whatever_they_carry(status: int) -> None:
    error = failure(answer(GOOD, status, {"location": "https://evil.example/token"}))
    assert type(error) is InvalidTokenResponse
    assert "redirect" in str(error)


@pytest.mark.spec("REF-06")
@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("name", ["refresh_token", "id_token"])
def test_null_and_empty_mean_that_none_was_issued(name: str, value: str | None) -> None:
    assert getattr(parsed(**{name: value}), name) is None


@pytest.mark.spec("REF-06")
def test_an_answer_without_refresh_token_says_none_so_that_the_old_one_is_kept() -> None:
    assert parsed().refresh_token is None


def test_scope_absent_and_scope_empty_are_different_grants() -> None:
    """RFC 6749 5.1: absent means as requested. An empty one is never treated as everything that was asked for."""
    assert parsed().scope is None
    assert parsed(scope=None).scope is None
    assert parsed(scope="").scope == ""


@pytest.mark.spec("REF-17")
@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (300, 300.0),
        ("300", 300.0),
        (300.5, 300.5),
        ("300.5", 300.5),
        (3e2, 300.0),
        ("3e2", 300.0),
        (1, 1.0),
        (DAY, DAY),
        # zero and negative: expired now
        (0, 0.0),
        ("0", 0.0),
        (-1, 0.0),
        ("-1", 0.0),
        (-0.0, 0.0),
        (-1e300, 0.0),
        # absurd: cut to a day
        (DAY + 1, DAY),
        (10**12, DAY),
        ("999999999999", DAY),
        (1e300, DAY),
        ("1e300", DAY),
        ("1e400", DAY),
        (10**400, DAY),
        ("9" * 500, DAY),
        # unreadable: expired now, never endless
        (True, 0.0),
        (False, 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("NaN", 0.0),
        ("inf", 0.0),
        ("Infinity", 0.0),
        ("1_000", 0.0),
        ("٣٠٠", 0.0),
        ("0x10", 0.0),
        ([], 0.0),
        ([300], 0.0),
        ({}, 0.0),
        ({"seconds": 300}, 0.0),
    ],
)
def test_lifetimes_are_counted_from_the_request_and_never_endless(expires_in: object, lifetime: float) -> None:
    assert parsed(expires_in=expires_in).expires_at == NOW + lifetime


@pytest.mark.spec("REF-17")
def test_an_overflowing_number_is_cut_too() -> None:
    body = b'{"access_token": "at", "token_type": "Bearer", "expires_in": 1e999}'
    assert parse_token_response(answer(body), requested_at=NOW).expires_at == NOW + DAY


@pytest.mark.spec("REF-17")
def test_no_lifetime_is_not_a_lifetime() -> None:
    """Whoever renews decides by then: with a refresh token it goes stale, without it is used until an API refuses."""
    assert parsed(expires_in=None).expires_at is None
    body = {name: value for name, value in GOOD.items() if name != "expires_in"}
    assert parse_token_response(answer(body), requested_at=NOW).expires_at is None


@pytest.mark.spec("REF-17")
@given(
    st.one_of(
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
        st.booleans(),
        st.lists(st.integers(), max_size=2),
        st.integers().map(str),
        st.floats().map(str),
    )
)
def test_whatever_expires_in_is_the_lifetime_is_within_a_day(expires_in: object) -> None:
    expires_at = parsed(expires_in=expires_in).expires_at
    assert expires_at is not None
    assert NOW <= expires_at <= NOW + DAY


# Refusals. The session lives unless it says InvalidGrant.

CODES = [
    "invalid_request",
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "invalid_dpop_proof",
    "use_dpop_nonce",
    "interaction_required",
    "login_required",
    "consent_required",
    "server_error",
    "temporarily_unavailable",
    "slow_down",
    "INVALID_GRANT",
    "invalid_grant_type",
    "vendor specific",
]


@pytest.mark.spec("REF-13")
@pytest.mark.parametrize("status", [400, 401, 403])
def test_only_invalid_grant_is_terminal(status: int) -> None:
    """400 is the RFC's status for it; Auth0 sends it with 403."""
    error = failure(answer({"error": "invalid_grant", "error_description": "Token is not active"}, status))
    assert type(error) is InvalidGrant
    assert (error.error, error.error_description, error.status) == ("invalid_grant", "Token is not active", status)


@pytest.mark.spec("REF-13")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
@pytest.mark.parametrize("code", CODES)
def test_other_refusals_are_not_terminal(code: str, status: int) -> None:
    error = failure(answer({"error": code}, status))
    assert type(error) is OAuthError
    assert (error.error, error.status) == (code, status)


@pytest.mark.spec("REF-13")
@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 520, 599])
@pytest.mark.parametrize("body", [{"error": "invalid_grant"}, {"error": "server_error"}, GOOD, b"<html>", b""])
def test_an_outage_is_not_a_verdict_even_when_it_says_invalid_grant(status: int, body: object) -> None:
    error = failure(answer(body, status))
    assert type(error) is TransportError
    assert error.sent


@pytest.mark.spec("REF-13")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 413, 451])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><h1>invalid_grant</h1></html>",
        b"invalid_grant",
        b'{"error": "invalid_grant"',
        b'{"error": "invalid_client", "error": "invalid_grant"}',
        b'["invalid_grant"]',
        b'{"message": "invalid_grant"}',
        b'{"error": {"code": 400, "status": "invalid_grant"}}',
        b'{"error": ["invalid_grant"]}',
        b'{"error": ""}',
        b'{"error": null}',
        b'{"error": "invalid_grant\\n"}',
        b'{"error": "\\u0000"}',
    ],
)
def test_what_answers_without_an_oauth_error_is_not_the_server(body: bytes, status: int) -> None:
    error = failure(answer(body, status))
    assert type(error) is TransportError
    assert error.sent


@pytest.mark.spec("REF-13")
@given(st.integers(100, 599), st.binary(max_size=60) | st.sampled_from([b'{"error": "invalid_grant"}']))
def test_nothing_but_a_4xx_with_invalid_grant_ends_a_session(status: int, body: bytes) -> None:
    try:
        parse_token_response(Response(status, {}, body), requested_at=NOW)
    except InvalidGrant:
        assert 400 <= status < 500
        assert json.loads(body)["error"] == "invalid_grant"
    except (OAuthError, TransportError, InvalidTokenResponse):
        pass


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 7 "}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "3600"}, 60),
        ({"retry-after": "9" * 400}, 60),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 09:28:00 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 60),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 -0000"}, None),
        ({"retry-after": "soon", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "\u0667"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_seconds_or_a_date_and_at_most_a_minute(
    headers: dict[str, str], seconds: int | None, status: int
) -> None:
    error = failure(answer(b"", status, headers))
    assert isinstance(error, TransportError)
    assert error.retry_after == (None if seconds is None else timedelta(seconds=seconds))


def test_retry_after_beside_an_oauth_error_is_kept() -> None:
    error = failure(answer({"error": "slow_down"}, 400, {"retry-after": "5"}))
    assert isinstance(error, OAuthError)
    assert error.retry_after == timedelta(seconds=5)


@pytest.mark.spec("LOG-05", "OAU-32")
@pytest.mark.parametrize(
    "secret",
    [
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEiLCJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlLmNvbSJ9.c2lnbmF0dXJlLXRoYXQtaXMtbG9uZw",
        "1//0abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789",
        "8xLOxBtZp8Qq2LmV0aXc4bN7sKdPfG",  # django-oauth-toolkit
        "tGzv3JOkF0XG5Qx2TlKWIA",  # the example of RFC 6749 5.1
        "0" * 39 + "a",
        "a" * 38 + "0",
    ],
)
def test_token_echo_in_an_error_description_is_blanked(secret: str) -> None:
    error = failure(answer({"error": "invalid_grant", "error_description": f"Invalid refresh token: {secret} !"}, 400))
    assert isinstance(error, InvalidGrant)
    assert error.error_description == "Invalid refresh token: [...] !"


@pytest.mark.spec("LOG-05")
def test_error_descriptions_fit_one_log_line_and_keep_what_helps() -> None:
    text = "AADSTS700082: expired.\r\nTrace ID: 11111111-aaaa-bbbb-cccc-222222222222\r\nZeitüberschreitung"
    error = failure(answer({"error": "invalid_grant", "error_description": text}, 400))
    assert isinstance(error, OAuthError)
    assert error.error_description == (
        "AADSTS700082: expired.  Trace ID: 11111111-aaaa-bbbb-cccc-222222222222  Zeitüberschreitung"
    )
    text = "unsupported_token_exchange: see https://login.example.com/errors/token?code=700082 of 2026-11-23T08:15:00Z"
    error = failure(answer({"error": "invalid_grant", "error_description": text}, 400))
    assert str(error) == f"invalid_grant: {text}"
    long = failure(answer({"error": "invalid_request", "error_description": "word " * 1000}, 400))
    assert len(str(long)) < 600
    for odd in (None, "", 42, ["x"], "\r\n"):
        error = failure(answer({"error": "invalid_request", "error_description": odd}, 400))
        assert str(error) == "invalid_request"


@given(st.text())
def test_any_error_description_is_one_printable_line(description: str) -> None:
    assert str(failure(answer({"error": "invalid_request", "error_description": description}, 400))).isprintable()


# Token exchange and login


def test_token_exchange_states_what_it_issued() -> None:
    """RFC 8693 2.2.1: issued_token_type is REQUIRED."""
    kind = "urn:ietf:params:oauth:token-type:access_token"
    response = answer({**GOOD, "issued_token_type": kind})
    assert parse_token_exchange_response(response, requested_at=NOW).issued_token_type == kind
    for odd in ({}, {"issued_token_type": ""}, {"issued_token_type": None}):
        with pytest.raises(InvalidTokenResponse, match="issued_token_type"):
            parse_token_exchange_response(answer({**GOOD, **odd}), requested_at=NOW)


def test_token_exchange_that_issues_no_access_token_is_unusable() -> None:
    """RFC 8693 2.2.1: `N_A` says that the issued token is not for use at an API."""
    with pytest.raises(InvalidTokenResponse, match="N_A"):
        parse_token_exchange_response(answer({**GOOD, "token_type": "N_A"}), requested_at=NOW)


def test_token_exchange_refusals_are_sorted_alike() -> None:
    with pytest.raises(OAuthError) as caught:
        parse_token_exchange_response(answer({"error": "invalid_target"}, 400), requested_at=NOW)
    assert caught.value.error == "invalid_target"


@pytest.mark.spec("OAU-22")
@pytest.mark.parametrize("scope", ["openid", "openid profile", "profile openid"])
def test_openid_without_id_token_fails_the_login(scope: str) -> None:
    for tokens in (parsed(), parsed(id_token=""), parsed(id_token=None)):
        with pytest.raises(InvalidTokenResponse, match="id_token"):
            require_id_token(tokens, scope=scope)
    assert require_id_token(parsed(id_token="h.p.s"), scope=scope) == "h.p.s"


def test_without_openid_no_id_token_is_needed() -> None:
    for scope in ("", "profile", "openid2 x", "xopenid"):
        assert require_id_token(parsed(), scope=scope) is None


def test_the_default_scope_is_a_login() -> None:
    assert isinstance(CLIENT, Client)
    with pytest.raises(InvalidTokenResponse):
        require_id_token(parsed(), scope=CLIENT.scope)


@pytest.mark.spec("SES-13")
@pytest.mark.parametrize("name", ["refresh_expires_in", "refresh_token_expires_in"])
@pytest.mark.parametrize(
    ("announced", "lives"),
    [
        (1800, 1800.0),
        ("1800", 1800.0),
        (1800.5, 1800.5),
        (15_552_000, 15_552_000.0),
        (0, None),  # Keycloak: offline tokens, which end when they are not used
        (-1, None),
        (1_800_000_000, None),  # an instant
        (1e300, None),
        ("soon", None),
        ("", None),
        (True, None),
        (None, None),
        ([1800], None),
        ({"seconds": 1800}, None),
    ],
)
def test_the_announced_end_of_a_refresh_token(name: str, announced: object, lives: float | None) -> None:
    """No specification has it, so nothing but a plain duration may end a session later on."""
    ends = parsed(refresh_token="rt", **{name: announced}).refresh_token_expires_at
    assert ends == (None if lives is None else NOW + lives)


@pytest.mark.spec("SES-13")
@given(st.floats() | st.integers() | st.text() | st.booleans() | st.none())
def test_no_announcement_ends_anything_at_once(announced: object) -> None:
    body = json.dumps({**GOOD, "refresh_expires_in": announced}).encode()
    try:
        tokens = parse_token_response(Response(200, {"content-type": "application/json"}, body), requested_at=NOW)
    except CoatcheckError:
        return  # NaN is no JSON
    ends = tokens.refresh_token_expires_at
    assert ends is None or NOW <= ends < NOW + 11 * 366 * DAY


@pytest.mark.spec("SES-13")
def test_a_first_announcement_that_says_nothing_leaves_room_for_the_other() -> None:
    assert parsed(refresh_expires_in=0, refresh_token_expires_in=60).refresh_token_expires_at == NOW + 60
