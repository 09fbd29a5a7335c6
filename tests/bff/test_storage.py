"""Where sessions rest and processes agree: the defaults, the choices, and what does not fit together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coatcheck.bff.csrf import CSRFRules
from coatcheck.bff.public_url import parse_public_url
from coatcheck.bff.settings import Settings
from coatcheck.bff.storage import Storage, make_storage
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.cookie import CookiePolicy
from coatcheck.sessions.cookie_sessions import CookieSessions
from coatcheck.sessions.seal import KeyRing, new_key
from coatcheck.sessions.server_side import ServerSideSessions
from coatcheck.sessions.store import Change, SessionRow
from coatcheck.stores import MemoryStore, SQLiteStore

URL = parse_public_url("https://shop.example")
SETTINGS = Settings(
    public_url=URL,
    issuer="https://idp.example",
    client_id="shop",
    csrf=CSRFRules(URL.origin.encode(), b"x-csrf", b"1"),
    cookies=CookiePolicy("abcdefgh"),
    development=False,
)


def storage(sessions: Any, coordination: Any = None) -> Storage:
    return make_storage(
        sessions,
        coordination,
        SETTINGS,
        KeyRing([new_key()]),
        lifetime=timedelta(hours=8),
        idle_timeout=timedelta(hours=1),
    )


class FourMethods:
    """A `SessionStore` of an application that does no more than that."""

    async def create(self, row: SessionRow) -> None: ...

    async def load(self, key: bytes) -> SessionRow | None: ...

    async def update(self, key: bytes, change: Change) -> None: ...

    async def delete(self, key: bytes) -> SessionRow | None: ...


class Closable(MemoryStore):
    """It counts how often it was closed."""

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


def test_processes_agree_in_the_session_store(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/sessions.db"
    assert isinstance(storage(url).coordination, SQLiteStore)
    assert isinstance(storage("memory").coordination, MemoryStore)
    store = MemoryStore()
    assert storage(store).coordination is store


def test_one_url_is_one_object(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/sessions.db"
    both, apart = storage(url, url), storage(url, f"sqlite://{tmp_path}/coordination.db")
    assert both.coordination is _store(both)
    assert apart.coordination is not _store(apart)


def test_cookies_and_a_smaller_store_leave_it_to_memory_or_to_whom_they_name(tmp_path: Path) -> None:
    for sessions, kind in (("cookie", CookieSessions), (FourMethods(), ServerSideSessions)):
        assert isinstance(storage(sessions).sessions, kind)
        assert isinstance(storage(sessions).coordination, MemoryStore)
        assert isinstance(storage(sessions, f"sqlite://{tmp_path}/meet.db").coordination, SQLiteStore)
        given = MemoryStore()
        assert storage(sessions, given).coordination is given


def test_what_cannot_coordinate_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(ConfigurationError, match=r"coordination: FourMethods lacks acquire, mark_sent, .*, discard: "):
        storage("memory", FourMethods())


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, logger="coatcheck"):
        yield caplog


@pytest.mark.spec("STO-13")
@pytest.mark.parametrize(
    ("sessions", "coordination", "code"),
    [
        ("memory", None, "sessions_in_memory"),
        ("memory", "sqlite://{tmp}/meet.db", "sessions_in_memory"),
        ("cookie", None, "coordination_in_memory"),
        ("cookie", "memory", "coordination_in_memory"),
        (FourMethods(), None, "coordination_in_memory"),
        ("sqlite://{tmp}/s.db", "memory", "coordination_in_memory"),
        ("sqlite://{tmp}/s.db", None, None),
        ("cookie", "sqlite://{tmp}/meet.db", None),
    ],
)
def test_several_workers_are_warned_once_of_what_each_would_have_for_itself(
    sessions: Any,
    coordination: str | None,
    code: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warnings: pytest.LogCaptureFixture,
) -> None:
    sessions = sessions.format(tmp=tmp_path) if isinstance(sessions, str) else sessions
    coordination = coordination and coordination.format(tmp=tmp_path)
    storage(sessions, coordination)
    assert warnings.messages == []
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    storage(sessions, coordination)
    assert [message.partition(":")[0] for message in warnings.messages] == ([code] if code else [])


async def test_both_are_closed() -> None:
    meeting = Closable()
    await storage("cookie", meeting).aclose()
    assert meeting.closed == 1


def _store(made: Storage) -> object:
    assert isinstance(made.sessions, ServerSideSessions)
    return made.sessions._store
