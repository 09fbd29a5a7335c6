from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck import base64url


@given(st.binary(max_size=100))
def test_what_is_encoded_is_decoded_again(data: bytes) -> None:
    text = base64url.encode(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert base64url.decode(text) == data


@given(st.text(max_size=20) | st.text("AQgw_-=+/ ", max_size=12))
def test_one_value_has_one_spelling(text: str) -> None:
    """Whatever is accepted is exactly what `encode` writes: no padding, no stray bits, no other alphabet."""
    try:
        data = base64url.decode(text)
    except ValueError:
        return
    assert base64url.encode(data) == text


@pytest.mark.parametrize("text", ["A", "AAAAA", "AB", "AA==", "A+/A", "AA A", "AAA\n", "\u2000AAA", "ÄÄÄÄ"])
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        base64url.decode(text)
