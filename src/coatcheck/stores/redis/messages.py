"""
Messages by pub/sub: all subscriptions of one event loop share one connection that does nothing else.

When that connection breaks, every subscriber is told, because nobody can know what was missed. Whoever still wants
messages subscribes again, on the next connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field

from redis.asyncio.connection import AbstractConnection

from coatcheck.errors import StoreUnavailable
from coatcheck.stores.mailbox import Mailbox
from coatcheck.stores.redis.connections import FAULTS, Connections, send

_PREFIX = b"coatcheck:"


def channel_name(channel: str) -> bytes:
    """Name a channel on the server; all databases share the names."""
    return _PREFIX + channel.encode()


class Subscriptions:
    """Who listens to what in one event loop."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._line: _Line | None = None

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Notifier.subscribe`."""
        if self._line is None or self._line.dead:
            self._line = _Line(self._connections)
        line, mailbox = self._line, Mailbox()
        try:
            await line.join(channel_name(channel), mailbox)
            yield mailbox
        finally:
            await line.leave(channel_name(channel), mailbox)

    def close(self) -> None:
        """Tell every subscriber that the store was closed."""
        if self._line is not None:
            self._line.hang_up(StoreUnavailable("the store was closed"))


@dataclass(slots=True, eq=False)
class _Channel:
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)
    mailboxes: set[Mailbox] = field(default_factory=set)


class _Line:
    """One connection and what is subscribed on it, from the first subscriber to the last or to a fault."""

    def __init__(self, connections: Connections) -> None:
        self.dead = False
        self._why: StoreUnavailable | None = None
        self._channels: dict[bytes, _Channel] = {}
        self._patience = connections.operation_timeout
        self._unavailable: Callable[[BaseException], StoreUnavailable] = connections.unavailable
        self._connection: AbstractConnection = connections.dedicated()
        self._reading = asyncio.get_running_loop().create_task(self._read(), context=Context())

    async def join(self, name: bytes, mailbox: Mailbox) -> None:
        """Return when the server has confirmed that *mailbox* gets what is published."""
        channel = self._channels.get(name)
        is_new = channel is None
        if channel is None:
            channel = self._channels[name] = _Channel()
        channel.mailboxes.add(mailbox)
        try:
            async with asyncio.timeout(self._patience):
                if is_new and self._connection.is_connected:
                    await send(self._connection, b"SUBSCRIBE", name)
                await channel.confirmed.wait()
        except FAULTS as error:
            self.hang_up(self._unavailable(error))
        if self._why is not None:
            raise StoreUnavailable(str(self._why)) from self._why

    async def leave(self, name: bytes, mailbox: Mailbox) -> None:
        """Forget *mailbox*. The last one of a channel ends the subscription, the last of all the connection."""
        channel = self._channels.get(name)
        if channel is None or self.dead:
            return
        channel.mailboxes.discard(mailbox)
        if channel.mailboxes:
            return
        del self._channels[name]
        if not self._channels:
            self.hang_up(StoreUnavailable("nobody listens any more"))
        elif self._connection.is_connected:
            with suppress(*FAULTS):  # the reading notices as well, and tells those who stay
                async with asyncio.timeout(self._patience):
                    await send(self._connection, b"UNSUBSCRIBE", name)

    def hang_up(self, why: StoreUnavailable) -> None:
        """End the connection and tell everybody *why*."""
        if self.dead:
            return
        self.dead, self._why = True, why
        self._reading.cancel()
        for channel in self._channels.values():
            channel.confirmed.set()
            for mailbox in channel.mailboxes:
                mailbox.end(why)

    async def _read(self) -> None:
        try:
            await self._connection.connect()  # type: ignore[no-untyped-call]
            await send(self._connection, b"SUBSCRIBE", *self._channels)
            while True:
                kind, name, message = await self._connection.read_response()
                self._deliver(kind, name, message)
        except FAULTS as error:
            self.hang_up(self._unavailable(error))
        finally:
            await self._connection.disconnect(nowait=True)

    def _deliver(self, kind: bytes, name: bytes, message: object) -> None:
        channel = self._channels.get(name)
        if channel is None:
            return
        if kind == b"subscribe":
            channel.confirmed.set()
        elif kind == b"message" and isinstance(message, bytes):
            for mailbox in channel.mailboxes:
                mailbox.put(message)
