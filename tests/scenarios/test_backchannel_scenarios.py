"""
Back-channel logout by the real provider: what users of a Backend-for-Frontend know, one test for each.

T158 to T163 and T166 to T167 of the scenarios that `docs/differences.md` refers to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from coatcheck import BFF, Client, LogoutOptions
from coatcheck.sessions.seal import new_key
from tests.bff.world import claims
from tests.rig.control_plane import RegisteredClient
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import serve
from tests.rig.user_agent import UserAgent
from tests.scenarios.gateway import SCOPE, Application
from tests.scenarios.test_login_scenarios import site
from tests.scenarios.two_nodes import BACKCHANNEL

WHERE = pytest.mark.parametrize("sessions", ["server", "cookie"])
"""In a store, and in cookies that it coordinates."""


@dataclass
class Shop:
    """An application that the provider tells who has left."""

    provider: OIDCProvider
    application: Application
    client: RegisteredClient
    bff: BFF
    stack: ExitStack

    def register(self, *, by_sid: bool) -> None:
        """Have the provider name the session, or only the user; whoever logs in now has a `sid`, or has none."""
        self.provider.add_client(
            client_id=self.client.client_id,
            **self.application.addresses,
            backchannel_logout_uri=f"http://127.0.0.1:{self.application.port}{BACKCHANNEL}",
            backchannel_logout_session_required=by_sid,
        )

    def log_in(self, username: str = "alice") -> UserAgent:
        agent = self.stack.enter_context(UserAgent(self.application.url))
        agent.login("/bff/login", username=username)
        assert agent.fetch("/me").json() == username
        return agent

    def told(self, *, sub: str = "alice", sid: str | None = None) -> None:
        """Have the provider send a logout token, and do nothing else."""
        self.register(by_sid=sid is not None)
        assert self.provider.backchannel_logout(self.client, sub=sub, sid=sid) == {"delivered": True}
        self.register(by_sid=True)

    def good_refresh_tokens(self) -> int:
        """How many the provider would accept, when all that is done behind answers has been done."""
        while self.bff._ending._tasks:
            time.sleep(0.01)
        return self.provider.good_refresh_tokens(self.client.client_id)


@contextmanager
def shop(provider: OIDCProvider, folder: Path, sessions: str, **logout: Any) -> Iterator[Shop]:
    """Serve it. *logout* are options of logouts."""
    application = Application.at_free_port()
    client = provider.add_client(**application.addresses)
    store = f"sqlite://{folder}/sessions.db"
    bff = BFF(
        Client(
            issuer=provider.issuer,
            client_id=client.client_id,
            client_secret=client.client_secret,
            scope=SCOPE,
            authorization_params={"prompt": "consent"},
        ),
        public_url=application.url,
        keys=[new_key()],
        sessions="cookie" if sessions == "cookie" else store,
        coordination=store,
        logout=LogoutOptions(backchannel=True, **logout),
    )
    with serve(bff.wrap(site), port=application.port), ExitStack() as stack:
        place = Shop(provider, application, client, bff, stack)
        place.register(by_sid=True)
        yield place


def sid(agent: UserAgent) -> str:
    return str(claims(agent.fetch("/bff/user"))["sid"])


def alive(*agents: UserAgent) -> list[bool]:
    """Who of them is logged in, to the application and to the BFF."""
    found = [(agent.fetch("/me").status_code, agent.fetch("/bff/user").status_code) for agent in agents]
    assert set(found) <= {(200, 200), (401, 401)}
    return [statuses == (200, 200) for statuses in found]


@pytest.mark.spec("BCL-15")
@WHERE
def test_t158_without_a_token_it_is_a_bad_request_and_no_login_begins(
    oidc_provider: OIDCProvider, tmp_path: Path, sessions: str
) -> None:
    with shop(oidc_provider, tmp_path, sessions) as place:
        agent = place.log_in()
        url = place.application.url + BACKCHANNEL
        for form in ({}, {"logout_token": ""}, {"token": "x"}):
            for visitor in ({}, {"cookie": agent.cookies.header(httpx2.URL(url), initiator=None) or ""}):
                answer = httpx2.post(url, data=form, headers=visitor, trust_env=False)
                assert answer.status_code == 400
                assert answer.headers["cache-control"] == "no-store"
                assert not {"location", "set-cookie", "www-authenticate"} & set(answer.headers)
        assert alive(agent) == [True]


@pytest.mark.spec("BCL-12")
@WHERE
def test_t159_a_good_token_ends_the_session(oidc_provider: OIDCProvider, tmp_path: Path, sessions: str) -> None:
    with shop(oidc_provider, tmp_path, sessions) as place:
        agent, bob = place.log_in(), place.log_in("bob")
        place.told(sid=sid(agent))
        assert alive(agent, bob) == [False, True]
        api = agent.fetch("/me")
        assert (api.status_code, api.headers["coatcheck-error"]) == (401, "session_expired")
        place.provider.wait_for_another_second()
        agent.login("/bff/login")
        assert alive(agent) == [True], "a login after the logout"


@pytest.mark.spec("BCL-12")
@WHERE
def test_t160_t161_of_another_user_or_another_session_nothing_ends(
    oidc_provider: OIDCProvider, tmp_path: Path, sessions: str
) -> None:
    with shop(oidc_provider, tmp_path, sessions) as place:
        agent, bob = place.log_in(), place.log_in("bob")
        place.told(sub="carol")
        place.told(sub="bob", sid=sid(agent))
        place.told(sub="alice", sid=sid(bob))
        place.told(sub="alice", sid="a-session-of-long-ago")
        assert alive(agent, bob) == [True, True]
        place.told(sub="alice", sid=sid(agent))
        assert alive(agent, bob) == [False, True]


@pytest.mark.spec("BCL-12")
@WHERE
@pytest.mark.parametrize("everywhere", [False, True])
def test_t162_t163_one_session_ends_or_every_one_of_the_user(
    oidc_provider: OIDCProvider, tmp_path: Path, sessions: str, everywhere: bool
) -> None:
    with shop(oidc_provider, tmp_path, sessions, backchannel_all_sessions=everywhere) as place:
        laptop, phone, bob = place.log_in(), place.log_in(), place.log_in("bob")
        place.told(sid=sid(laptop))
        assert alive(laptop, phone, bob) == [False, not everywhere, True]


@pytest.mark.spec("BCL-13")
@WHERE
def test_a_provider_that_names_no_session_ends_every_one_of_the_user(
    oidc_provider: OIDCProvider, tmp_path: Path, sessions: str
) -> None:
    with shop(oidc_provider, tmp_path, sessions) as place:
        laptop, phone, bob = place.log_in(), place.log_in(), place.log_in("bob")
        place.told()
        assert alive(laptop, phone, bob) == [False, False, True]


@pytest.mark.parametrize("revoke", [True, False])
def test_t166_t167_a_back_channel_logout_revokes_what_the_options_say(
    oidc_provider: OIDCProvider, tmp_path: Path, revoke: bool
) -> None:
    """The provider only tells us, and ends nothing of its own: so what becomes of the tokens is our doing."""
    with shop(oidc_provider, tmp_path, "server", revoke_refresh_token=revoke) as place:
        agent, phone = place.log_in(), place.log_in()
        assert place.good_refresh_tokens() == 2
        place.told(sid=sid(agent))
        assert alive(agent, phone) == [False, True]
        assert place.good_refresh_tokens() == 2 - revoke


def test_t166_what_is_in_cookies_only_a_browser_can_bring_and_nobody_gives_back(
    oidc_provider: OIDCProvider, tmp_path: Path
) -> None:
    with shop(oidc_provider, tmp_path, "cookie") as place:
        agent = place.log_in()
        place.told(sid=sid(agent))
        assert alive(agent) == [False]
        assert place.good_refresh_tokens() == 1
