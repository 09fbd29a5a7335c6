"""What the protocol tests share: one client, one authorization server, and how to read what was built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from coatcheck.oauth import AuthorizationTransaction, Client, Metadata, Request, Response, new_transaction

ISSUER = "https://idp.example.com"
REDIRECT_URI = "https://app.example.com/bff/callback"
NOW = 1_700_000_000.0

CLIENT = Client(issuer=ISSUER, client_id="shop", client_secret="correct horse")
METADATA = Metadata(
    issuer=ISSUER,
    authorization_endpoint=f"{ISSUER}/authorize",
    token_endpoint=f"{ISSUER}/token",
    jwks_uri=f"{ISSUER}/jwks",
    end_session_endpoint=f"{ISSUER}/logout",
    revocation_endpoint=f"{ISSUER}/revoke",
)


def transaction(client: Client = CLIENT, **changes: Any) -> AuthorizationTransaction:
    """Begin a login of *client* at NOW."""
    return new_transaction(
        client, **{"name": "default", "redirect_uri": REDIRECT_URI, "return_url": "/", "now": NOW, **changes}
    )


def answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON, or with *body* as it is when that is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, {"content-type": "application/json", **(headers or {})}, content)


def form_of(request: Request) -> list[tuple[str, str]]:
    """Read the form of a request, in order and with repetitions."""
    return parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)


def query_of(url: str) -> list[tuple[str, str]]:
    """Read the query of a URL, in order and with repetitions."""
    return parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
