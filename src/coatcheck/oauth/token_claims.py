"""What id_tokens and logout tokens have in common: of which kind they are, who issued them, for whom, and when."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from coatcheck.errors import InvalidIDToken
from coatcheck.oauth.jws import JWS

LEEWAY = timedelta(seconds=60)
"""How far the clocks of the authorization server and this machine may differ."""
LAST_DATE = 253_402_300_800.0
"""The year 10000: a later NumericDate is no date."""


def check_type(jws: JWS, allowed: Collection[str | None], *, kind: str) -> None:
    """
    Refuse other kinds of JWT that the same issuer signs with the same keys; *allowed* has None where `typ` may lack.

    Raises:
        InvalidIDToken: `typ` is none of those. *kind* is what was expected, for the message.

    RFC 8725, sections 3.11 and 3.12.
    """
    typ = jws.header.get("typ")
    if (typ.lower() if isinstance(typ, str) else typ) not in allowed:
        raise InvalidIDToken(f"a token of typ {str(typ)[:40]!r} is no {kind} (RFC 8725 3.11)")


def check_issuer(claims: Mapping[str, Any], issuer: str) -> None:
    """Raise InvalidIDToken unless `iss` is *issuer*, byte for byte (OpenID Connect Core 3.1.3.7)."""
    if claims.get("iss") != issuer:
        raise InvalidIDToken(f"iss is {shown(claims, 'iss')}, expected exactly {issuer!r}")


def check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    """Raise InvalidIDToken unless the token is for *client_id* and nobody else (OpenID Connect Core 3.1.3.7)."""
    named = audience(claims)
    if client_id not in named:
        raise InvalidIDToken(f"aud is {shown(claims, 'aud')}, expected {client_id!r}")
    if set(named) != {client_id}:
        raise InvalidIDToken(f"aud names others than {client_id!r}: {shown(claims, 'aud')}")
    if claims.get("azp", None if len(named) > 1 else client_id) != client_id:
        raise InvalidIDToken(f"azp is {shown(claims, 'azp')}, expected {client_id!r}")


def audience(claims: Mapping[str, Any]) -> list[str]:
    """Read `aud`. Raises InvalidIDToken where it is neither a string nor an array of strings (RFC 7519 4.1.3)."""
    aud = claims.get("aud")
    named = [aud] if isinstance(aud, str) else aud
    if not isinstance(named, list) or not all(isinstance(value, str) for value in named):
        raise InvalidIDToken("aud is neither a string nor an array of strings (RFC 7519 4.1.3)")
    return named


def check_expiry(claims: Mapping[str, Any], *, now: float, leeway: float) -> float:
    """Return `exp`. Raises InvalidIDToken where that is missing, or passed (all in seconds; RFC 7519 4.1.4)."""
    expires_at = date(claims, "exp")
    if now >= expires_at + leeway:
        raise InvalidIDToken(f"the token expired {now - expires_at:.0f} s ago; {CLOCK}")
    return expires_at


def check_issued(claims: Mapping[str, Any], *, now: float, leeway: float) -> float:
    """Return `iat`. Raises InvalidIDToken where that is missing, or to come (all in seconds; RFC 7519 4.1.6)."""
    issued_at = date(claims, "iat")
    if issued_at > now + leeway:
        raise InvalidIDToken(f"the token was issued {issued_at - now:.0f} s in the future; {CLOCK}")
    return issued_at


def check_not_before(claims: Mapping[str, Any], *, now: float, leeway: float) -> None:
    """Raise InvalidIDToken where there is an `nbf` that is to come (all in seconds; RFC 7519 4.1.5)."""
    if "nbf" in claims and date(claims, "nbf") > now + leeway:
        raise InvalidIDToken(f"the token is not valid before {date(claims, 'nbf') - now:.0f} s from now; {CLOCK}")


CLOCK = "compare the clocks of this machine and of the authorization server"


def date(claims: Mapping[str, Any], name: str) -> float:
    """Read a NumericDate, which JSON booleans are not, although Python takes them for numbers (RFC 7519 2)."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LAST_DATE:
        raise InvalidIDToken(f"{name} is missing or not a date in seconds (OpenID Connect Core 2)")
    return float(value)


def shown(claims: Mapping[str, Any], name: str) -> str:
    """A claim as a message may show it: cut, and as Python would write it."""
    return repr(claims.get(name))[:200]
