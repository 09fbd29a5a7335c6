"""
A renewal that needs a second request, and an answer that changes the type of the token.

coatcheck does not prove possession at the token endpoint yet. What is shown here is the seam for it: a stub stands
between `Tokens` and the authorization server, and its exchange is a generator as `coatcheck.transport.arun` drives
them. It sends the refresh, is challenged for a nonce, and sends it again. To the rest of a renewal that is one sending.
A real proof, and a client assertion of its own for the second request, are not shown: the stub copies the rest.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from coatcheck.coordination import SentMark
from coatcheck.errors import InvalidTokenResponse, LoginRequired, TokenUnavailable, TransportError
from coatcheck.oauth.authorize import AuthorizationCode, new_transaction
from coatcheck.oauth.messages import Exchange, Request, Response
from coatcheck.stores import MemoryStore
from coatcheck.tokens import TokenState
from coatcheck.tokens.results import AccessTokenRetrievalError, BearerTokenResult
from coatcheck.tokens.retrievers import as_result
from coatcheck.transport import Send, arun
from tests.tokens.processes import Process
from tests.tokens.scene import CLIENT, LIFETIME, STALE, Browser, Scene
from tests.tokens.token_service import LOST, TokenService, error

STRICT = replace(CLIENT, rotation="strict")
CHALLENGE = replace(error("use_dpop_nonce"), headers={"content-type": "application/json", "dpop-nonce": "nonce-1"})


class WithProof:
    """A `Send` that proves something with each token request, and tries once more with the nonce it is given."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._numbers = count(1)
        self.proofs: list[str] = []

    async def __call__(self, request: Request) -> Response:
        if not request.url.endswith("/token"):
            return await self._send(request)
        return await arun(self._exchange(request), self._send)

    def _exchange(self, request: Request) -> Exchange[Response]:
        response = yield self._proven(request, nonce="")
        nonce = response.headers.get("dpop-nonce")
        if response.status == 400 and nonce is not None:
            response = yield self._proven(request, nonce=nonce)
        return response

    def _proven(self, request: Request, *, nonce: str) -> Request:
        self.proofs.append(f"proof-{next(self._numbers)}:{nonce}")
        return replace(request, headers={**request.headers, "dpop": self.proofs[-1]})


class CountedLeases(MemoryStore):
    """Counts what a renewal does to its lease."""

    acquired = marked = 0

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Any:
        lease = await super().acquire(key, holder, seconds=seconds)
        self.acquired += lease is not None
        return lease

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        self.marked += 1
        await super().mark_sent(key, holder, mark, seconds=seconds, until=until)


class World:
    """A scene whose authorization server wants a nonce, and the leases that are taken in it."""

    def __init__(self, **arguments: Any) -> None:
        self.scene = Scene(coordination=CountedLeases, **{"client": STRICT} | arguments)
        self.service: TokenService = self.scene.service
        assert isinstance(self.scene.coordination, CountedLeases)
        self.leases = self.scene.coordination
        self.send = WithProof(self.service)
        self.tokens = self.scene.other_process(send=self.send)

    async def expired(self) -> Browser:
        browser = await self.scene.log_in()
        self.scene.clock.forward(LIFETIME)
        return browser


# The second request


