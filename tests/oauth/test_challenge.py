"""The demand of an API for a stronger login (RFC 9470), in the header that carries it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.oauth.challenge import StepUpChallenge, step_up_challenge

DEMAND = 'error="insufficient_user_authentication"'


@pytest.mark.spec("OAU-36")
@pytest.mark.parametrize(
    ("header", "acr_values", "max_age"),
    [
        (f'Bearer {DEMAND}, acr_values="phr phrh"', ("phr", "phrh"), None),
        (f"Bearer {DEMAND}, max_age=5", (), 5),
        (f'Bearer {DEMAND}, max_age="0", acr_values=phr', ("phr",), 0),
        (f'DPoP algs="ES256", {DEMAND}', (), None),
        ("bearer   ERROR=insufficient_user_authentication ,  Max_Age = 300", (), 300),
        (f'Basic realm="a, b", Bearer realm="say \\"hi\\"", {DEMAND}, acr_values="phr"', ("phr",), None),
        (f"Negotiate YQ==, Bearer {DEMAND}", (), None),
        (f'Bearer error="invalid_token", Bearer {DEMAND}, max_age=9', (), 9),
        (f"Bearer {DEMAND}, max_age=soon", (), None),
        (f"Bearer {DEMAND}, max_age=99999999999", (), None),
    ],
)
def test_the_demand_is_found(header: str, acr_values: tuple[str, ...], max_age: int | None) -> None:
    assert step_up_challenge(header) == StepUpChallenge(acr_values, max_age)


@pytest.mark.spec("OAU-36")
@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        'Bearer error="invalid_token"',
        f"Basic {DEMAND}",
        f"Bearer {DEMAND}, {DEMAND}",
        f'Bearer realm="{DEMAND[:5]}insufficient_user_authentication"',
        'Bearer error="insufficient_user_authentication',
        f'Bearer "{DEMAND}"',
        f"Bearer {DEMAND} " + "x" * 4096,
        "error=insufficient_user_authentication",
    ],
)
def test_anything_else_is_none(header: str) -> None:
    assert step_up_challenge(header) is None


@given(st.text(alphabet='Bearer DPoP=",\\ \t\x00é insufficient_user_authentication', max_size=200))
def test_no_header_is_too_odd_to_be_read(header: str) -> None:
    step_up_challenge(header)
