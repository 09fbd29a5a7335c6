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


@pytest.mark.parametrize("character", "!#$%&'*+.^_`|~09azAZ-")
def test_tokens_may_have_every_character_that_tokens_have(character: str) -> None:
    header = f"Bearer x{character}y=a{character}b, {DEMAND}, acr_values=q{character}r"
    assert step_up_challenge(header) == StepUpChallenge((f"q{character}r",))


@pytest.mark.parametrize("space", [" ", "\t", "  ", "\t "])
def test_spaces_and_tabs_may_stand_around_everything(space: str) -> None:
    header = (
        f"{space}Basic{space}realm=x{space},{space}Bearer{space}{DEMAND}{space},{space}max_age{space}={space}5{space}"
    )
    assert step_up_challenge(header) == StepUpChallenge((), 5)


@pytest.mark.parametrize("credentials", ["YQ==", "a-b._~+/09Z", "abc="])
def test_other_schemes_may_carry_credentials_in_place_of_parameters(credentials: str) -> None:
    assert step_up_challenge(f"Negotiate {credentials}, Bearer {DEMAND}") == StepUpChallenge()
    assert step_up_challenge(f"Negotiate\t{credentials} , Bearer {DEMAND}") == StepUpChallenge()


def test_quoted_values_are_unquoted_and_their_escapes_taken_off() -> None:
    assert step_up_challenge(f'Bearer {DEMAND}, acr_values="a\\b \\"c\\" d,e"') == StepUpChallenge(("ab", '"c"', "d,e"))
    assert step_up_challenge(f'Bearer {DEMAND}, acr_values=" a  b "') == StepUpChallenge(("a", "b"))
    assert step_up_challenge(f'Bearer acr_values="a", {DEMAND[:-1]}') is None


def test_the_longest_header_and_the_longest_age() -> None:
    header = f"Bearer {DEMAND}, x="
    assert step_up_challenge(header + "y" * (4096 - len(header))) == StepUpChallenge()
    assert step_up_challenge(header + "y" * (4097 - len(header))) is None
    assert step_up_challenge(f"Bearer {DEMAND}, max_age=999999999") == StepUpChallenge((), 999_999_999)
    assert step_up_challenge(f"Bearer {DEMAND}, max_age=9999999999") == StepUpChallenge()
    assert step_up_challenge(f'Bearer {DEMAND}, max_age="\u0663"') == StepUpChallenge()


def test_parameters_belong_to_the_scheme_before_them() -> None:
    assert step_up_challenge(f"{DEMAND}, Bearer") is None
    assert step_up_challenge(f"Bearer realm=a, Digest {DEMAND}") is None
    assert step_up_challenge(f"Bearer error=invalid_token, Digest x=y, DPoP {DEMAND}") == StepUpChallenge()
