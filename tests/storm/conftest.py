"""The parts that storms and crashes share with all other tests of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.django_provider import DjangoProvider
from tests.rig.echo_api import EchoAPI
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.postgresql import PostgreSQL
from tests.rig.valkey import Valkey
from tests.storm.stage import World


@pytest.fixture
def world(
    tmp_path: Path,
    echo_api: EchoAPI,
    oidc_provider: OIDCProvider,
    django_provider: DjangoProvider,
    postgresql: PostgreSQL,
    valkey: Valkey,
) -> Iterator[World]:
    """Both providers, every store, and an API."""
    with ExitStack() as stack:
        yield World(stack, echo_api, tmp_path, oidc_provider, django_provider, postgresql, valkey)
