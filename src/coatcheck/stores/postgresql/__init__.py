"""Sessions and coordination in a PostgreSQL database: see `PostgreSQLStore`."""

from coatcheck.errors import missing_extra

try:
    from coatcheck.stores.postgresql.store import PostgreSQLStore
except ModuleNotFoundError as error:
    if error.name != "asyncpg":
        raise
    raise missing_extra(error, "postgres") from error

__all__ = ["PostgreSQLStore"]
