"""`coatcheck migrate`: brings the tables of the stores that a file names to the schema of this release."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from coatcheck.config import GatewayConfig, load_config
from coatcheck.config.values import StorePlace
from coatcheck.errors import ConfigurationError, StoreUnavailable
from coatcheck.gateway.stores import GatewayStores, open_stores, sqlite_file
from coatcheck.stores.schema_change import HasSchema

_NO_TABLES = "nothing to do, it has no tables"
_NO_FILE = "nothing to do, the first start makes the file"
_AS_IT_IS = "nothing to do, its tables are those of this release"
_BY_ITSELF = "; SQLite needs no command for that, a start does it"


def migrate(file: Path, say: Callable[[str], None]) -> None:
    """
    Bring the tables of each store forward, and *say* of each store in one line what was done. It may be run again.

    No SQLite file is made: whoever runs this may be another user than the one who serves.

    Raises:
        ConfigurationError: the file is wrong, or a store does not answer or may not be changed. The stores of which
            something was said before are done.
    """
    config = load_config(file)
    asyncio.run(_migrate(config, open_stores(config), say))


async def _migrate(config: GatewayConfig, stores: GatewayStores, say: Callable[[str], None]) -> None:
    places = config.sessions
    try:
        say(await _brought_forward(config, places.store, stores.sessions, at="sessions.store"))
        if places.coordination is not None and stores.coordination is not stores.sessions:
            say(await _brought_forward(config, places.coordination, stores.coordination, at="sessions.coordination"))
    finally:
        await stores.aclose()


async def _brought_forward(config: GatewayConfig, place: StorePlace | None, store: object, *, at: str) -> str:
    """Bring *store* forward, and return the line that says so."""
    name, file = f"{at}: {place or 'development mode'}", sqlite_file(config, place)
    if not isinstance(store, HasSchema):
        return f"{name}: {_NO_TABLES}"
    if file is not None and not file.exists():
        return f"{name}: {_NO_FILE}"
    try:
        changes = await store.migrate()
    except StoreUnavailable as error:
        raise ConfigurationError(f"cannot be brought forward: {error}", path=at) from error
    return f"{name}: {', '.join(changes) or _AS_IT_IS}{'' if file is None else _BY_ITSELF}"
