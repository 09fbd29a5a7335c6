"""
The connections of one event loop in one process: few, bounded in every wait, and none is used again after a fault.

Made here and not by the driver's pool, because every wait and every ending has to be ours:

- **A call ends.** It waits for its turn, for a connection and for the answer, and for each of them only so long. A
  server that accepts and never answers costs a connection for one patience, and nobody queues behind it for longer.
- **What a call leaves behind is known.** Whoever is cancelled or out of time in the middle of a statement drops the
  connection at once. The server may still finish the statement; nobody can be answered with its rows.
- **A restart costs no request** where it need not. Connections that died while nobody used them are replaced before
  use. A statement that may run twice is sent again on a new connection; one that may not is sent on a connection that
  has just answered.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import asyncpg  # type: ignore[import-untyped]

Row: TypeAlias = tuple[Any, ...]
"""What a row is good for here: to be taken apart by position. The driver's are quicker than they look."""

FAULTS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # TimeoutError and what TLS has to say, too
    EOFError,
)
"""Whatever goes wrong between us and the server."""

MAY_NOT_CREATE = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError)
"""No right to create a table in the schema, or no schema to create it in."""

_ANOTHER_DATABASE = (asyncpg.UndefinedTableError, asyncpg.ReadOnlySQLTransactionError)
"""
It is not what it was when the connection was made: restored, or a standby by now. A new connection makes the tables, or
finds the primary.
"""

_IDLE_AT_MOST = 60.0
"""Seconds. Firewalls forget connections that are silent for some minutes, and say nothing."""

ALIVE = "SELECT 1"
"""Shows that the server answers."""


class Connection(Protocol):
    """What is used of a connection of the driver, which has no types of its own."""

    async def fetch(self, query: str, *arguments: object) -> list[Row]: ...
    async def execute(self, query: str) -> str: ...
    async def add_listener(self, channel: str, callback: Callable[[object, int, str, str], None]) -> None: ...
    def add_termination_listener(self, callback: Callable[[object], None]) -> None: ...
    def is_closed(self) -> bool: ...
    async def close(self, *, timeout: float) -> None: ...
    def terminate(self) -> None: ...


class ConnectionLost(Exception):
    """The connection is of no use any more. The statement may have been done, unless *may_have_run* is False."""

    def __init__(self, message: str, *, may_have_run: bool = True) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run


class Busy(Exception):
    """No connection became free in time."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call waits at most, in seconds: for its turn, for a connection, for an answer."""

    turn: float
    connect: float
    answer: float


class Connections:
    """
    At most *size* connections to *dsn*. Each new one is handed to *prepare*, until that has succeeded once.

    Not for two event loops, and not for a child of this process (`pid`): it would talk on its parent's connections.
    """

    def __init__(
        self,
        dsn: str,
        prepare: Callable[[Connection], Awaitable[None]],
        *,
        size: int,
        patience: Patience,
        statement_cache_size: int,
    ) -> None:
        self.pid = os.getpid()
        self._dsn = dsn
        self._prepare = prepare
        self._prepared = False
        self._patience = patience
        self._statement_cache_size = statement_cache_size
        self._loop = asyncio.get_running_loop()
        self._turns = asyncio.Semaphore(size)
        self._idle: deque[tuple[Connection, float]] = deque()  # the one used last is on the right
        self._closed = False

    async def ask(self, statement: str, *arguments: object, repeatable: bool) -> list[Row]:
        """
        Run one statement, which commits by itself, and return its rows.

        *repeatable* says that it does no harm to run twice and that the second answer is as good as the first.

        Raises:
            FAULTS, ConnectionLost, Busy: whether it ran is unknown, except after Busy.
        """
        await self._wait_for_turn()
        try:
            connection = self._take()
            if connection is not None and not repeatable:
                connection = await self._if_alive(connection)
            if connection is not None:
                try:
                    return await self._ask(connection, statement, arguments)
                except ConnectionLost as lost:
                    if lost.may_have_run and not repeatable:
                        raise
            return await self._ask(await self.open(), statement, arguments)
        finally:
            self._turns.release()

    async def open(self) -> Connection:
        """Return a new connection that nobody knows of: whoever asks has to close it."""
        patience = self._patience
        async with asyncio.timeout(patience.connect):
            connection: Connection = await asyncpg.connect(
                self._dsn,
                timeout=patience.connect,
                statement_cache_size=self._statement_cache_size,
                max_cached_statement_lifetime=0,
            )
            try:
                await connection.execute(_settings(statement_timeout=patience.answer))
            except BaseException:
                connection.terminate()
                raise
        if not self._prepared:
            try:
                await self._prepare(connection)
            except BaseException:
                connection.terminate()
                raise
            self._prepared = True
        return connection

    async def close(self) -> None:
        """Say good-bye on idle connections; the others end with what they are doing. Nothing can be asked any more."""
        self._closed = True
        idle = [connection for connection, _ in self._idle]
        self._idle.clear()
        await asyncio.gather(*(farewell(connection) for connection in idle))

    async def _wait_for_turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()  # does not wait
            return
        try:
            async with asyncio.timeout(self._patience.turn):
                await self._turns.acquire()
        except TimeoutError as error:
            raise Busy(f"no connection became free within {self._patience.turn:g} s") from error

    async def _ask(self, connection: Connection, statement: str, arguments: tuple[object, ...]) -> list[Row]:
        rows = await self._fetch(connection, statement, arguments)
        self._keep(connection)
        return rows

    async def _fetch(self, connection: Connection, statement: str, arguments: tuple[object, ...]) -> list[Row]:
        # The driver's own time-out would open another connection to cancel the statement, to a server that hangs.
        watchdog = self._loop.call_later(self._patience.answer, connection.terminate)
        try:
            return await connection.fetch(statement, *arguments)
        except FAULTS as error:
            if self._loop.time() >= watchdog.when():
                self._drop_idle()
                raise TimeoutError(f"no answer within {self._patience.answer:g} s") from error
            changed = isinstance(error, _ANOTHER_DATABASE)
            if changed or connection.is_closed() or not isinstance(error, asyncpg.PostgresError):
                connection.terminate()
                self._drop_idle()
                self._prepared = self._prepared and not changed
                raise ConnectionLost(str(error), may_have_run=not changed) from error
            self._keep(connection)
            raise
        except BaseException:
            connection.terminate()
            raise
        finally:
            watchdog.cancel()

    async def _if_alive(self, connection: Connection) -> Connection | None:
        try:
            await self._fetch(connection, ALIVE, ())
        except ConnectionLost:
            return None
        return connection

    def _take(self) -> Connection | None:
        """Return the idle connection that was used last, if it can be used; end those that cannot."""
        until = self._loop.time() - _IDLE_AT_MOST
        while self._idle:
            connection, idle_since = self._idle.pop()
            if idle_since > until and not connection.is_closed():
                return connection
            connection.terminate()
        return None

    def _keep(self, connection: Connection) -> None:
        now = self._loop.time()
        while self._idle and self._idle[0][1] <= now - _IDLE_AT_MOST:
            self._idle.popleft()[0].terminate()
        if self._closed or connection.is_closed():
            connection.terminate()
        else:
            self._idle.append((connection, now))

    def _drop_idle(self) -> None:
        """One connection broke, so the others probably did; they are not to fail a call each."""
        while self._idle:
            self._idle.pop()[0].terminate()


