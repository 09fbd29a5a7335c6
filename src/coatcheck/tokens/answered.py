"""What the answer to a refresh puts in the place of the token that was due."""

from __future__ import annotations

from coatcheck.oauth.token import TokenSet
from coatcheck.tokens.values import UserToken, UserTokenRequestParameters


def rotated(answer: TokenSet, current: UserToken) -> bool:
    """Say whether the refresh token that was sent has been replaced."""
    return answer.refresh_token not in (None, current.refresh_token)


def renewed(
    current: UserToken, answer: TokenSet, id_token: str | None, parameters: UserTokenRequestParameters
) -> UserToken:
    """Put the answer in the place of *current*; what it does not mention stays (RFC 6749 section 6)."""
    return UserToken(
        access_token=answer.access_token,
        token_type=answer.token_type,
        issued_at=answer.requested_at,
        expires_at=answer.expires_at,
        scope=answer.scope if answer.scope is not None else parameters.scope or current.scope,
        refresh_token=answer.refresh_token or current.refresh_token,
        id_token=id_token,
        dpop_key=current.dpop_key,
        refresh_token_expires_at=(
            answer.refresh_token_expires_at
            if answer.refresh_token_expires_at is not None or rotated(answer, current)
            else current.refresh_token_expires_at
        ),
    )
