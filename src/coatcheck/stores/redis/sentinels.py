"""
Several servers of which one is the primary: ask their sentinels which, and follow it when that changes.

Sentinels move the primary while the old one may still run, and it goes on taking writes from whoever is connected until
a sentinel tells it that it is a replica, ten seconds later. So it is not enough to ask it, nor to wait for a refusal:
what the sentinels said is believed for one second, and asked again before the next use. When the answer is another one,
every connection to the old primary is cut at once.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from weakref import WeakSet

from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, ConnectionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as DriverTimeoutError

Address: TypeAlias = tuple[str, int]

_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_PLACE = re.compile(
    r"(?:(?P<user>[^/?#]*)@)?(?P<hosts>[^/?#@]+)/(?P<name>[A-Za-z0-9._-]+)(?:/(?P<database>[0-9]*))?(?:\?(?P<options>[^#]*))?"
)
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PORT = 26379

_BELIEVED = 1.0
"""Seconds for which an answer of a sentinel is good."""
_LEFT_ALONE = 5.0
"""Seconds between questions while no sentinel answers and the primary still does: each question costs its patience."""

_log = logging.getLogger("coatcheck")


class NoPrimary(ConnectionError):
    """The sentinels led to no primary. The text goes on from "the Redis server ..."."""


class Sentinels:
    """
    The sentinels in *url*, asked in turn from one event loop: all together have *patience* seconds for an answer.

    *settings* are the driver's, for connections to them and to the primary.

    Raises:
        ValueError: *url* is not of this form. Nothing of it is in the message.
    """

    def __init__(self, url: str, *, patience: float, settings: dict[str, Any]) -> None:
        scheme, _, place = url.partition("://")
        found = _PLACE.fullmatch(place)
        if found is None:
            raise ValueError("not a URL of sentinels")
        # The driver's own reading of users, passwords and options; it knows one host only.
        base = f"{_SCHEMES[scheme]}://{found['user'] or ''}@primary/{found['database'] or ''}?{found['options'] or ''}"
        options = settings | dict(parse_url(base))
        who = {
            word: options.pop(f"sentinel_{word}") for word in ("username", "password") if f"sentinel_{word}" in options
        }
        theirs = {word: value for word, value in options.items() if word not in _PRIMARY_ONLY} | who
        kind, to_primary = (SSLConnection, _Secure) if _SCHEMES[scheme] == "rediss" else (Connection, _Plain)
        addresses = [_address(host) for host in found["hosts"].split(",")]
        self.options: dict[str, Any] = {**options, "connection_class": to_primary, "sentinels": self}
        """For the pool of connections to the primary."""
        self.connections: WeakSet[Connection] = WeakSet()
        """To the primary, whoever they belong to."""
        self.address: Address | None = None
        """The last answer."""
        self.where = f"{found['name']} of the sentinels {','.join(f'{host}:{port}' for host, port in addresses)}"
        self._name = found["name"]
        self._sentinels = deque(kind(**theirs | {"host": host, "port": port}) for host, port in addresses)
        self._patience = patience / (len(addresses) + 1)
        self._asking = asyncio.Lock()
        self._believed_until = 0.0
        self._left_alone_until = 0.0

    async def primary(self) -> Address:
        """
        Return where the primary is, as a sentinel said within the last second.

        Raises:
            NoPrimary: none of them says it.
        """
        async with self._asking:
            if self.address is None or _now() >= self._believed_until:
                asked_at = _now()
                address = await self._ask_in_turn()
                self._believed_until = asked_at + _BELIEVED
                if address != self.address:
                    self.address = address
                    await self._cut_the_others()
            return self.address

    async def follow(self) -> None:
        """Make sure that the primary is still the one, if a sentinel can be asked. If not, nothing changes."""
        if _now() < max(self._believed_until, self._left_alone_until):
            return
        try:
            await self.primary()
        except NoPrimary as error:
            self._left_alone_until = _now() + _LEFT_ALONE
            _log.warning("the Redis server %s %s. Until then a failover may go unnoticed.", self.where, error)

    def doubt(self) -> None:
        """After a fault: ask again before the next use, and another one, since this one may be the last to know."""
        if self._believed_until:  # faults that come together are one doubt
            self._sentinels.rotate(-1)
        self._believed_until = self._left_alone_until = 0.0

    async def close(self) -> None:
        """Cut the connections to the sentinels."""
        for sentinel in self._sentinels:
            await sentinel.disconnect(nowait=True)

    async def _ask_in_turn(self) -> Address:
        faults: list[Exception] = []
        # One more than there are: the connection that was kept may have been closed meanwhile.
        for _ in range(len(self._sentinels) + 1):
            sentinel = self._sentinels[0]
            was_kept = sentinel.is_connected
            try:
                async with asyncio.timeout(self._patience):
                    return await self._ask(sentinel)
            except (
                RedisError,
                OSError,
                AttributeError,
                RuntimeError,
            ) as error:  # the last two as in `connections.send`
                await sentinel.disconnect(nowait=True)
                if was_kept and not isinstance(error, (TimeoutError, DriverTimeoutError)):
                    continue
                faults.append(error)
                if self._sentinels[0] is sentinel:  # nobody had doubts meanwhile
                    self._sentinels.rotate(-1)
        raise NoPrimary(_what_to_do(faults)) from faults[-1]

    async def _ask(self, sentinel: Connection) -> Address:
        await sentinel.connect()  # type: ignore[no-untyped-call]
        await sentinel.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        answer = await sentinel.read_response()
        if answer is None:
            raise _UnknownName
        host, port = answer
        return host.decode(), int(port)

    async def _cut_the_others(self) -> None:
        """What waits for an answer there fails, and may be repeated at the new primary."""
        for connection in list(self.connections):
            if (connection.host, connection.port) != self.address:
                await connection.disconnect(nowait=True)


class _Plain(Connection):
    """A connection to the primary, wherever that is when it is opened."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels
        sentinels.connections.add(self)

    async def connect(self) -> None:
        """Be connected to the primary. The pool calls this before each use."""
        if self.is_connected:
            await self._sentinels.follow()
        await super().connect()  # type: ignore[no-untyped-call]

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Open the connection. The driver calls this wherever it finds it closed."""
        if not self.is_connected:
            self.host, self.port = await self._sentinels.primary()
            await super().connect_check_health(check_health, retry_socket_connect)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Say who we are, and refuse a server that is no primary."""
        await super().on_connect_check_health(check_health)
        # HELLO tells what ROLE tells, and needs no right that other commands do not need.
        await self.send_command("HELLO", check_health=False)
        answer = await self.read_response()
        role = dict(zip(answer[::2], answer[1::2], strict=True)).get(b"role")
        if role != b"master":
            raise NoPrimary(
                f"has none just now: {self.host}:{self.port}, which a sentinel names, is a replica. A failover is "
                "under way; this passes by itself"
            )
        if (self.host, self.port) != self._sentinels.address:
            raise ConnectionError("the primary moved meanwhile")


