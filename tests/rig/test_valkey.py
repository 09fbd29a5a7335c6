"""The Valkey of the rig: it starts, forgets or keeps, hangs and comes back."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.rig.valkey import Valkey


def ask(server: Valkey, *words: str, seconds: float = 5) -> str:
    """One command on a connection of its own, without a client library."""
    with socket.create_connection((server.host, server.port), timeout=seconds) as connection:
        connection.sendall((" ".join(words) + "\r\n").encode())
        return connection.recv(4096).decode().strip()


def test_it_keeps_what_a_kill_finds_on_the_disk() -> None:
    with Valkey.start(durable=True) as server:
        assert ask(server, "SET", "name", "value") == "+OK"
        server.kill()
        with pytest.raises(OSError, match="refused"):
            ask(server, "GET", "name")
        server.restart()
        assert ask(server, "GET", "name") == "$5\r\nvalue"
        server.restart(keep_data=False)
        assert ask(server, "GET", "name") == "$-1"


def test_without_a_disk_it_forgets() -> None:
    with Valkey.start() as server:
        assert ask(server, "SET", "name", "value") == "+OK"
        server.restart()
        assert ask(server, "GET", "name") == "$-1"


def test_it_hangs_and_wakes() -> None:
    with Valkey.start() as server:
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                ask(server, "PING", seconds=0.1)
        finally:
            server.signal(signal.SIGCONT)
        assert ask(server, "PING") == "+PONG"


def test_it_asks_for_a_password() -> None:
    with Valkey.start(password="knock") as server:
        assert ask(server, "GET", "name").startswith("-NOAUTH")
        assert ":knock@" in server.url


def test_every_database_is_fresh(valkey: Valkey) -> None:
    assert valkey.fresh_url() != valkey.fresh_url()
    assert ask(valkey, "CONFIG", "GET", "databases").endswith("100000")
