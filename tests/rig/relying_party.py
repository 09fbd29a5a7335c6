"""
The smallest application that signs a user in: just enough for the rig to show that its providers and browsers work.

It is deliberately not coatcheck, so that a fault of coatcheck never looks like one of the rig.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode

import httpx2

from tests.rig.control_plane import RegisteredClient
from tests.rig.servers import Receive, Scope, Send

SESSION = "__Host-session=yes; Path=/; Secure; HttpOnly; SameSite=Strict"


@dataclass(slots=True)
class RelyingParty:
    """
    `/login` goes to the provider, `/callback` redeems the code and hops to `/`, `/` shows the cookies it got.

    `client` is set once it is registered, for which this application's address has to be known first.
    """

    issuer: str
    scope: str = "openid profile offline_access"
    client: RegisteredClient | None = None
    base_url: str = ""
    tokens: dict[str, Any] = field(default_factory=dict)
    """The last answer of the token endpoint."""
    cookies_seen: dict[str, str] = field(default_factory=dict)
    """Path to the `Cookie` header that came there last."""
    verifiers: dict[str, str] = field(default_factory=dict)
    _metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def redirect_uri(self) -> str:
        return f"{self.base_url}/callback"

    def metadata(self) -> dict[str, Any]:
        if not self._metadata:
            self._metadata = httpx2.get(f"{self.issuer}/.well-known/openid-configuration", trust_env=False).json()
        return self._metadata

    def refresh(self) -> httpx2.Response:
        """Use the refresh token."""
        response = self._token_request({"grant_type": "refresh_token", "refresh_token": self.tokens["refresh_token"]})
        if response.status_code == 200:
            self.tokens.update(response.json())
        return response

    def userinfo(self) -> httpx2.Response:
        """Call an API of the provider with the access token."""
        bearer = {"Authorization": f"Bearer {self.tokens['access_token']}"}
        return httpx2.get(self.metadata()["userinfo_endpoint"], headers=bearer, trust_env=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        self.cookies_seen[scope["path"]] = headers.get("cookie", "")
        query = dict(parse_qsl(scope["query_string"].decode()))
        match scope["path"]:
            case "/login":
                await _redirect(send, self._authorization_url())
            case "/callback":
                status = self._redeem(query)
                hop = '<meta http-equiv="refresh" content="0;url=/">' if status == 200 else f"<p>refused: {status}</p>"
                await _page(send, hop, [(b"set-cookie", SESSION.encode())])
            case "/login-by-redirect":
                await _redirect(send, "/", [(b"set-cookie", SESSION.encode())])
            case _:
                await _page(send, f"<h1 id=cookies>{headers.get('cookie', 'none')}</h1><a id=in href=/login>in</a>")

    def _authorization_url(self) -> str:
        assert self.client is not None
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(8)
        self.verifiers[state] = verifier
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        parameters = {
            "client_id": self.client.client_id,
            "response_type": "code",
            "redirect_uri": self.redirect_uri,
            "scope": self.scope,
            "state": state,
            "nonce": "n",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{self.metadata()['authorization_endpoint']}?{urlencode(parameters)}"

    def _redeem(self, query: Mapping[str, str]) -> int:
        if "code" not in query:
            return 400
        form = {
            "grant_type": "authorization_code",
            "code": query["code"],
            "redirect_uri": self.redirect_uri,
            "code_verifier": self.verifiers.pop(query["state"]),
        }
        response = self._token_request(form)
        self.tokens = response.json()
        return response.status_code

    def _token_request(self, form: Mapping[str, str]) -> httpx2.Response:
        assert self.client is not None and self.client.client_secret is not None
        name, secret = quote_plus(self.client.client_id), quote_plus(self.client.client_secret)
        basic = base64.b64encode(f"{name}:{secret}".encode()).decode()
        return httpx2.post(
            self.metadata()["token_endpoint"], data=form, headers={"Authorization": f"Basic {basic}"}, trust_env=False
        )


async def _redirect(send: Send, location: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    start = {
        "type": "http.response.start",
        "status": 302,
        "headers": [(b"location", location.encode()), *(headers or [])],
    }
    await send(start)
    await send({"type": "http.response.body", "body": b""})


async def _page(send: Send, html: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    kind = (b"content-type", b"text/html; charset=utf-8")
    await send({"type": "http.response.start", "status": 200, "headers": [kind, *(headers or [])]})
    await send({"type": "http.response.body", "body": f"<!doctype html><title>RP</title>{html}".encode()})
