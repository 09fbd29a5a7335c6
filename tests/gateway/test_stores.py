"""The gateway on the stores that its file names: probed before the start, asked by `/readyz`, and named in `check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from coatcheck.cli import main
from tests.gateway.running import Gateway, gateway_parts
from tests.rig.postgresql import PostgreSQL
from tests.rig.programs import free_port
from tests.rig.user_agent import UserAgent
from tests.rig.valkey import Valkey


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with gateway_parts(tmp_path) as gateway:
        yield gateway


def sessions(store: str, coordination: str | None = None) -> str:
    lines = ["[sessions]", f'store = "{store}"']
    return "\n".join(lines + ([f'coordination = "{coordination}"'] if coordination else [])) + "\n"


def ready(gateway: Gateway) -> int:
    with httpx2.Client(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False, timeout=20) as probe:
        assert probe.get("/healthz").status_code == 200
        return probe.get("/readyz").status_code


@pytest.mark.parametrize("cookies", [False, True])
def test_readiness_is_that_of_the_stores(gateway: Gateway, cookies: bool) -> None:
    with Valkey.start(durable=True) as valkey:
        url = valkey.fresh_url()
        gateway.more = sessions("cookie", url) if cookies else sessions(url)
        gateway.start()
        assert ready(gateway) == 200
        valkey.kill()
        assert ready(gateway) == 503
        valkey.restart()
        assert ready(gateway) == 200


@pytest.mark.parametrize("kind", ["postgresql", "valkey"])
def test_a_restart_on_a_database_logs_nobody_out(
    gateway: Gateway, kind: str, postgresql: PostgreSQL, valkey: Valkey
) -> None:
    gateway.more = sessions(postgresql.fresh_database() if kind == "postgresql" else valkey.fresh_url())
    gateway.start("--workers", "2")
    browser = gateway.log_in()
    gateway.stop()
    gateway.start("--workers", "2")
    for _ in range(8):
        with UserAgent(gateway.origin) as fresh_connection:
            fresh_connection.cookies = browser.cookies
            assert fresh_connection.fetch("/api/echo").status_code == 200


@pytest.mark.spec("LOG-02")
@pytest.mark.parametrize(
    ("setting", "more"),
    [
        ("sessions.store", sessions("redis://:hunter2@127.0.0.1:{port}/0")),
        ("sessions.store", sessions("postgresql://shop:hunter2@127.0.0.1:{port}/shop")),
        ("sessions.coordination", sessions("sqlite://sessions.db", "redis://:hunter2@127.0.0.1:{port}/0")),
        ("sessions.coordination", sessions("cookie", "postgresql://shop:hunter2@127.0.0.1:{port}/shop")),
    ],
)
def test_a_store_that_does_not_answer_stops_the_start(
    gateway: Gateway, setting: str, more: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.more = more.format(port=free_port())
    gateway.write()
    assert main(["run", str(gateway.file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"coatcheck: {setting}: ")
    assert "127.0.0.1" in line
    assert "hunter2" not in line


def test_check_asks_the_stores_and_names_them_without_credentials(
    gateway: Gateway, valkey: Valkey, postgresql: PostgreSQL, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = postgresql.fresh_database()
    gateway.more = sessions(dsn, valkey.fresh_url())
    gateway.write()
    assert main(["check", str(gateway.file)]) == 0
    shown = capsys.readouterr().out
    assert f"sessions: postgresql://127.0.0.1:{postgresql.port}/" in shown
    assert f"renewals: processes agree in redis://127.0.0.1:{valkey.port}/" in shown
    assert "rotation learn" in shown
    assert dsn.partition("@")[0].rpartition(":")[2] not in shown

    gateway.more = sessions(f"redis://:hunter2@127.0.0.1:{free_port()}/0", f"redis://127.0.0.1:{free_port()}/0")
    gateway.write()
    assert main(["check", str(gateway.file)]) == 1
    said = capsys.readouterr().err
    assert [line.split(": ")[1] for line in said.splitlines()] == ["sessions.store", "sessions.coordination"]
    assert "hunter2" not in said


@pytest.mark.parametrize("store", ["", 'store = "sqlite://sessions.db"', 'store = "cookie"'])
def test_check_asks_where_processes_agree_whatever_the_sessions_are(
    gateway: Gateway, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.more = f'[sessions]\n{store}\ncoordination = "redis://127.0.0.1:{free_port()}/0"\n'
    gateway.write()
    assert main(["check", str(gateway.file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("coatcheck: sessions.coordination: nobody can meet there: ")


def test_check_makes_no_files(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.more = sessions("sqlite://sessions.db", "sqlite://meet.db")
    gateway.write()
    assert main(["check", str(gateway.file)]) == 0
    shown = capsys.readouterr().out
    assert "processes agree in sqlite://meet.db" in shown
    assert "sessions: sqlite://sessions.db (no such file yet, the start makes it)" in shown
    assert [path.name for path in gateway.folder.glob("*.db*")] == []


def test_check_says_where_processes_agree(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    for more, where in (
        ("", "the session store"),
        (sessions("sqlite://sessions.db"), "the session store"),
        (sessions("cookie"), "one process"),
        (sessions("cookie", "sqlite://meet.db"), "sqlite://meet.db"),
    ):
        gateway.more = more
        gateway.write()
        assert main(["check", str(gateway.file)]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("renewals: ")]
        assert where in line
