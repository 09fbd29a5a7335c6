"""Messages between the threads and event loops of one process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.stores.memory_entries import InMemory

_MESSAGES_KEPT = 256
"""Of those that a subscriber has not read yet. Who falls behind loses the oldest."""


class NotifierInMemory(InMemory):
    """A `Notifier` for those who share the object."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(clock)
        self._subscribers: dict[str, set[_Subscriber]] = {}

    async def publish(self, channel: str, message: bytes) -> None:
        """See `Notifier.publish`. It never suspends."""
        with self._lock:
            for subscriber in self._subscribers.get(channel, ()):
                subscriber.hand_over(message)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Notifier.subscribe`."""
        subscriber = _Subscriber()
        with self._lock:
            self._subscribers.setdefault(channel, set()).add(subscriber)
        try:
            yield subscriber
        finally:
            with self._lock:
                self._unsubscribe(channel, subscriber)

    def _unsubscribe(self, channel: str, subscriber: _Subscriber) -> None:
        left = self._subscribers[channel]
        left.discard(subscriber)
        if not left:
            del self._subscribers[channel]


class _Subscriber:
    """The messages of one `subscribe` block. Not a generator: that would be over after a wait that was cancelled."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unread: deque[bytes] = deque(maxlen=_MESSAGES_KEPT)
        self._arrived = asyncio.Event()
        self._waking = False

    def hand_over(self, message: bytes) -> None:
        """Give it *message*, from any thread; one at a time."""
        self._unread.append(message)
        if not self._waking:  # a thousand messages for a busy loop are one call-back
            self._waking = True  # before the call: that loop may be quicker than the next line here
            with suppress(RuntimeError):  # it was closed without leaving the block
                self._loop.call_soon_threadsafe(self._wake)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._unread:
            self._arrived.clear()
            await self._arrived.wait()
        return self._unread.popleft()

    def _wake(self) -> None:
        self._waking = False
        self._arrived.set()
