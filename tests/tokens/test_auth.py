"""`tokens.auth(...)` on a real HTTP client, against an API on a loopback port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import httpx2
import pytest

from coatcheck.errors import ConfigurationError, LoginRequired, TokenUnavailable
from coatcheck.oauth.messages import Response
from coatcheck.tokens import User, UserToken, UserTokenRequestParameters
from tests.tokens.scene import LIFETIME, Scene, TableUserTokenStore
from tests.tokens.token_service import ISSUER


class API:
    """Remembers every request as the bytes that arrived, and refuses the tokens it is told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.refuses: set[str] = set()
        self.refuses_all = False
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    @property
    def tokens(self) -> list[str]:
        return [token for head, _ in self.requests for token in self._tokens(head)]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "transfer-encoding" in head.lower():
            body = await reader.readuntil(b"0\r\n\r\n")
        else:
            body = await reader.readexactly(_content_length(head))
        self.requests.append((head, body))
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        refused = self.refuses_all or any(token in self.refuses for token in self._tokens(head))
        status = "401 Unauthorized" if refused else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _tokens(self, head: str) -> list[str]:
        prefix = "authorization: bearer "
        return [line[len(prefix) :] for line in head.split("\r\n") if line.lower().startswith(prefix)]


def _content_length(head: str) -> int:
    lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
    return int(lengths[0]) if lengths else 0


@asynccontextmanager
async def served(auth: httpx2.Auth) -> AsyncIterator[tuple[API, httpx2.AsyncClient]]:
    api = API()
    server = await asyncio.start_server(api.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", auth=auth, trust_env=False) as http,
    ):
        yield api, http


@pytest.mark.spec("OAU-31")
async def test_the_token_goes_into_the_authorization_header_and_nowhere_else() -> None:
    scene = Scene()
    async with served(scene.tokens.auth(token="client", scope="orders.read")) as (api, http):
        response = await http.post("/orders", params={"page": "1"}, data={"name": "value"})
    token = (await scene.tokens.client_token(scope="orders.read")).access_token
    ((head, body),) = api.requests
    assert response.status_code == 200
    assert api.tokens == [token]
    assert head.count(token) == 1
    assert token not in head.partition("\r\n")[0]
    assert body == b"name=value"


async def test_a_users_token_is_renewed_before_it_is_sent() -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    async with served(scene.tokens.auth(token="user", user=await browser.request())) as (api, http):
        await http.get("/orders")
    assert api.tokens == [(await browser.stored()).access_token]
    assert scene.service.refreshes == 1


@pytest.mark.parametrize("body", [{}, {"content": b"bytes"}, {"json": {"a": 1}}, {"data": {"a": "1"}}], ids=str)
async def test_after_a_401_the_token_is_renewed_and_the_request_sent_once_more(body: dict[str, Any]) -> None:
    scene = Scene()
    browser = await scene.log_in()
    before = await browser.stored()
    async with served(scene.tokens.auth(token="user", user=await browser.request())) as (api, http):
        api.refuses.add(before.access_token)
        response = await http.request("POST" if body else "GET", "/orders", **body)
    assert response.status_code == 200
    assert api.tokens == [before.access_token, (await browser.stored()).access_token]
    assert api.requests[0][1] == api.requests[1][1]
    assert scene.service.refreshes == 1


async def test_a_request_is_repeated_once_only() -> None:
    scene = Scene()
    async with served(scene.tokens.auth()) as (api, http):
        api.refuses_all = True
        response = await http.get("/orders")
    assert response.status_code == 401
    assert len(set(api.tokens)) == len(api.requests) == 2


@pytest.mark.parametrize("kind", ["client", "user"])
async def test_an_api_that_refuses_every_token_costs_one_renewal(kind: Literal["client", "user"]) -> None:
    """With a wrong audience, every call would rotate the refresh token otherwise."""
    scene = Scene()
    user = await (await scene.log_in()).request()
    async with served(scene.tokens.auth(token=kind, user=user)) as (api, http):
        api.refuses_all = True
        assert [(await http.get("/orders")).status_code for _ in range(5)] == [401] * 5
        renewed_at_most = 2 if kind == "client" else 1
        assert len(scene.service.requests) == renewed_at_most
        scene.clock.forward(LIFETIME)
        api.refuses_all = False
        assert (await http.get("/orders")).status_code == 200
        api.refuses.add(api.tokens[-1])
        assert (await http.get("/orders")).status_code == 200


