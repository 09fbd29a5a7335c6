"""An authorization server in one object: a `Send` that behaves, can be held up, and can be told to fail."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

from coatcheck.errors import TransportError
from coatcheck.oauth.jwt import generate_private_key, public_jwk, sign_jwt
from coatcheck.oauth.messages import Request, Response
from tests.testing.clocks import HandClock

ISSUER = "https://issuer.example"
CLIENT_ID = "shop"


@cache
def _private_key() -> str:
    return generate_private_key("ES256")


@dataclass
class Grant:
    """One login of one user: the refresh token that is good now."""

    sub: str
    refresh_token: str
    id_token: str
    over: bool = False


@dataclass
class Gate:
    """Where a request stands until the test lets it go on."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)


LOST = TransportError("the answer was lost", sent=True)
"""What was asked for is done, and nobody hears of it."""


class TokenService:
    """
    Answers metadata, keys, token and revocation requests as RFC 6749 and friends say.

    Refresh tokens rotate, and one that is used twice ends its grant (RFC 9700 4.14.2). `answers` are given instead of
    the next regular ones: a response, an exception to raise, or a dictionary merged into the regular answer; and `LOST`
    does what was asked, while the answer gets lost. With `grace`, a replaced refresh token answers the same again for
    so many seconds. `requests` holds the form of every token request, `revoked` every refresh token that was to be
    revoked; without `revokes_access_tokens` these alone can be.
    """

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self._numbers = count(1)
        self._gate: Gate | None = None
        self._grants: dict[str, Grant] = {}
        self.owners: dict[str, str] = {}
        self.answers: deque[Response | Exception | dict[str, Any]] = deque()
        self.requests: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.revoked: list[str] = []
        self.revoked_access_tokens: list[str] = []
        self.under_way = 0
        self.most_under_way = 0
        self.rotation = True
        self.grace = 0.0
        self._replaced: dict[str, tuple[float, dict[str, Any]]] = {}
        self.expires_in: Any = 300
        self.id_token_on_refresh = False
        self.id_token_claims: dict[str, Any] = {}
        self.metadata: dict[str, Any] = dict(_METADATA)
        self.keys_answer: Response | Exception | None = None
        self.revocation_answer: Response | Exception | None = None
        self.revokes_access_tokens = True

    async def __call__(self, request: Request) -> Response:
        path = request.url.removeprefix(ISSUER)
        match path:
            case "/.well-known/openid-configuration":
                return _json(self.metadata)
            case "/jwks":
                keys = {"keys": [public_jwk(_private_key()) | {"kid": "1", "alg": "ES256", "use": "sig"}]}
                return _given(self.keys_answer) or _json(keys)
            case "/revoke":
                return self._revoke(_form(request))
            case "/token":
                return await self._token(request)
        raise AssertionError(f"nobody should ask for {path}")

    def login(self, sub: str, **claims: Any) -> dict[str, Any]:
        """Log *sub* in, and return what the token endpoint answers to the code."""
        grant = Grant(sub, f"refresh-{next(self._numbers)}", self.id_token(sub, **claims))
        self._grants[grant.refresh_token] = grant
        return self._answer(sub) | {"refresh_token": grant.refresh_token, "id_token": grant.id_token}

    def id_token(self, sub: str, **claims: Any) -> str:
        now = int(self._clock.time())
        members = {"iss": ISSUER, "sub": sub, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "auth_time": now}
        return sign_jwt({"alg": "ES256", "kid": "1"}, members | claims, _private_key())

    def revoke_at_the_provider(self, refresh_token: str) -> None:
        """The user or an administrator ended the grant there."""
        self._grants[refresh_token].over = True

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Gate]:
        """Stop token requests before they are answered, until the gate is released or the block ends."""
        self._gate = gate = Gate()
        try:
            yield gate
        finally:
            self._gate = None
            gate.released.set()

    def sent(self, grant_type: str) -> list[dict[str, str]]:
        return [form for form in self.requests if form["grant_type"] == grant_type]

    @property
    def refreshes(self) -> int:
        return len(self.sent("refresh_token"))

    def _revoke(self, form: dict[str, str]) -> Response:
        if form["token_type_hint"] == "refresh_token":
            self.revoked.append(form["token"])
        else:
            self.revoked_access_tokens.append(form["token"])
            if not self.revokes_access_tokens:
                return error("unsupported_token_type")
        return _given(self.revocation_answer) or Response(200)

    async def _token(self, request: Request) -> Response:
        form = _form(request)
        self.requests.append(form)
        self.headers.append(dict(request.headers))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self._gate is not None:
                self._gate.arrived.set()
                await self._gate.released.wait()
            return self._next_answer(form)
        finally:
            self.under_way -= 1

    def _next_answer(self, form: dict[str, str]) -> Response:
        changes: dict[str, Any] = {}
        if self.answers:
            match self.answers.popleft():
                case Response() as response:
                    return response
                case Exception() as lost if lost is LOST:
                    self._refresh(form["refresh_token"], {})
                    raise TransportError("the answer was lost", sent=True)
                case Exception() as error:
                    raise error
                case dict() as members:
                    changes = members
        match form["grant_type"]:
            case "refresh_token":
                return self._refresh(form["refresh_token"], changes)
            case "authorization_code":
                return _json(self.login("user", nonce=form.get("code")) | changes)
            case "urn:ietf:params:oauth:grant-type:token-exchange":
                kind = {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
                return _json(self._answer(f"exchanged:{form['subject_token']}") | kind | changes)
        return _json(self._answer(f"client:{form.get('scope', '')}") | changes)

    def _refresh(self, refresh_token: str, changes: dict[str, Any]) -> Response:
        grant = self._grants.get(refresh_token)
        replaced_at, again = self._replaced.get(refresh_token, (float("-inf"), {}))
        if grant is not None and not grant.over and self._clock.time() < replaced_at + self.grace:
            return _json(again | changes)
        if grant is None or grant.over or refresh_token != grant.refresh_token:
            if grant is not None:
                grant.over = True
            return error("invalid_grant")
        answer = self._answer(grant.sub)
        if self.rotation:
            grant.refresh_token = answer["refresh_token"] = f"refresh-{next(self._numbers)}"
            self._grants[grant.refresh_token] = grant
            self._replaced[refresh_token] = (self._clock.time(), answer)
        if self.id_token_on_refresh:
            answer["id_token"] = self.id_token(**({"sub": grant.sub} | self.id_token_claims))
        return _json(answer | changes)

    def _answer(self, owner: str) -> dict[str, Any]:
        access_token = f"access-{next(self._numbers)}"
        self.owners[access_token] = owner
        answer: dict[str, Any] = {"access_token": access_token, "token_type": "Bearer"}
        return answer if self.expires_in is None else answer | {"expires_in": self.expires_in}


def error(code: str, *, status: int = 400, description: str | None = None) -> Response:
    """An error response of RFC 6749 section 5.2."""
    members = {"error": code} if description is None else {"error": code, "error_description": description}
    return Response(status, _JSON, json.dumps(members).encode())


_JSON = {"content-type": "application/json"}
_METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/jwks",
    "revocation_endpoint": f"{ISSUER}/revoke",
    "response_types_supported": ["code"],
    "subject_types_supported": ["public"],
    "id_token_signing_alg_values_supported": ["ES256"],
    "code_challenge_methods_supported": ["S256"],
}


def _json(members: dict[str, Any]) -> Response:
    return Response(200, _JSON, json.dumps(members).encode())


def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode()))


def _given(answer: Response | Exception | None) -> Response | None:
    if isinstance(answer, Exception):
        raise answer
    return answer
