"""Giving a refresh token back to its authorization server. It is polite, and never worth failing for."""

from __future__ import annotations

import logging

from coatcheck.errors import CoatcheckError
from coatcheck.tokens.endpoint import TokenEndpoint

_log = logging.getLogger("coatcheck")


async def revoke_quietly(endpoint: TokenEndpoint, refresh_token: str) -> None:
    """Revoke *refresh_token*; a failure is one line in the log (RFC 7009)."""
    try:
        await endpoint.revoke(refresh_token)
    except CoatcheckError as error:
        _log.warning(
            "a refresh token could not be revoked at %s: %s. Nobody here can use it any more; where that is not "
            "enough, end the user's grant at the authorization server.",
            endpoint.client.issuer,
            error,
        )
