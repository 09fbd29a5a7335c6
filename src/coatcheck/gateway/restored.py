"""`coatcheck sessions restored`: what to do after a backup of the stores was restored."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coatcheck.bff.keys import DEVELOPMENT_FOLDER, development_key
from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.config import GatewayConfig, load_config
from coatcheck.errors import ConfigurationError, StoreUnavailable
from coatcheck.gateway.stores import open_stores
from coatcheck.stores.memory import MemoryStore
from coatcheck.tokens.manager import Tokens


def note_restore(file: Path, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """
    Tell all processes of the gateway that *file* describes that its stores were restored from a backup just now.

    Raises:
        ConfigurationError: the file is wrong, there is nothing to restore, or the store does not answer.
    """
    asyncio.run(_note_restore(load_config(file), clock))


async def _note_restore(config: GatewayConfig, clock: Clock) -> None:
    stores = open_stores(config, clock=clock)
    if isinstance(stores.coordination, MemoryStore):
        raise ConfigurationError(
            "processes agree in memory, which no backup has: there is nothing to say", path="sessions.coordination"
        )
    keys = config.keys or (development_key(config.folder / DEVELOPMENT_FOLDER),)
    try:
        async with Tokens(config.clients, coordination=stores.coordination, keys=keys, clock=clock) as tokens:
            await tokens.store_restored()
    except StoreUnavailable as error:
        raise ConfigurationError(
            f"nobody could be told, because the store does not answer: {error}", path="sessions"
        ) from error
    finally:
        await stores.coordination.aclose()
