"""
A primary, a replica and three sentinels: the real ones, on 127.0.0.1, with short periods.

    with Watched.start() as servers:
        RedisStore(servers.url)
        servers.primary.kill()

The sentinels know each other and the replica from their files, so that nobody waits until they have met.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis

from tests.rig.programs import Program, free_port, wait_until_listening
from tests.rig.valkey import Valkey, _binary

NAME = "shop"

_PERIODS = (
    # Not shorter: how fresh a replica's answer must be follows the period of pings, how often it is asked does not.
    *("info-period", 200, "ask-period", 100),
    # A busy machine must not make them believe that the time jumped.
    *("tilt-trigger", 60_000, "min-link-reconnect-period", 200, "election-timeout", 1500),
)


class Watched:
    """The servers. The one that is the primary in the beginning is `primary`, whatever happens later."""

    def __init__(self, primary: Valkey, replica: Valkey, sentinels: list[Program], ports: list[int]) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinels = sentinels
        self.ports = ports
        self.database = 0
        """That of the latest URL."""

    @classmethod
    @contextlib.contextmanager
    def start(cls, *, settings: tuple[str, ...] = ()) -> Iterator[Watched]:
        """Start them all; they are ready, and the replica has what the primary has. *settings* are for both."""
        settings = ("--repl-diskless-sync-delay", "0", "--repl-backlog-size", "1mb", *settings)
        with contextlib.ExitStack() as stack:
            primary = stack.enter_context(Valkey.start(settings=settings))
            follows = ("--replicaof", primary.host, str(primary.port))
            replica = stack.enter_context(Valkey.start(settings=(*settings, *follows)))
            ports = [free_port() for _ in range(3)]
            sentinels = []
            for number in range(3):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-sentinel-")))
                file = folder / "sentinel.conf"
                file.write_text(_configuration(number, ports, primary.port, replica.port, folder))
                sentinels.append(stack.enter_context(Program([_binary(), file, "--sentinel"])))
            servers = cls(primary, replica, sentinels, ports)
            for port in ports:
                wait_until_listening(port)
                servers.ask(port, "DEBUG", *_PERIODS)
            servers.wait_until_ready()
            yield servers

    @property
    def url(self) -> str:
        """The way through all the sentinels, to a database that nobody else uses."""
        return self.url_through(*self.ports)

    def url_through(self, *ports: int, name: str = NAME, options: str = "") -> str:
        """The way through some sentinels, or through what stands before them."""
        self.database += 1
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"redis+sentinel://{hosts}/{name}/{self.database}{options}"

    def ask(self, port: int, *words: str | int) -> object:
        """Put a SENTINEL command to one of them."""
        with Redis(port=port) as client:
            return client.execute_command("SENTINEL", *words)

    def where(self) -> int:
        """The port of the primary, as the first sentinel that lives says."""
        port = next(
            port for port, process in zip(self.ports, self.sentinels, strict=True) if process.returncode is None
        )
        answer = self.ask(port, "GET-MASTER-ADDR-BY-NAME", NAME)
        assert isinstance(answer, (list, tuple))
        return int(answer[1])

    def wait_until_ready(self) -> None:
        """Wait until a failover could begin: all sentinels see each other, and the replica is in step."""
        deadline = time.monotonic() + 20
        while not (self._in_step() and all(self._has_quorum(port) for port in self.ports)):
            assert time.monotonic() < deadline, "the sentinels did not get ready"
            time.sleep(0.02)

    def _in_step(self) -> bool:
        with Redis(port=self.replica.port) as client:
            return bool(client.info("replication")["master_link_status"] == "up")

    def _has_quorum(self, port: int) -> bool:
        try:
            replicas = self.ask(port, "REPLICAS", NAME)
            assert isinstance(replicas, list)
            seen = [_pairs(replica) for replica in replicas]
            return bool(self.ask(port, "CKQUORUM", NAME)) and seen[0].get("master-link-status") == "ok"
        except Exception:
            return False


def _pairs(answer: object) -> dict[str, str]:
    if isinstance(answer, dict):
        return {_text(word): _text(value) for word, value in answer.items()}
    assert isinstance(answer, list)
    words = [_text(word) for word in answer]
    return dict(zip(words[::2], words[1::2], strict=True))


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def _configuration(number: int, ports: list[int], primary: int, replica: int, folder: Path) -> str:
    lines = [
        "bind 127.0.0.1",
        f"port {ports[number]}",
        f"dir {folder}",
        f"sentinel myid {number:040x}",
        f"sentinel monitor {NAME} 127.0.0.1 {primary} 2",
        f"sentinel down-after-milliseconds {NAME} 400",
        f"sentinel failover-timeout {NAME} 3000",
        f"sentinel known-replica {NAME} 127.0.0.1 {replica}",
        *(
            f"sentinel known-sentinel {NAME} 127.0.0.1 {port} {other:040x}"
            for other, port in enumerate(ports)
            if other != number
        ),
    ]
    return "\n".join(lines) + "\n"
