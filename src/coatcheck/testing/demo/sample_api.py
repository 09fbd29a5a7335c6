"""The remote API of the demo: it tells what it received, and of the token only a fingerprint."""

from __future__ import annotations

import hashlib
import time
from urllib.parse import urlsplit

from coatcheck.oauth.messages import Request, Response
from coatcheck.testing.answers import json_answer
from coatcheck.testing.authorization_server import AuthorizationServerApp

_SHOWN = (
    "accept",
    "cookie",
    "host",
    "user-agent",
    "x-csrf",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
)


class SampleAPI:
    """Accepts access tokens that the demo's own provider calls active."""

    def __init__(self, server: AuthorizationServerApp) -> None:
        self._server = server
        self._calls = 0

    async def send(self, request: Request) -> Response:
        """Answer one request."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        known = self._server.introspect(token)
        if scheme.lower() != "bearer" or not known["active"]:
            return json_answer(
                {"error": "invalid_token"}, status=401, headers={"www-authenticate": 'Bearer error="invalid_token"'}
            )
        self._calls += 1
        answer = {
            "call": self._calls,
            "method": request.method,
            "path": urlsplit(request.url).path,
            "sub": known["sub"],
            "scope": known["scope"],
            "token": fingerprint(token),
            "expires_in": round(known["exp"] - time.time(), 1),
            "lifetime": known["exp"] - known["iat"],
            "refreshes": self._server.count("token", grant_type="refresh_token"),
            "headers": {name: request.headers[name] for name in _SHOWN if name in request.headers},
        }
        return json_answer(answer)


def fingerprint(token: str) -> str:
    """Enough to see that two tokens differ, and nothing to call anybody with."""
    return hashlib.sha256(token.encode()).hexdigest()[:8]
