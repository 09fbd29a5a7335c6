"""
Back-channel logout by the real provider: its own logout tokens, over HTTP, to one of two nodes.

Both nodes serve one application over one shared store, each by a server of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest

from coatcheck import BFF, Client
from coatcheck.sessions.seal import new_key
from tests.bff.logouts import FORM, alive
from tests.bff.world import application, claims
from tests.rig.control_plane import RegisteredClient
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.postgresql import PostgreSQL
from tests.rig.servers import free_port, serve
from tests.rig.user_agent import UserAgent
from tests.rig.valkey import Valkey
from tests.scenarios.gateway import Application

SOON = 1.0
"""Seconds within which every stream is told."""


@dataclass
class TwoNodes:
    """An application at two ports; the provider and logins know the first, and tell it of logouts."""

    provider: OIDCProvider
    client: RegisteredClient
    url: str
    other_url: str
    opened: ExitStack = field(default_factory=ExitStack)
    posted: list[str] = field(default_factory=list)
    """The logout tokens that have arrived."""

    def browser(self) -> UserAgent:
        """A browser in which alice is logged in."""
        browser = self.opened.enter_context(UserAgent(self.url))
        deadline = time.monotonic() + 10
        while not alive(browser):  # a login in the very second of a logout counts as one before it
            assert time.monotonic() < deadline
            browser.login()
        return browser

    def at_the_other(self, browser: UserAgent) -> UserAgent:
        """The same browser, whose requests a load balancer sends to the other node."""
        agent = self.opened.enter_context(UserAgent(self.other_url))
        agent.cookies = browser.cookies
        return agent

    def replay(self) -> httpx2.Response:
        """Send the last logout token once more, to the other node."""
        body = {"logout_token": self.posted[-1]}
        return httpx2.post(f"{self.other_url}/bff/backchannel", data=body, headers=FORM)


@contextmanager
def two_nodes(provider: OIDCProvider, stores: dict[str, str], *, with_sid: bool = True) -> Iterator[TwoNodes]:
    here, other = Application.at_free_port(), free_port()
    client = provider.add_client(
        "basic",
        **here.addresses,
        backchannel_logout_uri=f"{here.url}/bff/backchannel",
        backchannel_logout_session_required=with_sid,
    )
    keys = [new_key()]
    with ExitStack() as running:
        nodes = TwoNodes(provider, client, here.url, f"http://localhost:{other}")
        for port in (here.port, other):
            registration = Client(
                issuer=provider.issuer, client_id=client.client_id, client_secret=client.client_secret, scope="openid"
            )
            bff = BFF(registration, public_url=here.url, keys=keys, **stores)  # type: ignore[arg-type]
            running.enter_context(serve(_noting_tokens(bff.wrap(application), nodes), port=port))
        with nodes.opened:  # browsers leave before the servers stop
            yield nodes


def _noting_tokens(app: Any, nodes: TwoNodes) -> Any:
    async def noting(scope: Any, receive: Any, send: Any) -> None:
        async def noted() -> Any:
            message = await receive()
            if scope.get("path") == "/bff/backchannel" and message.get("body"):
                nodes.posted += parse_qs(message["body"].decode())["logout_token"]
            return message

        await app(scope, noted, send)

    return noting


def listen(browser: UserAgent, opened: Event) -> tuple[str, float]:
    """Read an event stream to its end; what it said last, and when (monotonic seconds)."""
    said = ""
    with browser.stream("/bff/events") as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            opened.set()
            said = line if line.startswith(("event:", "data:")) else said
    return said, time.monotonic()


TOLD = {'data: {"reason":"backchannel_logout"}', 'data: {"reason":"ended"}'}
"""The second where a node had not quite begun to listen to the other one, and saw for itself."""

STORES = ["sqlite", "postgresql", "valkey", "cookies and valkey"]


def in_sqlite(folder: Path) -> dict[str, str]:
    return {"sessions": f"sqlite:///{folder / 'sessions.db'}"}


@pytest.fixture
def stores(request: pytest.FixtureRequest, tmp_path: Path, postgresql: PostgreSQL, valkey: Valkey) -> dict[str, str]:
    """The kinds of store, each fresh."""
    return {
        "sqlite": in_sqlite(tmp_path),
        "postgresql": {"sessions": postgresql.fresh_database()},
        "valkey": {"sessions": valkey.fresh_url()},
        "cookies and valkey": {"sessions": "cookie", "coordination": valkey.fresh_url()},
    }[request.param]


@pytest.mark.spec("BCL-12", "BCL-15", "BCL-19", "BCL-07")
@pytest.mark.parametrize("stores", STORES, indirect=True)
def test_the_providers_own_logout_ends_the_session_and_its_streams_on_both_nodes(
    oidc_provider: OIDCProvider, stores: dict[str, str]
) -> None:
    with two_nodes(oidc_provider, stores) as nodes, ThreadPoolExecutor(2) as threads:
        browser, bystander = nodes.browser(), nodes.browser()
        both = [browser, nodes.at_the_other(browser)]
        me = claims(browser.fetch("/bff/user"))
        opened = [Event(), Event()]
        streams = [threads.submit(listen, agent, event) for agent, event in zip(both, opened, strict=True)]
        assert all(event.wait(10) for event in opened)
        told_at = time.monotonic()
        answer = oidc_provider.backchannel_logout(nodes.client, sub=me["sub"], sid=me["sid"])
        assert answer == {"delivered": True}
        assert [alive(agent) for agent in both] == [False, False]
        for stream in streams:
            said, at = stream.result(10)
            assert said in TOLD
            assert at - told_at < SOON
        assert alive(bystander), "another session of the same user"
        again = nodes.browser()
        assert nodes.replay().status_code == 400
        assert alive(again)


@pytest.mark.spec("BCL-13")
def test_a_logout_that_names_only_the_user_ends_all_their_sessions(oidc_provider: OIDCProvider, tmp_path: Path) -> None:
    with two_nodes(oidc_provider, in_sqlite(tmp_path), with_sid=False) as nodes:
        browsers = [nodes.browser() for _ in range(3)]
        assert oidc_provider.backchannel_logout(nodes.client, sub="alice") == {"delivered": True}
        assert [alive(nodes.at_the_other(browser)) for browser in browsers] == [False] * 3


@pytest.mark.spec("JOS-09")
def test_a_logout_after_the_provider_has_changed_its_keys(oidc_provider: OIDCProvider, tmp_path: Path) -> None:
    with two_nodes(oidc_provider, in_sqlite(tmp_path)) as nodes:
        browser = nodes.browser()
        me = claims(browser.fetch("/bff/user"))
        oidc_provider.rotate_keys()
        answer = oidc_provider.backchannel_logout(nodes.client, sub=me["sub"], sid=me["sid"])
        assert answer == {"delivered": True} and not alive(browser)