class _Secure(_Plain, SSLConnection):
    """The same by TLS."""


class _UnknownName(ResponseError):
    """The sentinel watches no primary of this name."""


_PRIMARY_ONLY = {"username", "password", "db", "host", "connection_class", "max_connections"}


def is_sentinel_url(url: str) -> bool:
    """Whether *url* is for `Sentinels`, right or wrong."""
    return url.partition("://")[0] in _SCHEMES


def _address(host: str) -> Address:
    if not _HOST.fullmatch(host):
        raise ValueError("not a host")
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or _PORT


def _what_to_do(faults: list[Exception]) -> str:
    """Say why no sentinel helped. What the last one says is as good as any, unless all say the same."""
    if all(isinstance(fault, _UnknownName) for fault in faults):
        return "is unknown to them: correct the name in the URL, SENTINEL MASTERS lists those that they know"
    fault = next(fault for fault in reversed(faults) if not isinstance(fault, _UnknownName))
    text = str(fault)[:200] or "no answer in time"
    remedy = "check that they run, and that this machine may reach them"
    if isinstance(fault, AuthenticationError):
        remedy = "put their own password into the URL, ?sentinel_password=PASSWORD, and sentinel_username where needed"
    elif isinstance(fault, ResponseError):
        remedy = "check that these are the sentinels, and that their ACL lets this user have +sentinel"
    return f"cannot be found, none of these says where it is ({text}): {remedy}"


def _now() -> float:
    return asyncio.get_running_loop().time()
