"""`coatcheck check`: all that can be known of a file before it serves; its authorization servers are asked, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coatcheck.bff.app import BFF
from coatcheck.clock import SYSTEM_CLOCK
from coatcheck.config import APIWords, ConfigurationProblems, GatewayConfig, load_config
from coatcheck.config.values import StorePlace
from coatcheck.errors import ConfigurationError, InvalidMetadata, TransportError
from coatcheck.gateway.app import create_bff
from coatcheck.gateway.development_tls import missing_tls
from coatcheck.gateway.impostors import may_meet_impostors
from coatcheck.gateway.stores import GatewayStores, open_stores
from coatcheck.oauth.client import Client
from coatcheck.oauth.metadata import Metadata
from coatcheck.provider import AuthorizationServer
from coatcheck.sessions.seal import KeyRing
from coatcheck.stores.memory import MemoryStore
from coatcheck.transport import BackChannel


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong, one line each; and what is good to know."""

    problems: tuple[str, ...]
    summary: tuple[str, ...] = ()


def check(file: Path) -> Findings:
    """Read, resolve and build what a file describes; then ask its stores, and every authorization server."""
    try:
        config = load_config(file)
        stores = open_stores(config)
        bff = create_bff(config, stores=stores, clock=SYSTEM_CLOCK)
    except ConfigurationProblems as error:
        return Findings(tuple(str(problem) for problem in error.problems))
    except ConfigurationError as error:
        return Findings((str(error),))
    problems = asyncio.run(_ask_everybody(config, stores))
    summary = (
        f"{config.public_url.absolute('/')} on {config.server.listen}, {_plural(config.server.workers, 'worker')}",
        *filter(None, [missing_tls(config)]),
        f"register at {config.clients['default'].issuer}: redirect URI {bff.redirect_uri}",
        f"register there, too: post-logout redirect URI {bff.post_logout_redirect_uri}",
        *_logouts(bff),
        *(f"{api.path} -> {api.url} ({_credential(api)})" for api in config.apis),
        f"sessions: {_sessions(config)}",
        f"keys: {_ring(config)}",
        f"renewals: {_coordination(config)}, {_rotations(config)}",
        *_impostors(config),
    )
    return Findings(problems, () if problems else summary)


def _logouts(bff: BFF) -> list[str]:
    uris = {"back-channel": bff.backchannel_logout_uri, "front-channel": bff.frontchannel_logout_uri}
    return [f"and, so that it can log users out: {kind} logout URI {uri}" for kind, uri in uris.items() if uri]


def _credential(api: APIWords) -> str:
    """What the calls of an API carry, in the words of the file."""
    words = f"token: {api.token}" if api.retriever is None else f"retriever: {api.retriever}"
    if api.exchange is not None:
        words += f", exchanged for {api.exchange.audience or ' '.join(api.exchange.resource)}"
    return words + (", anonymous" if api.anonymous else "")


def _sessions(config: GatewayConfig) -> str:
    place = config.sessions.store
    if place is None:
        return "development mode"
    return f"{place} (no such file yet, the start makes it)" if _would_make_a_file(config, place) else str(place)


def _ring(config: GatewayConfig) -> str:
    """Say by their kids which key seals and which only open, and what the next step of a rotation waits for."""
    if config.keys is None:
        return "one, made for development mode"
    first, *others = KeyRing(config.keys).kids
    if not others:
        return f"{first} seals"
    only_open = f"{', '.join(others)} only open{'s' if len(others) == 1 else ''}"
    return (
        f"{first} seals, {only_open}: put a new one first once every process has it; drop an old one "
        f"{config.sessions.lifetime} (lifetime) after every process has begun to seal with {first}"
    )


def _coordination(config: GatewayConfig) -> str:
    if config.sessions.coordination is not None:
        return f"processes agree in {config.sessions.coordination}"
    if config.sessions.store is not None and (config.sessions.store.url is None or config.sessions.store.in_memory):
        return "one process"
    return "processes agree in the session store"


