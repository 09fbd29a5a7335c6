"""base64url without padding, as in JWTs, our cookies and our keys (RFC 4648 section 5, RFC 7515 section 2)."""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")


def encode(data: bytes) -> str:
    """Encode *data*, without padding."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def is_base64url(text: bytes) -> bool:
    """Say whether *text* has no other characters than those of the alphabet."""
    return not text.translate(None, ALPHABET)


def decode(text: str) -> bytes:
    """
    Decode what `encode` made, and nothing else: one value has one text.

    Raises:
        ValueError: another character, a length that cannot be, or leftover bits that are not zero.
    """
    raw = text.encode("ascii", "replace")
    if not is_base64url(raw):
        raise ValueError("not base64url")
    try:
        data = a2b_base64(raw.translate(_FROM_URL) + b"=" * (-len(raw) % 4), strict_mode=True)
    except Error:
        raise ValueError("not base64url") from None
    # Two texts for one value would be two spellings of one secret: the leftover bits of the last character count.
    if encode(data[-(len(data) % 3) :] if len(data) % 3 else b"") != text[len(data) // 3 * 4 :]:
        raise ValueError("not base64url")
    return data
