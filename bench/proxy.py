"""
What a BFF costs on top of a bare proxy of the same stack, in CPU time per request.

    python -m bench.proxy                        # 5 rounds of 3 s for each candidate: about 90 s
    python -m bench.proxy --rounds 9 --seconds 5 --only bare memory

The server under test has one core to itself; the load and the remote API share another. In each round every
candidate is started afresh, warmed and measured, in an order that turns round each time; what counts is the ratio to
`bare` of the same round, because a busy machine slows both. CPU time is that of the server's processes as the kernel
counts it, for 1 KiB of JSON over 32 connections. Linux only; give it a machine where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.candidates import NAMES
from bench.load import Load

ROOT = Path(__file__).parents[1]
SERVER_CORE, OTHER_CORE = 0, 1
CONNECTIONS = 32
TARGETS = {"memory": 0.65, "sqlite": 0.50, "cookie": 0.50}
"""The least ratio to aim at: CPU time of `bare` by CPU time of the candidate."""

REQUEST = (
    b"GET /api/orders/list?page=2 HTTP/1.1\r\nhost: shop.example\r\naccept: application/json\r\n"
    b"accept-encoding: gzip, deflate, br, zstd\r\naccept-language: de,en;q=0.8\r\n"
    b"user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"referer: https://shop.example/\r\nsec-fetch-dest: empty\r\nsec-fetch-mode: cors\r\n"
    b"sec-fetch-site: same-origin\r\nx-csrf: 1\r\ncookie: theme=dark%s\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One candidate in one round. *idle_mb* is what its processes hold when the load is over (PSS)."""

    cpu_us: float
    load: Load
    idle_mb: float


def measure(name: str, *, seconds: float) -> Measured:
    """Start a candidate and its remote API, warm both, and count."""
    with tempfile.TemporaryDirectory() as folder, _process(OTHER_CORE, "bench.upstream", port := _free_port()):
        own = _free_port()
        url = f"http://127.0.0.1:{port}"
        with _process(SERVER_CORE, "bench.candidates", own, name, own, url, folder) as pid:
            cookie = Path(folder, "cookie")
            request = REQUEST % (b"; " + cookie.read_bytes() if cookie.exists() else b"")
            _load(own, request, seconds=1.0)
            before = _cpu(pid)
            load = _load(own, request, seconds=seconds)
            cpu = _cpu(pid) - before
            idle = sum(_pss(process) for process in _tree(pid)) / 1024
    assert load.wrong == 0, f"{name}: {load.wrong} of {load.requests} answers were wrong"
    return Measured(cpu / load.requests * 1e6, load, idle)


@contextmanager
def _process(core: int, module: str, port: int, *arguments: object) -> Iterator[int]:
    words = [str(word) for word in (arguments or (port,))]
    process = subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-m", module, *words], cwd=ROOT)
    try:
        _wait_until_open(port, process)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _load(port: int, request: bytes, *, seconds: float) -> Load:
    words = [sys.executable, "-m", "bench.load", str(port), str(CONNECTIONS), str(seconds)]
    done = subprocess.run(
        ["taskset", "-c", str(OTHER_CORE), *words], cwd=ROOT, input=request, capture_output=True, check=True
    )
    return Load(**json.loads(done.stdout))


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(process for child in children for process in _tree(int(child)))]


def _cpu(pid: int) -> float:
    """Seconds of CPU that the process and those below it have used."""
    ticks = 0
    for process in _tree(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def report(rounds: dict[str, list[Measured]]) -> str:
    """The table: medians, with the least and the most of all rounds."""
    lines = [
        "",
        f"{'':8} {'cpu us/request':>22} {'of bare':>18} {'added us':>18} {'rps':>7} {'p99 ms':>7} {'idle MB':>8}",
    ]
    for name, measured in rounds.items():
        cpu = [one.cpu_us for one in measured]
        pairs = list(zip(rounds.get("bare", measured), measured, strict=True))
        ratios = [base.cpu_us / one.cpu_us for base, one in pairs]
        added = [one.cpu_us - base.cpu_us for base, one in pairs]
        target = f"  (aim: {TARGETS[name]:.2f})" if name in TARGETS else ""
        lines.append(
            f"{name:8} {_spread(cpu, 0):>22} {_spread(ratios, 2):>18} {_spread(added, 0):>18} "
            f"{statistics.median(one.load.requests / one.load.seconds for one in measured):>7.0f} "
            f"{statistics.median(one.load.p99_ms for one in measured):>7.1f} "
            f"{max(one.idle_mb for one in measured):>8.0f}{target}"
        )
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f} .. {max(values):.{digits}f}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU time per proxied request, paired with a bare proxy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    options = parser.parse_args()
    rounds: dict[str, list[Measured]] = {name: [] for name in options.only}
    for number in range(options.rounds):
        for name in options.only if number % 2 == 0 else reversed(options.only):
            rounds[name].append(measure(name, seconds=options.seconds))
            print(f"round {number + 1}  {name:8} {rounds[name][-1].cpu_us:6.1f} us", flush=True)
    print(report(rounds))


if __name__ == "__main__":
    main()
