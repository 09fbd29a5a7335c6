"""The parts that scenarios over several processes share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.postgresql import PostgreSQL
from tests.rig.valkey import Valkey
from tests.storm.stage import World


@pytest.fixture
def world(tmp_path: Path, echo_api: EchoAPI, oidc_provider: OIDCProvider) -> Iterator[World]:
    """A provider and an API. A test that needs a server as its store, or another provider, adds the fixture's."""
    with ExitStack() as stack:
        yield World(stack, echo_api, tmp_path, oidc_provider)


@pytest.fixture
def everything(world: World, postgresql: PostgreSQL, valkey: Valkey) -> World:
    """The world with every store."""
    world.postgresql, world.valkey = postgresql, valkey
    return world
