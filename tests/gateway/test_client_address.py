"""Who the client is, behind proxies that are trusted to say so."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest

from coatcheck.config.values import Network
from coatcheck.gateway.client_address import ClientAddress


async def seen(client: tuple[str, int] | None, forwarded: list[str], trusted: list[str]) -> Any:
    seen: list[Any] = []

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope["client"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    middleware = ClientAddress(app, [Network.read(network) for network in trusted])
    await middleware({"type": "http", "client": client, "headers": headers}, nothing, nothing)
    return seen[0] and seen[0][0]


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, 10.0.0.9"], "203.0.113.7"),
        (["1.1.1.1", "203.0.113.7"], "203.0.113.7"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["10.0.0.9"], "10.0.0.1"),
        (["unknown"], "10.0.0.1"),
        (["203.0.113.7, nonsense"], "10.0.0.1"),
        ([], "10.0.0.1"),
        (["203.0.113.7, ::ffff:10.0.0.9"], "203.0.113.7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
    ],
)
async def test_the_last_address_that_is_no_trusted_proxy(forwarded: list[str], expected: str) -> None:
    assert await seen(("10.0.0.1", 1234), forwarded, ["10.0.0.0/8"]) == expected


@pytest.mark.spec("LOG-04", "PRX-32")
@pytest.mark.parametrize("zone", ["1", "eth0", "; for=1.2.3.4", "\x1b[31m", "é", " logged_in: a user"])
async def test_a_forged_zone_is_no_address(zone: str) -> None:
    assert await seen(("10.0.0.1", 1234), [f"fe80::1%{zone}"], ["10.0.0.0/8"]) == "10.0.0.1"


async def test_a_proxy_is_known_on_a_socket_for_both_families() -> None:
    assert await seen(("::ffff:10.0.0.1", 1234), ["203.0.113.7"], ["10.0.0.0/8"]) == "203.0.113.7"
    assert await seen(("::ffff:11.0.0.1", 1234), ["203.0.113.7"], ["10.0.0.0/8"]) == "::ffff:11.0.0.1"


async def test_a_forged_header_from_somebody_who_is_no_proxy() -> None:
    assert await seen(("203.0.113.9", 1), ["1.1.1.1"], ["10.0.0.0/8"]) == "203.0.113.9"
    assert await seen(("203.0.113.9", 1), ["1.1.1.1"], []) == "203.0.113.9"
    assert await seen(None, ["1.1.1.1"], ["10.0.0.0/8"]) is None
