"""Logout tokens: whose sessions the authorization server ends (OpenID Connect Back-Channel Logout 1.0)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from coatcheck.errors import InvalidIDToken, InvalidLogoutToken, UnknownKey
from coatcheck.oauth.jwks import KeySet
from coatcheck.oauth.jws import JWS, parse_jws, read_json
from coatcheck.oauth.jwt import check_algorithm, check_signature
from coatcheck.oauth.token_claims import (
    CLOCK,
    LEEWAY,
    check_audience,
    check_expiry,
    check_issued,
    check_issuer,
    check_not_before,
    check_type,
)

BACKCHANNEL_LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
"""The member of `events` that makes a token a logout token (section 2.4)."""
MAX_AGE = timedelta(minutes=5)
"""A logout token was issued a moment ago, whatever it says about its end; an older one is somebody's left-over."""

_SECTION = "(OpenID Connect Back-Channel Logout 2.4)"
_TYPES = (None, "jwt", "application/jwt", "logout+jwt", "application/logout+jwt")


@dataclass(frozen=True, slots=True)
class LogoutToken:
    """
    What a verified logout token says: end the sessions of *iss* that are about *sub*, or that its session *sid* led to.

    At least one of the two is given; with both, both have to fit. Instants are seconds since the epoch.
    """

    iss: str
    sub: str | None = field(repr=False)
    sid: str | None = field(repr=False)
    jti: str
    iat: float
    refused_from: float
    """From here on the very same token would be refused for its age: nobody has to remember its `jti` any longer."""


@dataclass(frozen=True, slots=True)
class UnverifiedLogoutToken:
    """A logout token in which everything is right but the signature, which nobody has looked at: believe nothing."""

    _jws: JWS = field(repr=False)
    _says: LogoutToken = field(repr=False)

    def verified_by(self, keys: KeySet) -> LogoutToken:
        """
        Return what the token says, once its signature is checked.

        Raises:
            UnknownKey: the key set lacks the token's key: fetch the set once more.
            InvalidLogoutToken: the signature is wrong.

        OpenID Connect Back-Channel Logout 1.0, section 2.6 (2).
        """
        with _refused_as("signature"):
            check_signature(self._jws, keys)
        return self._says


def verify_logout_token(
    logout_token: str,
    *,
    keys: KeySet,
    issuer: str,
    client_id: str,
    algorithms: Collection[str],
    now: float,
    leeway: timedelta = LEEWAY,
    require_exp: bool = True,
) -> LogoutToken:
    """
    Verify a logout token. *now* is in seconds since the epoch; the others are as for an id_token.

    Whether it was used before is not looked at here: remember its `jti`.

    Raises:
        UnknownKey: the key set lacks the token's key: fetch the set once more.
        InvalidLogoutToken: a check failed; `reason` says which one.

    OpenID Connect Back-Channel Logout 1.0, section 2.6.
    """
    unverified = read_logout_token(
        logout_token,
        issuer=issuer,
        client_id=client_id,
        algorithms=algorithms,
        now=now,
        leeway=leeway,
        require_exp=require_exp,
    )
    return unverified.verified_by(keys)


def read_logout_token(
    logout_token: str,
    *,
    issuer: str,
    client_id: str,
    algorithms: Collection[str],
    now: float,
    leeway: timedelta = LEEWAY,
    require_exp: bool = True,
) -> UnverifiedLogoutToken:
    """
    Make every check that needs no key, so that strangers cause neither a signature check nor a fetch of keys.

    *require_exp* False lets tokens without `exp` in, as `Client.logout_token_without_exp` asks for; with or without
    it, `MAX_AGE` counts.

    Raises:
        InvalidLogoutToken: a check failed; `reason` says which one.

    OpenID Connect Back-Channel Logout 1.0, sections 2.4 and 2.6.
    """
    with _refused_as("malformed"):
        jws = parse_jws(logout_token)
    with _refused_as("typ"):
        check_type(jws, _TYPES, kind="logout token")
    with _refused_as("alg"):
        check_algorithm(jws, algorithms)
    with _refused_as("malformed"):
        claims = read_json(jws.payload, "payload")
    with _refused_as("issuer"):
        check_issuer(claims, issuer)
    with _refused_as("audience"):
        check_audience(claims, client_id)
    issued_at, refused_from = _check_times(claims, now=now, leeway=leeway.total_seconds(), require_exp=require_exp)
    _check_event(claims)
    return UnverifiedLogoutToken(
        jws,
        LogoutToken(
            iss=issuer,
            sub=_identifier(claims, "sub", required="sid" not in claims),
            sid=_identifier(claims, "sid", required=False),
            jti=_jti(claims),
            iat=issued_at,
            refused_from=refused_from,
        ),
    )


def _check_times(claims: Mapping[str, Any], *, now: float, leeway: float, require_exp: bool) -> tuple[float, float]:
    """Return `iat`, and the instant from which the token is too old."""
    with _refused_as("iat"):
        issued_at = check_issued(claims, now=now, leeway=leeway)
        refused_from = issued_at + MAX_AGE.total_seconds() + leeway
        if now >= refused_from:
            raise InvalidIDToken(f"the token was issued {now - issued_at:.0f} s ago, too old to log out; {CLOCK}")
    with _refused_as("exp"):
        if require_exp or "exp" in claims:
            refused_from = min(refused_from, check_expiry(claims, now=now, leeway=leeway) + leeway)
    with _refused_as("nbf"):
        check_not_before(claims, now=now, leeway=leeway)
    return issued_at, refused_from


def _check_event(claims: Mapping[str, Any]) -> None:
    """Tell a logout token from an id_token, which has no event and may have a nonce (section 2.6, 6 and 7)."""
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(BACKCHANNEL_LOGOUT_EVENT), dict):
        raise InvalidLogoutToken(
            f"`events` has no object for a logout {_SECTION}, so it is no logout token", reason="events"
        )
    if "nonce" in claims:  # an empty one, too: an id_token must not become a logout token by anything in it
        raise InvalidLogoutToken(f"there is a nonce {_SECTION}, so it may be an id_token", reason="nonce")


def _jti(claims: Mapping[str, Any]) -> str:
    jti = claims.get("jti")
    if not isinstance(jti, str) or not jti:
        raise InvalidLogoutToken(
            f"jti is missing or no text {_SECTION}, so a replay would not be noticed", reason="jti"
        )
    return jti


def _identifier(claims: Mapping[str, Any], name: str, *, required: bool) -> str | None:
    """Read `sub` or `sid`. One that is there and no text is refused: as if absent, it would end other sessions."""
    if name not in claims and not required:
        return None
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidLogoutToken(
            f"sub and sid do not say in text whose sessions shall end {_SECTION}", reason="sub_sid"
        )
    return value


@contextmanager
def _refused_as(reason: str) -> Iterator[None]:
    """Let a check that id_tokens have, too, refuse a logout token."""
    try:
        yield
    except UnknownKey:
        raise
    except InvalidIDToken as error:
        raise InvalidLogoutToken(str(error), reason=reason) from None
