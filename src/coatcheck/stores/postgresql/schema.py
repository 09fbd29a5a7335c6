"""
The tables, and how they come to be: on first use, once, whoever is first.

A touch, a renewal and a heartbeat change no column that has an index, so that PostgreSQL can put the new version of
the row beside the old one and leaves every index alone (a "HOT" update; the fill factor keeps room for it). That is why
there is no index on `seen_at`: it would cost every touch five index entries, to save the cleaning a look at sessions.
"""

from __future__ import annotations

from coatcheck.errors import StoreUnavailable
from coatcheck.stores.postgresql.connections import MAY_NOT_CREATE, Connection
from coatcheck.stores.schema_change import change, refuse_newer

STEPS: dict[str, tuple[str, ...]] = {
    "sessions": (
        """\
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
""",
    ),
    "leases": (
        """\
CREATE TABLE IF NOT EXISTS coatcheck_leases (
    key bytea PRIMARY KEY,
    holder bytea,
    ends_at timestamptz NOT NULL,
    mark_sent_at double precision,
    mark_sends integer,
    mark_until double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
""",
    ),
    "values": (
        """\
CREATE TABLE IF NOT EXISTS coatcheck_values (
    key bytea PRIMARY KEY,
    value bytea NOT NULL,
    version bigint NOT NULL,
    until double precision NOT NULL
) WITH (fillfactor = 70);
ALTER TABLE coatcheck_values ALTER value SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS coatcheck_values_end ON coatcheck_values (until);
""",
    ),
}
"""
Each part has a version of its own; the statements at place n lead from version n to n + 1.

Run again they change nothing: whoever makes the tables by hand runs all of them, whatever is there.
"""

_HEADER = """\
-- The tables of coatcheck, in the first schema of the search_path. The role that coatcheck uses needs
-- SELECT, INSERT, UPDATE and DELETE on all of them. What they hold is sealed; running this again changes nothing.
"""
_VERSIONS = """\
CREATE TABLE IF NOT EXISTS coatcheck_schema (
    part text PRIMARY KEY,
    version integer NOT NULL
);
"""
# Not `to_regclass`: within a transaction it may still not know of a table that was made while we waited for the lock.
_IS_THERE = "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'coatcheck_schema' AND pg_table_is_visible(oid))"
_FOUND = "SELECT part, version FROM coatcheck_schema"
_LOCK = "SELECT pg_advisory_xact_lock(7161129240152330611)"
"""One at a time makes the tables of a database: `IF NOT EXISTS` alone fails when two look at once."""


def script() -> str:
    """Return all of it, for those who make the tables by hand or bring them forward."""
    parts = [statements + _remember(part, len(steps)) for part, steps in STEPS.items() for statements in steps]
    return "".join((_HEADER, _VERSIONS, *parts))


async def is_complete(connection: Connection, *, where: str) -> bool:
    """
    Say whether all tables are there as they are known here: then the role needs no right to create any.

    *where* is for messages.

    Raises:
        StoreUnavailable: a newer coatcheck made them.
    """
    found = await _found(connection, where=where)
    return found is not None and all(found.get(part) == len(steps) for part, steps in STEPS.items())


async def bring_forward(connection: Connection, *, patience: float, where: str) -> list[str]:
    """
    Make what is missing and change what is older, unless somebody else was quicker; return what was changed.

    *patience* (seconds) bounds each statement.

    Raises:
        StoreUnavailable: this role may not create or change tables.
    """
    try:
        await connection.execute("BEGIN")
        await connection.execute(f"SELECT set_config('statement_timeout', '{patience * 1000:.0f}', true)")
        await connection.execute(_LOCK)
        changes = await _take_steps(connection, where=where)
        await connection.execute("COMMIT")
    except MAY_NOT_CREATE as error:
        raise StoreUnavailable(
            f"{where} lacks the tables of coatcheck or has older ones, and this role may not create them ({error}): "
            "let the owner of the schema run what `python -m coatcheck.stores.postgresql` prints, and grant this role "
            "SELECT, INSERT, UPDATE and DELETE on them"
        ) from error
    return changes


async def _take_steps(connection: Connection, *, where: str) -> list[str]:
    found = await _found(connection, where=where)
    if found is None:
        await connection.execute(_VERSIONS)
    changes = []
    for part, steps in STEPS.items():
        version = (found or {}).get(part, 0)
        if version == len(steps):
            continue
        for statements in steps[version:]:
            await connection.execute(statements)
        await connection.execute(_remember(part, len(steps)))
        changes.append(change(part, version, len(steps)))
    return changes


async def _found(connection: Connection, *, where: str) -> dict[str, int] | None:
    """Return the versions that the database has, none of them above ours; None before the first use."""
    [[is_there]] = await connection.fetch(_IS_THERE)
    if not is_there:
        return None
    found: dict[str, int] = dict(await connection.fetch(_FOUND))
    for part, steps in STEPS.items():
        refuse_newer(part, found.get(part, 0), len(steps), where=where)
    return found


def _remember(part: str, version: int) -> str:
    """Return the statement that says which version is there; a later one stays."""
    return (
        f"INSERT INTO coatcheck_schema AS known VALUES ('{part}', {version}) "  # noqa: S608  # both are written above
        "ON CONFLICT (part) DO UPDATE SET version = greatest(known.version, excluded.version);\n"
    )
