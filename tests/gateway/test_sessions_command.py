"""`coatcheck sessions list` and `revoke`, as an operator uses them beside gateways that run."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coatcheck.audit import user_reference
from coatcheck.cli import main
from coatcheck.clock import SYSTEM_CLOCK
from coatcheck.config import load_config
from coatcheck.gateway.app import create_bff
from coatcheck.gateway.stores import open_stores
from coatcheck.sessions.seal import new_key
from tests.gateway.running import Gateway, gateway_parts
from tests.rig.programs import free_port
from tests.rig.user_agent import UserAgent

INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
EVENT_SOURCE = {"Sec-Fetch-Site": "same-origin", "Accept": "text/event-stream"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with gateway_parts(tmp_path) as gateway:
        yield gateway


def sessions(store: str, coordination: str | None = None) -> str:
    lines = ["[sessions]", f'store = "{store}"']
    return "\n".join(lines + ([f'coordination = "{coordination}"'] if coordination else [])) + "\n"


def command(gateway: Gateway, *words: object) -> tuple[int, str, str]:
    """Run `coatcheck sessions` in a process of its own: its exit status, and what it printed on stdout and stderr."""
    arguments = [sys.executable, "-m", "coatcheck.cli", "sessions", *map(str, words), str(gateway.file)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def claim(browser: UserAgent, name: str) -> str:
    (value,) = [claim["value"] for claim in browser.fetch("/bff/user?slide=false").json() if claim["type"] == name]
    return str(value)


def is_logged_in(browser: UserAgent) -> bool:
    status = browser.fetch("/api/echo").status_code
    assert status in (200, 401)
    return status == 200


@contextmanager
def event_stream(browser: UserAgent) -> Iterator[Iterator[str]]:
    """What the page hears after its EventSource has been accepted."""
    with browser.stream("/bff/events", csrf=False, headers=EVENT_SOURCE) as stream:
        assert stream.status_code == 200
        chunks = stream.iter_text()
        assert next(chunks).startswith("retry:")
        yield chunks


@pytest.mark.spec("SES-09", "LOG-02")
def test_the_sessions_of_a_user_are_listed_and_ended_on_all_workers(gateway: Gateway) -> None:
    gateway.more = sessions("sqlite://sessions.db")
    gateway.start("--workers", "2")
    laptop, telephone, somebody_else = gateway.log_in("alice"), gateway.log_in("alice"), gateway.log_in("bob")
    sids = [claim(browser, "sid") for browser in (laptop, telephone)]

    status, table, complaints = command(gateway, "list", "--sub", "alice")
    assert (status, complaints) == (0, "")
    titles, *rows = table.splitlines()
    assert re.fullmatch(r"session +user +created +last used +ends at the latest", titles)
    reference = user_reference(gateway.server.issuer, "alice")
    for line in rows:
        assert re.fullmatch(rf"[0-9a-f]{{12}}  {reference}  {INSTANT}  {INSTANT}  {INSTANT}", line)
    assert len(rows) == 2
    cookies = [cookie.value for browser in (laptop, telephone) for cookie in browser.cookies.all()]
    assert not [secret for secret in ("alice", *sids, *cookies) if secret in table]

    status, listed, _ = command(gateway, "list", "--json", "--sub", "alice", "--sid", sids[0])
    (one,) = json.loads(listed)
    assert one.keys() == {"session", "user", "created_at", "seen_at", "expires_at", "idle_timeout"}
    assert (one["user"], one["idle_timeout"]) == (reference, 3600)

    status, said, complaints = command(gateway, "revoke", "--sid", sids[0])
    assert (status, said) == (0, "1 session ended\n")
    audited = f"session_ended reason=revoked iss={gateway.server.issuer} session={one['session']} user={reference}"
    assert audited in complaints
    assert [is_logged_in(browser) for browser in (laptop, telephone, somebody_else)] == [False, True, True]

    with event_stream(telephone) as events:
        status, said, _ = command(gateway, "revoke", "--sub", "alice", "--json")
        ended_at = time.monotonic()
        assert (status, json.loads(said)) == (0, {"ended": 1})
        assert 'event: ended\ndata: {"reason":"revoked"}' in "".join(events)
        assert time.monotonic() - ended_at < 4  # who is not told looks after a minute
    assert [is_logged_in(browser) for browser in (laptop, telephone, somebody_else)] == [False, False, True]
    assert gateway.server.count("revocation") == 4  # refresh token and access token of two sessions

    status, said, _ = command(gateway, "revoke", "--sub", "alice")
    assert (status, said.partition(":")[0]) == (0, "0 sessions ended\nno session is found")


def test_sessions_in_cookies_are_ended_and_cannot_be_listed(gateway: Gateway) -> None:
    gateway.more = sessions("cookie", "sqlite://meet.db")
    gateway.start()
    browser, somebody_else = gateway.log_in("alice"), gateway.log_in("bob")
    status, said, complaint = command(gateway, "list", "--sub", "alice")
    assert (status, said) == (2, "")
    assert complaint.startswith("coatcheck: sessions.store: sessions in cookies cannot be listed")
    with event_stream(browser) as events:
        status, said, _ = command(gateway, "revoke", "--sub", "alice")
        assert (status, said) == (0, "sessions in cookies cannot be counted; those there were end within 5 s\n")
        assert 'event: ended\ndata: {"reason":"revoked"}' in "".join(events)
    assert [is_logged_in(browser), is_logged_in(somebody_else)] == [False, True]


REFUSED = {
    "nobody": ("", ["list"], "say whose sessions: --sub SUB, --sid SID, or both"),
    "an empty name": ("", ["revoke", "--sub", ""], "say whose sessions: "),
    "an empty name of two": ("", ["revoke", "--sub", "", "--sid", "1"], "say whose sessions: "),
    "memory": (sessions("memory"), ["list", "--sub", "alice"], "sessions.store: the sessions are in the memory of"),
    "another process's note": (
        sessions("cookie"),
        ["revoke", "--sub", "alice"],
        "sessions.coordination: sessions in cookies are ended by a note",
    ),
    "no file": (sessions("sqlite://new.db"), ["revoke", "--sub", "alice"], "sessions.store: there is no file "),
    "no file of development": ("", ["list", "--sub", "alice"], "sessions.store: there is no file "),
    "no file to meet in": (
        sessions("redis://127.0.0.1:1/0", "sqlite://new.db"),
        ["revoke", "--sid", "1"],
        "sessions.coordination: there is no file ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_find_nothing_is_refused_with_one_line(
    name: str, gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.more, words, complaint = REFUSED[name]
    gateway.write()
    assert main(["sessions", *words[:1], str(gateway.file), *words[1:]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"coatcheck: {complaint}")
    assert said.err.count("\n") == 1
    assert list(gateway.folder.rglob("*.db*")) == []


@pytest.mark.spec("SES-12")
def test_a_store_that_is_away_is_one_line(gateway: Gateway) -> None:
    gateway.more = sessions(f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    gateway.write()
    for verb in ("list", "revoke"):
        status, said, complaint = command(gateway, verb, "--sub", "alice")
        assert (status, said) == (2, "")
        assert complaint.startswith("coatcheck: sessions: not all sessions could be reached, do it again: ")
        assert complaint.count("\n") == 1
        assert "hunter2" not in complaint


@pytest.mark.spec("STO-05")
def test_a_key_that_is_missing_is_named_and_no_session_is_lost(gateway: Gateway) -> None:
    """One that is found by a key of the ring, and sealed with one that it lacks: nothing can be said of it."""
    older, newer = new_key(), new_key()
    for key in (older, newer):
        gateway.more = sessions("sqlite://sessions.db")
        gateway.write()
        gateway.file.write_text(f'keys = ["{key}"]\n{gateway.file.read_text()}')
        asyncio.run(log_in(gateway.file))
    assert len(json.loads(command(gateway, "list", "--json", "--sub", "alice")[1])) == 1
    with sqlite3.connect(gateway.folder / "sessions.db") as database:
        newest = "SELECT sub_key FROM coatcheck_sessions ORDER BY rowid DESC LIMIT 1"
        database.execute(f"UPDATE coatcheck_sessions SET sub_key = ({newest})")
    database.close()
    for verb in ("list", "revoke"):
        status, said, complaint = command(gateway, verb, "--sub", "alice")
        assert (status, said) == (2, "")
        assert complaint.startswith("coatcheck: keys: a session is sealed with key '")
        assert older not in complaint


async def log_in(file: Path) -> None:
    """What a login leaves in the store that *file* names."""
    config = load_config(file)
    bff = create_bff(config, stores=open_stores(config), clock=SYSTEM_CLOCK)
    iss = config.clients["default"].issuer
    await bff._storage.sessions.create(claims={}, iss=iss, sub="alice", sid=None, tokens=b"{}", now=SYSTEM_CLOCK.time())
    await bff.aclose()
