"""
Several real processes that serve one application, each on its own port, and a hand on each of them.

    async with Fleet() as fleet:
        first, second = await fleet.start(plan, 2)
        await first.move_clock(301)
        await first.arm("renewal.marked")
        ...
        await first.reached("renewal.marked")
        await first.kill()

Workers are forked from one process that has imported everything, so that one costs some 30 ms. Their clocks are the
machine's and an offset. The parent may kill, stop and wake them; whatever happens, all of them end with the block.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.rig.programs import Program, ProgramFailed
from tests.rig.worker_plan import WorkerPlan

PATIENCE = 20.0
"""Seconds for anything that a worker has to do or say."""


class WorkerProcess:
    """One of the fleet's processes, from the parent's side."""

    def __init__(self, number: int, pid: int, port: int, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.pid = pid
        self.port = port
        self.gone = asyncio.Event()
        self._writer = writer
        self._ids = itertools.count()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reached: Counter[str] = Counter()
        self._news = asyncio.Condition()

    async def arm(self, name: str, *, count: int = 1) -> None:
        """Let the next *count* that come to the checkpoint *name* stop there."""
        self._reached[name] = 0
        await self._order("arm", name=name, count=count)

    async def reached(self, name: str, *, count: int = 1, seconds: float = PATIENCE) -> None:
        """Wait until so many have stopped at *name*; fails when that takes longer than *seconds*."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: self._reached[name] >= count or self.gone.is_set())
        if self._reached[name] < count:
            raise ProgramFailed(f"worker {self.number}: {self._reached[name]} of {count} came to {name}")

    async def release(self, name: str) -> None:
        """Let everybody at *name* go on."""
        await self._order("release", name=name)

    async def drain(self) -> None:
        """Wait until no renewal is under way there."""
        await self._order("drain")

    async def forget(self) -> None:
        """Forget which refresh tokens it has spent."""
        await self._order("forget")

    async def sizes(self) -> dict[str, int]:
        """How many entries its maps in memory have: `flights`, `memories`, `tasks`."""
        answer = await self._order("sizes")
        return {name: size for name, size in answer.items() if name != "id"}

    async def move_clock(self, offset: float) -> None:
        """Show the machine's time and *offset* seconds more."""
        await self._order("clock", offset=offset)

    async def freeze(self) -> None:
        """SIGSTOP, but not in the middle of a write: stopped there it would hold the lock of an SQLite file."""
        await self._order("settle")
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if not self.gone.is_set():
            os.kill(self.pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE):
                await self.gone.wait()

    async def stop(self) -> None:
        """Let it finish and leave; kill it if it does not."""
        if not self.gone.is_set():
            self._writer.write(b'{"do": "stop"}\n')
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self.gone.wait()
        await self.kill()

    async def hear(self, message: dict[str, Any]) -> None:
        """Take in what it says."""
        if "reached" in message:
            async with self._news:
                self._reached[message["reached"]] += 1
                self._news.notify_all()
        elif (answer := self._answers.pop(message["id"], None)) is not None and not answer.done():
            answer.set_result(message)

    async def leave(self) -> None:
        """It has closed its connection: it is dead, or will be at once."""
        self.gone.set()
        self._writer.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ProgramFailed(f"worker {self.number} has ended"))
        async with self._news:
            self._news.notify_all()

    async def _order(self, do: str, **details: object) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps({"id": number, "do": do, **details}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            said: dict[str, Any] = await answer
        if "error" in said:
            raise ProgramFailed(f"worker {self.number}: {said['error']}")
        return said


class Fleet:
    """The processes of a test, of one application or of several."""

    def __init__(self) -> None:
        self.workers: list[WorkerProcess] = []
        self._numbers = itertools.count(1)
        self._born: dict[int, asyncio.Future[WorkerProcess]] = {}
        self._hearing: set[asyncio.Task[None]] = set()

    @property
    def output(self) -> str:
        """Whatever the workers logged."""
        return self._nursery.output

    async def start(self, plan: WorkerPlan, count: int = 1, *, offset: float = 0.0) -> list[WorkerProcess]:
        """Start so many workers, *offset* seconds ahead of the machine's clock; returns when they serve."""
        born = []
        for _ in range(count):
            number = next(self._numbers)
            order = {"plan": asdict(replace(plan, number=number)), "offset": offset}
            self._born[number] = asyncio.get_running_loop().create_future()
            born.append(self._born[number])
            self._orders.write(json.dumps(order).encode() + b"\n")
        try:
            async with asyncio.timeout(PATIENCE):
                started = list(await asyncio.gather(*born))
        except TimeoutError:
            raise ProgramFailed(f"{count} workers did not start in {PATIENCE:g} s:\n{self.output}") from None
        self.workers += started
        return started

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="coatcheck-fleet-")
        path = str(Path(self._folder.name, "control"))
        self._server = await asyncio.start_unix_server(self._connected, path)
        self._nursery_here: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        self._nursery = Program([sys.executable, "-m", "tests.rig.fleet_worker", path])
        try:
            self._orders = await self._nursery_started()
        except BaseException:
            await self._end()
            raise
        return self

    async def _nursery_started(self) -> asyncio.StreamWriter:
        for _ in range(int(PATIENCE / 0.1)):
            await asyncio.wait((self._nursery_here,), timeout=0.1)
            if self._nursery_here.done():
                return self._nursery_here.result()
            if self._nursery.returncode is not None:
                break
        raise ProgramFailed(f"the nursery of the fleet did not start:\n{self.output}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            if not worker.gone.is_set():
                worker.thaw()
        if kind is None:
            await asyncio.gather(*(worker.stop() for worker in self.workers))
        await self._end()

    async def _end(self) -> None:
        await asyncio.gather(*(worker.kill() for worker in self.workers))
        await asyncio.to_thread(self._nursery.stop)  # workers whose parent dies are killed by the system
        self._server.close()
        for task in list(self._hearing):
            task.cancel()
        await asyncio.gather(*self._hearing, return_exceptions=True)
        self._folder.cleanup()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._hearing.add(task)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # killed in the middle of a word, or the fleet has ended
        finally:
            self._hearing.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = json.loads(await reader.readline())
        if "nursery" in hello:
            self._nursery_here.set_result(writer)
            await reader.read()
            return
        worker = WorkerProcess(hello["number"], hello["pid"], hello["port"], writer)
        waiting = self._born.pop(worker.number)
        if waiting.done():
            os.kill(worker.pid, signal.SIGKILL)  # nobody waits for it any more
            return
        waiting.set_result(worker)
        try:
            while line := await reader.readline():
                await worker.hear(json.loads(line))
        finally:
            await worker.leave()
