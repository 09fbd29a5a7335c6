"""An id_token that came with a renewal: whose is it, and may it replace the one of the login?"""

from __future__ import annotations

import logging
from typing import Any

from coatcheck import base64url
from coatcheck.codec import decode_object
from coatcheck.errors import InvalidIDToken
from coatcheck.oauth.id_token import check_refreshed_id_token
from coatcheck.oauth.token import TokenSet
from coatcheck.provider import AuthorizationServer
from coatcheck.tokens.values import User, UserToken
from coatcheck.tokens.verdicts import told

_log = logging.getLogger("coatcheck")


class OtherSubject(InvalidIDToken):
    """The answer to a renewal is about somebody else. Nothing of it may be used, and the session is over."""


async def id_token_to_keep(answer: TokenSet, current: UserToken, user: User, server: AuthorizationServer) -> str | None:
    """
    Return the id_token to store after a renewal: the new one if it is good, else the old one.

    An id_token that fails a check is not stored, with one warning, and the renewal goes on: whoever could tamper with
    the answer could as well have left it out, and a clock or a key set that is out of step must not end a session.

    Raises:
        OtherSubject: issuer or subject are not those of the login.

    OpenID Connect Core 1.0, section 12.2.
    """
    if answer.id_token is None:
        return current.id_token
    try:
        # A store of the application's own may have kept the id_token in a form that cannot be read, or not at all.
        original = _expected(user, server) | (_claims(current.id_token) if current.id_token else {})
        _check_subject(_claims(answer.id_token), original)
        claims = await server.verify_id_token(
            answer.id_token, nonce=None, access_token=answer.access_token, at_login=False
        )
        _check_subject(claims, original)
        if current.id_token:
            check_refreshed_id_token(claims, original)
    except OtherSubject:
        raise
    except Exception as error:  # the tokens that came with it are spent for good if they do not reach the store now
        _log.warning(
            "the id_token that %s sent with a renewed token is not used: %s; the one of the login is kept",
            server.client.issuer,
            told(error),
        )
        return current.id_token
    return answer.id_token


def _expected(user: User, server: AuthorizationServer) -> dict[str, Any]:
    return {"iss": server.client.issuer, "sub": user.sub} if user.iss == server.client.issuer else {}


def _check_subject(claims: dict[str, Any], original: dict[str, Any]) -> None:
    for name in ("iss", "sub"):
        if name in claims and name in original and claims[name] != original[name]:
            raise OtherSubject(f"the renewed id_token has another {name} than the login (OpenID Connect Core 12.2)")


def _claims(id_token: str) -> dict[str, Any]:
    """Read the claims without verifying anything: only to compare. What cannot be read says nothing."""
    try:
        return decode_object(base64url.decode(id_token.split(".")[1]))
    except (IndexError, ValueError):
        return {}
