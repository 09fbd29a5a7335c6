"""One database, seen from every event loop of every process: who asks gets the connections of its own loop."""

from __future__ import annotations

import asyncio
import os
import re
from urllib.parse import parse_qs, urlsplit

from coatcheck.errors import ConfigurationError, StoreUnavailable
from coatcheck.stores.postgresql.connections import (
    ALIVE,
    FAULTS,
    Busy,
    Connection,
    ConnectionLost,
    Connections,
    Patience,
    Row,
    explain,
)
from coatcheck.stores.postgresql.listening import Listener
from coatcheck.stores.postgresql.schema import bring_forward, is_complete

_SCHEMA_PATIENCE = 10.0
"""Seconds for making the tables, behind everybody else who is making them."""

_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|(?:%2F|%2f)[A-Za-z0-9._%-]+)(?::[0-9]{1,5})?"
_HOSTS = re.compile(rf"(?:{_HOST}(?:,{_HOST})*)?")

_inherited: list[_Here] = []
"""
What a parent process had open when it forked us. It is never touched, not even to be closed: an event loop of the
parent may share its list of open connections with us.
"""


class _Here:
    """What belongs to one event loop of one process."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.listener = Listener(connections.open)


class Database:
    """The database that *dsn* names. Nothing is connected before the first question."""

    def __init__(self, dsn: str, *, size: int, patience: Patience, statement_cache_size: int) -> None:
        self.where = _where(dsn)
        self._dsn = dsn
        self._size = size
        self._patience = patience
        self._statement_cache_size = statement_cache_size
        self._here: dict[asyncio.AbstractEventLoop, _Here] = {}
        self._changes: list[str] = []

    async def migrate(self) -> list[str]:
        """See `HasSchema.migrate`: the first connection does it. What that has changed is told once."""
        await self.ask(ALIVE, repeatable=True)
        changes, self._changes = self._changes, []
        return changes

    async def ask(self, statement: str, *arguments: object, repeatable: bool = False) -> list[Row]:
        """
        Run one statement and return its rows; see `Connections.ask`.

        Raises:
            StoreUnavailable: whatever went wrong. The statement may have been done.
        """
        try:
            return await self.here().connections.ask(statement, *arguments, repeatable=repeatable)
        except (*FAULTS, ConnectionLost, Busy) as error:
            raise self.unavailable(error) from error

    def here(self) -> _Here:
        """Return what belongs to this process and event loop."""
        loop = asyncio.get_running_loop()
        here = self._here.get(loop)
        if here is not None and here.connections.pid == os.getpid():
            return here
        for other, left in list(self._here.items()):
            if left.connections.pid != os.getpid():
                _inherited.append(self._here.pop(other))
            elif other.is_closed():
                del self._here[other]
        here = self._here[loop] = _Here(
            Connections(
                self._dsn,
                self._prepare,
                size=self._size,
                patience=self._patience,
                statement_cache_size=self._statement_cache_size,
            )
        )
        return here

    async def aclose(self) -> None:
        """Close what this event loop holds open."""
        here = self._here.get(asyncio.get_running_loop())
        if here is not None and here.connections.pid == os.getpid():
            del self._here[asyncio.get_running_loop()]
            await here.listener.close()
            await here.connections.close()

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """Say where it happened, what happened and what to do."""
        return StoreUnavailable(f"the store {self.where} is unavailable: {explain(error)}")

    async def _prepare(self, connection: Connection) -> None:
        async with asyncio.timeout(self._patience.answer):
            if await is_complete(connection, where=self.where):
                return
        async with asyncio.timeout(_SCHEMA_PATIENCE):
            self._changes += await bring_forward(connection, patience=_SCHEMA_PATIENCE, where=self.where)


def _where(dsn: str) -> str:
    """Return *dsn* without user, password and options: host, port and database, for messages."""
    try:
        parts = urlsplit(dsn)
        options = parse_qs(parts.query)
    except ValueError:
        parts, options = urlsplit(""), {}
    host = parts.netloc.rpartition("@")[2]
    # An @ further behind: a sign of the password ended it too early, and what looks like the host is its beginning.
    is_broken = parts.fragment or "@" in parts.path + parts.query or not _HOSTS.fullmatch(host)
    if parts.scheme not in ("postgresql", "postgres") or is_broken:
        # Not repeated: it may be a password that was read from the wrong place.
        raise ConfigurationError(
            "this is no DSN of PostgreSQL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and in user and "
            "password %23 for #, %2F for a slash, %3F for a question mark, %40 for @"
        )
    host = host or ",".join(options.get("host", ["localhost"]))
    database = parts.path.removeprefix("/") or ",".join(options.get("dbname", options.get("database", [""])))
    return f"postgresql://{host}/{database}"
