"""
Where sessions rest and processes meet: memory, SQLite, PostgreSQL, Redis or Valkey.

Every store here is a `SessionStore`, a `SessionIndex`, a `LeaseStore` and an `ExpiringStore`; those that can wake other
processes are a `Notifier`, too. Each opens what it needs on first use, once for each process and event loop.
"""

from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore

__all__ = ["MemoryStore", "SQLiteStore"]
