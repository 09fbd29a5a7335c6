"""
SIGTERM while a token is being renewed: the process waits for the answer and stores it before it ends.

The provider holds the refresh request, the process is told to end, and only then the provider goes on. Whoever starts
next finds the new tokens: the refresh token that rotation has replaced is never sent again.

A stream of session events, which has no end of its own, ends at once; an answer of a remote API goes on to its end.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coatcheck.gateway.serving import STOP_DEADLINE
from coatcheck.sessions.seal import new_key
from tests.rig.control_plane import RegisteredClient
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.programs import Program
from tests.rig.servers import coatcheck
from tests.rig.user_agent import UserAgent
from tests.scenarios.gateway import SCOPE, Application
from tests.scenarios.waiting import until_expired

GATEWAY = """
public_url = "{url}"
keys = [{{ file = "coatcheck.key" }}]
[server]
listen = "127.0.0.1:{port}"
[client]
issuer = "{issuer}"
client_id = "{client_id}"
client_secret = {{ file = "client.secret" }}
scope = "{scope}"
authorization_params = {{ prompt = "consent" }}
[sessions]
store = "sqlite://sessions.db"
[[api]]
path = "/api/orders"
url = "{api}"
"""

LIBRARY = """
from pathlib import Path
from coatcheck import BFF, Client

async def nothing(scope, receive, send):
    assert scope["type"] == "lifespan"

here = Path(__file__).parent
client = Client(issuer="{issuer}", client_id="{client_id}", client_secret=(here / "client.secret").read_text(),
                scope="{scope}", authorization_params={{"prompt": "consent"}})
