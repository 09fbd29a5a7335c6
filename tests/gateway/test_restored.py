"""`coatcheck sessions restored`, from its file to what every process reads."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from coatcheck.cli import main
from coatcheck.errors import LoginRequired
from coatcheck.sessions import new_key
from coatcheck.stores import SQLiteStore
from coatcheck.tokens import Tokens, User, UserToken
from tests.testing.clocks import HandClock
from tests.tokens.scene import CLIENT, TableUserTokenStore
from tests.tokens.token_service import ISSUER, TokenService

FILE = """
public_url = "https://shop.example"
keys = [{{ env = "KEY" }}]
[client]
issuer = "https://issuer.example"
client_id = "shop"
client_secret = {{ env = "KEY" }}
[sessions]
store = "{store}"
coordination = "{coordination}"
"""
USER = User(ISSUER, "alice")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    key = new_key()
    monkeypatch.setenv("KEY", key)
    return key


def write(folder: Path, *, store: str, coordination: str) -> str:
    file = folder / "coatcheck.toml"
    file.write_text(FILE.format(store=store, coordination=coordination))
    return str(file)


async def told(folder: Path, key: str) -> str:
    """What becomes of somebody whose refresh token came two seconds ago."""
    store = SQLiteStore(folder / "sessions.db")
    service = TokenService(HandClock(time.time()))
    async with Tokens(CLIENT, store=TableUserTokenStore(), coordination=store, keys=[key], send=service) as tokens:
        came = time.time() - 2
        token = UserToken(
            access_token="spent", issued_at=came, expires_at=came, refresh_token=service.login("alice")["refresh_token"]
        )
        await tokens.store_login(USER, token)
        try:
            await tokens.user_token(USER)
        except LoginRequired as error:
            assert service.refreshes == 0
            return error.code
        finally:
            await store.aclose()
    return ""


@pytest.mark.spec("REF-28")
def test_the_command_tells_every_process(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"sqlite://{tmp_path}/sessions.db"
    file = write(tmp_path, store="cookie", coordination=place)
    assert asyncio.run(told(tmp_path, key)) == ""
    assert main(["sessions", "restored", file]) == 0
    assert capsys.readouterr().out.startswith("noted: ")
    assert asyncio.run(told(tmp_path, key)) == "renewal_lost"


@pytest.mark.parametrize(
    ("coordination", "complaint"),
    [
        ("memory", "coatcheck: sessions.coordination: processes agree in memory"),
        ("sqlite:///proc/no/such/sessions.db", "coatcheck: sessions: nobody could be told"),
    ],
)
def test_where_nobody_can_be_told(
    coordination: str, complaint: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, store="cookie", coordination=coordination)
    assert main(["sessions", "restored", file]) == 2
    assert capsys.readouterr().err.startswith(complaint)