async def farewell(connection: Connection) -> None:
    """Close *connection* in good manners, for a second at most."""
    try:
        await connection.close(timeout=1.0)
    except FAULTS:
        connection.terminate()


def explain(error: Exception) -> str:
    """Say what went wrong and what to do, in one clause each. Nothing of the DSN is in it."""
    cause = error.__cause__ if isinstance(error, ConnectionLost) and error.__cause__ else error
    for kinds, advice in _ADVICE:
        if isinstance(cause, kinds):
            return f"{_text(cause)}: {advice}"
    return f"{_text(cause)}: check that the server runs and can be reached from here"


def _text(error: BaseException) -> str:
    if isinstance(error, asyncpg.ClientConfigurationError):
        return type(error).__name__  # its text may quote what is in the DSN
    # The first line: what follows is detail, and may name a key.
    return str(error).partition("\n")[0] or type(error).__name__


_ADVICE: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (asyncpg.ClientConfigurationError, "check the DSN"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "check user and password in the DSN (special characters stand there as %XX), and the server's pg_hba.conf",
    ),
    (asyncpg.InvalidCatalogNameError, "create the database, or give another one"),
    (asyncpg.InsufficientPrivilegeError, "grant this role SELECT, INSERT, UPDATE and DELETE on the tables coatcheck_*"),
    (
        (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError),
        "a pooler in between hands out connections by the transaction: set max_prepared_statements there, or "
        "`statement_cache_size` = 0 here",
    ),
    (asyncpg.TooManyConnectionsError, "raise max_connections of the server, or lower `max_connections` here"),
    (asyncpg.ReadOnlySQLTransactionError, "name the primary, or add ?target_session_attrs=read-write to the DSN"),
    (Busy, "the server is slow, or `max_connections` is too small for this load"),
    (TimeoutError, "check that the server runs, is not overloaded and can be reached from here"),
    (asyncpg.UndefinedObjectError, "check the options of the DSN, behind its ?"),
    (asyncpg.CannotConnectNowError, "it is stopping or starting; when that takes long, its log says why"),
    (asyncpg.AdminShutdownError, "it is stopping or starting; when that takes long, its log says why"),
    (asyncpg.PostgresError, "the server's log has more"),
)


def _settings(*, statement_timeout: float) -> str:
    """
    Return the statement that makes a connection ours, whatever the role or the database have as a default.

    A commit that is not durable would forget sent marks and renewed tokens; one stricter than `on` is left alone. A
    compare-and-swap has to see the row as it is after a wait, not as it was when the transaction began. A statement
    whose caller has given up does not stay behind, waiting for a lock: the server gives up a little earlier, so that
    the connection stays good.
    """
    return f"""
    SELECT set_config('statement_timeout', '{statement_timeout * 900:.0f}', false),
        set_config('default_transaction_isolation', 'read committed', false),
        set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), false),
        set_config('application_name', coalesce(nullif(current_setting('application_name'), ''), 'coatcheck'), false)
    """
