"""One piece of work per key at a time: whoever asks while it is under way gets the same outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """
    Joins equal work of one event loop into one detached task per key.

    The task belongs to nobody who waits: a caller that is cancelled (its browser left, its time-out passed) leaves
    alone, while the work goes on for the others and for whatever it writes down. An exception reaches every waiter.
    Nothing is remembered once the work is done, so memory is bounded by the work under way. It starts with empty
    context variables: what belongs to one request (a database session, a trace) must not serve the others.

    Flights of different event loops never meet: an object may be shared between loops and threads, each joins its own.
    """

    def __init__(self) -> None:
        self._flights: dict[tuple[asyncio.AbstractEventLoop, K], asyncio.Task[V]] = {}

    def __contains__(self, key: K) -> bool:
        """Whether a flight of *key* is under way in this event loop."""
        flight = self._flights.get((asyncio.get_running_loop(), key))
        return flight is not None and not flight.done()

    async def join(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Wait for the flight of *key*; when none is under way, `make()` becomes it."""
        flight = self._flight(key, make)
        # Not `asyncio.shield`: with every waiter gone it reports the exception of the flight to the event loop's
        # handler from Python 3.13 on. `wait` never cancels what it waits for and says nothing.
        await asyncio.wait((flight,))
        return flight.result()

    def start(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> None:
        """Make sure that a flight of *key* is under way, without waiting for it."""
        _ = self._flight(key, make)

    async def landed(self, key: K) -> None:
        """Wait until the flight of *key* is over, whatever comes of it; return at once when none is under way."""
        flight = self._flights.get((asyncio.get_running_loop(), key))
        if flight is not None:
            await asyncio.wait((flight,))

    def _flight(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        loop = asyncio.get_running_loop()
        flight = self._flights.get((loop, key))
        if flight is None or flight.done():
            flight = loop.create_task(make(), context=Context())
            # The table also is the strong reference without which the loop may lose a task.
            self._flights[loop, key] = flight
            flight.add_done_callback(lambda task: self._landed((loop, key), task))
        return flight

    def _landed(self, entry: tuple[asyncio.AbstractEventLoop, K], flight: asyncio.Task[V]) -> None:
        if self._flights.get(entry) is flight:  # by now the next flight of this key may be under way
            del self._flights[entry]
        if not flight.cancelled():
            flight.exception()  # seen: a flight whose waiters all left must not warn that nobody looked

    async def drain(self) -> None:
        """Wait until no flight of this event loop is under way. Call it before closing what the flights use."""
        loop = asyncio.get_running_loop()
        # Copied, because other threads may begin and end flights of their own loops meanwhile.
        while flights := [
            flight for (owner, _), flight in list(self._flights.items()) if owner is loop and not flight.done()
        ]:
            await asyncio.wait(flights)
