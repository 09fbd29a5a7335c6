"""A worker that needs tokens pays for no web framework."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FRAMEWORKS = {"starlette", "fastapi", "granian", "pyreqwest", "uvicorn"}
DRIVERS = {"asyncpg", "redis"}
LOADED_WHEN_USED = {"httpx2", "joserfc"}


@pytest.mark.parametrize(
    "module",
    ["coatcheck.tokens", "coatcheck.tokens.blocking", "coatcheck.stores", "coatcheck.testing.token_stores"],
)
def test_importing_the_tokens_loads_no_web_framework(module: str) -> None:
    loaded = set(_modules_after(f"import {module}"))
    assert module in loaded
    assert loaded & (FRAMEWORKS | DRIVERS) == set()
    assert loaded & LOADED_WHEN_USED == set()


def test_a_tool_with_a_grant_in_sqlite_loads_no_web_framework() -> None:
    """All that `docs/examples/shared_grant.py` names."""
    loaded = set(
        _modules_after(
            "from coatcheck import BlockingTokens, Client, SharedUserTokenStore, User, UserToken, key_from_file; "
            "from coatcheck.stores import SQLiteStore"
        )
    )
    assert {"coatcheck.tokens.blocking", "coatcheck.stores.sqlite"} <= loaded
    assert loaded & (FRAMEWORKS | DRIVERS | LOADED_WHEN_USED) == set()


def test_an_auth_loads_the_http_client_and_still_no_web_framework() -> None:
    loaded = set(_modules_after("import coatcheck.tokens.auth"))
    assert "httpx2" in loaded
    assert loaded & FRAMEWORKS == set()


def _modules_after(statement: str) -> list[str]:
    code = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    modules: list[str] = json.loads(done.stdout)
    return modules
