"""
The lease on a grant: whoever holds it, in whatever process, is the only one that may renew.

It begins short, so that a holder that dies before it has sent anything is missed soon, and a heartbeat keeps it alive.
Where a refresh token must not be sent twice it is made long right before the sending: it then outlasts the answer even
if this process cannot extend it.

Whoever sends must be sure that the lease is still held. The store says so at the mark; from there to the sending only
our own clocks can, and both are asked: the wall clock goes on while a machine is suspended, the monotonic one is not
set back. Both count from *before* the store was asked.

A mark that stays behind says that something is in doubt. So a holder that knows better, but was overtaken while it was
held up or the store was away, takes the lease once more and takes its mark back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from coatcheck.clock import Clock
from coatcheck.coordination import LeaseStore, SentMark
from coatcheck.errors import LeaseLost, StoreUnavailable, TokenUnavailable

_log = logging.getLogger("coatcheck")

_FIRST_LOOK = 0.005
_LONGEST_LOOK = 0.01
_SLOW_AFTER = 2.0
_SLOW_LOOK = 0.1
"""Seconds between two looks at a lease that somebody else holds; slow once no answer is likely to be near."""

_LONGEST_WAIT = 60.0
"""Seconds after which nobody waits any longer for a lease that somebody else holds."""
_RELEASE_PAUSE = 0.5
_RELEASES = 2 * 24 * 3600
"""
Times that giving back is tried, with that pause: a day. Once the store answers again it has to be soon, because whoever
finds the mark waits only a few seconds for somebody who knows better.
"""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """
    Seconds: *initial* from one heartbeat on, *sending* while a request is out that must not be repeated, *beat* between
    two heartbeats. Seven eighths of *sending* have to exceed the deadline of a token request.
    """

    initial: float = 5.0
    sending: float = 12.0
    beat: float = 1.5


class Leases:
    """Takes leases of a store. One object per `Tokens`; its leases may be held in several event loops."""

    def __init__(self, store: LeaseStore, *, clock: Clock, times: LeaseTimes) -> None:
        self.store = store
        self.clock = clock
        self.times = times
        self._releases: set[asyncio.Task[None]] = set()

    async def take(self, names: Sequence[bytes]) -> HeldLease:
        """
        Wait for the lease on every one of *names*: one grant under each key of the ring, always in the same order.

        Raises:
            StoreUnavailable: nobody can say who holds it.
            TokenUnavailable: somebody else has held it for a minute.
        """
        lease = HeldLease(self)
        try:
            for name in names:
                await lease.take(name)
        except BaseException:
            await lease.release()
            raise
        return lease

    def release_later(self, lease: HeldLease) -> None:
        """Keep trying to give *lease* back: until then nobody else can renew, and a mark says too much."""
        task = asyncio.get_running_loop().create_task(lease.release_patiently())
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def drain(self, *, seconds: float) -> None:
        """Give the releases of this event loop that are still being tried *seconds* more, then leave them."""
        loop = asyncio.get_running_loop()
        under_way = [task for task in self._releases if task.get_loop() is loop]
        if under_way:
            _, pending = await asyncio.wait(under_way, timeout=seconds)
            for task in pending:
                task.cancel()
            await asyncio.wait(under_way)


class HeldLease:
    """
    A lease from the moment it is taken until it is released.

    *mark* is what will be left behind: at first what an earlier holder left, then what this one has sent. Who sets
    *handed_over* releases it later. *sends* counts what was sent and never accounted for, the last sending included.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._store = leases.store
        self._clock = leases.clock
        self._holder = secrets.token_bytes(16)
        self._names: list[bytes] = []
        self._lost = False
        self._runs_until = (0.0, 0.0)
        self._seconds = leases.times.initial
        self._heart: asyncio.Task[None] | None = None
        self._asking = asyncio.Lock()
        self._written: SentMark | None = None  # or perhaps written: nobody heard of it
        self._supposed: SentMark | None = None
        self._second_holder = secrets.token_bytes(16)
        self.mark: SentMark | None = None
        self.sends = 0
        self.handed_over = False

    async def take(self, name: bytes) -> None:
        """Wait for the lease on *name*, and hold it beside those that are held already."""
        began = self._clock.monotonic()
        look = _FIRST_LOOK
        while not await self._taken(name):
            if self._clock.monotonic() - began > _LONGEST_WAIT:
                raise TokenUnavailable("another process has been fetching this token for a minute")
            await asyncio.sleep(look)
            slow = self._clock.monotonic() - began > _SLOW_AFTER
            look = _SLOW_LOOK if slow else min(look * 1.5, _LONGEST_LOOK)

    async def _taken(self, name: bytes) -> bool:
        runs_from = self._now()
        lease = await self._store.acquire(name, self._holder, seconds=self._seconds)
        if lease is None:
            return False
        self._names.append(name)
        self._count_from(runs_from)
        if self.mark is None:
            self.mark = lease.mark
        if self._heart is None:
            self._heart = asyncio.get_running_loop().create_task(self._beat())
        return True

    def suppose(self, mark: SentMark | None) -> None:
        """Act as if *mark* had been found, which the store has forgotten. It is not left behind."""
        self.mark = self._supposed = mark

    async def mark_sent(self, *, began: float, until: float, seconds: float) -> None:
        """
        Write down, durably, that a request leaves now, and hold the lease for *seconds* from now.

        *began* is an instant before the request was made, so that a token that was got by it is never older than the
        mark; *until* the one from which nobody can ask any more.

        Raises:
            LeaseLost: it is not held any more. Send nothing.
            StoreUnavailable: nobody can say. Send nothing.
        """
        before = self.mark
        mark = SentMark(began) if before is None else SentMark(before.sent_at, before.sends + 1)
        async with self._asking:  # a heartbeat that is under way would make the lease short again
            runs_from = self._now()
            self._written = mark
            for name in self._names:
                await self._store.mark_sent(name, self._holder, mark, seconds=seconds, until=until)
            self._seconds = seconds
            self._count_from(runs_from)
        self.mark = mark
        self.sends = mark.sends

    def check(self, *, at_least: float) -> None:
        """
        Return if the lease still runs for *at_least* seconds by both clocks.

        Raises:
            LeaseLost: it does not: this process was held up. Send nothing.
        """
        if self._lost or self._remaining() < at_least:
            raise LeaseLost("the lease on a grant ran out while this process was held up; nothing was sent")

    @property
    def is_held(self) -> bool:
        """Whether it still runs by both clocks; a store may know better."""
        return not self._lost and self._remaining() > 0

    def _remaining(self) -> float:
        now = self._now()
        return min(self._runs_until[0] - now[0], self._runs_until[1] - now[1])

    async def release(self) -> None:
        """Give the lease back, leaving `mark`; in the background if that cannot be done now."""
        await self._stop_the_heart()
        try:
            done = await self._released()
        except StoreUnavailable:
            done = False
        if not done:
            self._leases.release_later(self)

    async def release_patiently(self) -> None:
        """Give the lease back as soon as the store answers; after a day leave it and its mark to end by themselves."""
        fault = "somebody else always holds it"
        for _ in range(_RELEASES):
            await asyncio.sleep(_RELEASE_PAUSE)
            try:
                if await self._released():
                    return
            except StoreUnavailable as error:
                fault = str(error)
        _log.warning("the lease on a grant could not be given back, so it runs out by itself: %s", fault)

    async def _released(self) -> bool:
        """Give every name back; False if somebody else holds one that has a mark of ours."""
        while self._names:
            name = self._names[-1]
            left = None if self.mark is self._supposed else self.mark
            await self._store.release(name, self._holder, mark=left)
            settled = self._written in (None, self.mark)
            if not settled and not self.is_held and not await self._taken_back(name):
                return False
            self._names.pop()
        return True

    async def _taken_back(self, name: bytes) -> bool:
        """
        Take the mark back that we wrote, if an overtaker has left it; False while it cannot be looked at.

        By another holder than before: what was sent by that one, and is late, finds nothing to change.
        """
        lease = await self._store.acquire(name, self._second_holder, seconds=self._leases.times.initial)
        if lease is None:
            return False
        left, ours = lease.mark, self._written
        is_ours = left is not None and ours is not None and left.sent_at == ours.sent_at and left.sends <= ours.sends
        await self._store.release(name, self._second_holder, mark=self.mark if is_ours else left)
        return True

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._leases.times.beat)
            async with self._asking:
                runs_from = self._now()
                try:
                    for name in tuple(self._names):
                        await self._store.extend(name, self._holder, seconds=self._seconds)
                except LeaseLost:
                    self._lost = True
                    return
                except StoreUnavailable:
                    continue
                self._count_from(runs_from)

    async def _stop_the_heart(self) -> None:
        heart, self._heart = self._heart, None
        if heart is not None:
            heart.cancel()
            await asyncio.wait((heart,))

    def _now(self) -> tuple[float, float]:
        return self._clock.monotonic(), self._clock.time()

    def _count_from(self, instant: tuple[float, float]) -> None:
        self._runs_until = (instant[0] + self._seconds, instant[1] + self._seconds)
