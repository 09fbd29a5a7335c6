"""
Somebody restores a backup of the store: sessions are back at refresh tokens that rotation has spent since.

The second use of such a token ends the grant at a strictly rotating provider, and raises an alarm there. So what counts
is what the provider saw.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from coatcheck.gateway.restored import note_restore
from tests.rig.fleet import Fleet, WorkerProcess
from tests.rig.fleet_worker import MovedClock
from tests.rig.postgresql import PostgreSQL
from tests.rig.snapshots import take_snapshot
from tests.rig.valkey import Valkey
from tests.rig.volley import one
from tests.rig.worker_plan import Protection, SessionKind, WorkerPlan
from tests.storm.stage import STORES, Profile, Stage, StoreName, Visitor, World, log_in

LOST = (401, "renewal_lost")
ENDED = (401, "session_ended")
"""By the provider, which has seen a refresh token for the second time."""
OK = (200, None)


@pytest.fixture
def every_store(world: World, postgresql: PostgreSQL, valkey: Valkey) -> World:
    """The world with the servers of this run."""
    world.postgresql, world.valkey = postgresql, valkey
    return world


@dataclass
class Scene:
    """Two processes, two browsers, and a backup that was made when each of them had renewed once."""

    stage: Stage
    alice: Visitor
    bob: Visitor
    first: WorkerProcess
    second: WorkerProcess
    restore: Callable[[], None]

    async def answers(self, *calls: tuple[Visitor, WorkerProcess]) -> list[tuple[int, str | None]]:
        answered = await asyncio.gather(*(visitor.ask(worker) for visitor, worker in calls))
        assert all(b'"login_url"' in answer.body for answer in answered if answer.status == 401)
        return [(answer.status, answer.code) for answer in answered]

    async def log_in_again(self, worker: WorkerProcess) -> None:
        [visitor] = await log_in(worker)
        assert await self.answers((visitor, worker)) == [OK]
        await self.stage.expire()
        assert await self.answers((visitor, worker)) == [OK], "what is new is renewed as ever"


async def scene_of(
    world: World,
    fleet: Fleet,
    store: StoreName,
    profile: Profile = "strict",
    *,
    sessions: SessionKind = "server",
    without: Protection | None = None,
    renewed_before: bool = True,
) -> Scene:
    plan = world.plan(store, profile, sessions=sessions, without=without)
    stage = await Stage.of(world, fleet, plan, profile, workers=2)
    first, second = stage.workers
    alice, bob = await log_in(first, 2)
    scene = Scene(stage, alice, bob, first, second, lambda: None)
    if renewed_before:
        await stage.expire()
        assert await scene.answers((alice, first), (bob, second)) == [OK, OK]
        await stage.drain()
    scene.restore = await asyncio.to_thread(take_snapshot, plan.store, postgresql=world.postgresql)
    await stage.expire()
    return scene


def offset(stage: Stage) -> float:
    """How far its clocks are ahead of the machine's."""
    return stage.now - time.time()


async def used_again(stage: Stage) -> bool:
    """Say whether the provider saw a refresh token twice, or refused one."""
    return await stage.log.most_uses() > 1 or await stage.log.reuse() > 0


@pytest.mark.spec("REF-10", "REF-28")
@pytest.mark.parametrize("store", STORES)
async def test_no_refresh_token_is_sent_twice_by_processes_that_live_on(every_store: World, store: StoreName) -> None:
    async with Fleet() as fleet:
        scene = await scene_of(every_store, fleet, store)
        assert await scene.answers((scene.alice, scene.first), (scene.bob, scene.second)) == [OK, OK]
        await asyncio.to_thread(scene.restore)
        # Each by the process that has spent the refresh token, and by the other one.
        assert await scene.answers((scene.alice, scene.first), (scene.bob, scene.first)) == [LOST, LOST]
        again = await scene.answers((scene.alice, scene.second), (scene.bob, scene.second))
        assert {status for status, _ in again} == {401}
        assert not await used_again(scene.stage)
        await scene.log_in_again(scene.first)
        assert not await used_again(scene.stage)
        assert fleet.output.count("store_rolled_back: ") == 1


@pytest.mark.spec("REF-28")
async def test_whoever_did_not_renew_knows_it_from_the_watermark(world: World) -> None:
    """The process that is asked afterwards has renewed for somebody else in the meantime."""

    async def restored(fleet: Fleet, without: Protection | None, *, twice: bool) -> None:
        scene = await scene_of(world, fleet, "sqlite", without=without)
        assert await scene.answers((scene.alice, scene.first), (scene.bob, scene.second)) == [OK, OK]
        await asyncio.to_thread(scene.restore)
        assert await scene.answers((scene.alice, scene.second)) == [ENDED if twice else LOST]
        assert await used_again(scene.stage) is twice

    async with Fleet() as fleet:
        await asyncio.gather(restored(fleet, None, twice=False), restored(fleet, "watermark", twice=True))


@pytest.mark.spec("REF-28")
async def test_whoever_did_renew_remembers_it(world: World) -> None:
    """Even where the watermark says nothing; without that memory, the refresh token is used again."""

    async def restored(fleet: Fleet, *, forgets: bool) -> None:
        scene = await scene_of(world, fleet, "sqlite", without="watermark")
        assert await scene.answers((scene.alice, scene.first)) == [OK]
        await asyncio.to_thread(scene.restore)
        if forgets:
            await scene.first.forget()
        assert await scene.answers((scene.alice, scene.first)) == [ENDED if forgets else LOST]
        assert await used_again(scene.stage) is forgets

    async with Fleet() as fleet:
        await asyncio.gather(restored(fleet, forgets=False), restored(fleet, forgets=True))


