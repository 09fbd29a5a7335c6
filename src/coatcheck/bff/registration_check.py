"""
In development mode: does the authorization server know our redirect URI?

When it does not, it must not redirect, so it shows a page of its own, often a cryptic one, and we never hear of it. The
commonest mistake of a first day would be the only one without an explanation. So the first login of a development
server asks beforehand, without a user (`prompt=none`): whoever is registered is answered with a redirect.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from coatcheck.bff.problems import logger, printable
from coatcheck.bff.settings import Settings
from coatcheck.errors import CoatcheckError
from coatcheck.oauth.authorize import authorization_url, new_transaction
from coatcheck.oauth.metadata import Metadata
from coatcheck.provider import AuthorizationServer

_DEADLINE = 3.0
_BUSY = frozenset({408, 425, 429})


class RegistrationCheck:
    """Asks at each login until the answer was good. Failing to ask is nobody's problem."""

    def __init__(self, settings: Settings, server: AuthorizationServer) -> None:
        self._settings = settings
        self._server = server
        self._done = not settings.development

    async def __call__(self, metadata: Metadata) -> None:
        """Write one WARNING if the authorization server refuses the request itself."""
        if self._done:
            return
        client = replace(self._server.client, authorization_params=_without_prompt(self._server))
        transaction = new_transaction(
            client,
            name="default",
            redirect_uri=self._settings.redirect_uri,
            return_url=self._settings.home,
            now=self._settings.clock.time(),
            token_bytes=bytes,  # zeros: this login never comes back, and HTTP clients log URLs
        )
        url = authorization_url(client, metadata, transaction, prompt="none")
        try:
            async with asyncio.timeout(_DEADLINE):
                status = await self._server.front_channel_status(url)
        except (CoatcheckError, TimeoutError):
            return
        self._done = not 400 <= status < 500 or status in _BUSY
        if not self._done:
            logger.warning(
                "redirect_uri_refused: %s answers an authorization request of client %s with an error page (%d), so "
                "no login can come back. Register exactly this redirect URI for the client: %s (and see that the "
                "client_id is right).",
                self._settings.issuer,
                printable(repr(client.client_id)),
                status,
                self._settings.redirect_uri,
            )


def _without_prompt(server: AuthorizationServer) -> dict[str, str]:
    return {name: value for name, value in server.client.authorization_params.items() if name != "prompt"}
