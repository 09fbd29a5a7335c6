from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from coatcheck.errors import InsufficientAuthentication, InvalidIDToken, UnknownKey
from coatcheck.oauth.id_token import check_refreshed_id_token, verify_id_token
from tests.oauth.issuer import (
    ALGORITHMS,
    CLIENT_ID,
    ISSUER,
    MISSING,
    NONCE,
    NOW,
    claims,
    id_token,
    jwk,
    key_set,
    private_key,
    segment,
    signed_bytes,
)


def verify(token: str, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "keys": key_set(),
        "issuer": ISSUER,
        "client_id": CLIENT_ID,
        "algorithms": ALGORITHMS,
        "nonce": NONCE,
        "now": NOW,
        "at_login": True,
    }
    return verify_id_token(token, **(arguments | changes))


def refused(why: str, /, **changes: Any) -> None:
    """An otherwise honest token with these claims is refused for the named reason."""
    with pytest.raises(InvalidIDToken, match=why):
        verify(id_token(**changes))


@pytest.mark.spec("IDT-01", "IDT-02", "IDT-04", "IDT-09")
def test_an_honest_token_is_accepted_and_its_claims_returned() -> None:
    assert verify(id_token(email="a@example.com")) == claims(email="a@example.com")
    for alg in ALGORITHMS:
        assert verify(id_token(alg=alg), keys=key_set(jwk(alg)))["sub"] == "alice"


@pytest.mark.parametrize(
    "iss",
    [
        ISSUER + "/",
        ISSUER.upper(),
        "https://IDP.example.com",
        "https://idp.example.com:443",
        "https://idp.example.co",
        "https://idp.example.com.evil.example",
        "idp.example.com",
        "http://idp.example.com",
        " " + ISSUER,
        "",
        [ISSUER],
        {"iss": ISSUER},
        None,
        MISSING,
        True,
    ],
)
@pytest.mark.spec("IDT-01")
def test_iss_must_equal_the_issuer_byte_for_byte(iss: Any) -> None:
    refused("iss is", iss=iss)


@pytest.mark.spec("IDT-01")
def test_iss_that_contains_the_issuer_or_is_contained_in_it_is_refused() -> None:
    for issuer in ("https://idp.example.com/tenant", "https://idp.example.com/", "x https://idp.example.com y"):
        with pytest.raises(InvalidIDToken, match="iss is"):
            verify(id_token(), issuer=issuer)


@pytest.mark.parametrize("aud", ["other", "sho", "shop ", "SHOP", "", [], ["other"], ["sho", "p"], [["shop"]]])
@pytest.mark.spec("IDT-02")
def test_a_token_for_somebody_else_is_refused(aud: Any) -> None:
    refused("aud", aud=aud)


@pytest.mark.parametrize("aud", [MISSING, None, 7, {"shop": 1}, ["shop", 7]])
@pytest.mark.spec("IDT-02")
def test_aud_must_be_there_and_well_formed(aud: Any) -> None:
    refused("aud is neither", aud=aud)


@pytest.mark.spec("IDT-02")
def test_an_audience_beside_ours_is_not_trusted() -> None:
    refused("aud names others", aud=["shop", "other"])
    refused("aud names others", aud=["shop", "other"], azp="shop")
    assert verify(id_token(aud=["shop"]))["aud"] == ["shop"]


@pytest.mark.parametrize("azp", ["other", "", None, ["shop"], 7])
@pytest.mark.spec("IDT-03")
def test_azp_must_be_our_client_id_when_it_is_there(azp: Any) -> None:
    refused("azp is", azp=azp)
    assert verify(id_token(azp="shop"))["azp"] == "shop"


@pytest.mark.spec("IDT-03")
def test_azp_is_required_with_several_audiences() -> None:
    refused("azp is", aud=["shop", "shop"])
    assert verify(id_token(aud=["shop", "shop"], azp="shop"))["azp"] == "shop"


@pytest.mark.spec("IDT-04")
def test_a_forged_token_from_the_token_endpoint_is_refused_at_login_and_at_refresh() -> None:
    forged = signed_bytes(b'{"alg":"ES256","kid":"first"}', json.dumps(claims()).encode(), private_key(name="attacker"))
    unsigned = segment(b'{"alg":"none"}') + "." + segment(json.dumps(claims()).encode()) + "."
    signed, _, signature = id_token().rpartition(".")
    altered = f"{signed}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    for token in (forged, unsigned, altered, "garbage"):
        for at_login in (True, False):
            with pytest.raises(InvalidIDToken):
                verify(token, at_login=at_login)


@pytest.mark.spec("IDT-05")
def test_the_signature_is_checked_before_any_claim() -> None:
    token = signed_bytes(b'{"alg":"ES256","kid":"first"}', b"not even JSON", private_key(name="attacker"))
    with pytest.raises(InvalidIDToken, match="signature"):
        verify(token)


