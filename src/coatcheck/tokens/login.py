"""The end of a login: the code becomes tokens, and the id_token says who logged in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coatcheck.oauth.authorize import AuthorizationCode, AuthorizationTransaction
from coatcheck.oauth.token import require_id_token
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.values import NOTHING, UserToken


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a login brought: the tokens, and the verified claims of the id_token (empty without `openid`)."""

    token: UserToken
    claims: Mapping[str, Any] = field(repr=False)


async def redeem(endpoint: TokenEndpoint, code: AuthorizationCode, transaction: AuthorizationTransaction) -> Redeemed:
    """Exchange *code* and verify what comes back; see `Tokens.redeem`."""
    answer = await endpoint.redeem_code(
        code, redirect_uri=transaction.redirect_uri, code_verifier=transaction.code_verifier
    )
    id_token = require_id_token(answer, scope=transaction.scope)
    claims: Mapping[str, Any] = NOTHING
    if id_token is not None:
        claims = await endpoint.server.verify_id_token(
            id_token,
            nonce=transaction.nonce,
            access_token=answer.access_token,
            at_login=True,
            max_age=transaction.max_age,
            acr_values=transaction.acr_values,
        )
    token = UserToken(
        access_token=answer.access_token,
        token_type=answer.token_type,
        issued_at=answer.requested_at,
        expires_at=answer.expires_at,
        scope=transaction.scope if answer.scope is None else answer.scope,
        refresh_token=answer.refresh_token,
        id_token=id_token,
        refresh_token_expires_at=answer.refresh_token_expires_at,
    )
    return Redeemed(token, claims)
