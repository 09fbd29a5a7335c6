"""`CachedAccessTokenRetriever`: what is remembered, for whom, and for how long."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from coatcheck.tokens import (
    AccessTokenResult,
    AccessTokenRetrievalContext,
    AccessTokenRetrievalError,
    BearerTokenResult,
    CachedAccessTokenRetriever,
    DPoPTokenResult,
    NoAccessTokenResult,
    TokenExchangeRetriever,
    TokenType,
    User,
    UserTokenRequestParameters,
)
from tests.tokens.scene import LIFETIME, Scene
from tests.tokens.test_retrievers import call


class Expensive:
    """Counts how often it is asked, and answers with a new token each time unless told otherwise."""

    def __init__(self, scene: Scene, *, lifetime: float | None = 300) -> None:
        self._scene = scene
        self._numbers = count(1)
        self._lifetime = lifetime
        self.answers: deque[AccessTokenResult | Exception] = deque()
        self.asked: list[AccessTokenRetrievalContext] = []
        self.released = asyncio.Event()
        self.released.set()

    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        self.asked.append(context)
        await self.released.wait()
        if self.answers:
            answer = self.answers.popleft()
            if isinstance(answer, Exception):
                raise answer
            return answer
        expires_at = None if self._lifetime is None else self._scene.clock.time() + self._lifetime
        return BearerTokenResult(f"token-{next(self._numbers)}", expires_at)


def user_call(scene: Scene, name: str = "alice", **changes: Any) -> AccessTokenRetrievalContext:
    user = User("https://issuer.example", name)
    return call(scene, user, **({"session_id": f"session of {name}"} | changes))


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_token_is_remembered_until_shortly_before_it_expires(scene: Scene) -> None:
    inner = Expensive(scene)
    cached = CachedAccessTokenRetriever(inner)
    first = await cached.get_access_token(user_call(scene))
    scene.clock.forward(timedelta(seconds=294))
    assert await cached.get_access_token(user_call(scene)) == first
    scene.clock.forward(timedelta(seconds=1))
    assert await cached.get_access_token(user_call(scene)) != first
    assert len(inner.asked) == 2


async def test_a_token_of_unknown_lifetime_is_remembered_for_five_minutes(scene: Scene) -> None:
    inner = Expensive(scene, lifetime=None)
    cached = CachedAccessTokenRetriever(inner)
    first = await cached.get_access_token(user_call(scene))
    scene.clock.forward(timedelta(seconds=299))
    assert await cached.get_access_token(user_call(scene)) == first
    scene.clock.forward(timedelta(seconds=1))
    assert await cached.get_access_token(user_call(scene)) != first


@pytest.mark.parametrize("lifetime", [0.0, -10.0])
async def test_a_token_that_is_expired_already_is_not_remembered(scene: Scene, lifetime: float) -> None:
    cached = CachedAccessTokenRetriever(Expensive(scene, lifetime=lifetime))
    assert await cached.get_access_token(user_call(scene)) != await cached.get_access_token(user_call(scene))


@pytest.mark.spec("TEX-03")
async def test_everything_that_may_change_the_answer_is_remembered_apart(scene: Scene) -> None:
    inner = Expensive(scene)
    cached = CachedAccessTokenRetriever(inner)
    contexts = [
        user_call(scene),
        user_call(scene, "bob"),
        user_call(scene, session_id="another session of alice"),
        user_call(scene, "bob", session_id="session of alice"),
        user_call(scene, api="/api/billing"),
        user_call(scene, token=TokenType.USER_OR_CLIENT),
        user_call(scene, parameters=UserTokenRequestParameters(scope="orders.read")),
        user_call(scene, parameters=UserTokenRequestParameters(resource=("https://orders.example",))),
        user_call(scene, parameters=UserTokenRequestParameters(client="other")),
        user_call(scene, parameters=UserTokenRequestParameters(form_parameters=(("tenant", "north"),))),
        user_call(scene, parameters=UserTokenRequestParameters(context={"tenant": "north"})),
        call(scene, anonymous=True),
        call(scene, anonymous=True, token=TokenType.CLIENT),
    ]
    rounds = [await asyncio.gather(*(cached.get_access_token(context) for context in contexts)) for _ in range(2)]
    assert rounds[0] == rounds[1]
    assert len(set(rounds[0])) == len(inner.asked) == len(contexts)


async def test_the_path_below_the_route_does_not_matter(scene: Scene) -> None:
    inner = Expensive(scene)
    cached = CachedAccessTokenRetriever(inner)
    assert await cached.get_access_token(user_call(scene, path="/1")) == await cached.get_access_token(
        user_call(scene, path="/2")
    )


async def test_a_retriever_that_looks_at_the_path_gets_a_key_of_its_own(scene: Scene) -> None:
    class PerTenant(CachedAccessTokenRetriever):
        def cache_key(self, context: AccessTokenRetrievalContext) -> Any:
            return super().cache_key(context), context.path

    cached = PerTenant(Expensive(scene))
    north = await cached.get_access_token(user_call(scene, path="/north"))
    assert await cached.get_access_token(user_call(scene, path="/south")) != north
    assert await cached.get_access_token(user_call(scene, path="/north")) == north


async def test_without_a_session_nothing_is_remembered_unless_the_route_is_anonymous(scene: Scene) -> None:
    inner = Expensive(scene)
    cached = CachedAccessTokenRetriever(inner)
    for _ in range(2):
        await cached.get_access_token(user_call(scene, session_id=None))
    assert len(inner.asked) == 2
    for _ in range(2):
        await cached.get_access_token(call(scene, anonymous=True))
    assert len(inner.asked) == 3


async def test_an_anonymous_caller_never_gets_what_was_remembered_for_a_user(scene: Scene) -> None:
    cached = CachedAccessTokenRetriever(Expensive(scene))
    users = await cached.get_access_token(user_call(scene, anonymous=True))
    assert await cached.get_access_token(call(scene, anonymous=True)) != users


@pytest.mark.parametrize(
    "answer", [AccessTokenRetrievalError("token_unavailable", status=503), NoAccessTokenResult()], ids=str
)
async def test_neither_errors_nor_absence_are_remembered(scene: Scene, answer: AccessTokenResult) -> None:
    inner = Expensive(scene)
    inner.answers.append(answer)
    cached = CachedAccessTokenRetriever(inner)
    assert await cached.get_access_token(user_call(scene)) == answer
    assert isinstance(await cached.get_access_token(user_call(scene)), BearerTokenResult)


async def test_an_exception_reaches_every_waiter_and_is_not_remembered(scene: Scene) -> None:
    inner = Expensive(scene)
    inner.answers.append(RuntimeError("broken"))
    cached = CachedAccessTokenRetriever(inner)
    results = await asyncio.gather(
        *(cached.get_access_token(user_call(scene)) for _ in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [RuntimeError] * 3
    assert isinstance(await cached.get_access_token(user_call(scene)), BearerTokenResult)


async def test_dpop_tokens_are_remembered_too(scene: Scene) -> None:
    inner = Expensive(scene)
    inner.answers.append(DPoPTokenResult("token", "key", scene.clock.time() + 60))
    cached = CachedAccessTokenRetriever(inner)
    assert await cached.get_access_token(user_call(scene)) == await cached.get_access_token(user_call(scene))
    assert len(inner.asked) == 1


async def test_equal_calls_that_arrive_together_wait_for_one_answer_even_if_the_first_leaves(scene: Scene) -> None:
    inner = Expensive(scene)
    inner.released.clear()
    cached = CachedAccessTokenRetriever(inner)
    calls = [asyncio.create_task(cached.get_access_token(user_call(scene))) for _ in range(10)]
    await asyncio.sleep(0)
    calls[0].cancel()
    inner.released.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert len(set(results[1:])) == 1
    assert len(inner.asked) == 1


async def test_force_renewal_replaces_what_is_remembered(scene: Scene) -> None:
    cached = CachedAccessTokenRetriever(Expensive(scene))
    first = await cached.get_access_token(user_call(scene))
    renewed = await cached.get_access_token(user_call(scene, parameters=UserTokenRequestParameters(force_renewal=True)))
    assert renewed != first
    assert await cached.get_access_token(user_call(scene)) == renewed


async def test_it_holds_no_more_than_it_may(scene: Scene) -> None:
    inner = Expensive(scene)
    cached = CachedAccessTokenRetriever(inner, max_entries=2)
    for name in ("a", "b", "c", "a"):
        await cached.get_access_token(user_call(scene, name))
    assert len(inner.asked) == 4


@pytest.mark.spec("TEX-03", "TEX-04")
async def test_an_exchanged_token_outlives_the_subject_token_but_not_its_own_end() -> None:
    """The subject token is not part of the key: renewed or not, it is the same user of the same session."""
    scene = Scene()
    browser = await scene.log_in()
    cached = CachedAccessTokenRetriever(TokenExchangeRetriever(audience="https://billing.internal"))
    scene.service.expires_in = 600
    first = await cached.get_access_token(call(scene, await browser.request()))
    scene.clock.forward(LIFETIME)
    assert await cached.get_access_token(call(scene, await browser.request())) == first
    scene.clock.forward(LIFETIME)
    assert await cached.get_access_token(call(scene, await browser.request())) != first


@pytest.mark.spec("SES-08", "TEX-03")
async def test_two_hundred_users_never_share_an_exchanged_token() -> None:
    scene = Scene()
    cached = CachedAccessTokenRetriever(TokenExchangeRetriever(audience="https://billing.internal"))
    browsers = [await scene.log_in(f"user-{number}") for number in range(200)]
    logins = [await browser.stored() for browser in browsers]
    for _ in range(3):
        contexts = [call(scene, await browser.request()) for browser in browsers]
        results = await asyncio.gather(*(cached.get_access_token(context) for context in contexts))
        for login, result in zip(logins, results, strict=True):
            assert isinstance(result, BearerTokenResult)
            assert scene.service.owners[result.access_token] == f"exchanged:{login.access_token}"
    assert len(scene.service.requests) == 200
