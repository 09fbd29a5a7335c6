"""Callback parameters, from the bytes of the query to the verdict: one reading, and a code for a whole answer only."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck.bff.current import CurrentRequest
from coatcheck.errors import InvalidAuthorizationResponse, OAuthError
from coatcheck.oauth import read_authorization_response
from coatcheck.oauth.authorize import AUTHORIZATION_ERRORS, UNKNOWN_ERROR
from tests.oauth.samples import ISSUER, METADATA, transaction

ANNOUNCES_ISS = replace(METADATA, authorization_response_iss_parameter_supported=True)
BEGUN = transaction(token_bytes=lambda count: bytes(range(count)))
NEVER = {"access_token", "id_token", "token_type", "refresh_token", "expires_in", "response"}
NAMES = ["code", "state", "iss", "error", "error_description", *sorted(NEVER), "x", "c%6fde", "st%61te", "iss[]"]
STATE, ISS, CODE, ERROR = f"state={BEGUN.state}", f"iss={ISSUER}", "code=c0de", "error=access_denied"

SENSIBLE = [
    BEGUN.state,
    BEGUN.state[:-1],
    ISSUER,
    f"{ISSUER}/",
    "c0de",
    "login_required",
    "unknown_error",
    "",
    "<script>",
]
ODD = ["%0d%0a", "%00", "%ff", "%", "%2", "+", "%20", "\u00fc", "%C3%BC", ";", "=", "c" * 8192, "c" * 8193]
VALUES = st.sampled_from([*SENSIBLE, *ODD])
ODD_PAIRS = st.builds("{}={}".format, st.sampled_from(NAMES), VALUES)
PAIRS = st.sampled_from([STATE, STATE, ISS, CODE, ERROR, "", "code", "&" * 99]) | ODD_PAIRS
QUERIES = st.lists(PAIRS, max_size=6).map("&".join)
WHOLE_AND_MORE = st.tuples(st.permutations([STATE, CODE, ISS]), st.lists(PAIRS, max_size=2)).map(
    lambda parts: "&".join([*parts[0], *parts[1]])
)


@pytest.mark.spec("OAU-06", "OAU-11", "OAU-12", "OAU-15", "OAU-17")
@given(QUERIES | WHOLE_AND_MORE, QUERIES.filter(lambda form: len(form) < 30) | st.just(""), st.booleans())
@example(f"{CODE}&{STATE}&{ISS}", "", True)
@example(f"{CODE}&{STATE}", "", False)
@example(f"{CODE}&{STATE}", "", True)
@example(f"{ERROR}&{STATE}", "", False)
@example(f"{CODE}&{STATE}", CODE, False)
@example(f"{CODE}&{STATE}" + "&a" * 98, "", False)
@example(f"{CODE}&{STATE}" + "&" * 99, "", False)
def test_an_answer_is_read_in_one_way_and_believed_when_it_is_whole(query: str, form: str, announced: bool) -> None:
    nothing = cast(Any, None)
    scope = {"query_string": query.encode()}
    current = CurrentRequest(scope, "/", settings=nothing, sessions=nothing, tokens=nothing, ending=nothing)
    expected = _read(query) + _read(form)
    if form:
        current.add_form(tuple(_read(form)))
    assert list(current.parameters) == expected
    metadata = ANNOUNCES_ISS if announced else METADATA
    try:
        outcome = "code", read_authorization_response(current.parameters, BEGUN, metadata).code
    except InvalidAuthorizationResponse as error:
        assert str(error).isprintable() and len(str(error)) < 600
        outcome = "refused", ""
    except OAuthError as error:
        assert str(error).isprintable() and len(str(error)) < 700
        outcome = "error", error.error
    assert outcome == _verdict(expected, announced=announced)


def _verdict(parameters: list[tuple[str, str]], *, announced: bool) -> tuple[str, str]:
    given, refused = dict(parameters), ("refused", "")
    iss = given.get("iss", None if announced else ISSUER)
    if len(given) < len(parameters) or given.get("state") != BEGUN.state or iss != ISSUER or NEVER & given.keys():
        return refused
    if ("code" in given) == ("error" in given):
        return refused
    if "error" in given:
        return "error", given["error"] if given["error"] in AUTHORIZATION_ERRORS else UNKNOWN_ERROR
    return ("code", given["code"]) if re.fullmatch(r"[ -~]{1,8192}", given["code"]) else refused


def _read(text: str) -> list[tuple[str, str]]:
    """Read `application/x-www-form-urlencoded` (WHATWG URL 5.1); more than a hundred parameters count as none."""
    parts = text.encode().split(b"&")
    if len(parts) > 100:
        return []
    pairs = (part.partition(b"=") for part in parts if part)
    return [(_decoded(name), _decoded(value)) for name, _, value in pairs]


def _decoded(text: bytes) -> str:
    """Bytes beyond ASCII never stand in a request line; each counts as one letter that nobody knows."""
    parts = re.split(rb"([\x80-\xff])", text.replace(b"+", b" "))
    return "".join("\ufffd" if part[:1] >= b"\x80" else _without_percent(part) for part in parts)


def _without_percent(text: bytes) -> str:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), text).decode("utf-8", "replace")