@pytest.mark.parametrize("kind", ["stream", "file"])
async def test_a_body_that_was_a_stream_is_not_sent_again(kind: str) -> None:
    """It is gone, or perhaps it is: the caller gets the 401 and knows how to make another."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"once"

    scene = Scene()
    body: dict[str, Any] = {"content": chunks()} if kind == "stream" else {"files": {"file": b"contents"}}
    async with served(scene.tokens.auth()) as (api, http):
        api.refuses_all = True
        response = await http.post("/orders", **body)
    assert response.status_code == 401
    assert len(api.requests) == 1
    assert len(scene.service.requests) == 1


async def test_calls_that_are_refused_together_renew_once() -> None:
    scene = Scene()
    refused = await scene.tokens.client_token()
    async with served(scene.tokens.auth()) as (api, http):
        api.refuses.add(refused.access_token)
        responses = await asyncio.gather(*(http.get("/orders") for _ in range(20)))
    assert {response.status_code for response in responses} == {200}
    assert len(scene.service.requests) == 2


@pytest.mark.spec("CCT-05")
async def test_a_token_that_was_renewed_meanwhile_is_used_and_not_renewed_again() -> None:
    scene = Scene()
    refused = await scene.tokens.client_token()
    async with served(scene.tokens.auth()) as (api, http):
        api.refuses.add(refused.access_token)
        api.meanwhile = partial(scene.tokens.client_token, refused=refused.access_token)
        response = await http.get("/orders")
    assert response.status_code == 200
    assert api.tokens == [refused.access_token, (await scene.tokens.client_token()).access_token]
    assert len(scene.service.requests) == 2


async def test_when_no_other_token_can_be_had_the_caller_gets_the_401() -> None:
    scene = Scene()
    async with served(scene.tokens.auth()) as (api, http):
        await scene.tokens.client_token()
        api.refuses_all = True
        scene.service.answers.append(Response(500))
        response = await http.get("/orders")
    assert response.status_code == 401
    assert len(api.requests) == 1


async def test_when_no_token_can_be_had_nothing_is_sent() -> None:
    scene = Scene()
    scene.service.answers.append(Response(500))
    async with served(scene.tokens.auth()) as (api, http):
        with pytest.raises(TokenUnavailable):
            await http.get("/orders")
    assert api.requests == []


async def test_when_the_user_has_to_log_in_nothing_is_sent() -> None:
    scene = Scene()
    browser = await scene.log_in()
    user = await browser.request()
    await browser.log_out()
    scene.clock.forward(LIFETIME)
    async with served(scene.tokens.auth(token="user", user=user)) as (api, http):
        with pytest.raises(LoginRequired):
            await http.get("/orders")
    assert api.requests == []


async def test_a_token_that_needs_a_proof_is_not_sent_as_a_bearer_token() -> None:
    store = TableUserTokenStore()
    scene = Scene(store=store)
    user = User(ISSUER, "alice")
    token = UserToken(access_token="access", issued_at=0, token_type="DPoP", dpop_key="{}")
    await store.store_token(user, token, UserTokenRequestParameters(), replaces=None)
    async with served(scene.tokens.auth(token="user", user=user)) as (api, http):
        with pytest.raises(TokenUnavailable, match="needs a proof"):
            await http.get("/orders")
    assert api.requests == []


def test_a_synchronous_client_is_refused_clearly() -> None:
    auth = Scene().tokens.auth()
    with (
        httpx2.Client(auth=auth, trust_env=False) as http,
        pytest.raises(RuntimeError, match=r"httpx2\.AsyncClient only"),
    ):
        http.get("http://127.0.0.1:9/")


def test_a_users_token_needs_a_user() -> None:
    with pytest.raises(ConfigurationError, match="give user"):
        Scene().tokens.auth(token="user")
