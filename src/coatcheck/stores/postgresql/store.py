"""Sessions, leases, values and messages in one PostgreSQL database, for any number of processes and nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.errors import ConfigurationError
from coatcheck.stores.postgresql.cleaning import Cleaning
from coatcheck.stores.postgresql.connections import FAULTS, ConnectionLost, Patience
from coatcheck.stores.postgresql.database import Database
from coatcheck.stores.postgresql.leases import LeasesInPostgreSQL
from coatcheck.stores.postgresql.listening import PUBLISH, payload
from coatcheck.stores.postgresql.sessions import SessionsInPostgreSQL
from coatcheck.stores.postgresql.values import ValuesInPostgreSQL


class PostgreSQLStore(SessionsInPostgreSQL, LeasesInPostgreSQL, ValuesInPostgreSQL):
    """
    Everything a store can do, in the PostgreSQL database (12 or newer) that *dsn* names.

    The tables `coatcheck_*` are made on first use, in the first schema of the search path, and brought to the schema of
    a later release by its first use. Where the role may not do that, their owner runs what
    `python -m coatcheck.stores.postgresql` prints. What ended is deleted now and then behind a write, at most a hundred
    of a kind at once.

    *max_connections* is how many each event loop of each process opens at most, as they are needed; one more listens
    for messages, once somebody subscribes. *connect_timeout*, *operation_timeout* (of one statement) and *pool_timeout*
    (for a free connection) bound every call. After a restart of the server the next call works again.

    **TLS.** Without an `sslmode` the driver asks for TLS, verifies nothing, and does without where there is none:
    whoever stands in between gets the password. Over a network that others can reach, write `?sslmode=verify-full`, and
    `&sslrootcert=FILE` with the certificate authority of the server; `require` encrypts, but verifies nobody.

    With several servers in the DSN, add `?target_session_attrs=read-write`: then a failover needs nothing from us.
    A synchronous standby keeps what it is meant to keep; an asynchronous one may lose sent marks and renewed tokens.

    **PgBouncer** works in session mode as it is. In transaction mode, version 1.21 or newer with
    `max_prepared_statements` works, or *statement_cache_size* = 0; neither carries `subscribe`, and the role must have
    `synchronous_commit` on and `read committed` as its defaults, for settings of a connection do not last there.

    Raises:
        ConfigurationError: *dsn* is no DSN of PostgreSQL, or *max_connections* is less than one.
    """

    def __init__(
        self,
        dsn: str,
        clock: Clock = SYSTEM_CLOCK,
        *,
        connect_timeout: timedelta = timedelta(seconds=2),
        operation_timeout: timedelta = timedelta(seconds=2),
        pool_timeout: timedelta = timedelta(seconds=2),
        max_connections: int = 10,
        statement_cache_size: int = 100,
    ) -> None:
        if max_connections < 1:
            raise ConfigurationError(f"max_connections is {max_connections}: a store needs at least one")
        patience = Patience(
            pool_timeout.total_seconds(), connect_timeout.total_seconds(), operation_timeout.total_seconds()
        )
        self._clock = clock
        self._database = Database(
            dsn, size=max_connections, patience=patience, statement_cache_size=statement_cache_size
        )
        self._cleaning = Cleaning(self._database, clock)

    def __repr__(self) -> str:
        return f"PostgreSQLStore({self._database.where!r})"

    async def migrate(self) -> list[str]:
        """See `HasSchema.migrate`."""
        return await self._database.migrate()

    async def publish(self, channel: str, message: bytes) -> None:
        """See `Notifier.publish`."""
        await self._database.ask(PUBLISH, payload(channel, message), repeatable=True)

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See `Notifier.subscribe`. All channels share one connection, which stays until `aclose`."""
        return self._subscribe(channel)

    @asynccontextmanager
    async def _subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        try:
            subscriber = await self._database.here().listener.subscribe(channel, self._database.unavailable)
        except (*FAULTS, ConnectionLost) as error:
            raise self._database.unavailable(error) from error
        try:
            yield subscriber
        finally:
            subscriber.leave()

    async def aclose(self) -> None:
        """Close what this event loop holds open. The next use opens it again."""
        await self._database.aclose()
