"""A steady load: open pages that call every process again and again while things around them fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, product
from types import TracebackType
from typing import Self

from tests.rig.fleet import WorkerProcess
from tests.rig.volley import CallAnswer
from tests.storm.stage import Visitor

PAUSE = 0.1
"""Seconds between two calls of a page."""
PATIENCE = 20.0
"""Seconds for anything that the load is expected to meet."""


@dataclass(frozen=True, slots=True)
class Called:
    """One call of the load, the *number*th of all, and its answer. *worker* is a place among the workers."""

    number: int
    visitor: int
    worker: int
    path: str
    answer: CallAnswer


class Load:
    """
    Each visitor has a page open at each worker, which calls again and again until the block ends: *paths* in turn.
    Who is put in the place of a worker, in the list that was given, is called from then on.

        async with Load(visitors, workers) as load:
            fault.cut()
            await load.everybody(503)
    """

    def __init__(
        self, visitors: Sequence[Visitor], workers: Sequence[WorkerProcess], *, paths: Sequence[str] = ("/api/orders",)
    ) -> None:
        self.calls: list[Called] = []
        self._visitors = visitors
        self._workers = workers
        self._paths = paths
        self._begun = 0
        self._news = asyncio.Condition()
        self._ended = False

    @property
    def statuses(self) -> Counter[int]:
        """How often each status was answered; 0 where no answer came."""
        return Counter(called.answer.status for called in self.calls)

    def refusals(self) -> list[CallAnswer]:
        """Every answer that is not 200."""
        return [called.answer for called in self.calls if called.answer.status != 200]

    async def everybody(self, status: int, *, of: Sequence[Visitor] | None = None) -> None:
        """Wait until every page (those *of* some visitors) has had *status* for each path, by calls from now on."""
        since = self._begun
        chosen = [number for number, visitor in enumerate(self._visitors) if of is None or visitor in of]
        wanted = set(product(chosen, range(len(self._workers)), self._paths))

        def met() -> bool:
            new = [called for called in self.calls if called.number > since and called.answer.status == status]
            return {(called.visitor, called.worker, called.path) for called in new} >= wanted

        try:
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(met)
        except TimeoutError:
            last = [(c.visitor, c.worker, c.answer.status, c.answer.code) for c in self.calls[-12:]]
            raise AssertionError(f"not everybody was answered {status}; the last: {last}") from None

    async def __aenter__(self) -> Self:
        self._pages = [
            asyncio.create_task(self._page(visitor, worker))
            for visitor in range(len(self._visitors))
            for worker in range(len(self._workers))
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        if kind is not None:
            for page in self._pages:
                page.cancel()
        await asyncio.gather(*self._pages, return_exceptions=kind is not None)

    async def _page(self, visitor: int, worker: int) -> None:
        for path in cycle(self._paths):
            if self._ended:
                break
            self._begun += 1
            number = self._begun
            answer = await self._visitors[visitor].ask(self._workers[worker], path)
            async with self._news:
                self.calls.append(Called(number, visitor, worker, path, answer))
                self._news.notify_all()
            await asyncio.sleep(PAUSE)
