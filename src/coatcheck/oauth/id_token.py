"""ID tokens: who logged in, checked claim by claim (OpenID Connect Core 1.0)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from coatcheck import base64url
from coatcheck.errors import InsufficientAuthentication, InvalidIDToken
from coatcheck.oauth.jwks import KeySet
from coatcheck.oauth.jws import JWS, read_json
from coatcheck.oauth.jwt import verify_jws
from coatcheck.oauth.token_claims import (
    CLOCK,
    LEEWAY,
    audience,
    check_audience,
    check_expiry,
    check_issued,
    check_issuer,
    check_not_before,
    check_type,
    date,
    shown,
)

IDTokenClaims = dict[str, Any]
"""The claims of a verified ID token, as the authorization server wrote them."""

MAX_AGE_AT_LOGIN = timedelta(minutes=10)
"""An ID token that ends a login was issued a moment ago; an older one is somebody's left-over."""

_TYPES = (None, "jwt", "application/jwt")


def verify_id_token(
    id_token: str,
    *,
    keys: KeySet,
    issuer: str,
    client_id: str,
    algorithms: Collection[str],
    nonce: str | None,
    now: float,
    at_login: bool,
    leeway: timedelta = LEEWAY,
    access_token: str | None = None,
    max_age: float | None = None,
    acr_values: str | None = None,
) -> IDTokenClaims:
    """
    Verify an ID token and return its claims.

    The signature is checked wherever the token came from, the token endpoint included. *at_login* asks for more than a
    refresh does: *nonce* must be given and come back, and the token must be new. In a refreshed token a nonce may be
    missing; compare such a token with the one of the login by `check_refreshed_id_token` as well.

    *now* and *max_age* are seconds. With *max_age*, `auth_time` must be there and recent enough. With *access_token*,
    an `at_hash` must fit it. With *acr_values* (space-separated), `acr` must be one of them.

    Raises:
        UnknownKey: the key set lacks the token's key: fetch the set once more.
        InsufficientAuthentication: all is well, but `acr` or `auth_time` is not what was asked for.
        InvalidIDToken: a check failed; the message says which one.
        ValueError: a login without a nonce was asked for, which is a mistake of the caller.

    OpenID Connect Core 1.0, sections 3.1.3.7 and 3.1.3.8.
    """
    if at_login and not nonce:
        raise ValueError("at a login the nonce of the transaction must be given")
    jws = verify_jws(id_token, keys, algorithms=algorithms)
    claims = read_json(jws.payload, "payload")
    _check_kind(jws, claims)
    _check_parties(claims, issuer=issuer, client_id=client_id)
    _check_times(claims, now=now, leeway=leeway.total_seconds(), at_login=at_login)
    _check_nonce(claims, nonce, required=at_login)
    if max_age is not None:
        _check_auth_time(claims, max_age=max_age, now=now, leeway=leeway.total_seconds())
    if acr_values is not None:
        _check_acr(claims, acr_values)
    if access_token is not None and "at_hash" in claims:
        _check_at_hash(claims["at_hash"], access_token, jws.alg)
    return claims


def check_refreshed_id_token(new_claims: Mapping[str, Any], original_claims: Mapping[str, Any]) -> None:
    """
    Check that a refreshed ID token (already verified) speaks of the login that the original one spoke of.

    *original_claims* are all claims of the ID token of the login. A failure means that the answer belongs to somebody
    else: discard the new tokens and end the session.

    Raises:
        InvalidIDToken: issuer, subject or audience differ, `auth_time` moved forward, or another nonce is in it.

    OpenID Connect Core 1.0, section 12.2.
    """
    for name in ("iss", "sub"):
        if new_claims.get(name) != original_claims.get(name):
            raise InvalidIDToken(f"the refreshed id_token has another {name} than the login (OpenID Connect Core 12.2)")
    if set(audience(new_claims)) != set(audience(original_claims)):
        raise InvalidIDToken("the refreshed id_token has another aud than the login (OpenID Connect Core 12.2)")
    if "nonce" in new_claims and new_claims["nonce"] != original_claims.get("nonce"):
        raise InvalidIDToken("the refreshed id_token has another nonce than the login (OpenID Connect Core 12.2)")
    dated = "auth_time" in new_claims and "auth_time" in original_claims
    if dated and date(new_claims, "auth_time") > date(original_claims, "auth_time"):
        raise InvalidIDToken("auth_time of the refreshed id_token moved forward (OpenID Connect Core 12.2)")


def _check_kind(jws: JWS, claims: Mapping[str, Any]) -> None:
    check_type(jws, _TYPES, kind="id_token")
    if "events" in claims:
        raise InvalidIDToken("a token with `events` is a security event, not an id_token (RFC 8417 2.2)")


def _check_parties(claims: Mapping[str, Any], *, issuer: str, client_id: str) -> None:
    check_issuer(claims, issuer)
    sub = claims.get("sub")
    if not isinstance(sub, str) or not 0 < len(sub) <= 255:
        raise InvalidIDToken("sub is not a string of 1 to 255 characters (OpenID Connect Core 2)")
    check_audience(claims, client_id)


def _check_times(claims: Mapping[str, Any], *, now: float, leeway: float, at_login: bool) -> None:
    check_expiry(claims, now=now, leeway=leeway)
    issued_at = check_issued(claims, now=now, leeway=leeway)
    if at_login and issued_at < now - leeway - MAX_AGE_AT_LOGIN.total_seconds():
        raise InvalidIDToken(f"the token was issued {now - issued_at:.0f} s ago, too old to end a login; {CLOCK}")
    check_not_before(claims, now=now, leeway=leeway)


def _check_nonce(claims: Mapping[str, Any], expected: str | None, *, required: bool) -> None:
    if expected is None or ("nonce" not in claims and not required):
        return
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.encode()):
        raise InvalidIDToken("the nonce is not the one of this login (OpenID Connect Core 3.1.3.7)")


def _check_auth_time(claims: Mapping[str, Any], *, max_age: float, now: float, leeway: float) -> None:
    age = now - date(claims, "auth_time")
    if age > max_age + leeway:
        raise InsufficientAuthentication(f"the user was authenticated {age:.0f} s ago, max_age is {max_age:.0f} s")
    if age < -leeway:
        raise InvalidIDToken(f"auth_time is {-age:.0f} s in the future; {CLOCK}")


def _check_acr(claims: Mapping[str, Any], acr_values: str) -> None:
    """A server may ignore `acr_values`, which are a wish; whoever rests a decision on them must look (RFC 9470 5)."""
    acr = claims.get("acr")
    if not isinstance(acr, str) or acr not in acr_values.split(" "):
        raise InsufficientAuthentication(f"acr is {shown(claims, 'acr')}, asked for was {acr_values!r}")


def _check_at_hash(at_hash: object, access_token: str, alg: str) -> None:
    """Compare with the left half of the hash that belongs to *alg* (OpenID Connect Core 3.1.3.6)."""
    # Ed25519 signs with SHA-512 inside; the others carry the size in their name. An unknown name never gets here:
    # the signature was verified with it.
    digest = hashlib.new("sha512" if alg.startswith("Ed") else f"sha{alg[2:]}", access_token.encode()).digest()
    expected = base64url.encode(digest[: len(digest) // 2])
    if not isinstance(at_hash, str) or not hmac.compare_digest(at_hash.encode(), expected.encode()):
        raise InvalidIDToken("at_hash does not fit the access_token (OpenID Connect Core 3.1.3.8)")