bff = BFF(client, public_url="{url}", keys=[(here / "coatcheck.key").read_text()], sessions=f"sqlite://{{here}}/sessions.db")
bff.remote_api("/api/orders", "{api}")
app = bff.wrap(nothing)
"""

NOT_KILLED = STOP_DEADLINE / 2
"""
Seconds within which a worker has ended by itself. granian says now and then that it kills one which has just done so,
and so what it says tells nothing.
"""
STREAMS_END = 3.0
"""Seconds after SIGTERM in which they must; the gateway looks once a second."""

PROMPTLY = 5.0
"""Seconds: far from every time-out, and enough for a busy machine."""


@dataclass
class Stage:
    """A server that can be started again on the same files, its provider and its browser."""

    folder: Path
    application: Application
    provider: OIDCProvider
    client: RegisteredClient
    agent: UserAgent
    api: EchoAPI

    def gateway(self, workers: int, *, cookies: bool = False) -> Program:
        file = self.folder / "coatcheck.toml"
        if cookies:
            places = 'store = "cookie"\ncoordination = "sqlite://meet.db"'
            file.write_text(file.read_text().replace('store = "sqlite://sessions.db"', places))
        program = coatcheck("run", file, "--workers", str(workers))
        program.wait_for("is served on")
        return program

    def uvicorn(self, *, patience: int = 1) -> Program:
        command = [sys.executable, "-m", "uvicorn", "served:app", "--app-dir", self.folder]
        # It gives requests so many seconds, and then cancels them: only the lifespan may take longer.
        program = Program([*command, "--port", self.application.port, "--timeout-graceful-shutdown", str(patience)])
        program.wait_for("Uvicorn running on")
        return program

    def log_in_until_expired(self) -> None:
        """Log in with a token that lives for a second; the next one lives long."""
        self.agent.login("/bff/login?returnUrl=/api/orders")
        until_expired(seconds=1)
        self.provider.add_client(
            "basic",
            client_id=self.client.client_id,
            client_secret=self.client.client_secret,
            redirect_uris=self.application.redirect_uri,
            x_access_token_ttl=300,
        )
        self.provider.clear_log()

    @contextmanager
    def held_refresh(self) -> Iterator[None]:
        client_id = self.client.client_id
        with self.provider.hold(grant_type="refresh_token", client_id=client_id):
            caller = self.agent.open("/api/orders")
            self.provider.wait_for_request(grant_type="refresh_token", client_id=client_id)
            caller.close()  # nobody waits for this token any more: only the process itself cares
            yield

    def refreshes(self) -> int:
        return len(self.provider.log(client_id=self.client.client_id, grant_type="refresh_token"))


@pytest.fixture
def stage(oidc_provider: OIDCProvider, tmp_path: Path) -> Iterator[Stage]:
    application = Application.at_free_port()
    client = oidc_provider.add_client("basic", redirect_uris=application.redirect_uri, x_access_token_ttl=1)
    (tmp_path / "coatcheck.key").write_text(new_key())
    (tmp_path / "client.secret").write_text(client.client_secret or "")
    with EchoAPI.serve() as api, UserAgent(application.url) as agent:
        words = {
            "url": application.url,
            "port": application.port,
            "issuer": oidc_provider.issuer,
            "client_id": client.client_id,
            "scope": SCOPE,
            "api": api.url,
        }
        (tmp_path / "coatcheck.toml").write_text(GATEWAY.format(**words))
        (tmp_path / "served.py").write_text(LIBRARY.format(**words))
        yield Stage(tmp_path, application, oidc_provider, client, agent, api)


def terminate(program: Program, port: int) -> None:
    """Send SIGTERM, and wait until nobody is let in any more."""
    os.kill(program.pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.01)
    raise AssertionError(f"it still listens:\n{program.output}")


STARTS: dict[str, tuple[Callable[[Stage], Program], int, str]] = {
    # name: (how to start, the exit status after SIGTERM, what it says on the way to its end)
    "gateway": (lambda stage: stage.gateway(workers=1), 0, ""),
    "gateway, two workers": (lambda stage: stage.gateway(workers=2), 0, ""),
    "gateway, cookie sessions": (lambda stage: stage.gateway(workers=2, cookies=True), 0, ""),
    "library under uvicorn": (Stage.uvicorn, -signal.SIGTERM, "Cancel 1 running task"),
}


@pytest.mark.spec("REF-31")
@pytest.mark.parametrize("name", STARTS)
def test_sigterm_lets_a_renewal_finish_and_persist(stage: Stage, name: str) -> None:
    start, status, last_words = STARTS[name]
    with start(stage) as program:
        stage.log_in_until_expired()
        with stage.held_refresh():
            terminate(program, stage.application.port)
            program.wait_for(last_words)
            assert program.returncode is None, program.output
        since = time.monotonic()
        assert program.wait() == status, program.output
        assert time.monotonic() - since < NOT_KILLED
        assert stage.refreshes() == 1
    with start(stage):
        assert stage.agent.fetch("/api/orders").status_code == 200
    assert stage.refreshes() == 1


@pytest.mark.spec("REF-31")
@pytest.mark.parametrize("name", STARTS)
def test_sigterm_without_a_renewal_ends_promptly(stage: Stage, name: str) -> None:
    start, status, _ = STARTS[name]
    with start(stage) as program:
        stage.agent.login("/bff/login?returnUrl=/api/orders")  # its connection stays open
        since = time.monotonic()
        os.kill(program.pid, signal.SIGTERM)
        assert program.wait() == status, program.output
        assert time.monotonic() - since < PROMPTLY


STREAMING: dict[str, Callable[[Stage], Program]] = {
    "gateway, two workers": lambda stage: stage.gateway(workers=2),
    "library under uvicorn": lambda stage: stage.uvicorn(patience=60),
}


@pytest.mark.spec("WSS-08")
@pytest.mark.parametrize("name", STREAMING)
def test_sigterm_ends_streams_of_events_and_nothing_else(stage: Stage, name: str) -> None:
    with STREAMING[name](stage) as program:
        stage.agent.login("/bff/login?returnUrl=/api/orders")
        with stage.agent.open("/bff/events") as events, stage.agent.open("/api/orders/stream?count=2") as slow:
            read_until(events, b"retry: 2000")
            read_until(slow, b"0\n")
            since = time.monotonic()
            os.kill(program.pid, signal.SIGTERM)
            read_until(events, b"0\r\n\r\n")  # the last chunk
            assert time.monotonic() - since < STREAMS_END
            stage.api.next_chunk()
            assert b"1\n" in read_until(slow, b"0\r\n\r\n")  # both may come in one piece
        assert program.wait() == STARTS[name][1], program.output
        assert time.monotonic() - since < NOT_KILLED and "Cancel" not in program.output


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received
