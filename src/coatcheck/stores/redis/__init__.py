"""Sessions and coordination in a Redis or Valkey server: see `RedisStore`."""

from coatcheck.errors import missing_extra

try:
    from coatcheck.stores.redis.store import RedisStore
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in {"redis", "hiredis"}:
        raise
    raise missing_extra(error, "redis") from error

__all__ = ["RedisStore"]
