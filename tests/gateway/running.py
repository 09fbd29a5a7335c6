"""`coatcheck run` as a process of its own, between an authorization server, a remote API and a small browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from coatcheck.testing import AuthorizationServerApp, running_authorization_server
from tests.rig.echo_api import EchoAPI
from tests.rig.programs import Program
from tests.rig.servers import coatcheck, free_port
from tests.rig.user_agent import UserAgent

FILE = """
public_url = "http://localhost:{port}"

[server]
listen = "127.0.0.1:{port}"

[client]
issuer = "{issuer}"
client_id = "app"
client_secret = "app-secret"

[[api]]
path = "/api/echo"
url = "{api}"

[[api]]
path = "/api/rates"
url = "{api}/rates"
token = "client"
anonymous = true
"""


@dataclass
class Gateway:
    """What one test plays with. `start` may be called again after `stop`, as an operator would."""

    folder: Path
    server: AuthorizationServerApp
    api: EchoAPI
    port: int
    more: str = ""
    """Appended to the file."""
    _running: list[Program] = field(default_factory=list)
    _browsers: list[UserAgent] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def file(self) -> Path:
        return self.folder / "coatcheck.toml"

    def write(self, text: str | None = None) -> None:
        whole = text or FILE.format(port=self.port, issuer=self.server.issuer, api=self.api.url) + self.more
        self.file.write_text(whole)

    def start(self, *arguments: str) -> Program:
        if not self.file.exists():
            self.write()
        program = coatcheck("run", self.file, *arguments)
        self._running.append(program)
        program.wait_for("is served on")
        return program

    def stop(self) -> None:
        for program in self._running:
            program.stop(seconds=30)
        self._running.clear()

    def close(self) -> None:
        for browser in self._browsers:
            browser.close()
        self.stop()

    def browser(self) -> UserAgent:
        """A new browser profile with connections of its own."""
        browser = UserAgent(self.origin)
        self._browsers.append(browser)
        return browser

    def log_in(self, username: str = "somebody") -> UserAgent:
        browser = self.browser()
        browser.login("/bff/login", username=username)
        return browser


@contextmanager
def gateway_parts(folder: Path) -> Iterator[Gateway]:
    """An authorization server and an API that run, and a gateway that is ready to start."""
    with ExitStack() as stack:
        server = stack.enter_context(running_authorization_server())
        api = stack.enter_context(EchoAPI.serve())
        gateway = Gateway(folder, server, api, free_port())
        stack.callback(gateway.close)
        yield gateway
