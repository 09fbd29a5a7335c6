"""The network that fails on command: what client and server see of each fault, and that it passes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.rig.tcp_fault import TCPFault


class Echo:
    """A server that answers each piece with the same in capitals, and remembers what it got."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(4096):
                    self.got.append(piece)
                    connection.sendall(piece.upper())
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()  # every connection was ended


@contextmanager
def connected(fault: TCPFault, *, seconds: float = 5) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", fault.port), timeout=seconds) as connection:
        yield connection


def ask(connection: socket.socket, piece: bytes) -> bytes:
    connection.sendall(piece)
    return connection.recv(4096)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def fault(echo: Echo) -> Iterator[TCPFault]:
    with TCPFault.before(echo.port) as proxy:
        yield proxy


def test_everything_passes(fault: TCPFault) -> None:
    with connected(fault) as connection:
        assert ask(connection, b"one") == b"ONE"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert fault.accepted == 1


def test_a_cut_resets_what_lives_and_refuses_what_comes(fault: TCPFault) -> None:
    with connected(fault) as connection:
        assert ask(connection, b"one") == b"ONE"
        fault.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError), connected(fault):
        pass
    fault.restore()
    with connected(fault) as connection:
        assert ask(connection, b"two") == b"TWO"


def test_a_hang_swallows_and_says_nothing(echo: Echo, fault: TCPFault) -> None:
    with connected(fault, seconds=0.1) as old, connected(fault, seconds=5) as idle:
        assert ask(old, b"one") == b"ONE"
        assert ask(idle, b"idle") == b"IDLE"
        fault.hang()
        with connected(fault, seconds=0.1) as new:
            for connection in (old, new):
                with pytest.raises(TimeoutError):
                    ask(connection, b"lost")
            fault.restore()
            for connection in (old, new):
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)
        assert ask(idle, b"still there") == b"STILL THERE"
    assert b"lost" not in echo.got


def test_a_cut_answer_has_reached_the_server(echo: Echo, fault: TCPFault) -> None:
    with connected(fault) as connection:
        fault.cut_answers(times=1)
        with pytest.raises(ConnectionResetError):
            ask(connection, b"done")
    assert (echo.got, fault.answers_cut) == ([b"done"], 1)
    with connected(fault) as connection:
        assert ask(connection, b"again") == b"AGAIN"


def test_answers_are_cut_until_it_is_told_to_stop(fault: TCPFault) -> None:
    fault.cut_answers()
    for _ in range(3):
        with connected(fault) as connection, pytest.raises(ConnectionResetError):
            ask(connection, b"done")
    assert fault.answers_cut == 3


def test_a_delay_holds_each_piece_up(fault: TCPFault) -> None:
    fault.delay(0.05)
    with connected(fault) as connection:
        begun = time.monotonic()
        assert ask(connection, b"slow") == b"SLOW"
        assert time.monotonic() - begun >= 0.1
        fault.delay(3600)
        fault.restore()
        assert ask(connection, b"quick") == b"QUICK"


def test_new_connections_may_lead_to_another_server(echo: Echo, fault: TCPFault) -> None:
    other = Echo()
    with connected(fault) as old:
        assert ask(old, b"one") == b"ONE"
        fault.lead_to(other.port)
        with connected(fault) as new:
            assert ask(new, b"two") == b"TWO"
        assert ask(old, b"three") == b"THREE"
    assert (echo.got, other.got) == ([b"one", b"three"], [b"two"])
    other.close()


def test_a_server_that_is_not_there_resets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with TCPFault.before(port) as fault, pytest.raises(ConnectionResetError), connected(fault) as connection:
        connection.recv(1)


def test_nothing_is_left_at_the_end(echo: Echo) -> None:
    with TCPFault.before(echo.port) as fault, connected(fault) as connection:
        assert ask(connection, b"one") == b"ONE"
        assert fault.connections == 1
    with pytest.raises(ConnectionRefusedError), connected(fault):
        pass
