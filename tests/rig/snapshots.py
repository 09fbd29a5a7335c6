"""
Backups of a store as its operator makes and restores them, while it is in use.

    restore = take_snapshot(world, url)
    ...
    restore()
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis

from tests.rig.postgresql import PostgreSQL

Restore = Callable[[], None]


def take_snapshot(url: str, *, postgresql: PostgreSQL | None) -> Restore:
    """Keep what the store at *url* holds now; calling what is returned brings it back, and nothing else."""
    if url.startswith("sqlite:"):
        return _sqlite(Path(urlsplit(url).path))
    if url.startswith("redis:"):
        return _valkey(url)
    assert postgresql is not None
    return _postgresql(postgresql, urlsplit(url).path.lstrip("/"))


def _sqlite(path: Path) -> Restore:
    """What `.backup` and `.restore` of the sqlite3 program do: pages are copied under the locks of the database."""
    folder = tempfile.TemporaryDirectory(prefix="coatcheck-backup-")
    backup = Path(folder.name, "backup.db")
    _copy(path, backup)

    def restore() -> None:
        with folder:
            _copy(backup, path)

    return restore


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target, timeout=10)) as there:
        here.backup(there)


def _postgresql(server: PostgreSQL, database: str) -> Restore:
    """Tables are copied and copied back, in one transaction each, as with pg_dump --data-only."""
    tables = server.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database=database).split()
    copies = [f"CREATE TABLE backup.{table} AS TABLE public.{table};" for table in tables]
    server.sql("CREATE SCHEMA backup;" + "".join(copies), database=database)

    def restore() -> None:
        refilled = [f"DELETE FROM public.{each}; INSERT INTO public.{each} TABLE backup.{each};" for each in tables]
        server.sql("".join(refilled), database=database)

    return restore


def _valkey(url: str) -> Restore:
    """DUMP and RESTORE, each with the time to live that was left; what an RDB file has, for one database."""
    with closing(Redis.from_url(url)) as client:
        dumped = [(key, client.pexpiretime(key), client.dump(key)) for key in client.scan_iter()]

    def restore() -> None:
        with closing(Redis.from_url(url)) as client:
            client.flushdb()
            for key, ends_at, value in dumped:
                assert value is not None
                client.restore(key, max(0, ends_at), value, replace=True, absttl=ends_at > 0)

    return restore
