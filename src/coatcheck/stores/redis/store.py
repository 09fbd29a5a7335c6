"""All that processes and nodes share, in one Redis or Valkey server."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from weakref import WeakKeyDictionary

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.coordination import ExpiringValue, Lease, SentMark
from coatcheck.errors import LeaseLost, SessionGone, StaleVersion, StoreUnavailable
from coatcheck.sessions.store import Change, SessionRow, Touch
from coatcheck.stores.redis import records, scripts
from coatcheck.stores.redis.connections import Answer, Connections, check_url
from coatcheck.stores.redis.messages import channel_name
from coatcheck.stores.redis.per_loop import PerLoop

_LINGER = 1.0
"""Seconds that the server keeps what has ended: the clocks of nodes differ a little, and commands take time."""
_AT_ONCE = 100
"""Commands side by side: few enough that the last of them has its answer in time."""


class RedisStore:
    """
    Sessions, leases and small values in the Redis (from 7.0) or Valkey server at *url*: the store for many nodes.

    The URL is redis://[[USER]:PASSWORD@]HOST[:PORT][/NUMBER], rediss:// for TLS, or unix://PATH. One server, or the
    primary of several: reads go there, too, since a replica may lag behind. When a failover moves the address (a name,
    a virtual IP) to another server, the first write that the old one refuses leads to the new one. Cluster is not
    spoken; the keys are ready for it.

    **Sentinels.** redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,...]/NAME[/NUMBER] leads to the primary that they
    call NAME; with rediss+sentinel:// both they and it are spoken to by TLS. USER and PASSWORD are for the primary;
    theirs, if they have any, are the options `sentinel_username` and `sentinel_password`. They are asked in turn,
    within *connect_timeout* altogether: for each new connection, after each fault, and once a second while the store
    is used. When the primary moves, every connection to the old one is cut, subscriptions included, even if it still
    lives. While no sentinel answers, the store stays with the primary it has, and logs that.

    **What the server has to keep.** A sent mark that a crash of the server forgets lets a refresh token be sent twice,
    which a strict provider answers by ending the grant. `appendonly yes` with `appendfsync everysec` may forget one
    second, with `always` nothing; without either a restart of the server logs everybody out. A failover forgets what
    the replica had not received, and what a primary that was replaced took while it was still believed to be one (with
    sentinels: one second, and the one or two that they need to tell each other). The store does not wait for replicas
    (WAIT); `min-replicas-to-write 1` makes a primary without a replica refuse.

    **What the server must not do.** Any `maxmemory-policy` but `noeviction` lets it drop sessions and leases when its
    memory is full; the log says so at the first use.

    The server has *operation_timeout* for an answer, connecting included: a call ends by then, or one of the few that
    ask more than once (a login, a logout) at the first answer that is missing. At most *max_connections* are open for
    each process and event loop, and one more for subscriptions.

    Raises:
        ConfigurationError: *url* cannot be the address of a server.
    """

    def __init__(
        self,
        url: str,
        clock: Clock = SYSTEM_CLOCK,
        *,
        connect_timeout: timedelta = timedelta(seconds=2),
        operation_timeout: timedelta = timedelta(seconds=2),
        max_connections: int = 16,
    ) -> None:
        check_url(url)
        self._url = url
        self._clock = clock
        self._connect_timeout = connect_timeout
        self._operation_timeout = operation_timeout
        self._max_connections = max_connections
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, PerLoop] = WeakKeyDictionary()
        self._looked_at_eviction = False

    def __repr__(self) -> str:
        return "RedisStore(...)"  # there may be a password in the URL

    # Sessions

    async def create(self, row: SessionRow) -> None:
        """
        See `SessionStore.create`.

        The row comes first, then the index: a crash in between leaves a row that nobody can find, and whose ticket
        nobody has got.
        """
        server, write_id = self._server(), secrets.token_bytes(records.WRITE_ID)
        data = records.encode_row(row, write_id)
        key = records.session_key(row.key)
        done = await server.run(scripts.CREATE_SESSION, key, data, self._milliseconds_to(row.dead_at), write_id)
        if done != scripts.DONE:
            raise StaleVersion("there is a session under this key already")
        ends = self._milliseconds_to(row.expires_at)
        await asyncio.gather(*(server.run(scripts.ADD_TO_INDEX, index, row.key, ends) for index in _indexes(row)))

    async def load(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.load`. Loads that begin in one tick of the event loop share one command."""
        data = await self._server().reads.read(records.session_key(key))
        return None if data is None else records.decode_row(key, data)

    async def update(self, key: bytes, change: Change) -> None:
        """See `SessionStore.update`."""
        server, name = self._server(), records.session_key(key)
        if isinstance(change, Touch):
            seen, now = records.encode_instant(change.seen_at), records.encode_instant(self._clock.time())
            done = await server.run(scripts.TOUCH, name, seen, now, int(_LINGER * 1000))
        else:
            write_id = secrets.token_bytes(records.WRITE_ID)
            done = await server.run(scripts.REPLACE_PART, name, change.part, change.version, change.data, write_id)
        if done == scripts.GONE:
            raise SessionGone("the session was deleted")
        if done == scripts.STALE:
            raise StaleVersion("this part of the session was replaced meanwhile")
        if done != scripts.DONE:
            raise records.unreadable()

    async def delete(self, key: bytes) -> SessionRow | None:
        """See `SessionStore.delete`."""
        row = await self._take(key)
        if row is not None:
            await self._take_out([row])
        return row

    # Sessions by whom they are about

    async def find(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """See `SessionIndex.find`."""
        server = self._server()
        rows: dict[bytes, SessionRow] = {}
        for index_key in index_keys:
            index = records.index_key(partition, index_key)
            keys = _members(await server.call("ZRANGE", index, 0, -1))
            found = await asyncio.gather(*map(self.load, keys))
            rows.update((row.key, row) for row in found if row is not None)
            if gone := [key for key, row in zip(keys, found, strict=True) if row is None]:
                await server.call("ZREM", index, *gone)
        return list(rows.values())

    async def revoke(self, partition: str, index_keys: Sequence[bytes]) -> list[SessionRow]:
        """See `SessionIndex.revoke`. Not one after the other: a server that syncs its file does so for several."""
        found = await self.find(partition, index_keys)
        revoked: list[SessionRow] = []
        for begin in range(0, len(found), _AT_ONCE):
            some = found[begin : begin + _AT_ONCE]
            taken = await asyncio.gather(*(self._take(row.key) for row in some), return_exceptions=True)
            rows = [row for row in taken if isinstance(row, SessionRow)]
            await self._take_out(rows)
            for fault in taken:
                if isinstance(fault, BaseException):
                    raise fault
            revoked += rows
        return revoked

    async def expire(self, now: float, *, limit: int) -> int:
        """See `SessionIndex.expire`. The server does that by itself: 0."""
        return 0

    # Leases

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        """See `LeaseStore.acquire`."""
        mark = await self._server().run(scripts.ACQUIRE, records.lease_key(key), holder, _milliseconds(seconds))
        return Lease(key, holder, records.decode_mark(mark)) if isinstance(mark, bytes) else None

    async def mark_sent(self, key: bytes, holder: bytes, mark: SentMark, *, seconds: float, until: float) -> None:
        """See `LeaseStore.mark_sent`."""
        keep = _milliseconds(until - self._clock.time())
        words = (holder, _milliseconds(seconds), records.encode_mark(mark), keep)
        _still_ours(await self._server().run(scripts.MARK_SENT, records.lease_key(key), *words))

    async def extend(self, key: bytes, holder: bytes, *, seconds: float) -> None:
        """See `LeaseStore.extend`."""
        words = (holder, _milliseconds(seconds))
        _still_ours(await self._server().run(scripts.EXTEND, records.lease_key(key), *words))

    async def release(self, key: bytes, holder: bytes, *, mark: SentMark | None) -> None:
        """See `LeaseStore.release`."""
        left = b"" if mark is None else records.encode_mark(mark)
        await self._server().run(scripts.RELEASE, records.lease_key(key), holder, left)

    # Values that end by themselves

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        """See `ExpiringStore.add`."""
        write_id = secrets.token_bytes(records.WRITE_ID)
        data = records.encode_value(value, version=1, until=until, write_id=write_id)
        words = (records.encode_instant(self._clock.time()), write_id, data, self._milliseconds_to(until))
        return await self._server().run(scripts.ADD_VALUE, records.value_key(key), *words) == scripts.DONE

    async def get(self, key: bytes) -> ExpiringValue | None:
        """See `ExpiringStore.get`. It shares one command with the loads of the same tick."""
        data = await self._server().reads.read(records.value_key(key))
        return None if data is None else records.decode_value(data, now=self._clock.time())

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        """See `ExpiringStore.replace`."""
        write_id = secrets.token_bytes(records.WRITE_ID)
        data = records.encode_value(value, version=version + 1, until=until, write_id=write_id)
        words = (records.encode_instant(self._clock.time()), write_id, data, self._milliseconds_to(until), version)
        if await self._server().run(scripts.REPLACE_VALUE, records.value_key(key), *words) != scripts.DONE:
            raise StaleVersion("another version of this value is there now, or none any more")

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        """See `ExpiringStore.discard`."""
        words = (records.encode_instant(self._clock.time()), "" if version is None else version)
        done = await self._server().run(scripts.DISCARD_VALUE, records.value_key(key), *words, repeat=False)
        return done == scripts.DONE

    # Messages

    async def publish(self, channel: str, message: bytes) -> None:
        """See `Notifier.publish`."""
        await self._server().call("PUBLISH", channel_name(channel), message)

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See `Notifier.subscribe`. A subscriber that leaves 256 messages unread misses the further ones."""
        return self._subscribed(channel)

    async def aclose(self) -> None:
        """Close what this event loop holds open. The next use opens it again."""
        server = self._loops.pop(asyncio.get_running_loop(), None)
        if server is not None and server.pid == os.getpid():
            await server.close()

    @asynccontextmanager
    async def _subscribed(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._server().subscriptions.subscribe(channel) as messages:
            yield messages

    def _server(self) -> PerLoop:
        """Return what belongs to this process and event loop."""
        loop = asyncio.get_running_loop()
        server = self._loops.get(loop)
        if server is None or server.pid != os.getpid():
            server = self._loops[loop] = PerLoop(
                Connections(
                    self._url,
                    connect_timeout=self._connect_timeout,
                    operation_timeout=self._operation_timeout,
                    most=self._max_connections,
                )
            )
            if not self._looked_at_eviction:
                self._looked_at_eviction = True
                server.look_at_eviction()
        return server

    async def _take(self, key: bytes) -> SessionRow | None:
        """Delete a row and return it, to one of all who try."""
        data = await self._server().call("GETDEL", records.session_key(key), repeat=False)
        return records.decode_row(key, data) if isinstance(data, bytes) else None

    async def _take_out(self, rows: Sequence[SessionRow]) -> None:
        """Take *rows*, which are gone, out of the indexes. What goes wrong here `find` makes good."""
        server = self._server()
        listed: dict[str, list[bytes]] = {}
        for row in rows:
            for index in _indexes(row):
                listed.setdefault(index, []).append(row.key)
        with suppress(StoreUnavailable):
            await asyncio.gather(*(server.call("ZREM", index, *keys) for index, keys in listed.items()))

    def _milliseconds_to(self, instant: float) -> int:
        """How long the server keeps what ends at *instant*: a duration, because its clock may differ from ours."""
        return _milliseconds(max(0.0, instant - self._clock.time()) + _LINGER)


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def _indexes(row: SessionRow) -> list[str]:
    """Where a session is listed."""
    keys = [row.sub_key] if row.sid_key is None else [row.sub_key, row.sid_key]
    return [records.index_key(row.partition, key) for key in keys]


def _members(answer: Answer) -> list[bytes]:
    return [member for member in answer if member is not None] if isinstance(answer, list) else []


def _still_ours(answer: Answer) -> None:
    if answer != scripts.DONE:
        raise LeaseLost("somebody else took the lease, or it ran out")
