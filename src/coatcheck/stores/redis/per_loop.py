"""What one event loop of one process has to do with the server: connections, joined reads, subscriptions."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context

from coatcheck.errors import StoreUnavailable
from coatcheck.stores.redis.connections import Connections, keep_over_a_fork
from coatcheck.stores.redis.messages import Subscriptions
from coatcheck.stores.redis.reads import JoinedReads

_log = logging.getLogger("coatcheck")


class PerLoop:
    """Made on first use, and made again after `close` or in a forked process."""

    def __init__(self, connections: Connections) -> None:
        self.pid = os.getpid()
        self.call = connections.call
        self.run = connections.run
        self.reads = JoinedReads(self._read_many, patience=connections.operation_timeout)
        self.subscriptions = Subscriptions(connections)
        self._connections = connections
        self._looking: asyncio.Task[None] | None = None
        keep_over_a_fork(self)

    def look_at_eviction(self) -> None:
        """Warn, once and beside the first use, if the server may drop what it was given to keep."""
        self._looking = asyncio.get_running_loop().create_task(self._look_at_eviction(), context=Context())

    async def close(self) -> None:
        """Cut every connection. Who waits for something gets `StoreUnavailable`."""
        if self._looking is not None:
            self._looking.cancel()
        self.subscriptions.close()
        self.reads.close()
        await self._connections.close()

    async def _read_many(self, keys: Sequence[str], until: float) -> list[bytes | None]:
        if len(keys) == 1:
            found = await self.call("GET", keys[0], until=until)
            return [found if isinstance(found, bytes) else None]
        rows = await self.call("MGET", *keys, until=until)
        return rows if isinstance(rows, list) else []

    async def _look_at_eviction(self) -> None:
        # INFO tells it where CONFIG is forbidden, as with most servers that one rents.
        with suppress(StoreUnavailable):
            info = await self.call("INFO", "memory")
            lines = info.decode().splitlines() if isinstance(info, bytes) else []
            memory = dict(line.split(":", 1) for line in lines if ":" in line)
            policy = memory.get("maxmemory_policy", "noeviction")
            if policy != "noeviction":
                _log.warning(
                    "the Redis server %s has maxmemory-policy %s: when its memory is full it drops sessions (users are "
                    "logged out) and leases (a refresh token may be used twice). Set it to noeviction.",
                    self._connections.address,
                    policy,
                )
