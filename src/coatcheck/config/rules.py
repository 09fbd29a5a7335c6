"""What a file means as a whole, and what its tables must not say to one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coatcheck.bff.claims import checked_claim_names
from coatcheck.bff.login_options import LoginOptions
from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.bff.paths import RouteTable
from coatcheck.bff.public_url import PublicURL
from coatcheck.config.explain import prefixed
from coatcheck.config.words import APIWords, FrontendWords, ServerWords, SessionsWords, UserWords
from coatcheck.errors import ConfigurationError
from coatcheck.oauth.client import Client
from coatcheck.oauth.url import check_url
from coatcheck.stores.urls import KNOWN_STORES
from coatcheck.tokens.values import TokenType

RESERVED_PATHS = ("/bff", "/healthz", "/readyz")
"""The gateway answers these itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """A file that has passed all checks that need no network. Secrets are in here, and stay out of `repr`."""

    folder: Path
    """Where the file is: relative paths in it, and `.coatcheck` of development mode, start here."""
    public_url: PublicURL
    keys: tuple[str, ...] | None = field(repr=False)
    server: ServerWords
    clients: Mapping[str, Client]
    """The registrations by name; `default` is the one that people log in with."""
    login: LoginOptions
    logout: LogoutOptions
    sessions: SessionsWords
    user: UserWords
    apis: tuple[APIWords, ...]
    frontend: FrontendWords | None

    @property
    def development(self) -> bool:
        """`public_url` and the address we listen on are loopback, and no trusted proxy is named."""
        return self.public_url.loopback and self.server.listen.loopback and not self.server.trusted_proxies


def problems_between(config: GatewayConfig) -> Iterator[ConfigurationError]:
    """Find what no table shows by itself: one error per table."""
    for check in (_check_development, _check_sessions, _check_workers, _check_user, _check_frontend):
        try:
            check(config)
        except ConfigurationError as error:
            yield error
    routes: RouteTable[None] = RouteTable()
    for position, api in enumerate(config.apis):
        try:
            _check_api(api, routes, clients=config.clients)
        except ConfigurationError as error:
            yield prefixed(error, f"api[{position}]")


def _check_development(config: GatewayConfig) -> None:
    """Plain http is for development mode, and so is a key that is made up; nobody else may reach what they protect."""
    remedy = "use the https address that browsers know as public_url, or keep to loopback everywhere"
    if not config.public_url.secure and not config.server.listen.loopback:
        message = f"{config.server.listen} can be reached from other machines while public_url is plain http: {remedy}"
        raise ConfigurationError(message, path="server.listen")
    if not config.public_url.secure and config.server.trusted_proxies:
        message = f"behind a proxy there is no development mode, and public_url is plain http: {remedy}"
        raise ConfigurationError(message, path="server.trusted_proxies")
    if not config.development and config.keys is None:
        message = (
            'is missing: run `coatcheck new-key`, keep the key as a secret, and add keys = [{ env = "COATCHECK_KEY" }]'
        )
        raise ConfigurationError(message, path="keys")


def _check_sessions(config: GatewayConfig) -> None:
    # Plain http without development mode has been told already.
    if config.sessions.store is None and config.public_url.secure and not config.development:
        message = 'is missing: add store = "sqlite:///var/lib/coatcheck/sessions.db", or store = "cookie"'
        raise ConfigurationError(message, path="sessions.store")
    if config.sessions.coordination is not None and config.sessions.coordination.url is None:
        message = f"processes cannot meet in the browsers' cookies: use {KNOWN_STORES}"
        raise ConfigurationError(message, path="sessions.coordination")
    if config.sessions.idle_timeout > config.sessions.lifetime:
        message = f"{config.sessions.idle_timeout} is longer than lifetime, {config.sessions.lifetime}: shorten it"
        raise ConfigurationError(message, path="sessions.idle_timeout")


def _check_workers(config: GatewayConfig) -> None:
    workers = config.server.workers
    if not 1 <= workers <= 256:
        raise ConfigurationError(f"expected a number from 1 to 256, not {workers}", path="server.workers")
    if workers > 1 and (where := _in_memory(config.sessions)):
        message = f"{workers} workers share no memory, and {where}, or use one worker"
        raise ConfigurationError(message, path="server.workers")


def _check_user(config: GatewayConfig) -> None:
    if config.user.claims is not None:
        checked_claim_names(config.user.claims, at="user.claims")


