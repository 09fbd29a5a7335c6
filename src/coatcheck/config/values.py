"""
The values that TOML has no type for, as they are written in the gateway's file: durations, secrets, addresses.

The decoder asks for help only with types that it does not know, so these are plain classes and no dataclasses.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from coatcheck.bff.own_headers import HSTS_VALUE
from coatcheck.bff.public_url import is_loopback
from coatcheck.errors import ConfigurationError
from coatcheck.stores.urls import StoreURL

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|d)")


class Duration(timedelta):
    """`"30s"`, `"1.5h"`: a number and one of ms, s, m, h, d."""

    @classmethod
    def read(cls, value: object) -> Duration:
        """Raise ValueError for what is no duration."""
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f'expected a duration such as "30s", "5m" or "8h", not {_shown(value)}')
        seconds = float(match[1]) * _UNITS[match[2]]
        if not 0 < seconds <= 366 * 86400:
            raise ValueError(f"expected a duration between 1ms and 366d, not {value!r}")
        return cls(seconds=seconds)


class HSTS:
    """`"30d"`, `"off"`, or a whole value such as `"max-age=31536000; includeSubDomains"`."""

    __slots__ = ("policy",)

    def __init__(self, policy: timedelta | str | None) -> None:
        self.policy: timedelta | str | None = policy

    @classmethod
    def read(cls, value: object) -> HSTS:
        """Raise ValueError for what is none of these."""
        if value == "off":
            return cls(None)
        if isinstance(value, str) and HSTS_VALUE.fullmatch(value):
            return cls(value)
        try:
            return cls(Duration.read(value))
        except ValueError:
            message = 'expected "off", a duration such as "30d", or "max-age=31536000; includeSubDomains", not '
            raise ValueError(message + _shown(value)) from None


class Listen:
    """`"127.0.0.1:8080"`: where the gateway is bound. The host is an address, because a name may have several."""

    __slots__ = ("host", "port")

    def __init__(self, host: str, port: int) -> None:
        self.host: str = host
        self.port: int = port

    @classmethod
    def read(cls, value: object) -> Listen:
        """Raise ValueError for what is no address with a port."""
        host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        try:
            address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
            number = int(port)
        except ValueError:
            number, address = -1, None
        if address is None or not 1 <= number <= 65535:
            raise ValueError(f'expected an address and a port such as "127.0.0.1:8080", not {_shown(value)}')
        return cls(str(address), number)

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Network:
    """`"10.0.0.0/8"` or one address: whose `X-Forwarded-For` is believed."""

    __slots__ = ("_network",)

    def __init__(self, text: str) -> None:
        self._network = ipaddress.ip_network(text)

    @classmethod
    def read(cls, value: object) -> Network:
        """Raise ValueError for what is no network."""
        try:
            return cls(str(value))
        except ValueError as error:
            raise ValueError(f'expected an address or a network such as "10.0.0.0/8": {error}') from None

    def __contains__(self, address: object) -> bool:
        try:
            return ipaddress.ip_address(str(address)) in self._network
        except ValueError:
            return False

    def __str__(self) -> str:
        return str(self._network)


@dataclass(frozen=True, slots=True)
class SecretReader:
    """
    Reads `{ env = "NAME" }` and `{ file = "path" }`.

    Paths are relative to *folder*. A secret that stands in the file as plain text is accepted in *development* only:
    files with secrets end up in repositories, images and backups.
    """

    folder: Path
    development: bool

    def read(self, value: object) -> Secret:
        """Fetch the secret from where *value* says; raise ValueError if it is not there. Never repeats a secret."""
        match value:
            case {"env": str(name), **rest} if not rest:
                return Secret(_from_environment(name))
            case {"file": str(name), **rest} if not rest:
                return Secret(_from_file(self.folder / name, name))
            case str() if self.development:
                return Secret(value)
            case str():
                raise ValueError(f"a secret does not stand in the file itself: {_HOW}")
        raise ValueError(f"not a secret: {_HOW}")

    def read_store(self, value: object) -> StorePlace:
        """Read `"cookie"` or the URL of a store, which is a secret when it holds a password; raise ValueError."""
        text = value if isinstance(value, str) else self.read(value).text
        if text == "cookie":
            return StorePlace(None)
        meant = get_close_matches(text.lower(), _STORE_WORDS, n=1) if "://" not in text else []
        if meant and text != "memory":
            raise ValueError(f'is no place to keep anything: did you mean "{_STORE_WORDS[meant[0]]}"?')
        try:
            place = StorePlace(StoreURL.parse(text))
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        if isinstance(value, str) and place.url is not None and place.url.holds_password and not self.development:
            raise ValueError(f"the password in {place} does not stand in the file itself: for the whole URL {_HOW}")
        return place


class Secret:
    """A secret that was read from where it is kept."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text: str = text


class StorePlace:
    """Where sessions rest: at a URL, or (None) in cookies. It prints itself without credentials."""

    __slots__ = ("url",)

    def __init__(self, url: StoreURL | None) -> None:
        self.url: StoreURL | None = url

    @property
    def in_memory(self) -> bool:
        return self.url is not None and self.url.kind == "memory"

    def __str__(self) -> str:
        return "cookie" if self.url is None else str(self.url)

    __repr__ = __str__


_STORE_WORDS = {
    "cookie": "cookie",
    "memory": "memory",
    "sqlite": "sqlite:///path/to/sessions.db",
    "postgresql": "postgresql://HOST/DATABASE",
    "postgres": "postgresql://HOST/DATABASE",
    "redis": "redis://HOST",
    "valkey": "valkey://HOST",
}
"""What is meant by a word that stands alone, or nearly that word. The word itself may be anything, a secret too."""

_HOW = 'write { env = "NAME" } or { file = "path" }'


def _from_environment(name: str) -> str:
    text = os.environ.get(name)
    if text is None:
        raise ValueError(f"the environment variable {name} is not set: set it before starting")
    if not text.strip():
        raise ValueError(f"the environment variable {name} is empty: set it before starting")
    return text.strip()


def _from_file(path: Path, name: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}: create it, or correct {name!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"cannot read {path}: {reason}") from None
    if not text:
        raise ValueError(f"the file {path} is empty: write the secret into it")
    return text


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float | bool) else "a table or list"
