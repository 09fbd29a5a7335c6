from __future__ import annotations

import socket

import pytest

from tests.rig.postgresql import PostgreSQL
from tests.rig.programs import ProgramFailed


def test_every_database_is_new_and_outlives_the_server(postgresql: PostgreSQL) -> None:
    with PostgreSQL.start() as server:
        one, other = (server.fresh_database().rpartition("/")[2] for _ in range(2))
        server.sql("CREATE TABLE notes (note text)", database=one)
        assert server.sql("SELECT count(*) FROM pg_class WHERE relname = 'notes'", database=other) == "0"
        for end in (server.stop, server.kill, lambda: server.stop("immediate")):
            server.sql("INSERT INTO notes VALUES ('a')", database=one)
            end()
            with pytest.raises(OSError):
                socket.create_connection((server.host, server.port), timeout=5)
            server.restart()
        assert server.sql("SELECT count(*) FROM notes", database=one) == "3"
        assert server.port != postgresql.port


def test_a_frozen_server_accepts_and_never_answers() -> None:
    with PostgreSQL.start() as server:
        frozen = server.freeze()
        try:
            with socket.create_connection((server.host, server.port), timeout=5) as connection:
                connection.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")  # "do you speak TLS?"
                connection.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                server.thaw(frozen)
                connection.settimeout(5)
                assert connection.recv(1) == b"N"
        finally:
            server.thaw(frozen)


def test_a_statement_that_fails_says_why(postgresql: PostgreSQL) -> None:
    with pytest.raises(ProgramFailed, match=r"SELECT nothing.*does not exist"):
        postgresql.sql("SELECT nothing")
