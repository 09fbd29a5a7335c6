"""Serving on granian: worker processes for `coatcheck run`, or inside the running event loop for the demo."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server as EmbeddedServer

from coatcheck.bff.answers import ASGIApp
from coatcheck.bff.development_certificate import DevelopmentCertificate
from coatcheck.clock import SYSTEM_CLOCK
from coatcheck.config import GatewayConfig, load_config
from coatcheck.config.values import Listen
from coatcheck.errors import ConfigurationError
from coatcheck.gateway.app import create_app
from coatcheck.gateway.development_tls import certificate_for, missing_tls
from coatcheck.gateway.stopping import HearsSIGTERM
from coatcheck.gateway.stores import open_stores

STOP_DEADLINE = 25
"""Seconds for requests and renewals under way after SIGTERM; a provider and a write may take 20. Streams are cut."""
START_DEADLINE = 10.0

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "loggers": {
        "coatcheck": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "_granian": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
"""One line per event, on stderr. No access log: queries of a login hold codes."""


@dataclass(frozen=True, slots=True)
class Start:
    """What `coatcheck run` was told; every worker reads the file for itself."""

    file: Path
    listen: str | None = None
    workers: int | None = None
    dev_tls: bool = False

    def config(self) -> GatewayConfig:
        """Read the file; raises ConfigurationError."""
        return load_config(self.file, listen=self.listen, workers=self.workers)


def serve(start: Start) -> None:
    """
    Serve until SIGTERM or SIGINT, then let requests under way finish.

    Raises:
        ConfigurationError: before anything is served.
    """
    config = start.config()
    certificate = certificate_for(config, now=SYSTEM_CLOCK.time()) if start.dev_tls else None
    check_startable(config)
    _say_who_speaks_tls(config, certificate)
    listen = config.server.listen
    server = Granian(
        f"coatcheck {start.file}",
        address=listen.host,
        port=listen.port,
        interface=Interfaces.ASGI,
        workers=config.server.workers,
        workers_kill_timeout=STOP_DEADLINE,
        respawn_failed_workers=True,
        log_level=LogLevels.warning,
        log_dictconfig=LOGGING,
        log_access=False,
        ssl_cert=certificate.certificate if certificate else None,
        ssl_key=certificate.key if certificate else None,
    )
    server.on_startup(partial(_say_when_open, config))
    server.serve(target_loader=partial(_load_app, start), wrap_loader=False)


def check_startable(config: GatewayConfig) -> None:
    """
    Find out, before any worker starts, what would make them all fail.

    Raises:
        ConfigurationError: it cannot be built, a store does not answer, or the address is taken.
    """
    create_app(config)
    for problem in asyncio.run(open_stores(config).problems()):
        raise problem
    check_address(config.server.listen)


@asynccontextmanager
async def serving(app: ASGIApp, listen: Listen) -> AsyncIterator[None]:
    """
    Serve *app* in the running event loop while the block runs, for a process that does other things, too.

    How it logs is that process's own business.
    """
    server = EmbeddedServer(
        app,
        address=listen.host,
        port=listen.port,
        interface=Interfaces.ASGI,
        log_level=LogLevels.error,
    )
    running = asyncio.create_task(server.serve())
    try:
        await _wait_until_open(listen, running)
        yield
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        await running


def _load_app(start: Start) -> ASGIApp:
    return HearsSIGTERM(create_app(start.config()))


def _say_who_speaks_tls(config: GatewayConfig, certificate: DevelopmentCertificate | None) -> None:
    if certificate is not None:
        line = (
            f"TLS with {certificate.certificate}, until {certificate.expires}: accept the browser's warning once, or "
            "`coatcheck dev-tls` says how to have it trusted"
        )
    else:
        line = missing_tls(config) or ""
    if line:
        print(f"coatcheck: {line}", file=sys.stderr, flush=True)


def _say_when_open(config: GatewayConfig) -> None:
    """Say where the gateway is as soon as a worker listens. Called before the workers are made."""
    threading.Thread(target=_wait_and_say, args=(config,), daemon=True).start()


def _wait_and_say(config: GatewayConfig) -> None:
    listen, workers = config.server.listen, config.server.workers
    line = (
        f"coatcheck: {config.public_url.absolute('/')} is served on {listen} "
        f"by {workers} worker{'s' if workers > 1 else ''}\n"
    )
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline:
        if _is_open(listen):
            # Straight to the descriptor: the buffered streams have locks, and workers may be forking right now.
            os.write(2, line.encode())
            return
        time.sleep(0.02)


def _is_open(listen: Listen) -> bool:
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, not bound to
    with socket.socket(_family(listen), socket.SOCK_STREAM) as probe:
        return probe.connect_ex((anywhere.get(listen.host, listen.host), listen.port)) == 0


def _family(listen: Listen) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in listen.host else socket.AF_INET


def check_address(listen: Listen) -> None:
    """Raise ConfigurationError if nobody can listen there. Granian itself would end in a traceback."""
    with socket.socket(_family(listen), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            message = f"cannot listen on {listen}: {error.strerror}. Stop what uses it, or choose another address"
            raise ConfigurationError(message, path="server.listen") from error


async def _wait_until_open(listen: Listen, running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(START_DEADLINE):
        while not running.done() and not _is_open(listen):  # noqa: ASYNC110  # the server has no event for it
            await asyncio.sleep(0.01)
    if running.done():
        await running