def _in_memory(sessions: SessionsWords) -> str | None:
    """What each worker would have for itself, and what to write instead."""
    if sessions.store is not None and sessions.store.in_memory:
        return 'store = "memory" keeps sessions there: use store = "sqlite:///path/to/sessions.db"'
    if sessions.coordination is not None and sessions.coordination.in_memory:
        return 'coordination = "memory" is where they would agree who renews: remove it, or name a store'
    if sessions.store is not None and sessions.store.url is None and sessions.coordination is None:
        return (
            'with store = "cookie" they have no place to agree who renews: add coordination = "redis://HOST" or '
            '"sqlite:///path/to/coordination.db"'
        )
    return None


def _check_frontend(config: GatewayConfig) -> None:
    if config.frontend is None:
        return
    static = config.folder / config.frontend.static
    if not static.is_dir():
        message = f"there is no folder {static}: build the frontend, or correct the path"
        raise ConfigurationError(message, path="frontend.static")
    _check_nothing_private_in(static.resolve(), config)
    if not (static / config.frontend.fallback).is_file():
        message = f"there is no file {static / config.frontend.fallback}: build the frontend, or correct the name"
        raise ConfigurationError(message, path="frontend.fallback")


def _check_nothing_private_in(static: Path, config: GatewayConfig) -> None:
    """Anybody may fetch what lies in the frontend's folder: not this file's neighbours, and not the sessions."""
    private = [config.folder]
    for place in (config.sessions.store, config.sessions.coordination):
        if place is not None and place.url is not None and place.url.kind == "sqlite":
            private.append(place.url.path(config.folder))
    for path in private:
        if path.resolve().is_relative_to(static):
            message = f"{path} lies in {static}, and all that is in there is public: name the folder of built files"
            raise ConfigurationError(message, path="frontend.static")


def _check_api(api: APIWords, routes: RouteTable[None], *, clients: Mapping[str, Client]) -> None:
    _check_path(api.path, routes)
    _check_remote_url(api)
    if api.client not in clients:
        message = f'no registration is named "{api.client}": known are {", ".join(clients)}'
        raise ConfigurationError(message, path="client")
    users_token = api.token in (TokenType.USER, TokenType.USER_OR_CLIENT, TokenType.USER_OR_NONE)
    if api.client != "default" and users_token and api.exchange is None and api.retriever is None:
        message = (
            f'people log in with [client], so nobody has a token of "{api.client}": use token = "client", or let '
            f'"{api.client}" exchange their token: exchange = {{ audience = "..." }}'
        )
        raise ConfigurationError(message, path="client")
    if api.exchange is not None:
        if api.token in (TokenType.CLIENT, TokenType.NONE):
            message = f'there is no user\'s token to exchange with token = "{api.token}": use token = "user"'
            raise ConfigurationError(message, path="exchange")
        if api.retriever is not None:
            raise ConfigurationError("a retriever of your own does the exchange itself: remove one", path="exchange")
        if api.exchange.audience is None and not api.exchange.resource:
            message = 'say for whom the token shall be: exchange = { audience = "..." }, or resource = ["..."]'
            raise ConfigurationError(message, path="exchange")
    if api.anonymous and api.token in (TokenType.USER, TokenType.NONE):
        message = f'has no meaning with token = "{api.token}": use it with client, user_or_client or user_or_none'
        raise ConfigurationError(message, path="anonymous")


def _check_path(path: str, routes: RouteTable[None]) -> None:
    if any(path == reserved or path.startswith(reserved + "/") for reserved in RESERVED_PATHS):
        raise ConfigurationError(f"{path!r} is answered by the gateway itself: choose another path", path="path")
    try:
        routes.add(path, None)
    except ConfigurationError as error:
        raise ConfigurationError(str(error), path="path") from None


def _check_remote_url(api: APIWords) -> None:
    try:
        check_url(api.url)
    except ValueError as error:
        secure = "https://" + api.url.removeprefix("http://")
        if not (api.url.startswith("http://") and _is_url(secure)):
            raise ConfigurationError(str(error), path="url") from None
        if not api.insecure:
            message = f"{api.url} would carry tokens in clear: use https, or add insecure = true if you accept that"
            raise ConfigurationError(message, path="url") from None


def _is_url(url: str) -> bool:
    try:
        check_url(url)
    except ValueError:
        return False
    return True
