"""An event loop on a daemon thread, for callers who have none: it takes calls from any thread, and ends in order."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - so that what it does at the end is registered before what we do
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_log = logging.getLogger("coatcheck")

_EXIT_SECONDS = 10.0
"""How long the end of the interpreter waits for what is under way, when nobody closed."""


class LoopThread:
    """
    An event loop of this process that runs until it is stopped. *farewell* is awaited in it after the last call.

    The thread holds nobody up: it is a daemon, so that a program which forgets to stop it still ends. What was under
    way then gets a moment to finish.

    Raises:
        RuntimeError: the interpreter is ending, or the system has no thread to give.
    """

    def __init__(self, farewell: Callable[[], Awaitable[None]]) -> None:
        self.pid = os.getpid()
        self._farewell = farewell
        self._under_way = 0
        self._landed, self._stopping = asyncio.Event(), asyncio.Event()
        self._stopped = False
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="coatcheck-tokens", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise
        _running.add(self)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Callable[[], T]:
        """
        Have *coroutine* run; what is returned waits for its outcome.

        Whoever is interrupted while waiting leaves alone: the work goes on.

        Raises:
            RuntimeError: it can never run.
        """
        refusal = self._refusal()
        if refusal is not None:
            coroutine.close()
            raise RuntimeError(refusal)
        return asyncio.run_coroutine_threadsafe(self._call(coroutine), self._loop).result

    def stop(self) -> None:
        """Have the loop end once the calls under way have finished. Returns at once."""
        if self.pid == os.getpid() and not self._stopped:
            self._stopped = True
            with suppress(RuntimeError):  # it broke, and is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end, at most so long, and raise what the farewell raised."""
        self._thread.join(seconds)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _refusal(self) -> str | None:
        if threading.current_thread() is self._thread:
            return "called from inside the event loop that would have to do it: use the asynchronous Tokens"
        return "the program is ending, and so did the event loop of the tokens" if self._stopped else None

    async def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._under_way += 1
        try:
            return await coroutine
        finally:
            self._under_way -= 1
            self._landed.set()

    def _run(self) -> None:
        # Python 3.12 starts no thread once the interpreter is ending, and the runner wants one to close a thread pool.
        with suppress(RuntimeError), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._main())
            except BaseException as error:  # told to whoever joins: this thread has nobody else to tell
                self._failure = error

    async def _main(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(0)  # a call that came right before the end has not begun yet
        while self._under_way:
            self._landed.clear()
            await self._landed.wait()
        await self._farewell()


_running: WeakSet[LoopThread] = WeakSet()


def _at_exit() -> None:
    mine = [each for each in list(_running) if each.pid == os.getpid()]
    for each in mine:
        each.stop()
    for each in mine:
        try:
            each.join(_EXIT_SECONDS)
        except KeyboardInterrupt:
            return  # somebody insists
        except Exception as error:
            _log.warning("tokens that nobody closed could not be closed at the end: %s", type(error).__name__)


# `atexit` comes too late: by then no thread pool takes work any more, and SQLite and name resolution need one. This is
# what `concurrent.futures` itself uses, and the last to register is called first. Where it is gone, less is finished.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
