"""Puts the demo together and keeps it running."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from coatcheck.bff import stopping
from coatcheck.config import load_config
from coatcheck.errors import ConfigurationError
from coatcheck.gateway import serving as gateway
from coatcheck.gateway.app import create_app
from coatcheck.testing.authorization_server import AuthorizationServerApp
from coatcheck.testing.demo.sample_api import SampleAPI
from coatcheck.testing.demo.walk import walk
from coatcheck.testing.registered_clients import RegisteredClient
from coatcheck.testing.scripting import Behaviour
from coatcheck.testing.serving import loopback_socket, serving, socket_origin

PAGE = Path(__file__).parent / "page"
TOKEN_LIFETIME = timedelta(seconds=20)
CHECKED_TOKEN_LIFETIME = timedelta(seconds=2)

FILE = """\
public_url = "http://localhost:{port}"

[server]
listen = "127.0.0.1:{port}"

[client]
issuer = "{issuer}"
client_id = "demo"
client_secret = "known to everybody"
scope = "openid profile offline_access"

[sessions]
store = "memory"

[[api]]
path = "/api/hello"
url = "{api}/hello"

[frontend]
static = '{page}'
"""


def demo(*, port: int, check: bool) -> int:
    """
    Show the demo until Ctrl-C; with *check*, go through it once as a browser would and return 0, or 1 if a step failed.

    Raises:
        ConfigurationError: the port is taken.
    """
    if check:
        return asyncio.run(_check())
    asyncio.run(_show(port))
    return 0


async def _show(port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(port, TOKEN_LIFETIME) as address:
        print(f"\n  The demo is at  {address}\n\n  Any user name will do. Press Ctrl-C to stop.\n", flush=True)
        await stop.wait()
        stopping.stop()  # a page that listens would keep the gateway from stopping


async def _check() -> int:
    async with running(0, CHECKED_TOKEN_LIFETIME) as address:
        return 0 if await asyncio.to_thread(walk, address, CHECKED_TOKEN_LIFETIME) else 1


@asynccontextmanager
async def running(port: int, token_lifetime: timedelta) -> AsyncIterator[str]:
    """
    Start everything, on *port* or (0) any free one; yields the address of the page.

    The page is on `localhost` and the provider on 127.0.0.1, which are two sites to a browser, as in real life.
    """
    port = port or _free_port()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-demo-")))
        listener = loopback_socket()
        server = AuthorizationServerApp(
            socket_origin(listener),
            clients=[RegisteredClient(client_id="demo", client_secret="known to everybody")],
            behaviour=Behaviour(access_token_lifetime=token_lifetime),
        )
        await stack.enter_async_context(serving(server.send, listener))
        api = await stack.enter_async_context(serving(SampleAPI(server).send))
        file = folder / "coatcheck.toml"
        file.write_text(FILE.format(port=port, issuer=server.issuer, api=api, page=PAGE))
        config = load_config(file)
        try:
            gateway.check_address(config.server.listen)
        except ConfigurationError as error:
            raise ConfigurationError(f"{str(error).partition(': ')[2]}: coatcheck demo --port 0") from None
        await stack.enter_async_context(gateway.serving(create_app(config), config.server.listen))
        yield config.public_url.absolute("/")


def _free_port() -> int:
    with loopback_socket() as probe:
        port: int = probe.getsockname()[1]
    return port
