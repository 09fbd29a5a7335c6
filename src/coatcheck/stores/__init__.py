"""
Where sessions rest and processes meet: memory, SQLite, PostgreSQL, Redis or Valkey.

Every store here is a `SessionStore`, a `SessionIndex`, a `LeaseStore`, an `ExpiringStore` and a `Notifier`. Each opens
what it needs on first use, once for each process and event loop.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.stores.urls import open_store

if TYPE_CHECKING:
    from coatcheck.stores.postgresql import PostgreSQLStore
    from coatcheck.stores.redis import RedisStore

__all__ = ["MemoryStore", "PostgreSQLStore", "RedisStore", "SQLiteStore", "open_store"]

_WITH_EXTRA = {"PostgreSQLStore": "coatcheck.stores.postgresql", "RedisStore": "coatcheck.stores.redis"}
"""Imported when they are asked for: their libraries come with an extra."""


def __getattr__(name: str) -> object:
    if name not in _WITH_EXTRA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WITH_EXTRA[name]), name)
