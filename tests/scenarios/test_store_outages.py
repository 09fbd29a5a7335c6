"""A store that is away: nobody is told that they are logged out, and nobody is let in, whatever they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import pytest

from coatcheck import BFF, Client, LogoutOptions
from coatcheck.sessions.endings import ASK_AGAIN, LOOK_EVERY, TRUST
from coatcheck.sessions.seal import new_key
from tests.bff.world import claims
from tests.oauth.logout_tokens import Mint
from tests.rig.control_plane import RegisteredClient
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.postgresql import PostgreSQL
from tests.rig.servers import serve
from tests.rig.tcp_fault import TCPFault
from tests.rig.user_agent import UserAgent
from tests.rig.valkey import Valkey
from tests.scenarios.gateway import SCOPE, Application
from tests.scenarios.scene import MovableClock
from tests.scenarios.test_login_scenarios import site
from tests.scenarios.two_nodes import BACKCHANNEL

AWAY = (503, "store_unavailable")


@dataclass
class Shop:
    """The application, whose store is behind *fault*."""

    provider: OIDCProvider
    client: RegisteredClient
    fault: TCPFault
    clock: MovableClock
    agent: UserAgent
    sid: str
    """What the provider calls the session of *agent*."""
    logout_url: str

    def told(self) -> int:
        """What a logout token of the provider is answered; by the clock of the application, it is a new one."""
        kid, pem = self.provider.signing_key()
        about = {"sub": "alice", "sid": self.sid}
        mint = Mint(self.provider.issuer, self.client.client_id, int(self.clock.time()), pem, kid, about)
        url = self.agent.base_url.join(BACKCHANNEL)
        return httpx2.post(url, data={"logout_token": mint.token()}, trust_env=False, verify=False).status_code

    def answers(self) -> dict[str, tuple[int, str | None]]:
        """What each kind of request is answered: its status, and our code."""
        agent = self.agent
        agent.page = None
        with agent.stream("/bff/events", csrf=False) as stream:
            events = _told(stream)
        return {
            "a local API": _told(agent.fetch("/me")),
            "a page": _told(agent.navigate("/page", stop_at=self.provider.issuer)),
            "a remote API": _told(agent.fetch("/api/orders")),
            "/bff/user": _told(agent.fetch("/bff/user")),
            "/bff/events": events,
        }

    def logouts(self) -> list[tuple[int, str | None]]:
        """What a page that logs out is answered, by link and by script."""
        self.agent.page = None
        by_link = self.agent.navigate(self.logout_url, stop_at=self.provider.issuer)
        self.agent.page = None
        return [_told(by_link), _told(self.agent.fetch("/bff/logout", "POST"))]


def _told(answer: httpx2.Response) -> tuple[int, str | None]:
    assert answer.status_code != 503 or "set-cookie" not in answer.headers, "the cookie is kept"
    return answer.status_code, answer.headers.get("coatcheck-error")


@contextmanager
def shop(provider: OIDCProvider, api: EchoAPI, server: PostgreSQL | Valkey, *, in_cookies: bool) -> Iterator[Shop]:
    """Serve it, and log alice in."""
    application, clock = Application.at_free_port(), MovableClock()
    client = provider.add_client(
        **application.addresses,
        backchannel_logout_uri=application.url + BACKCHANNEL,
        backchannel_logout_session_required=True,
    )
    with TCPFault.before(server.port) as fault, UserAgent(application.url) as agent:
        port = fault.port
        store = server.fresh_database(port=port) if isinstance(server, PostgreSQL) else server.fresh_url(port=port)
        bff = BFF(
            Client(issuer=provider.issuer, client_id=client.client_id, client_secret=client.client_secret, scope=SCOPE),
            public_url=application.url,
            keys=[new_key()],
            sessions="cookie" if in_cookies else store,
            coordination=store,
            logout=LogoutOptions(backchannel=True),
            clock=clock,
        )
        bff.remote_api("/api/orders", api.url)
        with serve(bff.wrap(site), port=application.port):
            agent.login("/bff/login")
            found = claims(agent.fetch("/bff/user"))
            yield Shop(provider, client, fault, clock, agent, found["sid"], found["bff:logout_url"])


@pytest.fixture(params=["postgresql", "valkey"])
def server(request: pytest.FixtureRequest) -> PostgreSQL | Valkey:
    found: PostgreSQL | Valkey = request.getfixturevalue(request.param)
    return found


@pytest.mark.spec("SES-12")
def test_while_the_store_is_away_everything_is_503_and_then_as_it_was(
    oidc_provider: OIDCProvider, echo_api: EchoAPI, server: PostgreSQL | Valkey
) -> None:
    with shop(oidc_provider, echo_api, server, in_cookies=False) as place:
        before = place.answers()
        assert set(before.values()) == {(200, None)}
        place.fault.cut()
        assert place.answers() == dict.fromkeys(before, AWAY)
        assert place.logouts() == [AWAY, AWAY], "nobody may believe that they are logged out"
        assert place.told() == 400, "not done"
        place.fault.restore()
        assert place.answers() == before
        assert place.told() == 200
        assert {status for status, _ in place.answers().values()} == {401, 302}


@pytest.mark.spec("SES-12", "REF-26")
def test_cookies_are_trusted_for_a_while_and_then_nobody_knows(
    oidc_provider: OIDCProvider, echo_api: EchoAPI, server: PostgreSQL | Valkey
) -> None:
    """Whether a session in cookies was ended elsewhere, only the coordination store can say."""
    with shop(oidc_provider, echo_api, server, in_cookies=True) as place:
        before = place.answers()
        assert set(before.values()) == {(200, None)}
        place.fault.cut()
        place.clock.offset += LOOK_EVERY
        assert place.answers() == before
        place.clock.offset += TRUST
        assert place.answers() == dict.fromkeys(before, AWAY)
        assert place.told() == 400, "not done"
        place.fault.restore()
        place.clock.offset += ASK_AGAIN
        assert place.answers() == before
        assert place.told() == 200
        assert {status for status, _ in place.answers().values()} == {401, 302}
