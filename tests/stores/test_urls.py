"""The URL of a store: which kind it is, what is refused, and what of it may stand in a log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from coatcheck.errors import ConfigurationError
from coatcheck.stores import MemoryStore, PostgreSQLStore, RedisStore, SQLiteStore, open_store
from coatcheck.stores.urls import StoreURL

KINDS = {
    "memory": "memory",
    "sqlite:///var/lib/coatcheck/sessions.db": "sqlite",
    "sqlite://sessions.db": "sqlite",
    "postgresql://db/shop": "postgresql",
    "postgres://db/shop": "postgresql",
    "postgresql:///shop?host=/run/postgresql": "postgresql",
    "redis://cache": "redis",
    "rediss://cache:6380/1": "redis",
    "valkey://cache": "redis",
    "redis+sentinel://one,two:26380,three/shop": "redis",
    "rediss+sentinel://one,two,three/shop/1": "redis",
}


@pytest.mark.parametrize("url", KINDS)
def test_the_kind_of_a_store(url: str) -> None:
    assert StoreURL.parse(url).kind == KINDS[url]


@pytest.mark.spec("LOG-05", "LOG-02")
@pytest.mark.parametrize(
    ("url", "shown", "holds_password"),
    [
        ("postgresql://shop:hunter2@db.internal:5432/shop", "postgresql://db.internal:5432/shop", True),
        ("postgresql://shop:hunt@er2@db/shop", "postgresql://db/shop", True),
        ("postgresql://shop@one:5432,two:5432/shop?sslmode=require", "postgresql://one:5432,two:5432/shop", False),
        ("postgresql://db/shop?user=shop&password=hunter2", "postgresql://db/shop", True),
        ("postgresql:///shop?password=hunter2", "postgresql://...", True),
        ("rediss://:hunter2@[::1]:6380/0", "rediss://[::1]:6380/0", True),
        ("redis://hunter2:/0", "redis://...", False),
        ("redis://cache?db=1", "redis://cache", False),
        ("redis+sentinel://:hunter2@one:1,two/shop/1", "redis+sentinel://one:1,two/shop/1", True),
        ("redis+sentinel://one,two/shop?sentinel_password=hunter2", "redis+sentinel://one,two/shop", True),
        ("sqlite://a/b.db", "sqlite://a/b.db", False),
        ("memory", "memory", False),
    ],
)
def test_as_text_a_url_has_no_credentials(url: str, shown: str, holds_password: bool) -> None:
    place = StoreURL.parse(url)
    assert (str(place), place.holds_password) == (shown, holds_password)
    assert "hunter2" not in repr(place)


@pytest.mark.spec("LOG-05", "LOG-02")
@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "mysql://shop:hunter2@db/shop",
        "mysql://shop:hunt/hunter2@db/shop",
        "redis-cluster://db?password=hunter2",
        "postgresql+asyncpg://shop:hunter2@db",
        "redis://:hunter2",
        "redis://",
        "redis://:hunt/hunter2@cache",
        "redis+sentinel://:hunter2@one,two",
        "redis+sentinel://:hunter2@one,two/?db=1",
        "redis+sentinel://:hunt/hunter2@one,two/shop",
        "redis-sentinel://:hunter2@one,two/shop",
        "postgresql://shop:hunt#hunter2@db/shop",
        "postgresql://shop:hunt?hunter2@db/shop",
        "sqlite://",
        "sqlite:////",
        "sqlite:///sessions.db",
        "cookie",
    ],
)
def test_what_names_no_place_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StoreURL.parse(url)
    assert "hunter2" not in str(caught.value)


def test_relative_files_start_at_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StoreURL.parse("sqlite:///var/lib/s.db").path(tmp_path) == Path("/var/lib/s.db")
    assert StoreURL.parse("sqlite://s.db").path(tmp_path) == tmp_path / "s.db"
    assert StoreURL.parse("sqlite://s.db").path().absolute() == tmp_path / "s.db"


def test_the_stores_that_need_no_library(tmp_path: Path) -> None:
    assert isinstance(open_store("memory"), MemoryStore)
    assert isinstance(open_store("sqlite://s.db", folder=tmp_path), SQLiteStore)
    assert not (tmp_path / "s.db").exists()


def test_the_stores_that_need_one() -> None:
    assert isinstance(open_store("postgresql://shop@127.0.0.1:1/shop"), PostgreSQLStore)
    for url in ("redis://127.0.0.1:1", "rediss://127.0.0.1:1", "valkey://127.0.0.1:1", "valkeys://127.0.0.1:1"):
        assert isinstance(open_store(url), RedisStore)
    for scheme in ("redis+sentinel", "rediss+sentinel", "valkey+sentinel", "valkeys+sentinel"):
        assert isinstance(open_store(f"{scheme}://127.0.0.1:1,[::1]:2/shop/3?sentinel_password=pw"), RedisStore)


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("postgresql://shop:hunter2@db/shop", "asyncpg", "postgres"),
        ("redis://:hunter2@cache", "redis", "redis"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    url: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library or f"stores.{url[:5]}" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'coatcheck\[{extra}\]'") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)
