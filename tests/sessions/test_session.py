from __future__ import annotations

import pytest

from coatcheck.codec import DecodeError, encode
from coatcheck.sessions import Claims, Session

SESSION = Session(
    id="the-id",
    iss="https://idp.example.com",
    sub="ada",
    sid=None,
    claims=Claims(b'{"email":"ada@example.com"}'),
    created_at=100.0,
    expires_at=500.0,
    seen_at=200.0,
    idle_timeout=60.0,
)


def test_a_session_dies_of_idleness_or_of_age_whichever_comes_first() -> None:
    assert SESSION.dead_at == 260.0
    assert SESSION._replace(seen_at=499.0).dead_at == 500.0


def test_claims_read_like_a_mapping_and_equal_one() -> None:
    claims = Claims(encode({"name": "Ada", "groups": ["a", "b"], "address": {"locality": "London"}}))
    assert claims["name"] == "Ada"
    assert claims.get("nickname") is None
    assert list(claims) == ["name", "groups", "address"]
    assert len(claims) == 3
    assert claims == {"name": "Ada", "groups": ["a", "b"], "address": {"locality": "London"}}


def test_claims_are_decoded_only_when_somebody_looks() -> None:
    broken = Claims(b"no JSON")
    with pytest.raises(DecodeError):
        broken["name"]


def test_neither_claims_nor_id_show_in_a_repr() -> None:
    assert "ada@example.com" not in repr(SESSION) + repr(SESSION.claims)
    assert "the-id" not in repr(SESSION)
