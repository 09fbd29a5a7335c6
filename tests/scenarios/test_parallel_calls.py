"""Fifty calls at once on an expired token."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.rig.echo_api import EchoAPI
from tests.rig.postgresql import PostgreSQL
from tests.rig.user_agent import UserAgent
from tests.rig.valkey import Valkey
from tests.scenarios.gateway import Application, gateway
from tests.scenarios.waiting import until_expired

CALLS = 50


def storm(
    oidc_provider, folder: Path, *, workers: int, store: str | None = None, coordination: str | None = None
) -> tuple[int, Counter[int]]:
    """
    Let the first caller hang up during the renewal, and fifty more wait for it.

    Returns how many refresh requests the provider saw, and the callers' statuses.
    """
    application = Application.at_free_port()
    client = oidc_provider.add_client("basic", redirect_uris=application.redirect_uri, x_access_token_ttl=1)
    with (
        EchoAPI.serve() as api,
        gateway(
            folder,
            application,
            issuer=oidc_provider.issuer,
            client=client,
            apis={"/api/orders": api.url},
            workers=workers,
            store=store,
            coordination=coordination,
        ),
        UserAgent(application.url) as agent,
        ThreadPoolExecutor(CALLS) as callers,
    ):
        agent.login("/bff/login?returnUrl=/api/orders")
        until_expired(seconds=1)
        # What the renewal brings lives long: on a busy machine some of the fifty come more than a second later.
        oidc_provider.add_client(
            "basic",
            client_id=client.client_id,
            client_secret=client.client_secret,
            redirect_uris=application.redirect_uri,
            x_access_token_ttl=300,
        )
        oidc_provider.clear_log()
        with oidc_provider.hold(grant_type="refresh_token", client_id=client.client_id):
            first = agent.open("/api/orders")
            oidc_provider.wait_for_request(grant_type="refresh_token", client_id=client.client_id)
            answers = [callers.submit(agent.fetch, "/api/orders") for _ in range(CALLS)]
            first.close()
        statuses = Counter(answer.result().status_code for answer in answers)
        refreshes = oidc_provider.log(client_id=client.client_id, grant_type="refresh_token")
    return len(refreshes), statuses


@pytest.mark.spec("REF-01", "REF-07")
def test_fifty_calls_on_an_expired_token_cost_one_refresh_though_the_first_caller_leaves(oidc_provider, tmp_path: Path):
    refreshes, statuses = storm(oidc_provider, tmp_path, workers=1)
    assert statuses == {200: CALLS}
    assert refreshes == 1


@pytest.mark.spec("REF-02")
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "valkey", "cookies and valkey"])
def test_with_two_workers_they_cost_one_refresh_as_well(
    oidc_provider, tmp_path: Path, kind: str, postgresql: PostgreSQL, valkey: Valkey
):
    stores: dict[str, dict[str, str]] = {
        "sqlite": {},
        "postgresql": {"store": postgresql.fresh_database()},
        "valkey": {"store": valkey.fresh_url()},
        "cookies and valkey": {"store": "cookie", "coordination": valkey.fresh_url()},
    }
    refreshes, statuses = storm(oidc_provider, tmp_path, workers=2, **stores[kind])
    assert statuses == {200: CALLS}
    assert refreshes == 1
