"""Token responses: what a token endpoint answered, checked, its lifetime made an instant (RFC 6749 section 5)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from coatcheck import codec
from coatcheck.errors import InvalidTokenResponse
from coatcheck.oauth.error_response import raise_for_error
from coatcheck.oauth.messages import Response

MAX_LIFETIME = timedelta(hours=24)
"""A longer `expires_in` is cut to this: renewing once a day harms nobody, believing 1e300 does."""

_TOKEN_TYPES: dict[str, Literal["Bearer", "DPoP"]] = {"bearer": "Bearer", "dpop": "DPoP"}
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")
_REFRESH_LIFETIMES = ("refresh_expires_in", "refresh_token_expires_in")
"""The first is Keycloak's; the second that of several others."""
_LONGEST_REFRESH_LIFETIME = 10 * 366 * 24 * 3600.0
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSet:
    """
    The tokens of one answer. None means that the answer did not carry it, not that it ceased to exist.

    `expires_at` is None when the server gave no lifetime, `refresh_token_expires_at` when it announced none. `scope` is
    None when it was granted as requested; an empty string is an empty grant.
    """

    access_token: str = field(repr=False)
    token_type: Literal["Bearer", "DPoP"]
    requested_at: float
    expires_at: float | None = None
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)
    scope: str | None = None
    issued_token_type: str | None = None
    refresh_token_expires_at: float | None = None


def parse_token_response(response: Response, *, requested_at: float) -> TokenSet:
    """
    Read the answer of a token endpoint.

    `expires_in` (seconds) becomes `expires_at`, counted from *requested_at*, when the request began (seconds since the
    epoch). Absent means None; zero, negative or unreadable means already expired; more than 24 h is cut to 24 h.
    `refresh_expires_in` or `refresh_token_expires_in`, which no specification has, become `refresh_token_expires_at`;
    zero, which means "never" where it is used, and whatever cannot be meant announce nothing.

    Raises:
        InvalidGrant: the grant is over: look whether somebody else renewed it, then end it.
        OAuthError: the server refused for another reason; the grant lives.
        TransportError: the server cannot answer now, or something else answered in its place.
        InvalidTokenResponse: a success that cannot be used, or a redirect.

    RFC 6749, sections 5.1 and 5.2.
    """
    members = _members(response)
    try:
        return TokenSet(
            access_token=_access_token(members),
            token_type=_token_type(members),
            requested_at=requested_at,
            expires_at=_expires_at(members.get("expires_in"), requested_at),
            refresh_token=_optional_text(members, "refresh_token") or None,
            id_token=_optional_text(members, "id_token") or None,
            scope=_optional_text(members, "scope"),
            issued_token_type=_optional_text(members, "issued_token_type") or None,
            refresh_token_expires_at=_announced_end(members, requested_at),
        )
    except InvalidTokenResponse as error:
        raise InvalidTokenResponse(str(error), carries_refresh_token=bool(members.get("refresh_token"))) from None


def parse_token_exchange_response(response: Response, *, requested_at: float) -> TokenSet:
    """
    Read the answer to a token exchange: as `parse_token_response`, and `issued_token_type` must be there.

    RFC 8693 section 2.2.1.
    """
    tokens = parse_token_response(response, requested_at=requested_at)
    if tokens.issued_token_type is None:
        raise InvalidTokenResponse("the token exchange answered without issued_token_type (RFC 8693 2.2.1)")
    return tokens


def require_id_token(tokens: TokenSet, *, scope: str) -> str | None:
    """
    Return the id_token of a login. It must be there when *scope*, the requested one, contains `openid`.

    Raises:
        InvalidTokenResponse: `openid` was asked for and no id_token came.

    OpenID Connect Core 1.0 section 3.1.3.3.
    """
    if tokens.id_token is None and "openid" in scope.split(" "):
        raise InvalidTokenResponse(
            "openid was requested, but the token response carries no id_token (OpenID Connect Core 3.1.3.3): "
            "is the client registered for OpenID Connect?"
        )
    return tokens.id_token


def _members(response: Response) -> dict[str, Any]:
    raise_for_error(response, endpoint="token endpoint")
    if response.status != 200:
        raise InvalidTokenResponse(f"the token endpoint answered {response.status}, expected 200 (RFC 6749 5.1)")
    try:
        members = codec.decode_object(response.body)
    except ValueError as error:
        raise InvalidTokenResponse(f"the answer of the token endpoint cannot be read: {error}") from None
    if "error" in members:
        raise InvalidTokenResponse("the token endpoint answered 200 with an error in it; errors are 400 (RFC 6749 5.2)")
    return members


def _access_token(members: dict[str, Any]) -> str:
    token = members.get("access_token")
    # It goes into a header: a line break in it would be a header of its own.
    if not isinstance(token, str) or not _HEADER_SAFE.fullmatch(token):
        raise InvalidTokenResponse("access_token is missing or not a string of visible ASCII characters (RFC 6749 5.1)")
    return token


def _token_type(members: dict[str, Any]) -> Literal["Bearer", "DPoP"]:
    # "The client MUST NOT use an access token if it does not understand the token type" (RFC 6749 7.1).
    token_type = members.get("token_type")
    if not isinstance(token_type, str) or token_type.lower() not in _TOKEN_TYPES:
        shown = repr(token_type[:40]) if isinstance(token_type, str) else "missing or not a string"
        raise InvalidTokenResponse(f"token_type is {shown}, expected Bearer or DPoP (RFC 6749 7.1)")
    return _TOKEN_TYPES[token_type.lower()]


def _optional_text(members: dict[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidTokenResponse(f"{name} is not a string (RFC 6749 5.1)")
    return value


def _expires_at(expires_in: Any, requested_at: float) -> float | None:
    if expires_in is None:
        return None
    # What cannot be read counts as expired, never as endless. Refusing the whole answer instead would throw away a
    # refresh token that may be the only valid one left.
    return requested_at + min(max(_seconds(expires_in), 0.0), MAX_LIFETIME.total_seconds())


def _announced_end(members: dict[str, Any], requested_at: float) -> float | None:
    """Only what is plainly a duration may end anything later on; an instant, for instance, is longer than ten years."""
    for name in _REFRESH_LIFETIMES:
        seconds = _seconds(members.get(name))
        if 0.0 < seconds <= _LONGEST_REFRESH_LIFETIME:
            return requested_at + seconds
    return None


def _seconds(value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return 0.0
