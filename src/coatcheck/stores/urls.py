"""From the URL of a store to the store: one place that knows the kinds, and never repeats a password."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.coordination import ExpiringStore, LeaseStore, Notifier
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.store import SessionIndex, SessionStore
from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore

StoreKind: TypeAlias = Literal["memory", "sqlite", "postgresql", "redis"]

KNOWN_STORES = (
    '"sqlite:///path/to/sessions.db", "postgresql://HOST/DATABASE", "redis://HOST", '
    '"redis+sentinel://HOST,HOST,HOST/NAME" or "memory"'
)
"""For messages that say what may be written."""

_KINDS: dict[str, StoreKind] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "redis": "redis",
    "rediss": "redis",
    "valkey": "redis",
    "valkeys": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "redis",
    "valkey+sentinel": "redis",
    "valkeys+sentinel": "redis",
}
_OTHER_NAMES = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+sentinel": "redis+sentinel",
    "valkeys+sentinel": "rediss+sentinel",
}
"""The driver knows the protocol by its older name only."""
_EXTRAS: dict[StoreKind, str] = {"postgresql": "postgres", "redis": "redis"}
_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*")
_DATABASE = re.compile(r"(?:/[A-Za-z0-9._-]*(?:/[0-9]*)?)?")


class Store(SessionStore, SessionIndex, LeaseStore, ExpiringStore, Notifier, Protocol):
    """All that a store of this package does."""

    async def aclose(self) -> None:
        """Close what this event loop holds open. The next use opens it again."""
        ...


class StoreURL:
    """Where a store is. As text (`str`, `repr`) it has neither user, password nor options: it may stand in a log."""

    __slots__ = ("kind", "url")

    def __init__(self, kind: StoreKind, url: str) -> None:
        self.kind: StoreKind = kind
        self.url: str = url

    @classmethod
    def parse(cls, url: str) -> StoreURL:
        """
        Tell the kind of a store by its URL, and refuse what people write by mistake. Nothing is opened.

        Raises:
            ConfigurationError: an unknown kind, a URL without a place, or a password with signs that end it too early.
        """
        if url == "memory":
            return cls("memory", url)
        scheme, separator, place = url.partition("://")
        kind = _KINDS.get(scheme) if separator else None
        if kind is None:
            raise ConfigurationError(f"{_shown(url)} is not a kind of store: use {KNOWN_STORES}")
        if kind == "sqlite":
            _check_path(place)
        else:
            _check_address(scheme, place)
        return cls(kind, url)

    def path(self, folder: Path | None = None) -> Path:
        """Return the file of an SQLite store. A relative one starts at *folder*, or at the current directory."""
        return (folder or Path()) / self.url.removeprefix("sqlite://")

    @property
    def holds_password(self) -> bool:
        """Whether the URL itself authenticates us."""
        if self.kind in ("memory", "sqlite"):
            return False
        authority, _, query = self.url.partition("://")[2].partition("?")
        user_information, at, _ = authority.rpartition("@")
        return bool(at and user_information.partition(":")[2]) or "password=" in query

    def __str__(self) -> str:
        return self.url if self.kind in ("memory", "sqlite") else _shown(self.url)

    def __repr__(self) -> str:
        return f"<StoreURL {self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreURL) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)


def open_store(url: str | StoreURL, *, clock: Clock = SYSTEM_CLOCK, folder: Path | None = None) -> Store:
    """
    Make the store that *url* names. Nothing is connected or written before its first use.

    Known are `memory`, `sqlite:///absolute/path`, `sqlite://path/below/folder`, `postgresql://`, `redis://`, and
    `rediss://` for TLS, `redis+sentinel://` and `rediss+sentinel://` for the primary that sentinels name; with `valkey`
    and `valkeys` in place of `redis` and `rediss` they mean the same.

    Raises:
        ConfigurationError: as `StoreURL.parse`, or the library that talks to this kind of store is not installed.
    """
    place = url if isinstance(url, StoreURL) else StoreURL.parse(url)
    try:
        match place.kind:
            case "memory":
                return MemoryStore(clock=clock)
            case "sqlite":
                return SQLiteStore(place.path(folder), clock=clock)
            case "postgresql":
                from coatcheck.stores.postgresql import PostgreSQLStore

                return PostgreSQLStore(place.url, clock=clock)
            case "redis":
                from coatcheck.stores.redis import RedisStore

                return RedisStore(_for_the_driver(place.url), clock=clock)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("coatcheck"):
            raise
        extra = _EXTRAS[place.kind]
        message = f"{error.name} is not installed, which {place} needs: pip install 'coatcheck[{extra}]'"
        raise ConfigurationError(message) from error


def _check_path(path: str) -> None:
    if not path.strip("/"):
        raise ConfigurationError(f"names no file: use {KNOWN_STORES}")
    if path.startswith("/") and path.count("/") == 1:
        # Other libraries read three slashes as a relative path; nobody wants a database beside /etc and /usr.
        raise ConfigurationError(
            f"{path} is in the root of the file system: write sqlite:/{path} for a relative path, or name a folder"
        )


def _check_address(scheme: str, place: str) -> None:
    authority = re.split(r"[/?#]", place, maxsplit=1)[0]
    if "@" in place[len(authority) :]:
        raise ConfigurationError(
            f"{scheme}://... has an @ behind its host: in a user name or password write %2F for a slash, %3F for a "
            "question mark, %23 for #, %40 for @"
        )
    host = authority.rpartition("@")[2]
    if host.startswith(":") or (not host and _KINDS[scheme] != "postgresql"):  # that may be a socket, or the default
        raise ConfigurationError(f"{scheme}://... names no host: use {KNOWN_STORES}")
    if scheme.endswith("+sentinel") and not re.match(r"/[A-Za-z0-9._-]", place[len(authority) :]):
        raise ConfigurationError(
            f"{scheme}://... does not say which primary: give the name that its sentinels know it by, "
            f"{scheme}://HOST:26379,HOST:26379,HOST:26379/NAME"
        )


def _for_the_driver(url: str) -> str:
    scheme, separator, place = url.partition("://")
    return _OTHER_NAMES.get(scheme, scheme) + separator + place


def _shown(url: str) -> str:
    """Return scheme, host and database; "..." for what may be, or hide, something else."""
    scheme, separator, place = url.partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+-]*", scheme):
        return "..."  # perhaps a password that was read from the wrong file
    authority = re.split(r"[/?#]", place, maxsplit=1)[0]
    rest = place[len(authority) :]
    host, database = authority.rpartition("@")[2], re.split(r"[?#]", rest, maxsplit=1)[0]
    if "@" in rest or not _HOSTS.fullmatch(host) or not _DATABASE.fullmatch(database):
        return f"{scheme}://..."
    return f"{scheme}://{host}{database}"
