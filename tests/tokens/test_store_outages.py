"""A store that is away at the wrong moment, and comes back: what was not lost is not given up for lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.errors import LoginRequired, StoreUnavailable, TokenUnavailable
from coatcheck.oauth.messages import Response
from coatcheck.sessions.store import Change
from coatcheck.stores import MemoryStore
from coatcheck.tokens import SharedUserTokenStore, TokenState, UserTokenRequestParameters
from tests.tokens.scene import CLIENT, LIFETIME, STALE, Scene
from tests.tokens.token_service import LOST
from tests.tokens.virtual_time import VirtualTimeLoop

STRICT = replace(CLIENT, rotation="strict")


class Network:
    """What lies between one process and the store: cut at once, or in the middle of an operation. It takes time."""

    def __init__(self, store: MemoryStore, *, notices_after: float = 0.0) -> None:
        self._store = store
        self._notices_after = notices_after
        self.away = False
        self.cut_in: str = ""
        """The operation that is done and whose answer is the first thing that gets lost."""
        self.cut_before: str = ""

    def __getattr__(self, name: str) -> Any:
        async def operation(*arguments: Any, **keywords: Any) -> Any:
            if name == self.cut_before:
                self.away, self.cut_before = True, ""
            if self.away:
                await asyncio.sleep(self._notices_after)
                raise StoreUnavailable("the store does not answer")
            answer = await getattr(self._store, name)(*arguments, **keywords)
            if name == self.cut_in:
                self.away, self.cut_in = True, ""
                raise StoreUnavailable("the answer of the store got lost")
            return answer

        return operation


def scene_of(**arguments: Any) -> Scene:
    return Scene(client=STRICT, pause=asyncio.sleep, **arguments)


def in_virtual_time(scene: Scene, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(scene.clock)) as runner:
        runner.run(story())


@pytest.mark.spec("REF-26", "REF-28")
@pytest.mark.parametrize("away", [3.1, 20.1, 1800.1])
@pytest.mark.parametrize("same_process", [True, False], ids=["same process", "another process"])
def test_a_mark_of_which_its_process_never_heard_ends_no_session(away: float, same_process: bool) -> None:
    """It is there, but nothing was sent. Whoever comes first when the store is back has to find that out."""
    scene = scene_of()
    network = Network(scene.coordination)
    ours = scene.other_process(coordination=network)
    theirs = ours if same_process else scene.other_process()

    async def story() -> None:
        browser = await scene.log_in()
        scene.clock.forward(LIFETIME)
        network.cut_in = "mark_sent"
        with pytest.raises(StoreUnavailable):
            await ours.user_token(await browser.request())
        await asyncio.sleep(away)
        network.away = False
        token = await _eventually(theirs, browser)
        assert token.state(scene.clock.time()) is TokenState.FRESH
        assert scene.service.refreshes == 1

    in_virtual_time(scene, story)


@pytest.mark.spec("REF-26", "REF-28")
@pytest.mark.parametrize("same_process", [True, False], ids=["same process", "another process"])
def test_a_refusal_that_could_not_be_noted_down_ends_no_session(same_process: bool) -> None:
    """The provider has answered 500: nothing is in doubt, but the mark says so until the store is back."""
    scene = scene_of()
    network = Network(scene.coordination)
    ours = scene.other_process(coordination=network)
    theirs = ours if same_process else scene.other_process()

    async def story() -> None:
        browser = await scene.log_in()
        scene.clock.forward(LIFETIME)
        scene.service.answers.append(Response(500))
        network.cut_before = "release"
        with pytest.raises(TokenUnavailable):
            await ours.user_token(await browser.request())
        await asyncio.sleep(30.1)
        network.away = False
        token = await _eventually(theirs, browser)
        assert token.state(scene.clock.time()) is TokenState.FRESH
        assert scene.service.refreshes == 2

    in_virtual_time(scene, story)


@pytest.mark.spec("REF-05", "REF-26")
@pytest.mark.parametrize("notices_after", [0.0, 2.0, 4.0])
@pytest.mark.parametrize("away", [25.1, 26.1, 27.1, 28.1, 29.1])
def test_an_answer_that_waits_for_the_store_is_not_given_up_by_another_process(
    notices_after: float, away: float
) -> None:
    """Whoever has it may be in the middle of an attempt that began before the store was back, and fails late."""
    scene = scene_of()
    network = Network(scene.coordination, notices_after=notices_after)
    ours = scene.other_process(coordination=network)

    class Sessions(MemoryStore):
        async def update(self, key: bytes, change: Change) -> None:
            if network.away:
                await asyncio.sleep(notices_after)
                raise StoreUnavailable("the store does not answer")
            await super().update(key, change)

    scene.replace_session_store(Sessions(scene.clock))

    async def story() -> None:
        browser = await scene.log_in()
        scene.clock.forward(LIFETIME)
        async with scene.service.held() as gate:
            call = asyncio.create_task(ours.user_token(await browser.request()))
            await gate.arrived.wait()
            network.away = True
            gate.released.set()
            renewed = await call
        await asyncio.sleep(away)
        network.away = False
        assert await scene.tokens.user_token(await browser.request()) == renewed
        assert scene.service.refreshes == 1

    in_virtual_time(scene, story)


@pytest.mark.spec("REF-04", "REF-28")
def test_a_holder_that_was_overtaken_takes_its_mark_back_all_the_same() -> None:
    """It was held up with the answer 500; somebody has looked at its mark meanwhile and let it be."""
    scene = scene_of()
    held, goes_on = asyncio.Event(), asyncio.Event()
    network = Network(scene.coordination)

    class HeldUp(Network):
        def __getattr__(self, name: str) -> Any:
            operation = super().__getattr__(name)

            async def late(*arguments: Any, **keywords: Any) -> Any:
                if held.is_set():
                    await goes_on.wait()
                return await operation(*arguments, **keywords)

            return late

    network = HeldUp(scene.coordination)
    ours = scene.other_process(coordination=network)

    async def story() -> None:
        browser = await scene.log_in()
        before = await browser.stored()
        scene.clock.forward(STALE - timedelta(seconds=25))
        scene.service.answers.append(Response(500))
        async with scene.service.held() as gate:
            await ours.user_token(await browser.request())
            await gate.arrived.wait()
            held.set()
            gate.released.set()
            await asyncio.sleep(13.0)
            assert await scene.tokens.user_token(await browser.request()) == before
            await scene.tokens.aclose()
        held.clear()
        goes_on.set()
        await asyncio.sleep(60.0)
        token = await _eventually(scene.tokens, browser)
        assert token.state(scene.clock.time()) is TokenState.FRESH
        await ours.aclose()

    in_virtual_time(scene, story)


@pytest.mark.spec("REF-12", "REF-28")
async def test_nothing_is_lost_that_was_written_in_the_very_moment_of_giving_it_up() -> None:
    scene = Scene(client=STRICT)
    theirs: list[Any] = []

    class WrittenToMeanwhile(MemoryStore):
        armed = False

        async def update(self, key: bytes, change: Change) -> None:
            if self.armed:
                self.armed = False
                old = await browser.stored()
                theirs.append(replace(old, access_token="theirs", refresh_token="theirs", expires_at=None))
                await scene.tokens.store.store_token(
                    await browser.request(), theirs[0], UserTokenRequestParameters(), replaces=old
                )
            await super().update(key, change)

    store = WrittenToMeanwhile(scene.clock)
    scene.replace_session_store(store)
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    scene.service.answers.append(LOST)
    store.armed = True
    token = await scene.tokens.user_token(await browser.request())
    assert [token] == theirs
    assert await browser.stored() == token


@pytest.mark.spec("REF-10")
async def test_a_mark_on_a_shared_grant_outlives_the_session_that_sent_it() -> None:
    """The grant belongs to the user, and lives longer than any of their sessions."""
    scene = Scene(client=STRICT)
    store = SharedUserTokenStore(scene.coordination, scene.keys, clock=scene.clock)
    scene.tokens = scene.other_process(store=store)
    scene.service.expires_in = 20 * 3600
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    await scene.tokens.user_token(await browser.request())  # from now on it lives for 20 hours
    scene.clock.forward(timedelta(minutes=50))
    user = await browser.request()
    scene.service.answers.append(LOST)
    with pytest.raises((LoginRequired, TokenUnavailable)):
        await scene.tokens.user_token(user, UserTokenRequestParameters(force_renewal=True))
    scene.clock.forward(timedelta(hours=20))
    with pytest.raises(LoginRequired) as caught:
        await scene.other_process(store=store).user_token(replace(user, session=None))
    assert caught.value.code == "renewal_lost"
    assert scene.service.refreshes == 2


async def _eventually(tokens: Any, browser: Any) -> Any:
    """Ask as a browser does that is told to come back."""
    for _ in range(30):
        try:
            return await tokens.user_token(await browser.request())
        except (TokenUnavailable, StoreUnavailable):
            await asyncio.sleep(1.5)
    raise AssertionError("no token in 45 seconds")
