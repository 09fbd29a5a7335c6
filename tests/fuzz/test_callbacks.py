"""Whatever arrives at the callback and at the login: refused or understood, never anything else."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck import LoginOptions
from coatcheck.errors import InvalidAuthorizationResponse, OAuthError
from coatcheck.oauth import read_authorization_response
from tests.bff.world import LOCAL, World, world
from tests.oauth.samples import METADATA, transaction

BEGUN = transaction()
NAMES = st.sampled_from(["code", "state", "iss", "error", "error_description", "response", "access_token", "x"])
VALUES = st.one_of(st.text(max_size=20), st.sampled_from([BEGUN.state, METADATA.issuer, "c0de", "access_denied", ""]))
PARAMETERS = (
    "returnUrl",
    "prompt",
    "login_hint",
    "ui_locales",
    "acr_values",
    "max_age",
    "iss",
    "target_link_uri",
    "hop",
)


@pytest.mark.spec("OAU-06", "OAU-11", "OAU-15", "OAU-17")
@given(st.lists(st.tuples(NAMES, VALUES), max_size=7))
def test_a_code_comes_of_one_code_one_state_and_the_right_issuer_alone(answer: list[tuple[str, str]]) -> None:
    try:
        code = read_authorization_response(answer, BEGUN, METADATA).code
    except (InvalidAuthorizationResponse, OAuthError) as error:
        assert str(error).isprintable()
        return
    names = [name for name, _ in answer]
    assert len(names) == len(set(names))
    found = dict(answer)
    assert (found["code"], found["state"]) == (code, BEGUN.state)
    assert found.get("iss") in (None, METADATA.issuer)
    assert {"error", "response", "access_token"}.isdisjoint(found)


@pytest.fixture(scope="module")
def shop() -> Any:
    with world(login=LoginOptions(acr_values=["phr"], max_age=[0], silent=True, third_party=True)) as w:
        yield w


@pytest.mark.spec("OAU-29", "RTU-01")
@given(st.lists(st.tuples(st.sampled_from(PARAMETERS), st.text(max_size=30)), max_size=6), st.binary(max_size=20))
def test_a_login_is_begun_or_refused_and_leads_to_the_provider_or_to_us(
    shop: World, asked: list[tuple[str, str]], noise: bytes
) -> None:
    query = urlencode(asked, errors="replace").encode() + b"&" + bytes(byte for byte in noise if 0x20 < byte < 0x7F)
    request = httpx2.Request("GET", LOCAL + "/bff/login", headers={"Accept": "text/html"})
    request.extensions["target"] = b"/bff/login?" + query.replace(b"#", b"")
    answer = shop.transport.handle_request(request)
    if answer.status_code == 302:
        assert answer.headers["location"].startswith((shop.provider.issuer + "/authorize?", LOCAL + "/bff/login?"))
    else:
        assert answer.status_code == 400 and answer.headers["coatcheck-error"]


@pytest.mark.spec("OAU-06", "OAU-17")
@given(st.lists(st.tuples(NAMES, st.text(max_size=30)), max_size=6), st.binary(max_size=60))
def test_a_callback_of_nobody_is_refused_and_costs_no_call(
    shop: World, answer: list[tuple[str, str]], cookie: bytes
) -> None:
    before = len(shop.provider.log)
    request = httpx2.Request(
        "GET",
        f"{LOCAL}/bff/callback?{urlencode(answer, errors='replace')}",
        headers=[(b"accept", b"text/html"), (b"cookie", bytes(byte for byte in cookie if byte > 0x1F))],
    )
    response = shop.transport.handle_request(request)
    assert response.status_code in (303, 400)
    assert "set-cookie" not in response.headers
    assert len(shop.provider.log) == before
