"""A compact JWS, taken apart strictly: what is checked of a token before anything in it is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coatcheck import base64url, codec
from coatcheck.errors import InvalidIDToken

MAX_TOKEN = 64 * 1024
"""Characters of a whole token; more is refused before anything is parsed."""
MAX_HEADER = 8 * 1024
"""Characters of the header segment."""
MAX_DEPTH = 8
"""Levels of JSON nesting inside a header or a payload."""
MAX_INTEGER = 2**64


@dataclass(frozen=True, slots=True)
class JWS:
    """A compact JWS, parsed strictly and *not yet verified*: believe nothing in it but what selects the key."""

    alg: str
    kid: str | None
    header: Mapping[str, Any]
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_jws(token: str) -> JWS:
    """
    Take a compact JWS apart without believing it.

    Stricter than the RFC asks: three segments of canonical base64url, sizes capped before decoding, no member twice,
    no deep nesting, no critical extension (we implement none), no unencoded payload. Keys that the header carries or
    points to (`jwk`, `jku`, `x5c`, `x5u`) are never looked at.

    Raises:
        InvalidIDToken: it is not such a token. The message never repeats the token.

    RFC 7515, sections 3.1 and 5.2; RFC 8725, section 3.
    """
    if len(token) > MAX_TOKEN:
        raise InvalidIDToken(f"the token is longer than {MAX_TOKEN} characters")
    segments = token.split(".")
    if len(segments) != 3:
        raise InvalidIDToken(f"a compact JWS has three segments, this token has {len(segments)} (RFC 7515 3.1)")
    if len(segments[0]) > MAX_HEADER:
        raise InvalidIDToken(f"the token's header is longer than {MAX_HEADER} characters")
    header = read_json(decode_segment(segments[0], "header"), "header")
    alg, kid = header.get("alg"), header.get("kid")
    if not isinstance(alg, str):
        raise InvalidIDToken("the token's header has no alg (RFC 7515 4.1.1)")
    if kid is not None and not isinstance(kid, str):
        raise InvalidIDToken("the token's kid is not a string (RFC 7515 4.1.4)")
    if "crit" in header or header.get("b64", True) is not True:
        raise InvalidIDToken("the token needs an extension that is not understood (RFC 7515 4.1.11, RFC 7797)")
    return JWS(
        alg=alg,
        kid=kid,
        header=header,
        payload=decode_segment(segments[1], "payload"),
        signing_input=f"{segments[0]}.{segments[1]}".encode("ascii"),
        signature=decode_segment(segments[2], "signature"),
    )


def read_json(data: bytes, what: str) -> dict[str, Any]:
    """
    Read the JSON object of a header or payload, strictly.

    Raises:
        InvalidIDToken: not an object, a member twice, nested too deeply, or a number beyond reason.
    """
    try:
        value = codec.decode_object(data, max_bytes=MAX_TOKEN)
        _check_value(value, MAX_DEPTH)
    except ValueError as error:
        raise InvalidIDToken(f"the token's {what} is unusable: {error}") from None
    return value


def _check_value(value: object, levels: int) -> None:
    match value:
        case dict() | list() if levels == 0:
            raise ValueError(f"the document is nested deeper than {MAX_DEPTH} levels")
        case dict():
            for name, member in value.items():
                _check_value(name, levels - 1)
                _check_value(member, levels - 1)
        case list():
            for member in value:
                _check_value(member, levels - 1)
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:  # half a surrogate pair could be neither stored nor compared later
                raise ValueError("the document has text that is not Unicode") from None
        case int() | float() if not (math.isfinite(value) and abs(value) < MAX_INTEGER):
            raise ValueError("the document has a number out of range")


def decode_segment(segment: str, what: str) -> bytes:
    """
    Decode base64url without padding, in its one canonical spelling.

    Raises:
        InvalidIDToken: it is not that; the message names *what*.

    RFC 7515, section 2.
    """
    try:
        return base64url.decode(segment)
    except ValueError:
        raise InvalidIDToken(f"the token's {what} is not canonical base64url (RFC 7515 2)") from None
