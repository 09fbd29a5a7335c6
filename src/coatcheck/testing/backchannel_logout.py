"""The back-channel logouts of the in-process authorization server: logout tokens, and where they are sent."""

from __future__ import annotations

import secrets
from typing import Any

from coatcheck.oauth.logout_token import BACKCHANNEL_LOGOUT_EVENT
from coatcheck.oauth.messages import form_request
from coatcheck.testing.registered_clients import RegisteredClients
from coatcheck.testing.scripting import Script
from coatcheck.testing.signing import SigningKeys
from coatcheck.transport import BackChannel, Send

LIFETIME = 120
"""Seconds for which a logout token is good (OpenID Connect Back-Channel Logout 1.0, section 2.4: two minutes)."""


class BackChannelLogouts:
    """Tells the clients whose users have left (OpenID Connect Back-Channel Logout 1.0)."""

    def __init__(self, issuer: str, clients: RegisteredClients, keys: SigningKeys, script: Script) -> None:
        self._issuer = issuer
        self._clients = clients
        self._keys = keys
        self._script = script

    def logout_token(self, client_id: str, *, sub: str | None, sid: str | None, now: float) -> str:
        """Sign that *sub* has left, or that *sid* has ended (section 2.4)."""
        key = self._keys.newest
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": client_id,
            "iat": int(now),
            "exp": int(now) + LIFETIME,
            "jti": secrets.token_urlsafe(16),
            "events": {BACKCHANNEL_LOGOUT_EVENT: {}},
        }
        claims |= {name: value for name, value in (("sub", sub), ("sid", sid)) if value is not None}
        header = self._script.tampered("logout_token_header", {"alg": key.alg, "kid": key.kid, "typ": "logout+jwt"})
        return self._keys.sign(self._script.tampered("logout_token", claims), header)

    async def tell(self, *, sub: str | None, sid: str | None, send: Send | None, now: float) -> dict[str, int]:
        """Send each client that has an address for it a token of its own; return what they answered (section 2.5)."""
        channel = BackChannel()
        statuses = {}
        try:
            for client in self._clients:
                if client.backchannel_logout_uri is not None:
                    token = self.logout_token(client.client_id, sub=sub, sid=sid, now=now)
                    request = form_request(client.backchannel_logout_uri, [("logout_token", token)])
                    statuses[client.client_id] = (await (send or channel.send)(request)).status
        finally:
            await channel.aclose()
        return statuses
