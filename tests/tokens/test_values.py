from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from coatcheck.oauth.client_auth import ClientAssertion
from coatcheck.tokens import (
    BearerTokenResult,
    ClientToken,
    DPoPTokenResult,
    Redeemed,
    TokenState,
    TokenType,
    User,
    UserToken,
    UserTokenRequestParameters,
)
from coatcheck.tokens.outcomes import Refused, Renewed
from coatcheck.tokens.store import session_bytes
from coatcheck.tokens.verdicts import ended
from tests.tokens.scene import Scene

NOW = 1_800_000_000.0


def user_token(**changes: Any) -> UserToken:
    return dataclasses.replace(
        UserToken(access_token="access", issued_at=NOW, expires_at=NOW + 300, refresh_token="refresh"), **changes
    )


@pytest.mark.spec("REF-17")
def test_an_unknown_lifetime_is_stale_after_five_minutes_but_never_expired() -> None:
    token = user_token(expires_at=None)
    assert token.state(NOW + 299) is TokenState.FRESH
    assert token.state(NOW + 300) is TokenState.STALE
    assert token.state(NOW + 10**9) is TokenState.STALE


@pytest.mark.spec("REF-17")
def test_an_unknown_lifetime_without_a_refresh_token_is_used_until_the_api_says_no() -> None:
    token = user_token(expires_at=None, refresh_token=None)
    assert token.state(NOW + 10**9) is TokenState.FRESH


def test_a_refresh_token_alone_has_to_be_renewed_first() -> None:
    assert UserToken.from_refresh_token("refresh").state(NOW) is TokenState.EXPIRED


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"name": "Alice A.", "preferred_username": "alice", "email": "a@example.com"}, "Alice A."),
        ({"preferred_username": "alice", "email": "a@example.com"}, "alice"),
        ({"email": "a@example.com"}, "a@example.com"),
        ({"name": ""}, "sub-1"),
        ({"name": 7}, "sub-1"),
        ({}, "sub-1"),
    ],
)
def test_a_user_has_a_name(claims: dict[str, Any], name: str) -> None:
    assert User("https://issuer.example", "sub-1", claims=claims).name == name


def test_users_are_equal_by_issuer_subject_and_sid() -> None:
    alice = User("https://issuer.example", "alice", claims={"name": "Alice"})
    assert alice == User("https://issuer.example", "alice")
    assert alice != User("https://other.example", "alice")
    assert alice != User("https://issuer.example", "alice", sid="1")
    assert len({alice, User("https://issuer.example", "alice")}) == 1


@pytest.mark.spec("CCT-01")
@pytest.mark.spec("OAU-30")
def test_order_and_repetition_of_scope_and_resource_name_the_same_token() -> None:
    """RFC 6749 3.3: "their order does not matter"."""
    one = UserTokenRequestParameters(scope="a b", resource=("https://x.example", "https://y.example"))
    other = UserTokenRequestParameters(scope="b a b", resource=("https://y.example", "https://x.example"))
    assert one.slot == other.slot != ""


@pytest.mark.spec("CCT-01")
def test_everything_that_changes_the_answer_names_another_token() -> None:
    slots = {
        parameters.slot
        for parameters in (
            UserTokenRequestParameters(),
            UserTokenRequestParameters(scope="a"),
            UserTokenRequestParameters(scope="a b"),
            UserTokenRequestParameters(resource=("a",)),
            UserTokenRequestParameters(form_parameters=(("a", ""),)),
            UserTokenRequestParameters(form_parameters=(("", "a"),)),
            UserTokenRequestParameters(form_parameters=(("a", "1"), ("a", "2"))),
        )
    }
    assert len(slots) == 7


def test_what_does_not_change_the_answer_names_the_same_token() -> None:
    parameters = UserTokenRequestParameters(force_renewal=True, context={"tenant": "north"})
    assert parameters.slot == UserTokenRequestParameters().slot == ""


def test_token_types_are_the_words_of_the_configuration() -> None:
    assert [str(token_type) for token_type in TokenType] == [
        "user",
        "client",
        "user_or_client",
        "user_or_none",
        "none",
    ]


CANARY = "canary-do-not-print"
TOKEN = UserToken(
    access_token=CANARY, issued_at=NOW, refresh_token=CANARY, id_token=CANARY, dpop_key=CANARY, scope="openid"
)
PARAMETERS = UserTokenRequestParameters(
    form_parameters=(("password", CANARY),),
    client_assertion=ClientAssertion(CANARY),
)


@pytest.mark.spec("LOG-02")
@pytest.mark.parametrize(
    "value",
    [
        TOKEN,
        UserToken.from_refresh_token(CANARY, id_token=CANARY, dpop_key=CANARY),
        ClientToken(access_token=CANARY, issued_at=NOW, expires_at=NOW),
        PARAMETERS,
        BearerTokenResult(CANARY),
        DPoPTokenResult(CANARY, CANARY),
        Redeemed(TOKEN, {"sub": CANARY}),
        User("https://issuer.example", "alice", claims={"email": CANARY}),
        Renewed(PARAMETERS, TOKEN, sent=True),
        Refused(PARAMETERS, ended("over", reason="invalid_grant")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_prints_a_secret(value: object) -> None:
    for text in (repr(value), str(value), f"{value}", f"{value!r}", "%s" % (value,), repr([value])):  # noqa: UP031
        assert CANARY not in text


@pytest.mark.spec("LOG-02")
async def test_neither_the_tokens_nor_a_logged_in_user_print_a_secret() -> None:
    scene = Scene()
    user = await (await scene.log_in()).request()
    token = await scene.tokens.user_token(user)
    for text in (repr(scene.tokens), repr(user), repr(token)):
        assert token.access_token not in text
        assert str(token.refresh_token) not in text
        assert "secret of the shop" not in text


def test_session_bytes_are_made_for_one_registration() -> None:
    assert session_bytes(TOKEN, client="other") != session_bytes(TOKEN)
