"""Two processes over one store: until they share a lease, both may send the same refresh token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from coatcheck.errors import LoginRequired
from coatcheck.sessions.store import Change
from coatcheck.stores import MemoryStore
from coatcheck.tokens import Tokens, UserTokenRequestParameters
from tests.tokens.scene import CLIENT, LIFETIME, Scene, TableUserTokenStore
from tests.tokens.token_service import error


@pytest.fixture(params=["sessions", "table"])
def scene(request: pytest.FixtureRequest) -> Scene:
    """The same promises, wherever the tokens are kept."""
    return Scene() if request.param == "sessions" else Scene(store=TableUserTokenStore())


class OtherProcess:
    """Has its answer, and is held up before it writes it down."""

    def __init__(self, scene: Scene) -> None:
        self.before_write, self.may_write, self.has_written = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.tokens = Tokens(
            CLIENT, store=scene.tokens.store, send=scene.service, clock=scene.clock, checkpoints=self._checkpoint
        )

    async def _checkpoint(self, name: str) -> None:
        if name == "renewal.before_write":
            self.before_write.set()
            await self.may_write.wait()
        elif name == "renewal.written":
            self.has_written.set()


@pytest.mark.spec("REF-12")
async def test_invalid_grant_before_the_other_process_has_written_ends_nothing(scene: Scene) -> None:
    """The refresh token was used a moment ago; what came of it is on its way into the store."""
    other = OtherProcess(scene)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            other.may_write.set()
            await other.has_written.wait()

    ours = Tokens(CLIENT, store=scene.tokens.store, send=scene.service, clock=scene.clock, pause=pause)
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    theirs = asyncio.create_task(other.tokens.user_token(await browser.request()))
    await other.before_write.wait()
    token = await ours.user_token(await browser.request())
    assert scene.service.refreshes == 2
    assert token == await theirs == await browser.stored()
    assert sum(pauses) < 1


@pytest.mark.spec("REF-12")
async def test_nobody_waits_long_for_another_process_that_is_not_there(scene: Scene) -> None:
    browser = await scene.log_in()
    token = await browser.stored()
    assert token.refresh_token is not None
    scene.service.revoke_at_the_provider(token.refresh_token)
    scene.clock.forward(LIFETIME)
    with pytest.raises(LoginRequired):
        await scene.tokens.user_token(await browser.request())
    assert 0 < sum(scene.pauses) < 2


class WrittenToMeanwhile(MemoryStore):
    """Another process takes its turn in the moment before the next write."""

    other: Callable[[], Awaitable[object]] | None = None

    async def update(self, key: bytes, change: Change) -> None:
        if self.other is not None:
            other, self.other = self.other, None
            await other()
        await super().update(key, change)


@pytest.mark.spec("REF-12")
async def test_invalid_grant_ends_nothing_that_was_written_in_the_very_moment_of_ending_it() -> None:
    scene = Scene()
    store = WrittenToMeanwhile(scene.clock)
    scene.replace_session_store(store)
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    theirs = replace(await browser.stored(), access_token="theirs", refresh_token="theirs", expires_at=None)

    async def other_process() -> None:
        parameters = UserTokenRequestParameters()
        await scene.tokens.store.store_token(
            await browser.request(), theirs, parameters, replaces=await browser.stored()
        )

    store.other = other_process
    scene.service.answers.append(error("invalid_grant"))
    assert await scene.tokens.user_token(await browser.request()) == theirs
    assert await browser.stored() == theirs
