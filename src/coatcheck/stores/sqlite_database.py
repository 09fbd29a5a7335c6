"""What the parts of the SQLite store share: the path, an open file for each event loop, the schema, the clean-up."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, TypeVar
from weakref import WeakKeyDictionary

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.errors import ConfigurationError
from coatcheck.stores.schema_change import change, refuse_newer
from coatcheck.stores.sqlite_file import SQLiteFile, Work

T = TypeVar("T")

_SCHEMA_VERSIONS = "CREATE TABLE IF NOT EXISTS coatcheck_schema (part TEXT PRIMARY KEY, version INTEGER NOT NULL)"
_CLEAN_EVERY = 60.0
_CLEAN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one *part* of the store. *steps[n]* are the statements that lead from version n to n + 1."""

    part: str
    steps: tuple[tuple[str, ...], ...]

    def prepare(self, connection: sqlite3.Connection, path: Path) -> list[str]:
        """Bring the tables of this part to the version that is known here, and say so; refuse a newer coatcheck's."""
        select = "SELECT version FROM coatcheck_schema WHERE part = ?"
        found: int = (connection.execute(select, (self.part,)).fetchone() or (0,))[0]
        known = len(self.steps)
        refuse_newer(self.part, found, known, where=f"the SQLite store {path}")
        if found == known:
            return []
        for step in self.steps[found:]:
            for statement in step:
                connection.execute(statement)
        connection.execute("INSERT OR REPLACE INTO coatcheck_schema VALUES (?, ?)", (self.part, known))
        return [change(self.part, found, known)]


class SQLiteDatabase:
    """
    The SQLite file *path*, opened on first use by each process and event loop; it and its folder are made if missing.

    Raises:
        ConfigurationError: a path that names no file.
    """

    _schemas: ClassVar[tuple[Schema, ...]] = ()

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock = SYSTEM_CLOCK,
        *,
        busy_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        name = os.fspath(path)
        if not name or name.startswith((":", "file:")):
            raise ConfigurationError(f"{name!r} is not the path of a file: for sessions in memory use the memory store")
        self._path = Path(name).absolute()
        self._clock = clock
        self._busy_timeout = busy_timeout.total_seconds()
        self._files: WeakKeyDictionary[asyncio.AbstractEventLoop, SQLiteFile] = WeakKeyDictionary()
        self._clean_at = 0.0
        self._changes: list[str] = []

    async def migrate(self) -> list[str]:
        """See `HasSchema.migrate`: opening the file does it. What that has changed is told once."""
        await self._file().read_much(lambda connection: None)
        changes, self._changes = self._changes, []
        return changes

    async def aclose(self) -> None:
        """Close what this event loop holds open. The next use opens it again."""
        file = self._files.pop(asyncio.get_running_loop(), None)
        if file is not None and file.pid == os.getpid():
            await file.close()

    def _file(self) -> SQLiteFile:
        """Return what belongs to this process and event loop."""
        loop = asyncio.get_running_loop()
        file = self._files.get(loop)
        if file is None or file.pid != os.getpid():
            file = self._files[loop] = SQLiteFile(self._path, self._prepare, busy_timeout=self._busy_timeout)
        return file

    async def _write(self, work: Work[T]) -> T:
        """Run *work* in one durable write transaction; clean up behind it when it is time."""
        file = self._file()
        result = await file.write(work)
        if self._clock.monotonic() >= self._clean_at:
            self._clean_at = self._clock.monotonic() + _CLEAN_EVERY
            file.write_when_idle(self._clean)
        return result

    def _clean(self, connection: sqlite3.Connection) -> None:
        if self._delete_dead(connection, self._clock.time(), _CLEAN_AT_ONCE) >= _CLEAN_AT_ONCE:
            self._clean_at = 0.0

    def _delete_dead(self, connection: sqlite3.Connection, now: float, limit: int) -> int:
        """Delete at most *limit* rows that are dead at *now*, return how many. Each part adds its own."""
        return 0

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(_SCHEMA_VERSIONS)
        self._changes = [done for schema in self._schemas for done in schema.prepare(connection, self._path)]
