"""
Talk to one server from one event loop: connections, time limits, repetitions, and errors in words an operator can use.

redis-py brings the protocol, TLS and the parsing of URLs. Its own repetitions are off, because it repeats whatever it
was told, and something that takes a value away must not happen twice. Its own time-outs are off, too, except for the
connecting: one deadline covers a whole operation with everything it waits for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeAlias, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from coatcheck.errors import ConfigurationError, StoreUnavailable
from coatcheck.stores.redis.scripts import Script
from coatcheck.stores.redis.sentinels import NoPrimary, Sentinels, is_sentinel_url

T = TypeVar("T")
Word: TypeAlias = str | bytes | int
Answer: TypeAlias = bytes | int | list[bytes | None] | None

FAULTS = (RedisError, OSError)
"""What may go wrong on a connection. A time-out of asyncio is an OSError, too."""

_NOT_THE_CONNECTION = (AuthenticationError, AuthorizationError, BusyLoadingError)
"""redis-py calls them connection errors, but another connection would hear the same."""

_PRIMARY = "give the address of the primary"
_SINGLE = "it is a node of a cluster, which coatcheck does not speak to: give a server outside of a cluster"
_RIGHTS = (
    "let the ACL of this user have ~coatcheck:* &coatcheck:* "
    "+@read +@write +@scripting +@pubsub +@connection +time +info"
)
_REMEDIES: tuple[tuple[type[RedisError] | str, str], ...] = (
    (BusyLoadingError, "it is still reading its data from the disk; this passes by itself"),
    (ReadOnlyError, f"it is a replica and takes no changes: {_PRIMARY}"),
    (MasterDownError, f"it is a replica that has lost its primary: {_PRIMARY}"),
    (OutOfMemoryError, "its memory is full: raise maxmemory, and keep the policy noeviction"),
    (NoPermissionError, _RIGHTS),
    ("ACL failure", _RIGHTS),
    (MovedError, _SINGLE),
    (ClusterError, _SINGLE),
    ("MISCONF", "it cannot write to its disk and therefore refuses changes: look at its disk and its log"),
    ("NOREPLICAS", "it lacks the replicas it was told to wait for: bring them back"),
    ("BUSY", "it has been running somebody's script for too long: see SCRIPT KILL"),
)
"""A class of errors, or the first word of a message that redis-py has no class for, and what to do."""


async def send(connection: AbstractConnection, *words: Word) -> None:
    """
    Send a command, or raise `ConnectionError`.

    From Python 3.12 on, writing into a connection that is just being cut fails inside asyncio with another error.
    """
    try:
        await connection.send_command(*words)
    except (AttributeError, RuntimeError) as error:
        raise ConnectionError("the connection was cut") from error


class Connections:
    """
    Up to *most* connections from one event loop of one process to the server at *url*, or to which its sentinels lead.

    They are opened when they are needed. One that broke is replaced on the next use, so the server may restart.
    """

    def __init__(self, url: str, *, connect_timeout: timedelta, operation_timeout: timedelta, most: int) -> None:
        self.operation_timeout = operation_timeout.total_seconds()
        self._pool, self._sentinels = _pool(url, connect_timeout)
        self._room = asyncio.Semaphore(most)
        self._silent_at = 0.0

    async def call(self, *words: Word, repeat: bool = True, until: float | None = None) -> Answer:
        """
        Send one command and return the answer, at the latest at *until* (on the event loop's clock).

        *repeat* says that doing it twice is as good as doing it once: then it is sent again when the connection broke.

        Raises:
            StoreUnavailable: no answer came, or an error.
        """
        return await self._bounded(lambda: self._exchange(words), repeat, until)

    async def run(self, script: Script, key: str, *words: Word, repeat: bool = True) -> Answer:
        """Run *script* on *key*; the rest as in `call`. Its text is sent only to a server that does not know it."""

        async def attempt() -> Answer:
            try:
                return await self._exchange(("EVALSHA", script.digest, 1, key, *words))
            except NoScriptError:
                return await self._exchange(("EVAL", script.text, 1, key, *words))

        return await self._bounded(attempt, repeat, None)

    def dedicated(self) -> AbstractConnection:
        """Make a connection that is not open yet and does not belong to the pool: who asked closes it."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def close(self) -> None:
        """Cut every connection. What is under way fails."""
        await self._pool.disconnect(inuse_connections=True)
        if self._sentinels is not None:
            await self._sentinels.close()

    def unavailable(self, error: BaseException) -> StoreUnavailable:
        """Put a fault into words. Nothing of the URL but the address is in them."""
        return StoreUnavailable(f"the Redis server {self.address} {self._what_to_do(error)}")

    @property
    def address(self) -> str:
        """Where the server is, without who we are there."""
        if self._sentinels is not None:
            return self._sentinels.where
        known = self._pool.connection_kwargs
        return str(known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}")

    async def _bounded(self, attempt: Callable[[], Awaitable[T]], repeat: bool, until: float | None) -> T:
        try:
            async with asyncio.timeout_at(until or asyncio.get_running_loop().time() + self.operation_timeout):
                try:
                    return await attempt()
                except ReadOnlyError:
                    self._doubt()
                    return await attempt()  # whatever it was, it was not done
                except ConnectionError as error:
                    self._doubt()
                    if not repeat or isinstance(error, _NOT_THE_CONNECTION):
                        raise
                    return await attempt()
        except FAULTS as error:
            self._doubt()
            if isinstance(error, TimeoutError):
                self._silent_at = asyncio.get_running_loop().time()
            raise self.unavailable(error) from error

    async def _exchange(self, words: Sequence[Word]) -> Answer:
        """Send *words* over a connection of the pool. When this ends early, redis-py cuts the connection."""
        since = asyncio.get_running_loop().time()
        async with self._room:
            if since < self._silent_at:
                # Who had the room gave up. With the little time that is left a new connection would only be opened to
                # be cut: a server that hangs would be asked by one after the other.
                raise TimeoutError
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                await send(connection, *words)
                answer: Answer = await connection.read_response()
                return answer
            except ReadOnlyError:
                # A failover has made a replica of the server, and by now the address may lead to the new primary.
                await connection.disconnect()
                await self._pool.disconnect(inuse_connections=False)
                raise
            finally:
                await self._pool.release(connection)

    def _doubt(self) -> None:
        if self._sentinels is not None:
            self._sentinels.doubt()

    def _what_to_do(self, error: BaseException) -> str:
        if isinstance(error, NoPrimary):
            return str(error)
        # The server quotes arguments at the end of some messages, and those are none of a log's business.
        text = str(error).partition(", with args")[0][:200]
        for kind, remedy in _REMEDIES:
            if text.startswith(f"{kind} ") if isinstance(kind, str) else isinstance(error, kind):
                return f"refuses ({text}): {remedy}"
        if isinstance(error, AuthenticationError):
            known = self._pool.connection_kwargs.get("password")
            remedy = (
                "check user name and password" if known else "put the password into the URL, redis://:PASSWORD@HOST"
            )
            return f"does not let us in ({text}): {remedy}"
        if isinstance(error, ResponseError):
            return f"refuses ({text})"
        if isinstance(error, TimeoutError) and not text:
            return f"gave no answer in {self.operation_timeout:g} s: it hangs or is overloaded, or the network fails"
        return f"does not answer ({text}): check that it runs, and that this machine may reach it"


def check_url(url: str) -> None:
    """
    Find out at once whether *url* can be the address of a server.

    Raises:
        ConfigurationError: it cannot. The URL is not quoted, nor any part: an unescaped character of a password may
            have ended up anywhere.
    """
    try:
        _pool(url, timedelta(seconds=1))[0].make_connection()  # type: ignore[no-untyped-call]
        database = "" if is_sentinel_url(url) else urlsplit(url).path.strip("/")
        fits = url.startswith("unix:") or not database or database.isdecimal()
    except (ValueError, TypeError, RedisError):
        fits = False
    if not fits:
        raise ConfigurationError(
            "this is not the URL of a Redis server: expected redis://[[USER]:PASSWORD@]HOST[:PORT][/NUMBER], rediss:// "
            "for TLS, redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,...]/NAME[/NUMBER] or unix://PATH; write special "
            "characters of the password as %XX, and check the names of options"
        ) from None


def _pool(url: str, connect_timeout: timedelta) -> tuple[ConnectionPool, Sentinels | None]:
    seconds = connect_timeout.total_seconds()
    # RESP 2 is all that is needed, and connecting takes fewer round trips.
    settings = {"protocol": 2, "socket_connect_timeout": seconds, "socket_timeout": None, "socket_keepalive": True}
    if is_sentinel_url(url):
        sentinels = Sentinels(url, patience=seconds, settings=settings)
        return ConnectionPool(**sentinels.options), sentinels
    return ConnectionPool.from_url(url, **settings), None


def keep_over_a_fork(thing: object) -> None:
    """
    Leave *thing* alone in a child that is forked later, for as long as that lives.

    The child inherits the sockets and, through the event loop, their registrations in the kernel, which it shares with
    the parent: closing there what the parent uses would deafen the parent.
    """
    _to_keep.add(thing)


_to_keep: WeakSet[object] = WeakSet()
_kept: list[object] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _kept.extend(_to_keep))