@pytest.mark.spec("REF-34")
async def test_a_second_request_stays_under_the_same_lease_and_mark_with_a_proof_of_its_own() -> None:
    world = World()
    browser = await world.expired()
    world.service.answers.append(CHALLENGE)
    other = Process(world.scene, send=world.send)
    async with world.service.held() as gate:
        ours = asyncio.create_task(world.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        theirs = asyncio.create_task(other.tokens.user_token(await browser.request()))
        gate.released.set()
        assert await ours == await theirs
    assert world.send.proofs == ["proof-1:", "proof-2:nonce-1"]
    assert [headers["dpop"] for headers in world.service.headers] == world.send.proofs
    assert len({form["refresh_token"] for form in world.service.requests}) == 1
    assert world.service.most_under_way == 1
    assert (world.leases.acquired - other.leases, world.leases.marked) == (1, 1)


@pytest.mark.spec("REF-34", "REF-13")
@pytest.mark.parametrize(
    "second", [CHALLENGE, error("invalid_dpop_proof"), Response(503)], ids=["nonce", "proof", "503"]
)
async def test_a_second_request_that_is_refused_leaves_the_session_and_no_doubt(second: Response) -> None:
    """A challenged token was not used up, so it is good for the next renewal even by the strictest words."""
    world = World()
    browser = await world.expired()
    world.service.answers.extend([CHALLENGE, second])
    with pytest.raises(TokenUnavailable):
        await world.tokens.user_token(await browser.request())
    assert world.leases.marked == 1
    world.scene.clock.forward(timedelta(seconds=5))
    token = await Process(world.scene, send=world.send).tokens.user_token(await browser.request())
    assert token.state(world.scene.clock.time()) is TokenState.FRESH


@pytest.mark.spec("REF-34", "REF-10")
async def test_a_second_request_whose_answer_is_lost_is_in_doubt() -> None:
    """The challenge said that the first was not carried out; of the second nobody knows."""
    world = World()
    browser = await world.expired()
    world.service.answers.extend([CHALLENGE, LOST])
    with pytest.raises(LoginRequired) as caught:
        await world.tokens.user_token(await browser.request())
    assert caught.value.code == "renewal_lost"
    assert world.service.refreshes == 2


@pytest.mark.spec("REF-34", "REF-10")
async def test_a_second_request_that_never_left_leaves_no_doubt() -> None:
    world = World()
    browser = await world.expired()
    world.service.answers.extend([CHALLENGE, TransportError("connection refused", sent=False)])
    with pytest.raises(TokenUnavailable):
        await world.tokens.user_token(await browser.request())
    world.scene.clock.forward(timedelta(seconds=5))
    token = await Process(world.scene, send=world.send).tokens.user_token(await browser.request())
    assert token.state(world.scene.clock.time()) is TokenState.FRESH


# The type of the token

TYPES = [None, "", "mac", "N_A", 5, ["Bearer"], "bearer", "BEARER", "Bearer", "DPoP", "dpop"]


@pytest.mark.spec("REF-19")
@pytest.mark.parametrize("token_type", TYPES, ids=str)
@pytest.mark.parametrize("kind", ["sessions", "cookies"])
async def test_the_type_of_a_renewed_token_is_judged_as_that_of_a_login(kind: str, token_type: Any) -> None:
    """A type that a login refuses brings nothing, and ends nothing; what it accepts is stored under its one name."""
    at_login = await _of_a_login(token_type)
    scene = Scene(cookies=kind == "cookies")
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(LIFETIME)
    scene.service.rotation = False
    scene.service.answers.append({"token_type": token_type})
    user = await browser.request()
    if at_login is None:
        with pytest.raises(TokenUnavailable):
            await scene.tokens.user_token(user)
        assert await browser.is_logged_in()
        assert await browser.stored() == before, "nothing of an answer that cannot be used is kept"
    else:
        token = await scene.tokens.user_token(user)
        assert token.token_type == at_login
        result = as_result(token)
        assert isinstance(result, BearerTokenResult if at_login == "Bearer" else AccessTokenRetrievalError)


@pytest.mark.spec("REF-10", "REF-19")
@pytest.mark.parametrize("broken", [{"token_type": None}, {"access_token": "two\nlines"}, {"scope": 5}], ids=str)
@pytest.mark.parametrize("kind", ["sessions", "cookies"])
async def test_an_unusable_answer_that_carries_a_new_refresh_token_has_spent_the_old_one(
    kind: str, broken: dict[str, Any]
) -> None:
    """A strict provider would take another try for theft. The access token works to its end, then a login is due."""
    scene = Scene(cookies=kind == "cookies")
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(STALE)
    scene.service.answers.append(broken)
    for _ in range(3):
        user = await browser.request()
        assert (await scene.tokens.user_token(user)).access_token == before.access_token
        await scene.tokens.aclose()
        scene.clock.forward(timedelta(seconds=2))
    scene.clock.forward(timedelta(seconds=14))
    with pytest.raises(LoginRequired) as caught:
        await scene.tokens.user_token(await browser.request())
    assert caught.value.code == "renewal_lost"
    assert scene.service.refreshes == 1


async def _of_a_login(token_type: Any) -> str | None:
    scene = Scene()
    login = new_transaction(
        CLIENT, name="default", redirect_uri="https://app.example/bff/callback", return_url="/", now=scene.clock.time()
    )
    scene.service.answers.append({"token_type": token_type})
    try:
        return (await scene.tokens.redeem(AuthorizationCode(login.nonce), login)).token.token_type
    except InvalidTokenResponse:
        return None
