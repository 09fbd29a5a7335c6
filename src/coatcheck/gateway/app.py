"""From a configuration to the ASGI application that every worker serves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coatcheck.bff.answers import Answer, ASGIApp, Receive, Scope
from coatcheck.bff.app import BFF
from coatcheck.bff.claims import ClaimsEnricher
from coatcheck.bff.keys import DEVELOPMENT_FOLDER, development_key
from coatcheck.bff.own_headers import OURS, Send
from coatcheck.bff.problems import problem, send_problem
from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.config import APIWords, GatewayConfig
from coatcheck.config.explain import prefixed
from coatcheck.errors import ConfigurationError, StoreUnavailable
from coatcheck.gateway.client_address import ClientAddress
from coatcheck.gateway.frontend import Frontend
from coatcheck.gateway.stores import GatewayStores, open_stores
from coatcheck.telemetry import trace_id
from coatcheck.tokens.retrievers import AccessTokenRetriever, CachedAccessTokenRetriever, TokenExchangeRetriever
from coatcheck.tokens.sending import Checkpoints, no_checkpoint

HEALTHY = Answer(200, (*OURS, (b"content-type", b"text/plain")), b"ok\n")


def create_app(
    config: GatewayConfig, *, clock: Clock = SYSTEM_CLOCK, checkpoints: Checkpoints = no_checkpoint
) -> ASGIApp:
    """
    Build the gateway. *clock* and *checkpoints* are for tests, as in `BFF`.

    Raises:
        ConfigurationError: what only building can find out: a retriever or an enricher that cannot be imported, a key
            file that cannot be written.
    """
    stores = open_stores(config, clock=clock)
    bff = create_bff(config, stores=stores, clock=clock, checkpoints=checkpoints)
    app = bff.wrap(_behind_the_bff(config))
    if config.server.trusted_proxies:
        app = ClientAddress(app, config.server.trusted_proxies)
    return Health(app, stores)


def create_bff(
    config: GatewayConfig, *, stores: GatewayStores, clock: Clock, checkpoints: Checkpoints = no_checkpoint
) -> BFF:
    """Build the part between the browser and the APIs."""
    keys = config.keys
    if keys is None:
        keys = (development_key(config.folder / DEVELOPMENT_FOLDER),)
    bff = BFF(
        config.clients["default"],
        public_url=config.public_url.absolute(""),
        keys=keys,
        clients={name: client for name, client in config.clients.items() if name != "default"},
        sessions=stores.sessions or "cookie",
        coordination=stores.coordination,
        lifetime=config.sessions.lifetime,
        idle_timeout=config.sessions.idle_timeout,
        user_claims=config.user.claims,
        claims_enricher=_enricher(config),
        login=config.login,
        logout=config.logout,
        hsts=config.server.hsts.policy,
        development=config.development,
        clock=clock,
        checkpoints=checkpoints,
    )
    for position, api in enumerate(config.apis):
        try:
            _add_remote_api(bff, api, folder=config.folder)
        except ConfigurationError as error:
            raise prefixed(error, f"api[{position}]") from error
    return bff


class Health:
    """
    `/healthz`: this process answers. `/readyz`: so do its stores. Before everything else, for probes know no hosts.

    The authorization server does not count: who is logged in stays so while it is away.
    """

    def __init__(self, app: ASGIApp, stores: GatewayStores) -> None:
        self._app = app
        self._stores = stores

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else None
        if path == "/healthz":
            await HEALTHY(scope, receive, send)
        elif path == "/readyz":
            await self._ready(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._stores.ask()
        except StoreUnavailable:
            await send_problem(send, problem("store_unavailable"), trace_id=trace_id())
        else:
            await HEALTHY(scope, receive, send)


def _add_remote_api(bff: BFF, api: APIWords, *, folder: Path) -> None:
    bff.remote_api(
        api.path,
        api.url,
        token=api.token,
        retriever=_retriever(api, folder=folder),
        scope=api.scope,
        resource=api.resource,
        # The token to be exchanged is that of the login; `client` says who exchanges it.
        client="default" if api.exchange else api.client,
        timeout=api.timeout,
        anonymous=api.anonymous,
        csrf=api.csrf,
        insecure=api.insecure,
    )


def _retriever(api: APIWords, *, folder: Path) -> AccessTokenRetriever | None:
    if api.retriever is not None:
        return _retriever_of_ones_own(api.retriever, folder=folder)
    if api.exchange is None:
        return None
    exchange = TokenExchangeRetriever(
        audience=api.exchange.audience,
        resource=api.exchange.resource,
        scope=api.exchange.scope,
        client=api.client,
    )
    return CachedAccessTokenRetriever(exchange)


def _retriever_of_ones_own(name: str, *, folder: Path) -> AccessTokenRetriever:
    retriever = _imported(name, "Class", lambda it: it(), folder=folder, path="retriever")
    if not callable(getattr(retriever, "get_access_token", None)):
        message = f"{name!r} has no method get_access_token: see AccessTokenRetriever"
        raise ConfigurationError(message, path="retriever")
    return retriever  # type: ignore[no-any-return]  # what else it must be, only a call can show


def _enricher(config: GatewayConfig) -> ClaimsEnricher | None:
    """Return the async function that `[user] enricher` names, or an object of the class that it names."""
    name, path = config.user.enricher, "user.enricher"
    if name is None:
        return None
    enricher = _imported(
        name, "function", lambda it: it() if isinstance(it, type) else it, folder=config.folder, path=path
    )
    if not callable(enricher):
        raise ConfigurationError(f"{name!r} is no function: see ClaimsEnricher", path=path)
    return enricher  # type: ignore[no-any-return]  # what else it must be, only a call can show


def _imported(name: str, kind: str, made: Callable[[Any], Any], *, folder: Path, path: str) -> Any:
    """Return what is *made* of the thing that `"module:kind"` names. Modules beside the file are found, too."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute.isidentifier():
        raise ConfigurationError(f'expected "module:{kind}", not {name!r}', path=path)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        return made(getattr(importlib.import_module(module_name), attribute))
    except (Exception, SystemExit) as error:  # a module that is a script would end the start without a word
        message = f"cannot make {name!r}: {type(error).__name__}: {error}. It is imported, and called if it is a class"
        raise ConfigurationError(" ".join(message.split()), path=path) from error


def _behind_the_bff(config: GatewayConfig) -> ASGIApp:
    if config.frontend is None:
        return _nothing
    reserved = ("/api", "/bff", *(api.path for api in config.apis))
    return Frontend(config.folder / config.frontend.static, config.frontend.fallback, reserved=reserved)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send_problem(send, problem("not_found"), trace_id=trace_id())
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