def _impostors(config: GatewayConfig) -> list[str]:
    places = (config.sessions.store, config.sessions.coordination)
    advice = [may_meet_impostors(place.url) for place in places if place is not None and place.url is not None]
    return [f"the way to {each}" for each in dict.fromkeys(advice) if each is not None]


def _rotations(config: GatewayConfig) -> str:
    return "rotation " + ", ".join(
        f"{client.rotation} at {at.removeprefix('clients.')}" if len(config.clients) > 1 else client.rotation
        for at, client in _registrations(config)
    )


async def _ask_everybody(config: GatewayConfig, stores: GatewayStores) -> tuple[str, ...]:
    problems = [str(problem) for problem in await _ask_stores(config, stores)]
    return (*problems, *await _ask_authorization_servers(config))


async def _ask_stores(config: GatewayConfig, stores: GatewayStores) -> list[ConfigurationError]:
    """Ask the stores, but make no file: whoever checks may be another user than the one who serves."""
    sessions, coordination = stores.sessions, stores.coordination
    if coordination is sessions or _would_make_a_file(config, config.sessions.coordination):
        coordination = MemoryStore()
    if _would_make_a_file(config, config.sessions.store):
        sessions = None
    return await GatewayStores(sessions, coordination).problems()


def _would_make_a_file(config: GatewayConfig, place: StorePlace | None) -> bool:
    if place is None:
        return True
    return place.url is not None and place.url.kind == "sqlite" and not place.url.path(config.folder).exists()


async def _ask_authorization_servers(config: GatewayConfig) -> tuple[str, ...]:
    back_channel = BackChannel()
    try:
        answers = [await _ask(at, client, back_channel) for at, client in _registrations(config)]
    finally:
        await back_channel.aclose()
    return tuple(problem for problems in answers for problem in problems)


def _registrations(config: GatewayConfig) -> list[tuple[str, Client]]:
    return [("client" if name == "default" else f"clients.{name}", client) for name, client in config.clients.items()]


async def _ask(at: str, client: Client, back_channel: BackChannel) -> list[str]:
    server = AuthorizationServer(client, back_channel.send, SYSTEM_CLOCK)
    try:
        metadata = await server.metadata()
        keys = await server.keys() if metadata.jwks_uri else None
    except (TransportError, InvalidMetadata) as error:
        return [f"{at}.issuer: {error}"]
    finally:
        await server.aclose()
    problems = [problem for rule in _RULES if (problem := rule(client, metadata))]
    if keys is not None and not keys.keys:
        problems.append("issuer: its key set has no key that can verify an id_token")
    return [f"{at}.{problem}" for problem in problems]


def _authentication(client: Client, metadata: Metadata) -> str | None:
    offered = metadata.token_endpoint_auth_methods_supported
    method = client.client_auth if isinstance(client.client_auth, str) else None
    method = method or ("private_key_jwt" if client.client_auth else None)
    if offered is None or method is None or method in offered:
        return None
    return f"client_auth: {client.issuer} offers {', '.join(offered)}, not {method}"


def _signatures(client: Client, metadata: Metadata) -> str | None:
    offered = metadata.id_token_signing_alg_values_supported
    if offered is None or set(offered) & set(client.id_token_signed_response_alg):
        return None
    accepted = ", ".join(client.id_token_signed_response_alg)
    return (
        f"id_token_signed_response_alg: {client.issuer} signs with {', '.join(offered)}, accepted are {accepted}: "
        "change one of them"
    )


def _login(client: Client, metadata: Metadata) -> str | None:
    if metadata.authorization_endpoint is not None and metadata.jwks_uri is not None:
        return None
    missing = "authorization_endpoint" if metadata.authorization_endpoint is None else "jwks_uri"
    return f"endpoints: the metadata of {client.issuer} has no {missing}: add it here"


_RULES: tuple[Callable[[Client, Metadata], str | None], ...] = (_authentication, _signatures, _login)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
