"""
The tables, and how they come to be: on first use, once, whoever is first.

A touch, a renewal and a heartbeat change no column that has an index, so that PostgreSQL can put the new version of
the row beside the old one and leaves every index alone (a "HOT" update; the fill factor keeps room for it). That is why
there is no index on `seen_at`: it would cost every touch five index entries, to save the cleaning a look at sessions.
"""

from __future__ import annotations

from coatcheck.errors import StoreUnavailable
from coatcheck.stores.postgresql.connections import MAY_NOT_CREATE, Connection

VERSIONS = {"sessions": 1, "leases": 1, "values": 1}
"""Each part of the schema has a version of its own."""

SCHEMA = """\
-- The tables of coatcheck, in the first schema of the search_path. The role that coatcheck uses needs
-- SELECT, INSERT, UPDATE and DELETE on all of them. What they hold is sealed; running this again changes nothing.
CREATE TABLE IF NOT EXISTS coatcheck_schema (
    part text PRIMARY KEY,
    version integer NOT NULL
);
CREATE TABLE IF NOT EXISTS coatcheck_sessions (
    key bytea PRIMARY KEY,
    partition text NOT NULL,
    claims bytea NOT NULL,
    claims_version bigint NOT NULL,
    tokens bytea NOT NULL,
    tokens_version bigint NOT NULL,
    created_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    seen_at double precision NOT NULL,
    idle_timeout double precision NOT NULL,
    sub_key bytea NOT NULL,
    sid_key bytea
) WITH (fillfactor = 70);
-- Sealed bytes cannot be compressed.
ALTER TABLE coatcheck_sessions ALTER claims SET STORAGE EXTERNAL, ALTER tokens SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS coatcheck_sessions_expiry ON coatcheck_sessions (expires_at);
CREATE INDEX IF NOT EXISTS coatcheck_sessions_sub ON coatcheck_sessions (partition, sub_key);
CREATE INDEX IF NOT EXISTS coatcheck_sessions_sid ON coatcheck_sessions (partition, sid_key);
CREATE TABLE IF NOT EXISTS coatcheck_leases (
    key bytea PRIMARY KEY,
    holder bytea,
    ends_at timestamptz NOT NULL,
    mark_sent_at double precision,
    mark_sends integer,
    mark_until double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS coatcheck_values (
    key bytea PRIMARY KEY,
    value bytea NOT NULL,
    version bigint NOT NULL,
    until double precision NOT NULL
) WITH (fillfactor = 70);
ALTER TABLE coatcheck_values ALTER value SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS coatcheck_values_end ON coatcheck_values (until);
INSERT INTO coatcheck_schema VALUES ('sessions', 1), ('leases', 1), ('values', 1) ON CONFLICT DO NOTHING;
"""

_IS_THERE = "SELECT to_regclass('coatcheck_schema') IS NOT NULL"
_FOUND = "SELECT part, version FROM coatcheck_schema"
_LOCK = "SELECT pg_advisory_xact_lock(7161129240152330611)"
"""One at a time makes the tables of a database: `IF NOT EXISTS` alone fails when two look at once."""


async def is_complete(connection: Connection, *, where: str) -> bool:
    """
    Say whether all tables are there: then the role needs no right to create any. *where* is for messages.

    Raises:
        StoreUnavailable: a newer coatcheck made them.
    """
    [[is_there]] = await connection.fetch(_IS_THERE)
    if not is_there:
        return False
    found: dict[str, int] = dict(await connection.fetch(_FOUND))
    for part, version in VERSIONS.items():
        if found.get(part, 0) > version:
            raise StoreUnavailable(
                f"the {part} of {where} were written by a newer coatcheck (schema {found[part]}, this one knows "
                f"{version}): run that version again, or give another database"
            )
    return found.keys() >= VERSIONS.keys()


async def make_tables(connection: Connection, *, patience: float, where: str) -> None:
    """
    Make what is missing, unless somebody else was quicker. *patience* (seconds) bounds each statement.

    Raises:
        StoreUnavailable: this role may not create tables.
    """
    try:
        await connection.execute("BEGIN")
        await connection.execute(f"SELECT set_config('statement_timeout', '{patience * 1000:.0f}', true)")
        await connection.execute(_LOCK)
        if not await is_complete(connection, where=where):
            await connection.execute(SCHEMA)
        await connection.execute("COMMIT")
    except MAY_NOT_CREATE as error:
        raise StoreUnavailable(
            f"{where} lacks the tables of coatcheck, and this role may not create them ({error}): let the owner of "
            "the schema run what `python -m coatcheck.stores.postgresql` prints, and grant this role SELECT, INSERT, "
            "UPDATE and DELETE on them"
        ) from error
