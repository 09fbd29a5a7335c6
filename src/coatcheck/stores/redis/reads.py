"""
Many reads, one round trip: all that are asked for in one tick of the event loop go into one MGET.

Only one MGET is under way at a time; meanwhile the next one collects. Without that rule the batches shrink to one read
each as soon as the event loop has other things to do, and each read costs as much as a command of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from coatcheck.errors import StoreUnavailable

ReadMany: TypeAlias = Callable[[Sequence[str], float], Awaitable[Sequence[bytes | None]]]
"""Gets keys, and the instant (on the event loop's clock) after which nobody waits any more."""

_MOST = 256
"""Keys of one MGET: a megabyte or two of sessions, so that other commands get their turn at the server."""


@dataclass(slots=True)
class _Read:
    """Everybody who waits for one key; *until* is when the first of them gives up."""

    until: float
    answers: list[asyncio.Future[bytes | None]] = field(default_factory=list)


class JoinedReads:
    """
    Reads of one event loop, joined. The flight belongs to nobody: a reader that is cancelled disturbs no other.

    No reader waits longer than *patience* seconds. When a flight fails, so do those who wait for the next one: a server
    that hangs is asked once in that time, and not once for each reader.
    """

    def __init__(self, read_many: ReadMany, *, patience: float) -> None:
        self._read_many = read_many
        self._patience = patience
        self._waiting: dict[str, _Read] = {}
        self._flying: dict[str, _Read] = {}
        self._flights: asyncio.Task[None] | None = None

    async def read(self, key: str) -> bytes | None:
        """
        Return what is under *key*, as it was at some moment after this call.

        Raises:
            StoreUnavailable: see *read_many*.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | None] = loop.create_future()
        read = self._waiting.get(key)
        if read is None:
            read = self._waiting[key] = _Read(loop.time() + self._patience)
        read.answers.append(answer)
        if self._flights is None:
            self._flights = loop.create_task(self._fly(), context=Context())
        return await answer

    def close(self) -> None:
        """Let everybody who waits learn that the store was closed."""
        if self._flights is not None:
            self._flights.cancel()
            # Here and not in the flight: one that is cancelled before its first step never notices.
            self._land("the store was closed")

    async def _fly(self) -> None:
        try:
            while self._waiting:
                self._flying = {key: self._waiting.pop(key) for key in list(islice(self._waiting, _MOST))}
                await self._fly_once(self._flying)
                self._flying = {}
        except BaseException:
            self._land("the reading ended")  # a defect; nobody may wait for an answer that nobody will bring
            raise
        finally:
            self._flights = None

    async def _fly_once(self, batch: dict[str, _Read]) -> None:
        until = next(iter(batch.values())).until  # whoever has waited longest is the first
        try:
            found = await self._read_many(list(batch), until)
        except StoreUnavailable as error:
            # Those who wait for the next flight, too: each would find the same, one after the other.
            self._land(str(error), error)
            return
        for read, data in zip(batch.values(), found, strict=True):
            for answer in read.answers:
                if not answer.done():  # cancelled
                    answer.set_result(data)

    def _land(self, why: str, cause: BaseException | None = None) -> None:
        """Tell everybody that there will be no answer."""
        _fail([*self._flying.values(), *self._waiting.values()], why, cause)
        self._waiting.clear()


def _fail(reads: Iterable[_Read], why: str, cause: BaseException | None) -> None:
    """Give each an error of its own: one that is raised in many places grows a traceback of all of them."""
    for read in reads:
        for answer in read.answers:
            if not answer.done():
                error = StoreUnavailable(why)
                error.__cause__ = cause
                answer.set_exception(error)
                answer.exception()  # seen: who is cancelled in this very moment never looks, and that is no defect
