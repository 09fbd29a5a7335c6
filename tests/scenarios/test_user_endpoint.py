"""`/bff/user` and the session's life, against the real provider: an enricher that calls an API, and what slides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from coatcheck import BFF, ClaimsEnricherContext, Client
from coatcheck.sessions.seal import new_key
from tests.rig.control_plane import RegisteredClient
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import Receive, Scope, Send, serve
from tests.rig.user_agent import UserAgent
from tests.scenarios.gateway import SCOPE, Application
from tests.scenarios.scene import MovableClock, codes

HOUR = 3600
SESSIONS = pytest.mark.parametrize("sessions", ["memory", "cookie"])


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """The application behind the BFF."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"home"})


@contextmanager
def served(
    provider: OIDCProvider, *, sessions: str = "memory", **options: Any
) -> Iterator[tuple[UserAgent, MovableClock, RegisteredClient]]:
    """An application that is registered at *provider*, a browser, and the application's clock."""
    application = Application.at_free_port()
    client = provider.add_client("basic", **application.addresses)
    clock = MovableClock()
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
        sessions=sessions,
        clock=clock,
        **options,
    )
    with serve(bff.wrap(page), port=application.port), UserAgent(application.url) as agent:
        yield agent, clock, client


def pairs(response: httpx2.Response) -> list[tuple[str, Any]]:
    assert response.status_code == 200, response.text
    return [(claim["type"], claim["value"]) for claim in response.json()]


def test_an_enricher_that_calls_an_api_replaces_the_list(oidc_provider, echo_api) -> None:
    async def roles_only(context: ClaimsEnricherContext) -> Sequence[tuple[str, Any]]:
        assert ("name", "User alice") in context.claims
        auth = context.tokens.auth(token="user", user=context.user)
        async with httpx2.AsyncClient(base_url=echo_api.url, auth=auth, trust_env=False) as http:
            response = await http.get("/roles")
        return [("role", role) for role in response.json()["roles"]]

    with served(oidc_provider, claims_enricher=roles_only) as (agent, _, _):
        agent.login(username="alice")
        shown = pairs(agent.fetch("/bff/user"))
        assert shown[:2] == [("role", "buyer"), ("role", "seller")]
        assert [name for name, _ in shown[2:]] == ["bff:logout_url", "bff:session_expires_in", "bff:tokens"]
        authorization = echo_api.last.header("authorization") or ""
        assert oidc_provider.whose(authorization.removeprefix("Bearer "))["sub"] == "alice"


def test_a_claim_that_is_there_twice_stays_and_the_logout_link_works(oidc_provider) -> None:
    """The link's `sid` is ours and not the provider's, although that one has a `sid` too."""
    with served(oidc_provider) as (agent, _, client):
        oidc_provider.tamper(client_id=client.client_id, claims={"role": ["buyer", "seller", "buyer"], "sid": "theirs"})
        agent.login(username="alice")
        shown = pairs(agent.fetch("/bff/user"))
        assert [value for name, value in shown if name == "role"] == ["buyer", "seller", "buyer"]
        claims = dict(shown)
        assert 0 < claims["bff:session_expires_in"] <= HOUR
        assert claims["sid"] == "theirs"
        (sid,) = parse_qs(urlsplit(claims["bff:logout_url"]).query)["sid"]
        assert sid != "theirs" and len(sid) >= 20
        assert agent.navigate("/bff/logout?sid=theirs").status_code == 400
        assert agent.fetch("/bff/user").status_code == 200
        agent.logout(claims["bff:logout_url"])
        assert codes(agent.fetch("/bff/user")) == (401, "session_missing")


@pytest.mark.parametrize("anonymous", [401, 200])
def test_who_is_not_our_page_and_who_is_not_logged_in(oidc_provider, anonymous: int) -> None:
    with served(oidc_provider, anonymous_user_status=anonymous) as (agent, _, _):
        assert codes(agent.fetch("/bff/user", csrf=False)) == (403, "csrf_header_missing")
        answer = agent.fetch("/bff/user")
        assert codes(answer) == ((401, "session_missing") if anonymous == 401 else (200, None))
        assert anonymous == 401 or answer.json() is None


def left(agent: UserAgent, query: str = "") -> int:
    """How long the session lives if nobody uses it any more."""
    seconds: int = dict(pairs(agent.fetch(f"/bff/user{query}")))["bff:session_expires_in"]
    return seconds


@SESSIONS
def test_asking_slides_the_session_unless_it_says_not(oidc_provider, sessions: str) -> None:
    with served(oidc_provider, sessions=sessions) as (agent, clock, _):
        agent.login(username="alice")
        clock.offset = 0.7 * HOUR
        assert left(agent, "?slide=false") == pytest.approx(0.3 * HOUR, abs=60)
        assert left(agent, "?slide=false") == pytest.approx(0.3 * HOUR, abs=60), "looking changes nothing"
        assert left(agent) == pytest.approx(HOUR, abs=60)
        clock.offset = 1.6 * HOUR
        assert left(agent, "?slide=false") == pytest.approx(0.1 * HOUR, abs=60), "the use before was kept"
        clock.offset = 1.8 * HOUR
        assert codes(agent.fetch("/bff/user")) == (401, "session_expired")


@SESSIONS
def test_a_token_that_the_enricher_renews_slides_nothing(oidc_provider, sessions: str) -> None:
    async def renewing(context: ClaimsEnricherContext) -> Sequence[tuple[str, Any]]:
        await context.tokens.user_token(context.user)
        return context.claims

    with served(oidc_provider, sessions=sessions, claims_enricher=renewing) as (agent, clock, client):
        agent.login(username="alice")
        for offset in (0.3, 0.6, 0.9):
            clock.offset = offset * HOUR  # each time the access token has expired
            assert left(agent, "?slide=false") == pytest.approx((1 - offset) * HOUR, abs=60)
        assert len(oidc_provider.log(client_id=client.client_id, grant_type="refresh_token")) == 3
        clock.offset = 1.1 * HOUR
        assert codes(agent.fetch("/bff/user?slide=false")) == (401, "session_expired")


@pytest.mark.spec("OAU-20")
@pytest.mark.parametrize(
    ("fault", "details", "status"),
    [
        ("after", {}, 503),
        ("drop", {}, 503),
        ("status", {"status": 503}, 503),
        ("garbage", {"body": '{"access_token": "a'}, 502),
    ],
)
def test_a_code_is_sent_once_and_a_lost_login_can_be_started_again(
    oidc_provider, fault: Any, details: dict[str, Any], status: int
) -> None:
    """The provider may have acted: sent again, the code would end the grant (RFC 6749 4.1.2)."""
    with served(oidc_provider) as (agent, _, client):
        once = {"client_id": client.client_id, "grant_type": "authorization_code"}
        oidc_provider.fault(fault, times=None, **once, **details)
        answer = agent.login(username="alice")
        assert answer.status_code == status
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert 'href="/bff/login"' in answer.text
        assert [cookie.name for cookie in agent.cookies.all() if "coatcheck" in cookie.name] == []
        assert len(oidc_provider.log(**once)) == 1
        again = agent.navigate(str(answer.url))  # somebody reloads the page
        assert len(oidc_provider.log(**once)) == 1, again.text
        oidc_provider.clear_faults(client_id=client.client_id)
        assert agent.login(username="alice").status_code == 200
        assert dict(pairs(agent.fetch("/bff/user")))["sub"] == "alice"
        assert len(oidc_provider.log(**once)) == 2
