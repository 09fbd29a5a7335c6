"""`coatcheck migrate`: one line for each store, and nothing that a second run would do again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from coatcheck.cli import main
from tests.gateway.running import Gateway, gateway_parts
from tests.rig.postgresql import PostgreSQL
from tests.rig.programs import free_port
from tests.rig.servers import coatcheck
from tests.stores.sqlite_samples import row
from tests.stores.test_sqlite_schema import file_of_version_1, versions

SQLITE = "; SQLite needs no command for that, a start does it"
AS_IT_IS = "nothing to do, its tables are those of this release"
NO_TABLES = "nothing to do, it has no tables"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with gateway_parts(tmp_path) as gateway:
        yield gateway


def sessions(store: str, coordination: str | None = None) -> str:
    lines = ["[sessions]", f'store = "{store}"']
    return "\n".join(lines + ([f'coordination = "{coordination}"'] if coordination else [])) + "\n"


def migrated(gateway: Gateway, capsys: pytest.CaptureFixture[str], *, status: int = 0) -> tuple[list[str], str]:
    """The lines that it printed, and what it complained of."""
    gateway.write()
    assert main(["migrate", str(gateway.file)]) == status
    said = capsys.readouterr()
    return said.out.splitlines(), said.err


def test_a_file_of_an_older_release_is_brought_forward_once(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    file_of_version_1(gateway.folder / "old.db", row())
    gateway.more = sessions("sqlite://old.db")
    name = "sessions.store: sqlite://old.db: "
    done = "brought the sessions from schema 1 to 2, made the values (schema 1), made the leases (schema 1), "
    assert migrated(gateway, capsys) == ([f"{name}{done}made the messages (schema 1){SQLITE}"], "")
    assert versions(gateway.folder / "old.db") == {"sessions": 2, "values": 1, "leases": 1, "messages": 1}
    assert migrated(gateway, capsys) == ([f"{name}{AS_IT_IS}{SQLITE}"], "")


def test_the_tables_of_postgresql_are_made_and_what_has_no_tables_is_left_alone(
    gateway: Gateway, postgresql: PostgreSQL, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = postgresql.fresh_database()
    place = f"postgresql://127.0.0.1:{postgresql.port}/{dsn.rpartition('/')[2]}"
    gateway.more = sessions("cookie", dsn)
    cookies, where = f"sessions.store: cookie: {NO_TABLES}", f"sessions.coordination: {place}: "
    made = "made the sessions (schema 1), made the leases (schema 1), made the values (schema 1)"
    assert migrated(gateway, capsys) == ([cookies, where + made], "")
    assert migrated(gateway, capsys) == ([cookies, where + AS_IT_IS], "")


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        ("", ["sessions.store: development mode: nothing to do, the first start makes the file"]),
        (sessions("memory"), [f"sessions.store: memory: {NO_TABLES}"]),
        (sessions("cookie"), [f"sessions.store: cookie: {NO_TABLES}"]),
        (
            sessions("sqlite://sessions.db", "redis://127.0.0.1:1/0"),
            [
                "sessions.store: sqlite://sessions.db: nothing to do, the first start makes the file",
                f"sessions.coordination: redis://127.0.0.1:1/0: {NO_TABLES}",
            ],
        ),
        (
            sessions("redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0"),
            [f"sessions.store: redis://127.0.0.1:1/0: {NO_TABLES}"],
        ),
    ],
)
def test_where_there_is_nothing_to_do_nothing_is_made(
    more: str, lines: list[str], gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even a file: it would belong to whoever runs this, and not to who serves."""
    gateway.more = more
    assert migrated(gateway, capsys) == (lines, "")
    assert list(gateway.folder.rglob("*.db*")) == []


def test_what_cannot_be_brought_forward_is_one_line_behind_what_could(
    gateway: Gateway, postgresql: PostgreSQL, capsys: pytest.CaptureFixture[str]
) -> None:
    database = postgresql.fresh_database().rpartition("/")[2]
    postgresql.sql(f"CREATE ROLE guest_{database} LOGIN PASSWORD 'hunter2'")
    file_of_version_1(gateway.folder / "old.db")
    dsn = postgresql.dsn_at(postgresql.port, database=database, user=f"guest_{database}", password="hunter2")
    gateway.more = sessions("sqlite://old.db", dsn)
    (done,), complaint = migrated(gateway, capsys, status=2)
    assert done.startswith("sessions.store: sqlite://old.db: brought the sessions from schema 1 to 2")
    assert complaint.startswith("coatcheck: sessions.coordination: cannot be brought forward: postgresql://127.0.0.1:")
    assert "this role may not create them (permission denied for schema public)" in complaint
    assert "`python -m coatcheck.stores.postgresql` prints" in complaint
    assert complaint.count("\n") == 1
    assert "hunter2" not in complaint


def test_a_store_of_a_newer_release_and_one_that_is_away_are_one_line(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    path = gateway.folder / "newer.db"
    file_of_version_1(path)
    with sqlite3.connect(path) as newer:
        newer.execute("INSERT INTO coatcheck_schema VALUES ('values', 7)")
    newer.close()
    for place, why in (
        ("sqlite://newer.db", r"by a newer coatcheck (schema 7, this one knows 1)"),
        (f"postgresql://127.0.0.1:{free_port()}/shop", "check that the server runs"),
    ):
        gateway.more = sessions(place)
        lines, complaint = migrated(gateway, capsys, status=2)
        assert lines == []
        assert complaint.startswith("coatcheck: sessions.store: cannot be brought forward: ")
        assert why in complaint
        assert complaint.count("\n") == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_several_at_once_all_succeed_and_one_has_done_it(gateway: Gateway, kind: str, postgresql: PostgreSQL) -> None:
    file_of_version_1(gateway.folder / "old.db", *(row(number.to_bytes(32, "big")) for number in range(200)))
    gateway.more = sessions("sqlite://old.db" if kind == "sqlite" else postgresql.fresh_database())
    gateway.write()
    together = [coatcheck("migrate", gateway.file) for _ in range(3)]
    assert [program.wait() for program in together] == [0, 0, 0]
    said = sorted(AS_IT_IS in program.output for program in together)
    assert said == [False, True, True], [program.output for program in together]
    for program in together:
        program.stop()
