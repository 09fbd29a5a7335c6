"""Each API gets a token that is meant for it, or none; what a token says is nobody's business but the API's."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import pytest

from tests.bff.world import World, warnings, world
from tests.rig.echo_api import EchoAPI

LONGER_THAN_A_TOKEN = 400
SCOPE = "openid profile offline_access orders.read orders.write rates.read"
ORDERS, RATES = "https://orders.example", "https://rates.example"
SESSIONS = pytest.mark.parametrize("options", [{}, {"sessions": "cookie"}], ids=["store", "cookie"])


@contextmanager
def asking_for_all(*, apis: int = 3, **options: Any) -> Iterator[tuple[World, list[EchoAPI]]]:
    """A world whose logins ask for every scope, and so many APIs."""
    with ExitStack() as stack:
        served = [stack.enter_context(EchoAPI.serve()) for _ in range(apis)]
        w = stack.enter_context(world(**options))
        w.options["client"] = w.provider.client(scope=SCOPE)
        w.start()
        yield w, served


def bearer(api: EchoAPI) -> str:
    """The access token that the API received last."""
    return (api.last.header("authorization") or "").removeprefix("Bearer ")


@pytest.mark.spec("OAU-34")
@SESSIONS
def test_a_token_for_one_api_never_reaches_another(options: dict[str, Any]) -> None:
    """Not after a renewal either, and not by a path that names the other route."""
    with asking_for_all(**options) as (w, (orders, rates, plain)):
        w.bff.remote_api("/api/orders", orders.url, scope="orders.read", resource=[ORDERS])
        w.bff.remote_api("/api/rates", rates.url, scope="rates.read", resource=[RATES])
        w.bff.remote_api("/api/plain", plain.url)
        browser = w.logged_in()
        seen: dict[str, set[str]] = {"orders": set(), "rates": set(), "plain": set()}
        for _ in range(2):
            for name in ("rates", "orders", "plain", "rates", "orders"):
                assert browser.fetch(f"/api/{name}/1?/api/orders").status_code == 200
                assert browser.fetch("/", target=f"/api/{name}/..%2forders").status_code == 400
            for name, api in (("orders", orders), ("rates", rates), ("plain", plain)):
                seen[name] |= {request.header("authorization") or "" for request in api.requests}
            about = [w.provider.introspect(bearer(api)) for api in (orders, rates, plain)]
            assert [(token["scope"], token["aud"]) for token in about] == [
                ("orders.read", [ORDERS]),
                ("rates.read", [RATES]),
                (SCOPE, []),
            ]
            w.advance(LONGER_THAN_A_TOKEN)
        assert [len(tokens) for tokens in seen.values()] == [2, 2, 2]
        assert len(set.union(*seen.values())) == 6


@pytest.mark.spec("OAU-30")
def test_a_token_may_be_for_several_resources_and_each_set_has_its_own() -> None:
    with asking_for_all() as (w, (both, one, turned)):
        w.bff.remote_api("/api/both", both.url, resource=[ORDERS, RATES])
        w.bff.remote_api("/api/one", one.url, resource=[ORDERS])
        w.bff.remote_api("/api/turned", turned.url, resource=[RATES, ORDERS, RATES])
        browser = w.logged_in()
        for path in ("both", "one", "turned"):
            assert browser.fetch(f"/api/{path}").status_code == 200
        assert w.provider.introspect(bearer(both))["aud"] == [ORDERS, RATES]
        assert w.provider.introspect(bearer(one))["aud"] == [ORDERS]
        assert bearer(turned) == bearer(both), "order and repetition make no other set"
        assert [e.values("resource") for e in w.provider.log if e.grant_type == "refresh_token"] == [
            [ORDERS, RATES],
            [ORDERS],
        ]


@pytest.mark.spec("OAU-23")
@SESSIONS
@pytest.mark.parametrize("granted", ["orders.read", ""])
def test_a_route_whose_scope_was_not_granted_fails_closed(
    granted: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with asking_for_all(apis=2, **options) as (w, (orders, reading)):
        w.bff.remote_api("/api/orders", orders.url, scope="orders.read orders.write")
        w.bff.remote_api("/api/reading", reading.url, scope="orders.read")
        browser = w.logged_in()
        w.provider.tamper("token", lambda members: {**members, "scope": granted})
        response = browser.fetch("/api/orders/1", "POST")
        assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
        assert orders.requests == []
        (line,) = warnings(caplog)
        assert f"granted the scope {granted!r}, without 'orders." in line
        assert browser.fetch("/api/reading").status_code == (200 if granted else 403)
        assert browser.fetch("/bff/user").status_code == 200, "nobody is logged out"


def jwt(**claims: Any) -> str:
    """Something that looks like a signed JWT to whoever looks."""
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), ""])


@pytest.mark.spec("OAU-33")
@pytest.mark.parametrize(
    "access_token",
    [
        "0123456789abcdef" * 512,
        jwt(exp=1, nbf=4102444800, aud="another", iss="https://another.example", sub="mallory", scope="none"),
        jwt(exp=4102444800),
        jwt(exp="never") + "." * 20,
        "eyJ",
        "a.b.c",
        "-._~+/==",
    ],
    ids=lambda token: f"{len(token)} characters",
)
def test_an_access_token_is_opaque(access_token: str) -> None:
    """It goes out as it came, and is renewed when the token response said so, whatever may stand in it."""
    with asking_for_all(apis=1) as (w, (api,)):
        w.bff.remote_api("/api/orders", api.url)
        w.provider.tamper("token", lambda members: {**members, "access_token": access_token})
        w.provider.tamper("id_token", lambda claims: {name: claims[name] for name in claims if name != "at_hash"})
        browser = w.logged_in()
        assert browser.fetch("/api/orders").status_code == 200
        assert bearer(api) == access_token
        assert {claim["type"]: claim["value"] for claim in browser.fetch("/bff/user").json()}["sub"] == "alice"
        w.advance(w.provider.behaviour.access_token_lifetime / timedelta(seconds=2))
        asked = w.token_requests()
        assert browser.fetch("/api/orders").status_code == 200
        assert w.token_requests() == asked
        w.provider.untamper()
        w.advance(LONGER_THAN_A_TOKEN)
        assert browser.fetch("/api/orders").status_code == 200
        assert (w.token_requests(), bearer(api) == access_token) == (asked + 1, False)
