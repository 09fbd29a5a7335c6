"""Processes that share stores and nothing else, and that can be stopped at a checkpoint, for a while or for good."""

from __future__ import annotations

import asyncio
from typing import Any

from coatcheck.coordination import ExpiringValue, Lease, SentMark
from coatcheck.stores import MemoryStore
from coatcheck.tokens import Tokens, UserToken, UserTokenRequestParameters
from coatcheck.tokens.values import DEFAULT_PARAMETERS
from tests.tokens.scene import Browser, Scene


class Process:
    """
    A process of its own: it shares the stores with the others, and nothing else.

    With *stops_at* it stands still at that checkpoint; `dead`, nothing of it ever reaches a store again.
    """

    def __init__(self, scene: Scene, *, stops_at: str = "", **arguments: Any) -> None:
        self._stops_at = f"renewal.{stops_at}"
        self.reached, self.goes_on = asyncio.Event(), asyncio.Event()
        self._store = Mortal(scene.coordination)
        self.tokens: Tokens = scene.other_process(coordination=self._store, checkpoints=self._checkpoint, **arguments)

    async def _checkpoint(self, name: str) -> None:
        if name == self._stops_at:
            self.reached.set()
            await self.goes_on.wait()

    async def stand_still(
        self, browser: Browser, parameters: UserTokenRequestParameters = DEFAULT_PARAMETERS
    ) -> asyncio.Task[UserToken]:
        """Begin a renewal and stop where it was told to."""
        flight = asyncio.create_task(self.tokens.user_token(await browser.request(), parameters))
        await self.reached.wait()
        self._store.dead = True
        return flight

    @property
    def leases(self) -> int:
        """How many leases it has taken."""
        return self._store.acquired

    def wake(self) -> None:
        """Go on as if no time had passed."""
        self._store.dead = False
        self.goes_on.set()


class Mortal:
    """A store as one process sees it; of a dead one nothing arrives."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.dead = False
        self.acquired = 0

    async def _alive(self) -> MemoryStore:
        while self.dead:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError  # the test has ended, and what is left of this process with it
            await asyncio.sleep(3600)
        return self._store

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        lease = await (await self._alive()).acquire(key, holder, seconds=seconds)
        self.acquired += lease is not None
        return lease

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        await (await self._alive()).mark_sent(key, holder, mark, seconds=seconds, until=until)

    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        await (await self._alive()).extend(key, holder, seconds=seconds)

    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        await (await self._alive()).release(key, holder, mark=mark)

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        return await (await self._alive()).add(key, value, until=until)

    async def get(self, key: bytes) -> ExpiringValue | None:
        return await (await self._alive()).get(key)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        await (await self._alive()).replace(key, value, version=version, until=until)

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        return await (await self._alive()).discard(key, version=version)