@pytest.mark.spec("JOS-02")
def test_an_unknown_key_is_told_to_the_caller() -> None:
    with pytest.raises(UnknownKey):
        verify(id_token(name="second"))


NO_DATES: list[Any] = [MISSING, None, "1800000300", "", True, False, [], {}, -1, -NOW, 1e18, 253_402_300_800]


@pytest.mark.parametrize("exp", NO_DATES)
@pytest.mark.spec("IDT-07")
def test_exp_is_required_and_a_date(exp: Any) -> None:
    refused("exp", exp=exp)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e300", b"1e400", b"-1e300", b"1" * 30])
@pytest.mark.spec("IDT-07")
def test_numbers_that_are_no_dates_are_refused(number: bytes) -> None:
    for name in (b"exp", b"iat", b"nbf"):
        payload = json.dumps(claims(exp=MISSING, iat=MISSING) | {"x": 0}).encode()
        payload = payload.replace(b'"x": 0', b'"%b": %b' % (name, number))
        with pytest.raises(InvalidIDToken):
            verify(signed_bytes(b'{"alg":"ES256","kid":"first"}', payload))


@pytest.mark.spec("IDT-07")
def test_an_expired_token_is_refused_after_a_minute_of_leeway() -> None:
    assert verify(id_token(exp=NOW - 59))
    assert verify(id_token(exp=NOW - 59.5))
    refused("expired 60 s ago", exp=NOW - 60)
    refused("expired 3600 s ago", exp=NOW - 3600)
    refused("compare the clocks", exp=0)


@pytest.mark.parametrize("iat", NO_DATES)
@pytest.mark.spec("IDT-08")
def test_iat_is_required_and_a_date(iat: Any) -> None:
    refused("iat", iat=iat)


@pytest.mark.spec("IDT-08")
def test_iat_is_not_in_the_future_and_at_a_login_not_old() -> None:
    assert verify(id_token(iat=NOW + 60))
    refused("issued 61 s in the future", iat=NOW + 61)
    assert verify(id_token(iat=NOW - 660))
    refused("too old to end a login", iat=NOW - 661)
    assert verify(id_token(iat=NOW - 3600), at_login=False)


@pytest.mark.spec("IDT-08")
def test_nbf_is_honoured() -> None:
    assert verify(id_token(nbf=NOW + 60))
    refused("not valid before", nbf=NOW + 61)
    for nbf in (None, "soon", True, -1):
        refused("nbf", nbf=nbf)


@pytest.mark.parametrize("nonce", [MISSING, None, "", "nonce-of-another-login", NONCE + " ", [NONCE], 7, True])
@pytest.mark.spec("IDT-09")
def test_nonce_must_be_the_one_of_this_login(nonce: Any) -> None:
    refused("nonce", nonce=nonce)


@pytest.mark.spec("IDT-09")
def test_the_nonce_check_cannot_be_turned_off_at_a_login() -> None:
    for nonce in (None, ""):
        with pytest.raises(ValueError, match="nonce"):
            verify(id_token(nonce=MISSING), nonce=nonce)
        with pytest.raises(ValueError, match="nonce"):
            verify(id_token(nonce=""), nonce=nonce)


@pytest.mark.spec("IDT-20")
def test_a_refreshed_token_may_lack_the_nonce_but_not_carry_another() -> None:
    assert verify(id_token(nonce=MISSING), at_login=False)
    assert verify(id_token(), at_login=False)
    assert verify(id_token(), at_login=False, nonce=None)
    for nonce in ("other", None, ""):
        with pytest.raises(InvalidIDToken, match="nonce"):
            verify(id_token(nonce=nonce), at_login=False)


@pytest.mark.parametrize("sub", [MISSING, None, "", "x" * 256, 7, True, ["alice"], {"sub": "alice"}])
@pytest.mark.spec("IDT-10")
def test_sub_is_a_string_of_1_to_255_characters(sub: Any) -> None:
    refused("sub", sub=sub)
    assert verify(id_token(sub="x" * 255))


