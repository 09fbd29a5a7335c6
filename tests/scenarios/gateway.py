"""A running `coatcheck run FILE` in front of a provider and an API, as a user would set it up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from coatcheck.sessions.seal import new_key
from tests.rig.control_plane import RegisteredClient
from tests.rig.programs import Program
from tests.rig.servers import coatcheck, free_port

SCOPE = "openid profile email offline_access"


class Addresses(TypedDict):
    """Where a provider may send a browser: the arguments of `add_client`."""

    redirect_uris: str
    post_logout_redirect_uris: str


@dataclass(frozen=True)
class Application:
    """Where an application is going to listen, and what its provider has to know of it."""

    port: int
    front_port: int | None = None
    """Where browsers go, if something stands in front of it."""
    scheme: str = "http"

    @property
    def url(self) -> str:
        """`localhost`, because the providers are on `127.0.0.1`: to a browser these are two sites."""
        return f"{self.scheme}://localhost:{self.front_port or self.port}"

    @property
    def redirect_uri(self) -> str:
        return f"{self.url}/bff/callback"

    @property
    def post_logout_redirect_uri(self) -> str:
        return f"{self.url}/bff/logged-out"

    @property
    def addresses(self) -> Addresses:
        """What its registration has to say of it."""
        return Addresses(redirect_uris=self.redirect_uri, post_logout_redirect_uris=self.post_logout_redirect_uri)

    @classmethod
    def at_free_port(cls, *, scheme: str = "http") -> Application:
        return cls(free_port(), scheme=scheme)


@contextmanager
def gateway(
    folder: Path,
    application: Application,
    *,
    issuer: str,
    client: RegisteredClient,
    apis: Mapping[str, str],
    scope: str = SCOPE,
    workers: int = 1,
    store: str | None = None,
    coordination: str | None = None,
    frontend: Path | None = None,
    more: Sequence[str] = (),
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    key: str | None = None,
) -> Iterator[Program]:
    """
    Write the file and the key, start the gateway, and stop it.

    *more* are lines for the top of the file, *arguments* some for `coatcheck run`. Without a *key* it has a new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "coatcheck.key").write_text(key or new_key())
    (folder / "client.secret").write_text(client.client_secret or "")
    lines = [
        *more,
        f'public_url = "{application.url}"',
        'keys = [{ file = "coatcheck.key" }]',
        "[server]",
        f'listen = "127.0.0.1:{application.port}"',
        f"workers = {workers}",
        "[client]",
        f'issuer = "{issuer}"',
        f'client_id = "{client.client_id}"',
        'client_secret = { file = "client.secret" }',
        f'scope = "{scope}"',
        'authorization_params = { prompt = "consent" }',
        "[sessions]",
        f'store = "{store or f"sqlite://{folder}/sessions.db"}"',
        *([f'coordination = "{coordination}"'] if coordination else []),
    ]
    for path, url in apis.items():
        lines += ["[[api]]", f"path = {json.dumps(path)}", f"url = {json.dumps(url)}"]
    if frontend is not None:
        lines += ["[frontend]", f"static = {json.dumps(str(frontend))}"]
    file = folder / "coatcheck.toml"
    file.write_text("\n".join(lines) + "\n")
    with coatcheck("run", file, *arguments, env=env) as program:
        program.wait_for(rf"{application.url}/ is served")
        yield program
