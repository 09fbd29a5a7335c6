"""Exchanging an access token, and what a refusal means (RFC 8693)."""

from __future__ import annotations

from coatcheck.errors import CoatcheckError, InvalidTokenResponse, OAuthError, TokenUnavailable
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.results import BearerTokenResult
from coatcheck.tokens.verdicts import judge

_REFUSED = frozenset(
    {"invalid_request", "invalid_target", "invalid_scope", "invalid_grant", "access_denied", "interaction_required"}
)
"""Answers to a token exchange that are about the token or the target, not about us (RFC 8693 2.2.2)."""


async def exchange(
    endpoint: TokenEndpoint,
    subject_token: str,
    *,
    audience: str | None,
    resource: tuple[str, ...],
    scope: str | None,
    actor_token: str | None,
) -> BearerTokenResult:
    """Exchange *subject_token* at *endpoint*. Raises as `Tokens.exchange`."""
    try:
        answer = await endpoint.exchange(
            subject_token, audience=audience, resource=resource, scope=scope, actor_token=actor_token
        )
        if answer.token_type != "Bearer":
            raise InvalidTokenResponse(f"the exchanged token is of type {answer.token_type}, expected Bearer")
    except CoatcheckError as error:
        if isinstance(error, OAuthError) and error.error in _REFUSED:
            raise
        verdict = judge(error, issuer=endpoint.client.issuer)
        raise TokenUnavailable(verdict.message, retry_after=verdict.retry_after) from error
    return BearerTokenResult(answer.access_token, answer.expires_at, scope if answer.scope is None else answer.scope)
