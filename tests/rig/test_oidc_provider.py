"""The first provider does what tests rely on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx2
import pytest

from tests.rig.control_plane import fingerprint
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.relying_party import RelyingParty
from tests.rig.servers import serve
from tests.rig.user_agent import UserAgent


@pytest.fixture
def party(oidc_provider: OIDCProvider) -> Iterator[RelyingParty]:
    """An application on `localhost` with a client of its own; the provider, on 127.0.0.1, is another site."""
    party = RelyingParty(oidc_provider.issuer)
    with serve(party, host="localhost", lifespan="off") as party.base_url:
        party.client = oidc_provider.add_client("basic", redirect_uris=party.redirect_uri)
        yield party


def signed_in(party: RelyingParty) -> RelyingParty:
    with UserAgent(party.base_url) as agent:
        agent.login("/login")
    return party


def test_a_user_signs_in_by_the_pages_of_the_provider(party: RelyingParty, oidc_provider: OIDCProvider) -> None:
    with UserAgent(party.base_url) as agent:
        home = agent.login("/login", username="alice")
        pages = [str(answer.url) for answer in agent.history]

    assert home.url.path == "/" and home.status_code == 200
    assert any(url.startswith(party.redirect_uri) for url in pages)
    assert party.userinfo().json()["sub"] == "alice"
    assert oidc_provider.whose(party.tokens["access_token"])["sub"] == "alice"


def test_auto_login_shows_no_page(party: RelyingParty, oidc_provider: OIDCProvider) -> None:
    oidc_provider.config(auto_login="bob")
    with UserAgent(party.base_url) as agent:
        home = agent.navigate("/login")

    assert home.url.path == "/"
    assert party.userinfo().json()["sub"] == "bob"


def test_a_refresh_token_is_issued_without_asking_for_consent_and_rotates(party: RelyingParty) -> None:
    signed_in(party)
    first = party.tokens["refresh_token"]

    assert party.refresh().status_code == 200
    assert party.tokens["refresh_token"] != first


def test_the_log_tells_requests_of_one_client_and_no_secret(party: RelyingParty, oidc_provider: OIDCProvider) -> None:
    signed_in(party)
    assert party.client is not None and party.client.client_secret is not None
    refresh_token = party.tokens["refresh_token"]
    party.refresh()

    (entry,) = oidc_provider.log(client_id=party.client.client_id, grant_type="refresh_token")
    assert (entry.status, entry.auth, entry.path) == (200, "Basic", "/token")
    assert entry.params["refresh_token"] == fingerprint(refresh_token)
    everything = repr(oidc_provider.log())
    for secret in (refresh_token, party.client.client_secret, party.tokens["access_token"]):
        assert secret not in everything


@pytest.mark.parametrize("mode", ["drop", "after"])
def test_an_answer_can_be_lost(party: RelyingParty, oidc_provider: OIDCProvider, mode: str) -> None:
    signed_in(party)
    assert party.client is not None
    oidc_provider.fault(mode, client_id=party.client.client_id)  # type: ignore[arg-type]
    with pytest.raises(httpx2.TransportError):
        party.refresh()

    # Where the provider has acted before the answer was lost, the old refresh token is spent.
    assert party.refresh().status_code == (200 if mode == "drop" else 400)


def test_a_fault_of_one_client_is_not_that_of_another(party: RelyingParty, oidc_provider: OIDCProvider) -> None:
    signed_in(party)
    oidc_provider.fault("status", client_id="somebody-else", status=500)

    assert party.refresh().status_code == 200


def test_requests_can_be_held_and_let_go(party: RelyingParty, oidc_provider: OIDCProvider) -> None:
    signed_in(party)
    assert party.client is not None
    answers: list[int] = []
    caller = threading.Thread(target=lambda: answers.append(party.refresh().status_code))
    with oidc_provider.hold(grant_type="refresh_token", client_id=party.client.client_id):
        caller.start()
        oidc_provider.wait_for_request(grant_type="refresh_token", client_id=party.client.client_id)
        assert answers == []
    caller.join(10)

    assert answers == [200]


def test_answers_can_be_tampered_with(party: RelyingParty, oidc_provider: OIDCProvider) -> None:
    signed_in(party)
    oidc_provider.tamper(grant_type="refresh_token", json={"token_type": "dPoP"}, drop=["expires_in"], sign="none")
    party.tokens.pop("expires_in")
    party.refresh()

    assert party.tokens["token_type"] == "dPoP"
    assert "expires_in" not in party.tokens
    assert party.tokens["id_token"].endswith(".")


def test_the_redirect_can_be_tampered_with(party: RelyingParty, oidc_provider: OIDCProvider) -> None:
    oidc_provider.tamper("redirect", query={"state": "other"}, drop=["iss"])
    with UserAgent(party.base_url) as agent:
        answer = agent.login("/login", stop_at=party.redirect_uri)
    location = httpx2.URL(answer.headers["location"])

    assert location.params["state"] == "other"
    assert "iss" not in location.params


def test_signing_keys_can_be_replaced_while_sessions_live_on(party: RelyingParty, oidc_provider: OIDCProvider) -> None:
    signed_in(party)
    jwks_uri = party.metadata()["jwks_uri"]
    kids = oidc_provider.rotate_keys()

    assert [key["kid"] for key in httpx2.get(jwks_uri, trust_env=False).json()["keys"]] == kids
    assert party.refresh().status_code == 200


def test_a_grant_can_be_revoked_by_the_administrator(party: RelyingParty, oidc_provider: OIDCProvider) -> None:
    signed_in(party)
    grant_id = oidc_provider.whose(party.tokens["access_token"])["grant_id"]

    assert oidc_provider.revoke_grant(grant_id)
    assert party.refresh().json()["error"] == "invalid_grant"


@pytest.mark.parametrize("preset", ["basic", "post", "pkjwt", "public", "dpop", "svc", "tx", "login-tx"])
def test_every_kind_of_client_can_be_registered(oidc_provider: OIDCProvider, preset: str) -> None:
    client = oidc_provider.add_client(preset)

    assert (client.private_key_pem is not None) == (preset == "pkjwt")
    assert (client.client_secret is None) == (preset in ("pkjwt", "public"))