def _half_hash(value: str, name: str) -> str:
    digest = hashlib.new(name, value.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("alg", "hash_name"),
    [("RS256", "sha256"), ("PS256", "sha256"), ("ES256", "sha256"), ("ES384", "sha384"), ("EdDSA", "sha512")],
)
@pytest.mark.spec("IDT-11")
def test_at_hash_is_checked_with_the_hash_of_the_algorithm(alg: str, hash_name: str) -> None:
    given = {"keys": key_set(jwk(alg)), "algorithms": [alg], "access_token": "access-token-1"}
    assert verify(id_token(alg=alg, at_hash=_half_hash("access-token-1", hash_name)), **given)
    assert verify(id_token(alg=alg), **given)  # optional in the code flow
    other_hash = "sha256" if hash_name != "sha256" else "sha512"
    whole_hash = base64.urlsafe_b64encode(hashlib.new(hash_name, b"access-token-1").digest()).decode()
    for wrong in (
        _half_hash("access-token-2", hash_name),
        _half_hash("access-token-1", other_hash),
        _half_hash("access-token-1", hash_name) + "==",
        whole_hash,
        "",
        None,
        7,
        ["x"],
        "é",
    ):
        with pytest.raises(InvalidIDToken, match="at_hash"):
            verify(id_token(alg=alg, at_hash=wrong), **given)


@pytest.mark.spec("IDT-11")
def test_the_example_of_the_specification() -> None:
    """OpenID Connect Core 1.0, appendix A.4: an access token and its at_hash under RS256."""
    token = id_token(alg="RS256", at_hash="77QmUPtjPfzWtF2AnpK9RQ")
    access_token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"
    assert verify(token, keys=key_set(jwk("RS256")), access_token=access_token)


@pytest.mark.parametrize(
    "typ",
    [
        "logout+jwt",
        "application/logout+jwt",
        "at+jwt",
        "AT+JWT",
        "dpop+jwt",
        "oauth-authz-req+jwt",
        "secevent+jwt",
        "JOSE",
        "",
        7,
        ["JWT"],
    ],
)
@pytest.mark.spec("IDT-14")
def test_cross_jwt_another_kind_of_token_is_no_id_token(typ: Any) -> None:
    with pytest.raises(InvalidIDToken, match="typ"):
        verify(id_token(header={"typ": typ}))


@pytest.mark.spec("IDT-14")
def test_cross_jwt_the_usual_types_pass_and_a_logout_token_does_not() -> None:
    for typ in ("JWT", "jwt", "application/jwt"):
        assert verify(id_token(header={"typ": typ}))
    refused("events", events={"http://schemas.openid.net/event/backchannel-logout": {}})
    refused("events", events=None)


@pytest.mark.spec("IDT-15")
def test_max_age_requires_a_recent_auth_time() -> None:
    assert verify(id_token(auth_time=NOW - 300), max_age=300)
    assert verify(id_token(auth_time=NOW - 3600))
    for auth_time, why in (
        (NOW - 361, "361 s ago"),
        (NOW + 61, "future"),
        (MISSING, "auth_time"),
        ("now", "auth_time"),
    ):
        with pytest.raises(InvalidIDToken, match=why):
            verify(id_token(auth_time=auth_time), max_age=300)
    with pytest.raises(InvalidIDToken, match="max_age"):
        verify(id_token(auth_time=NOW - 61), max_age=0)


@pytest.mark.spec("IDT-16")
def test_acr_must_be_one_of_those_that_were_asked_for() -> None:
    assert verify(id_token(acr="phr"), acr_values="phr")
    assert verify(id_token(acr="phrh"), acr_values="phr phrh")
    assert verify(id_token(acr="whatever"))
    for acr in ("ph", "PHR", "phr phrh", "", 1, None, ["phr"], MISSING):
        with pytest.raises(InsufficientAuthentication, match="acr"):
            verify(id_token(acr=acr), acr_values="phr phrh")


@pytest.mark.spec("IDT-20")
def test_a_refreshed_token_of_the_same_login_is_accepted() -> None:
    original = claims(auth_time=NOW - 10)
    check_refreshed_id_token(claims(iat=NOW + 900, exp=NOW + 1200, auth_time=NOW - 10), original)
    check_refreshed_id_token(claims(nonce=MISSING), original)
    check_refreshed_id_token(claims(aud=["shop"]), original)
    check_refreshed_id_token(claims(auth_time=NOW - 20), original)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"sub": "mallory"}, "another sub"),
        ({"sub": "Alice"}, "another sub"),
        ({"sub": MISSING}, "another sub"),
        ({"iss": "https://other.example"}, "another iss"),
        ({"aud": "other"}, "another aud"),
        ({"aud": ["shop", "other"]}, "another aud"),
        ({"aud": MISSING}, "aud is neither"),
        ({"nonce": "other"}, "another nonce"),
        ({"nonce": None}, "another nonce"),
        ({"auth_time": NOW}, "auth_time"),
        ({"auth_time": "yesterday"}, "auth_time"),
    ],
)
@pytest.mark.spec("IDT-20")
def test_a_refreshed_token_of_another_subject_or_login_is_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidIDToken, match=why):
        check_refreshed_id_token(claims(auth_time=NOW - 10) | changed_or_removed(changed), claims(auth_time=NOW - 10))


def changed_or_removed(changed: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value is MISSING else value for name, value in changed.items()}