@pytest.mark.spec("REF-28")
async def test_a_new_process_that_moves_the_watermark_first_hides_nothing(world: World) -> None:
    """It cannot know, and renews for somebody whose refresh token was not spent; the others still notice."""
    async with Fleet() as fleet:
        scene = await scene_of(world, fleet, "sqlite")
        assert await scene.answers((scene.alice, scene.first), (scene.alice, scene.second)) == [OK, OK]
        [carol] = await log_in(scene.first)
        await scene.stage.expire()
        assert await scene.answers((carol, scene.second)) == [OK]
        await asyncio.to_thread(scene.restore)
        [new] = await fleet.start(scene.stage.plan, 1, offset=offset(scene.stage))
        assert await scene.answers((scene.bob, new)) == [OK]
        assert await scene.answers((scene.alice, scene.second)) == [LOST]
        assert not await used_again(scene.stage)


@pytest.mark.spec("REF-28")
@pytest.mark.parametrize("store", STORES)
async def test_after_a_restart_of_all_processes_the_command_tells_them(
    every_store: World, store: StoreName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without it, the provider ends the sessions whose tokens were renewed since."""

    async def restored(fleet: Fleet, *, told: bool) -> None:
        scene = await scene_of(every_store, fleet, store, renewed_before=False)
        assert await scene.answers((scene.alice, scene.first), (scene.bob, scene.second)) == [OK, OK]
        await asyncio.gather(*(worker.stop() for worker in scene.stage.workers))
        await asyncio.to_thread(scene.restore)
        if told:
            file = gateway_file(scene.stage.plan, tmp_path, monkeypatch)
            await asyncio.to_thread(note_restore, file, clock=MovedClock(offset(scene.stage)))
        await scene.stage.advance(1.0)
        [new] = scene.stage.workers = await fleet.start(scene.stage.plan, 1, offset=offset(scene.stage))
        answers = await scene.answers((scene.alice, new), (scene.bob, new))
        assert answers == [LOST if told else ENDED] * 2
        assert await used_again(scene.stage) is not told
        await scene.log_in_again(new)

    async with Fleet() as fleet:
        controls = [restored(fleet, told=False)] if store == "sqlite" else []
        await asyncio.gather(restored(fleet, told=True), *controls)


@pytest.mark.spec("REF-28")
async def test_a_provider_that_keeps_refresh_tokens_logs_nobody_out(world: World) -> None:
    async with Fleet() as fleet:
        scene = await scene_of(world, fleet, "sqlite", "none")
        assert await scene.answers((scene.alice, scene.first), (scene.bob, scene.second)) == [OK, OK]
        await asyncio.to_thread(scene.restore)
        for worker in (scene.first, scene.second):
            assert await scene.answers((scene.alice, worker), (scene.bob, worker)) == [OK, OK]


@pytest.mark.spec("REF-28")
async def test_an_access_token_that_works_is_used_to_its_end(world: World) -> None:
    async with Fleet() as fleet:
        plan = world.plan("sqlite", "strict")
        stage = await Stage.of(world, fleet, plan, "strict", workers=1)
        [worker] = stage.workers
        alice, bob = await log_in(worker, 2)
        scene = Scene(stage, alice, bob, worker, worker, lambda: None)
        await stage.expire()
        assert await scene.answers((bob, worker)) == [OK]
        await stage.expire()
        assert await scene.answers((alice, worker)) == [OK]
        await stage.drain()
        restore = await asyncio.to_thread(take_snapshot, plan.store, postgresql=None)
        await stage.make_stale(left=20.0)
        assert await scene.answers((alice, worker), (bob, worker)) == [OK, OK]
        await stage.drain()
        await asyncio.to_thread(restore)
        before = await stage.log.refreshes()
        assert await scene.answers((alice, worker)) == [OK]
        await stage.drain()
        assert await stage.log.refreshes() == before
        await stage.advance(20.0)
        assert await scene.answers((alice, worker)) == [LOST]
        assert not await used_again(stage)


@pytest.mark.spec("REF-28")
@pytest.mark.parametrize("arrives", [True, False])
async def test_cookies_that_are_newer_than_their_coordination_store(world: World, arrives: bool) -> None:
    """
    The browser has the newest cookie, or it never got that and what waited for it is gone: nobody can tell which, so
    neither cookie's refresh token is sent.
    """
    async with Fleet() as fleet:
        scene = await scene_of(world, fleet, "sqlite", sessions="cookie", renewed_before=False)
        answer = await one(scene.alice.call(scene.first))
        assert (answer.status, bool(answer.set_cookie)) == (200, True)
        if arrives:
            scene.alice.receive(answer)
        assert await scene.answers((scene.bob, scene.second)) == [OK]
        await asyncio.to_thread(scene.restore)
        await scene.stage.expire()
        assert await scene.answers((scene.alice, scene.second)) == [LOST]
        assert not await used_again(scene.stage)
        await scene.log_in_again(scene.second)


def gateway_file(plan: WorkerPlan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a gateway that has the same store and the same key."""
    monkeypatch.setenv("KEY", plan.keys[0])
    monkeypatch.setenv("STORE", plan.store)
    file = folder / "coatcheck.toml"
    file.write_text(
        f"""
        public_url = "{plan.public_url}"
        keys = [{{ env = "KEY" }}]
        [client]
        issuer = "{plan.issuer}"
        client_id = "{plan.client_id}"
        client_secret = "{plan.client_secret}"
        [sessions]
        store = {{ env = "STORE" }}
        """
    )
    return file
