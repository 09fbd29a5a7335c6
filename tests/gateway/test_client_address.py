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
    ],
)
async def test_the_last_address_that_is_no_trusted_proxy(forwarded: list[str], expected: str) -> None:
    assert await seen(("10.0.0.1", 1234), forwarded, ["10.0.0.0/8"]) == expected


async def test_a_forged_header_from_somebody_who_is_no_proxy() -> None:
    assert await seen(("203.0.113.9", 1), ["1.1.1.1"], ["10.0.0.0/8"]) == "203.0.113.9"
    assert await seen(("203.0.113.9", 1), ["1.1.1.1"], []) == "203.0.113.9"
    assert await seen(None, ["1.1.1.1"], ["10.0.0.0/8"]) is None
