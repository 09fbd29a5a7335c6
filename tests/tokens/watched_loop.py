"""An event loop that knows for how long each callback kept it from everything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")


class WatchedLoop(asyncio.SelectorEventLoop):
    """
    Measures the CPU time of its thread in every callback: `longest` seconds, in *slowest*.

    CPU time and not the clock on the wall: on a busy machine any callback takes long now and then, through no fault of
    its own. What sleeps in a callback, or waits for a disk there, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.longest, self.slowest, self.callbacks = 0.0, "", 0

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(self._watched(callback), *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon_threadsafe(self._watched(callback), *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, self._watched(callback), *args, context=context)

    def watch_anew(self) -> None:
        """Forget what was measured so far."""
        self.longest, self.slowest, self.callbacks = 0.0, "", 0

    def _watched(self, callback: Callable[[*Ts], object]) -> Callable[[*Ts], None]:
        def run(*args: *Ts) -> None:
            began = time.thread_time()
            try:
                callback(*args)
            finally:
                took = time.thread_time() - began
                self.callbacks += 1
                if took > self.longest:
                    self.longest, self.slowest = took, _name(callback)

        return run


def _name(callback: Callable[..., object]) -> str:
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine = owner.get_coro()
        return str(getattr(coroutine, "__qualname__", coroutine))
    return str(getattr(callback, "__qualname__", callback))
