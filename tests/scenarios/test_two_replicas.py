"""Two `coatcheck run` behind one address: whichever gets a request, the user is logged in, or is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coatcheck.bff.live import LOOK_EVERY
from coatcheck.sessions.seal import new_key
from tests.rig.control_plane import RegisteredClient
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.one_address import OneAddress
from tests.rig.postgresql import PostgreSQL
from tests.rig.servers import free_port
from tests.rig.user_agent import UserAgent
from tests.rig.valkey import Valkey
from tests.scenarios.gateway import Application, gateway
from tests.scenarios.two_nodes import BACKCHANNEL, EVERYWHERE, Kept

FIRST, SECOND = 0, 1


@dataclass
class Replicas:
    """The address, and what the provider knows of the application there."""

    address: OneAddress
    url: str
    client: RegisteredClient


@contextmanager
def replicas(
    provider: OIDCProvider, api: EchoAPI, folder: Path, *, store: str, coordination: str | None = None
) -> Iterator[Replicas]:
    """Start both."""
    front = free_port()
    each = [Application(free_port(), front_port=front) for _ in range(2)]
    client = provider.add_client(
        **each[0].addresses,
        backchannel_logout_uri=f"http://127.0.0.1:{front}{BACKCHANNEL}",
        backchannel_logout_session_required=True,
    )
    key = new_key()
    with ExitStack() as stack:
        for number, application in enumerate(each):
            running = gateway(
                folder / str(number),
                application,
                issuer=provider.issuer,
                client=client,
                apis={"/api/orders": api.url},
                store=store,
                coordination=coordination,
                key=key,
            )
            stack.enter_context(running)
        address = stack.enter_context(OneAddress.before(*(application.port for application in each), port=front))
        yield Replicas(address, each[0].url, client)


def store_url(kept: Kept, folder: Path, request: pytest.FixtureRequest) -> str:
    if kept.store == "sqlite":
        return f"sqlite://{folder}/sessions.db"
    server: PostgreSQL | Valkey = request.getfixturevalue(kept.store)
    return server.fresh_database() if isinstance(server, PostgreSQL) else server.fresh_url()


def statuses(agent: UserAgent) -> list[int]:
    return [agent.fetch(path).status_code for path in ("/api/orders", "/bff/user")]


@pytest.mark.spec("SES-05")
@pytest.mark.parametrize("kept", EVERYWHERE, ids=str)
def test_login_at_one_call_at_the_other_logout_at_the_first_and_gone_at_the_second(
    kept: Kept, oidc_provider: OIDCProvider, echo_api: EchoAPI, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = store_url(kept, tmp_path, request)
    where = {"store": "cookie", "coordination": store} if kept.sessions == "cookie" else {"store": store}
    with (
        replicas(oidc_provider, echo_api, tmp_path, **where) as running,
        UserAgent(running.url) as agent,
        UserAgent(running.url) as thief,
    ):
        address = running.address
        address.choose(FIRST)
        agent.login("/bff/login")
        address.choose(SECOND)
        assert statuses(agent) == [200, 200]
        for cookie in agent.cookies.all():
            thief.cookies.put(cookie)
        with agent.stream("/bff/events", csrf=False) as page:
            lines = page.iter_lines()
            assert (page.status_code, next(lines)) == (200, "retry: 2000")
            address.choose(FIRST)
            logged_out = time.monotonic()
            assert agent.fetch("/bff/logout", "POST").status_code == 303
            # "ended", if the second saw it for itself because it had only begun to listen.
            assert set(lines) & {'data: {"reason":"logout"}', 'data: {"reason":"ended"}'}
            assert time.monotonic() - logged_out < LOOK_EVERY, "it was told"
        address.choose(SECOND)
        assert statuses(agent) == statuses(thief) == [401, 401]
        address.choose(None)
        assert statuses(thief) == [401, 401]
        assert {server for server, _ in address.served[-2:]} == {FIRST, SECOND}


@pytest.mark.spec("SES-05", "BCL-19")
def test_by_turns_a_login_a_call_and_a_logout_at_the_provider_are_what_they_are_at_one(
    oidc_provider: OIDCProvider, echo_api: EchoAPI, tmp_path: Path
) -> None:
    with (
        replicas(oidc_provider, echo_api, tmp_path, store=f"sqlite://{tmp_path}/sessions.db") as running,
        UserAgent(running.url) as agent,
    ):
        agent.login("/bff/login")
        assert [agent.fetch("/api/orders").status_code for _ in range(4)] == [200] * 4
        arrived = {path: server for server, path in running.address.served}
        assert arrived["/bff/login"] != arrived["/bff/callback"]
        agent.through_foreign_pages(agent.navigate(f"{oidc_provider.issuer}/session/end"))
        agent.page = None
        assert running.address.served[-1][1] == BACKCHANNEL
        assert [agent.fetch("/api/orders").status_code for _ in range(2)] == [401, 401]
