"""
The words of the gateway's file: one Struct per table, one field per key.

Unknown keys are errors. What a later version will know has a sentence of its own in `LATER`, so that somebody who read
about it elsewhere learns that it is not there yet.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import msgspec

from coatcheck.config.values import HSTS, Duration, Listen, Network, Secret, StorePlace
from coatcheck.oauth.authorize import ResponseMode
from coatcheck.tokens.values import TokenType


class Words(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class ServerWords(Words, frozen=True, kw_only=True):
    """`[server]`"""

    listen: Listen = Listen("127.0.0.1", 8080)
    workers: int = 1
    trusted_proxies: tuple[Network, ...] = ()
    hsts: HSTS = HSTS(timedelta(days=30))


class PrivateKeyWords(Words, frozen=True, kw_only=True):
    """`private_key = { file = "key.pem" }`: signs client assertions, with what `PrivateKeyJWT` takes beside the key."""

    env: str | None = None
    file: str | None = None
    alg: str | None = None
    kid: str | None = None
    audience: str | None = None


class ClientWords(Words, frozen=True, kw_only=True):
    """`[client]` and `[clients.NAME]`: a registration at an authorization server."""

    issuer: str
    client_id: str
    client_secret: Secret | None = None
    private_key: PrivateKeyWords | None = None
    client_auth: Literal["client_secret_basic", "client_secret_post", "private_key_jwt"] | None = None
    scope: str | None = None
    resource: tuple[str, ...] = ()
    authorization_params: dict[str, str] = {}
    token_params: dict[str, str] = {}
    endpoints: dict[str, str] = {}
    logout_parameter_names: dict[str, str] = {}
    basic_encoding: Literal["form", "raw"] = "form"
    unadvertised_iss: Literal["compare", "refuse"] = "compare"
    id_token_signed_response_alg: tuple[str, ...] | None = None
    rotation: str | None = None
    logout_token_without_exp: bool = False


class LoginWords(Words, frozen=True, kw_only=True):
    """`[login]`: what logins may be like; the words of `LoginOptions`."""

    acr_values: tuple[str, ...] = ()
    max_age: tuple[int, ...] = ()
    response_mode: ResponseMode = "query"
    silent: bool = False
    third_party: bool = False


class LogoutWords(Words, frozen=True, kw_only=True):
    """`[logout]`: what ends sessions, and what is told to whom then; the words of `LogoutOptions`."""

    backchannel: bool | None = None
    backchannel_all_sessions: bool = False
    frontchannel: bool = False
    revoke_refresh_token: bool = True
    revoke_access_token: bool = True
    id_token_hint: bool = True
    clear_site_data: tuple[str, ...] = ()


class SessionsWords(Words, frozen=True, kw_only=True):
    """`[sessions]`"""

    store: StorePlace | None = None
    coordination: StorePlace | None = None
    lifetime: Duration = Duration(hours=8)
    idle_timeout: Duration = Duration(hours=1)


class ExchangeWords(Words, frozen=True, kw_only=True):
    """`exchange = { audience = "..." }`: send a token that was exchanged for the user's (RFC 8693)."""

    audience: str | None = None
    resource: tuple[str, ...] = ()
    scope: str | None = None


class APIWords(Words, frozen=True, kw_only=True):
    """`[[api]]`: one remote API."""

    path: str
    url: str
    token: TokenType = TokenType.USER
    anonymous: bool = False
    timeout: Duration = Duration(seconds=30)
    scope: str | None = None
    resource: tuple[str, ...] = ()
    client: str = "default"
    csrf: bool = True
    exchange: ExchangeWords | None = None
    retriever: str | None = None
    insecure: bool = False


class FrontendWords(Words, frozen=True, kw_only=True):
    """`[frontend]`: the files of a single-page application."""

    static: str
    fallback: str = "index.html"


class UserWords(Words, frozen=True, kw_only=True):
    """`[user]`: what `/bff/user` shows."""

    claims: tuple[str, ...] | None = None
    enricher: str | None = None


class FileWords(Words, frozen=True, kw_only=True):
    """The file as a whole."""

    public_url: str
    keys: tuple[Secret, ...] | None = None
    server: ServerWords = ServerWords()
    client: ClientWords
    clients: dict[str, ClientWords] = {}
    login: LoginWords = LoginWords()
    logout: LogoutWords = LogoutWords()
    sessions: SessionsWords = SessionsWords()
    user: UserWords = UserWords()
    api: tuple[APIWords, ...] = ()
    frontend: FrontendWords | None = None


LATER: dict[str, str] = {
    "certificate": "mutual TLS (tls_client_auth)",
    "certificate_key": "mutual TLS (tls_client_auth)",
    "dpop": "DPoP at the token endpoint",
    "forward_auth": "forward authentication",
    "frontends": "more than one frontend",
    "par": "pushed authorization requests",
    "upstream_certificate": "client certificates for remote APIs",
    "websocket": "WebSocket",
}
"""Keys that no table has yet, and what they are about."""
