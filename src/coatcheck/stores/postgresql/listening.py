"""
Messages between processes by LISTEN and NOTIFY, over one connection for each event loop, whatever the channels.

PostgreSQL wakes every listener of a database for every message anyway, so all channels share one name there and are
told apart here. Subscribing then costs one read, which also brings in what was said before and is not for the new
subscriber; leaving neither fails nor waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from hashlib import sha256

from coatcheck.base64url import decode, encode
from coatcheck.errors import StoreUnavailable
from coatcheck.single_flight import SingleFlight
from coatcheck.stores.postgresql.connections import FAULTS, Connection, ConnectionLost, farewell

# Stores in different schemas of a database do not hear each other.
_NAME = "'coatcheck_' || md5(current_schema())"
_FIND_NAME = f"SELECT {_NAME}"
PUBLISH = f"SELECT pg_notify({_NAME}, $1)"

_MESSAGES_KEPT = 256
"""Of those that a subscriber has not read yet. Who falls behind loses the oldest."""

_LOOK_EVERY = 30.0
"""Seconds between two looks whether the server still answers: nothing else shows that a firewall forgot us."""
_PATIENCE = 5.0


def payload(channel: str, message: bytes) -> str:
    """Return what goes over the wire: at most 8,000 bytes are allowed there, and no byte that is zero."""
    return f"{_address(channel)} {encode(message)}"


class Listener:
    """The listening connection of one event loop. *open_connection* makes it when the first subscriber comes."""

    def __init__(self, open_connection: Callable[[], Awaitable[Connection]]) -> None:
        self._open_connection = open_connection
        self._opening: SingleFlight[None, None] = SingleFlight()
        self._catching_up: SingleFlight[object, None] = SingleFlight()
        self._asking = asyncio.Lock()
        self._connection: Connection | None = None
        self._closed = False
        self._looking: asyncio.Task[None] | None = None
        self._subscribers: dict[str, set[Subscriber]] = {}

    async def subscribe(self, channel: str, unavailable: Callable[[Exception], StoreUnavailable]) -> Subscriber:
        """Receive the messages of *channel* until `leave`. Raises what opening raises."""
        if self._connection is None:
            await self._opening.join(None, self._open)
        # In a flight of its own: a caller who is cancelled in the middle must not take the connection from others.
        await self._catching_up.join(object(), self._catch_up)
        subscriber = Subscriber(self._subscribers, _address(channel), unavailable)
        if self._connection is None:  # lost again before our turn
            subscriber.lose()
        return subscriber

    async def close(self) -> None:
        """Close the connection; whoever is subscribed learns of it."""
        connection, self._closed = self._connection, True
        if connection is not None:
            self._lost(connection)
            await farewell(connection)

    async def _open(self) -> None:
        connection = await self._open_connection()
        try:
            async with asyncio.timeout(_PATIENCE):
                [[name]] = await connection.fetch(_FIND_NAME)
                await connection.add_listener(name, self._received)
            connection.add_termination_listener(self._lost)
            if self._closed:
                raise ConnectionLost("the store was closed meanwhile")
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        self._looking = asyncio.create_task(self._look())

    async def _catch_up(self) -> None:
        """Ask something: what was published before is delivered ahead of the answer."""
        async with self._asking:
            connection = self._connection
            if connection is None:
                raise ConnectionLost("the connection that listens was lost")
            try:
                async with asyncio.timeout(_PATIENCE):
                    await connection.fetch("SELECT 1")
            except BaseException:
                connection.terminate()
                raise

    def _received(self, _connection: object, _pid: int, _name: str, text: str) -> None:
        address, _, message = text.partition(" ")
        with suppress(ValueError):  # not from us
            for subscriber in self._subscribers.get(address, ()):
                subscriber.hand_over(decode(message))

    def _lost(self, connection: object) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        if self._looking is not None:
            self._looking.cancel()
        for subscribers in self._subscribers.values():
            for subscriber in subscribers:
                subscriber.lose()

    async def _look(self) -> None:
        with suppress(*FAULTS, ConnectionLost):
            while True:
                await asyncio.sleep(_LOOK_EVERY)
                await self._catch_up()


class Subscriber:
    """The messages of one `subscribe` block. Not a generator: that would be over after a wait that was cancelled."""

    def __init__(
        self,
        subscribers: dict[str, set[Subscriber]],
        address: str,
        unavailable: Callable[[Exception], StoreUnavailable],
    ) -> None:
        self._subscribers = subscribers
        self._address = address
        self._unavailable = unavailable
        self._unread: deque[bytes] = deque(maxlen=_MESSAGES_KEPT)
        self._news = asyncio.Event()
        self._is_lost = False
        subscribers.setdefault(address, set()).add(self)

    def leave(self) -> None:
        left = self._subscribers[self._address]
        left.discard(self)
        if not left:
            del self._subscribers[self._address]

    def hand_over(self, message: bytes) -> None:
        self._unread.append(message)
        self._news.set()

    def lose(self) -> None:
        self._is_lost = True
        self._news.set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._unread:
            if self._is_lost:
                raise self._unavailable(ConnectionLost("the connection that listens was lost"))
            self._news.clear()
            await self._news.wait()
        return self._unread.popleft()


def _address(channel: str) -> str:
    return sha256(channel.encode()).hexdigest()[:32]
