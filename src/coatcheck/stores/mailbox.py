"""What one subscriber of a `Notifier` has not read yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from coatcheck.errors import StoreUnavailable

_MOST_UNREAD = 256
"""Messages that wait for a slow subscriber. Further ones are lost: it has been woken often enough."""


class Mailbox:
    """
    The unread messages of one subscriber, and at last the error that ended it. For one event loop.

    Not a generator: that would be over after a wait that was cancelled.
    """

    def __init__(self) -> None:
        self._unread: asyncio.Queue[bytes | StoreUnavailable] = asyncio.Queue()

    def put(self, message: bytes) -> None:
        """Hand *message* over."""
        if self._unread.qsize() < _MOST_UNREAD:
            self._unread.put_nowait(message)

    def end(self, why: StoreUnavailable) -> None:
        """Say, behind what is unread, that nothing will come any more."""
        self._unread.put_nowait(why)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        message = await self._unread.get()
        if isinstance(message, bytes):
            return message
        self._unread.put_nowait(message)  # whoever asks again hears it again
        raise StoreUnavailable(str(message)) from message
