"""Two processes over one store: until they share a lease, both may send the same refresh token."""

from __future__ import annotations

import asyncio

import pytest

from coatcheck.errors import LoginRequired
from coatcheck.tokens import Tokens
from tests.tokens.scene import CLIENT, LIFETIME, Scene, TableUserTokenStore


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
