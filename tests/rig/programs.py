"""Start a program, wait until it is ready, read what it prints, and end it by its process id."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
"""What the rig downloads or unpacks; outside of version control."""


class ProgramFailed(AssertionError):
    """A program that a test needs did not come up. A test that cannot have its parts fails, it is never skipped."""


class Program:
    """
    A running child process. Its standard output and error are read together, line by line, while it runs.

    Standard input stays an open pipe: a program that watches it ends with the test run, however that ends.
    """

    def __init__(self, command: Sequence[object], *, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
        self.command = [str(part) for part in command]
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            self.command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything printed so far."""
        with self._news:
            return "".join(self._lines)

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def wait_for(self, pattern: str, *, count: int = 1, seconds: float = 30) -> re.Match[str]:
        """
        Wait for a line (or for the *count*th one) in which *pattern* is found.

        Fails, with all output, where the program ends or is late.
        """
        deadline = time.monotonic() + seconds
        seen = found = 0
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if match := re.search(pattern, line):
                        found += 1
                        if found == count:
                            return match
                seen = len(self._lines)
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    break
                self._news.wait(min(left, 0.5))
        raise ProgramFailed(
            f"{self.command[0]} did not print {pattern!r} (exit status {self.returncode}):\n{self.output}"
        )

    def wait(self, *, seconds: float = 30) -> int:
        """Wait until it has ended by itself; its exit status."""
        status = self._process.wait(seconds)
        self._reader.join(5)
        return status

    def stop(self, *, seconds: float = 10) -> None:
        """Ask it to end (SIGTERM), make it end (SIGKILL) where it does not. May be called again."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(seconds)
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_listening(port: int, *, seconds: float = 20) -> None:
    """Wait until somebody accepts connections on a loopback port: some servers say so a moment too early."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def printed_by_processes_that_start_together(prepare: str, act: str) -> list[str]:
    """
    Run Python in three processes: each runs *prepare*; when all have, each runs *act*. What they have printed by it.
    """
    code = f"import sys\n{prepare}\nprint('ready', flush=True)\nsys.stdin.readline()\n{act}\n"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=30)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    return printed
