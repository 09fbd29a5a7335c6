"""The second provider does what tests rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.control_plane import fingerprint
from tests.rig.django_provider import DjangoProvider
from tests.rig.relying_party import RelyingParty
from tests.rig.servers import serve
from tests.rig.user_agent import UserAgent


@pytest.fixture
def party(django_provider: DjangoProvider) -> Iterator[RelyingParty]:
    party = RelyingParty(django_provider.issuer)
    with serve(party, host="localhost", lifespan="off") as party.base_url:
        party.client = django_provider.add_client("basic", redirect_uris=party.redirect_uri)
        with UserAgent(party.base_url) as agent:
            assert agent.login("/login", username="bob").url.path == "/"
        yield party


def test_a_user_signs_in_by_the_page_of_the_provider(party: RelyingParty) -> None:
    assert party.userinfo().json()["sub"] == "bob"
    assert party.tokens["token_type"] == "Bearer"


def test_the_log_tells_one_refresh_and_no_secret(party: RelyingParty, django_provider: DjangoProvider) -> None:
    assert party.client is not None
    refresh_token = party.tokens["refresh_token"]
    assert party.refresh().status_code == 200

    (entry,) = django_provider.log(client_id=party.client.client_id, grant_type="refresh_token")
    assert (entry.status, entry.auth) == (200, "Basic")
    assert entry.params["refresh_token"] == fingerprint(refresh_token)
    assert refresh_token not in repr(django_provider.log())


def test_lifetimes_are_knobs(party: RelyingParty, django_provider: DjangoProvider) -> None:
    django_provider.config(access_token_ttl=5)
    party.refresh()

    assert party.tokens["expires_in"] == 5
