"""Tests of your own, with a real OpenID provider inside them: no network, no mocks."""

import asyncio
from collections.abc import Iterator

import pytest

from coatcheck import ClientToken, Tokens, TokenUnavailable
from coatcheck.testing import AuthorizationServerApp, running_authorization_server


@pytest.fixture
def authorization_server() -> Iterator[AuthorizationServerApp]:
    with running_authorization_server() as server:  # a loopback port and a thread of its own
        yield server


def test_ten_jobs_share_one_token(authorization_server: AuthorizationServerApp) -> None:
    async def ten_jobs() -> list[ClientToken]:
        async with Tokens(authorization_server.client()) as tokens:
            return await asyncio.gather(*(tokens.client_token() for _ in range(10)))

    tokens = asyncio.run(ten_jobs())
    assert len({token.access_token for token in tokens}) == 1
    assert authorization_server.count("token", grant_type="client_credentials") == 1


def test_an_outage_of_the_provider(authorization_server: AuthorizationServerApp) -> None:
    authorization_server.fail("token", status=503, html=True, times=None)

    async def one_job() -> None:
        async with Tokens(authorization_server.client()) as tokens:
            await tokens.client_token()

    with pytest.raises(TokenUnavailable):
        asyncio.run(one_job())
