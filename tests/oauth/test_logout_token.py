"""Logout tokens by value: each rule of OpenID Connect Back-Channel Logout 1.0, sections 2.4 and 2.6."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import InvalidIDToken, InvalidLogoutToken, ProtocolError, UnknownKey
from coatcheck.oauth.id_token import verify_id_token
from coatcheck.oauth.jwks import KeySet
from coatcheck.oauth.logout_token import LogoutToken, read_logout_token, verify_logout_token
from tests.oauth.issuer import ALGORITHMS, CLIENT_ID, ISSUER, MISSING, NOW, jwk, key_set, private_key
from tests.oauth.logout_tokens import EVENT, MALFORMED, Make, Mint

MINT = Mint(ISSUER, CLIENT_ID, NOW, private_key("RS256"), "first", {"sub": "alice", "sid": "s1"})
KEYS = key_set(jwk("RS256"))
SAID = LogoutToken(iss=ISSUER, sub="alice", sid="s1", jti="jti-1", iat=NOW, refused_from=NOW + 180)


def expectations(**changes: Any) -> dict[str, Any]:
    return {"issuer": ISSUER, "client_id": CLIENT_ID, "algorithms": ALGORITHMS, "now": NOW} | changes


def verify(token: str, *, keys: KeySet = KEYS, **changes: Any) -> LogoutToken:
    return verify_logout_token(token, keys=keys, **expectations(**changes))


def reason(token: str, **changes: Any) -> str:
    """Why the token is refused."""
    with pytest.raises(InvalidLogoutToken) as refused:
        verify(token, **changes)
    return refused.value.reason


def test_an_honest_token_says_whose_sessions_end() -> None:
    assert verify(MINT.token()) == SAID
    assert "alice" not in repr(SAID) and "s1" not in repr(SAID)


@pytest.mark.spec("BCL-03")
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_token_is_refused_and_says_which_rule_it_breaks(name: str) -> None:
    expected, make = MALFORMED[name]
    if expected == "unknown_key":
        with pytest.raises(UnknownKey):
            verify(make(MINT))
    else:
        assert reason(make(MINT)) == expected


def _without_key(expected: str) -> bool:
    return expected not in ("signature", "unknown_key")


@pytest.mark.spec("BCL-22", "BCL-04")
@pytest.mark.parametrize("case", [case for case in MALFORMED.values() if _without_key(case[0])])
def test_all_that_needs_no_key_is_checked_before_any_key_is_looked_for(case: tuple[str, Make]) -> None:
    expected, make = case
    with pytest.raises(InvalidLogoutToken) as refused:
        read_logout_token(make(MINT), **expectations())
    assert refused.value.reason == expected


@pytest.mark.spec("BCL-22")
def test_a_token_of_more_than_64_kib_is_not_looked_at() -> None:
    assert verify(MINT.token(padding="x" * 48_000)) == SAID
    assert reason(MINT.token(padding="x" * 49_000)) == "malformed"


@pytest.mark.spec("BCL-03")
def test_every_accepted_algorithm_is_one_of_the_registration() -> None:
    assert verify(MINT.token(), algorithms=("RS256",)) == SAID
    assert reason(MINT.token(), algorithms=("ES256",)) == "alg"
    assert reason(MINT.unsigned(), algorithms=("none", "RS256")) == "alg", "no configuration lets `none` in"


@pytest.mark.spec("BCL-03")
def test_the_key_is_one_of_the_issuer_and_an_unknown_one_is_told_to_the_caller() -> None:
    with pytest.raises(UnknownKey):
        verify(MINT.token(), keys=key_set(jwk("RS256", name="second")))
    assert reason(MINT.token(), keys=key_set(jwk("RS256", name="second", kid="first"))) == "signature"
    assert verify(MINT.token({"kid": MISSING})) == SAID


@pytest.mark.spec("BCL-04")
def test_iss_and_aud_are_compared_byte_for_byte() -> None:
    for issuer in (ISSUER + "/", ISSUER.upper(), "https://idp.example.co"):
        assert reason(MINT.token(), issuer=issuer) == "issuer"
    for client_id in ("sho", "shop ", "SHOP"):
        assert reason(MINT.token(), client_id=client_id) == "audience"
    assert verify(MINT.token(aud=[CLIENT_ID])) == SAID


@pytest.mark.spec("BCL-05")
@pytest.mark.parametrize(
    ("iat", "accepted"), [(-361, False), (-360, False), (-359, True), (0, True), (60, True), (61, False)]
)
def test_iat_is_at_most_five_minutes_ago_and_not_to_come_but_for_the_skew_of_clocks(iat: int, accepted: bool) -> None:
    token = MINT.token(iat=NOW + iat, exp=NOW + 3600)
    if accepted:
        assert verify(token).iat == NOW + iat
    else:
        assert reason(token) == "iat"


@pytest.mark.spec("BCL-05")
@pytest.mark.parametrize(("exp", "accepted"), [(-61, False), (-60, False), (-59, True), (1, True), (10**9, True)])
def test_an_expired_token_is_refused(exp: int, accepted: bool) -> None:
    token = MINT.token(iat=NOW - 100, exp=NOW + exp)
    if accepted:
        assert verify(token).iat == NOW - 100
    else:
        assert reason(token) == "exp"


@pytest.mark.spec("BCL-05")
def test_without_exp_only_where_the_registration_allows_it_and_never_for_longer() -> None:
    token = MINT.token(exp=MISSING)
    assert reason(token) == "exp"
    assert verify(token, require_exp=False).refused_from == NOW + 360
    assert reason(token, require_exp=False, now=NOW + 360) == "iat"
    assert reason(MINT.token(exp=None), require_exp=False) == "exp", "one that is there has to be a date"
    assert reason(MINT.token(iat=NOW - 200, exp=NOW - 100), require_exp=False) == "exp", "and not a passed one"


@given(
    age=st.integers(-100, 500),
    life=st.none() | st.integers(-100, 1000),
    leeway=st.integers(0, 120),
    wait=st.floats(0, 1000),
)
def test_a_token_that_is_accepted_is_accepted_until_the_instant_that_it_says(
    age: int, life: int | None, leeway: int, wait: float
) -> None:
    """The replay memory forgets it then: it must not be accepted ever after, nor forgotten before."""
    iat = NOW - age
    token = MINT.token(iat=iat, exp=MISSING if life is None else iat + life)
    options: dict[str, Any] = {"leeway": timedelta(seconds=leeway), "require_exp": False}
    try:
        refused_from = verify(token, **options).refused_from
    except InvalidLogoutToken as error:
        assert error.reason in ("iat", "exp")
        return
    assert NOW < refused_from <= iat + 300 + leeway
    later = NOW + wait
    if later < refused_from:
        assert verify(token, now=later, **options).refused_from == refused_from
    else:
        assert reason(token, now=later, **options) in ("iat", "exp")


@pytest.mark.spec("BCL-06", "BCL-07")
def test_jti_is_text_of_any_kind() -> None:
    for jti in ("a", "ü", "x" * 5000, " "):
        assert verify(MINT.token(jti=jti)).jti == jti


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.spec("BCL-09")
@given(nonce=_JSON)
def test_any_nonce_at_all_is_refused(nonce: Any) -> None:
    assert reason(MINT.token(nonce=nonce)) == "nonce"


@pytest.mark.spec("BCL-10")
@given(events=_JSON, event=_JSON)
def test_events_is_an_object_with_an_object_and_nothing_else(events: Any, event: Any) -> None:
    assert reason(MINT.token(events=events)) == "events"
    token = MINT.token(events={EVENT: event, "urn:another": events})
    if isinstance(event, dict):
        assert verify(token) == SAID
    else:
        assert reason(token) == "events"


@pytest.mark.spec("BCL-11", "BCL-12")
@given(sub=_JSON | st.just(MISSING), sid=_JSON | st.just(MISSING))
def test_sub_and_sid_are_text_where_they_are_and_one_of_them_is(sub: Any, sid: Any) -> None:
    """A claim of another type does not count as absent: a token for one session must not end them all."""
    token = MINT.token(sub=sub, sid=sid)
    if sub is sid is MISSING or not all(value is MISSING or (isinstance(value, str) and value) for value in (sub, sid)):
        assert reason(token) == "sub_sid"
    else:
        said = verify(token)
        assert (said.sub, said.sid) == tuple(None if value is MISSING else value for value in (sub, sid))


@pytest.mark.spec("BCL-17")
@pytest.mark.parametrize("typ", [MISSING, "JWT", "jwt", "application/jwt", "logout+jwt", "Logout+JWT"])
def test_a_token_may_say_that_it_is_a_logout_token_or_nothing(typ: Any) -> None:
    assert verify(MINT.token({"typ": typ})) == SAID


@pytest.mark.spec("BCL-17")
@pytest.mark.parametrize(
    "typ", ["at+jwt", "AT+JWT", "dpop+jwt", "secevent+jwt", "id_token", "JOSE", " JWT", 7, ["JWT"]]
)
def test_cross_jwt_another_kind_of_token_logs_nobody_out(typ: Any) -> None:
    assert reason(MINT.token({"typ": typ})) == "typ"


@pytest.mark.spec("BCL-17")
def test_cross_jwt_an_id_token_is_no_logout_token_and_the_other_way_round() -> None:
    assert reason(MINT.id_token()) == "events"
    with_event = MINT.token({"typ": "JWT"}, nonce="n", sub="alice")
    assert reason(with_event) == "nonce", "an id_token into which somebody got the event"
    with pytest.raises(InvalidIDToken, match="events"):
        verify_id_token(MINT.token({"typ": MISSING}), keys=KEYS, nonce="n", at_login=True, **expectations())


@pytest.mark.spec("BCL-18")
def test_an_encrypted_token_is_refused_as_an_encrypted_id_token_is() -> None:
    encrypted = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.a2V5.aXY.Y2lwaGVydGV4dA.dGFn"
    assert reason(encrypted) == "malformed"
    with pytest.raises(InvalidIDToken, match="has 5"):
        verify_id_token(encrypted, keys=KEYS, nonce="n", at_login=True, **expectations())


@given(token=st.text(max_size=60) | st.binary(max_size=40).map(lambda raw: "e30." + raw.hex() + ".e30"))
def test_whatever_arrives_is_answered_with_an_error_of_the_protocol(token: str) -> None:
    with pytest.raises(ProtocolError):
        verify(token)


def test_messages_tell_neither_the_token_nor_whose_it_is() -> None:
    for expected, make in MALFORMED.values():
        token = make(MINT)
        with pytest.raises(ProtocolError) as refused:
            verify(token)
        assert not any(part and len(part) > 20 and part in str(refused.value) for part in token.split(".")), expected
        assert "alice" not in str(refused.value) and "s1" not in str(refused.value)
