"""
What a renewal costs those who wait for it, and those who do not, at `Tokens.user_token`.

    python -m bench.renewal                           # all stores: about 4 minutes
    python -m bench.renewal --stores valkey --rounds 10 --callers 200

- *last answer*: so many callers on one expired grant ask at one instant, in one process or spread over two; the time
  until the last one has the token, as a ratio to the delay of the provider (250 ms). Each round also checks that the
  provider saw one request.
- *fresh path*: what a token that is fresh costs after the session was loaded, and what the store is asked.
- *sent mark*: one caller alone, a provider without delay, with and without the mark in turn.
- *crowd*: users who call all the time, with tokens of ten seconds and with tokens that never expire, in turn: p95.

Medians over the rounds. Linux only; give it a machine where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from coatcheck.sessions import new_key
from tests.rig.postgresql import PostgreSQL
from tests.rig.servers import free_port
from tests.rig.valkey import Valkey

ROOT = Path(__file__).parents[1]
DELAY_MS = 250
STORES = ("memory", "sqlite", "postgresql", "valkey")
AIMS = {"valkey": 1.15, "postgresql": 1.2, "sqlite": 1.2}
"""The longest time until the last of 200 callers over two processes has its answer, by the provider's delay."""
AIM_CROWD = 1.2


class Process:
    """A worker process and its lines of JSON."""

    def __init__(self, url: str, issuer: str, key: str) -> None:
        command = [sys.executable, "-m", "bench.renewal_worker", url, issuer, key]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker process has ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.send(do, **arguments)
        return self.receive()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


@contextmanager
def provider(*, lifetime: int) -> Iterator[str]:
    """Serve a slow provider; gives its issuer."""
    port = free_port()
    command = [sys.executable, "-m", "bench.slow_provider", str(port), str(DELAY_MS), str(lifetime)]
    process = subprocess.Popen(command, cwd=ROOT)
    issuer = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                fetch(issuer + "/reuse")
                break
            except OSError:
                time.sleep(0.02)
        yield issuer
    finally:
        process.terminate()
        process.wait()


def fetch(url: str) -> dict[str, Any]:
    """Ask the provider for one of its figures."""
    with urllib.request.urlopen(url, timeout=10) as response:  # loopback
        answer: dict[str, Any] = json.load(response)
    return answer


@contextmanager
def store_url(name: str) -> Iterator[str]:
    """Start what the store needs; gives its URL."""
    with ExitStack() as stack:
        match name:
            case "sqlite":
                yield f"sqlite://{stack.enter_context(tempfile.TemporaryDirectory())}/sessions.db"
            case "postgresql":
                yield stack.enter_context(PostgreSQL.start(fsync="on")).fresh_database()
            case "valkey":
                yield stack.enter_context(Valkey.start(durable=True)).fresh_url()
            case _:
                yield "memory"


@contextmanager
def workers(url: str, issuer: str, number: int) -> Iterator[list[Process]]:
    """Start so many processes over one store, with one key."""
    key = new_key()
    processes = [Process(url, issuer, key) for _ in range(number)]
    try:
        yield processes
    finally:
        for process in processes:
            process.close()


def last_answer(url: str, issuer: str, *, processes: int, callers: int, rounds: int) -> list[float]:
    """Return, for each round, the time until the last answer as a ratio to the delay."""
    ratios = []
    with workers(url, issuer, processes) as running:
        cookie = running[0].ask("login", refresh_token=f"first of {time.monotonic_ns()}")["cookie"]
        for number in range(rounds + 1):
            for process in running:
                process.ask("forward", seconds=300)
                process.ask("load", cookie=cookie, callers=callers // processes)
            before = fetch(issuer + "/reuse")
            at = time.monotonic() + 0.1
            for process in running:
                process.send("go", at=at)
            answers = [process.receive() for process in running]
            after = fetch(issuer + "/reuse")
            tokens = {token for answer in answers for token in answer["tokens"]}
            if len(tokens) != 1 or after["refreshes"] - before["refreshes"] != 1 or after["reuse"]:
                raise SystemExit(f"not renewed exactly once: {before} -> {after}, {len(tokens)} tokens")
            if number:  # the first round connects and discovers
                ratios.append(max(answer["last"] for answer in answers) / (DELAY_MS / 1000))
    return ratios


def fresh_path(url: str, issuer: str) -> dict[str, Any]:
    """Return what a fresh token costs."""
    with workers(url, issuer, 1) as (process,):
        cookie = process.ask("login", refresh_token=f"fresh {time.monotonic_ns()}")["cookie"]
        process.ask("fresh", cookie=cookie, calls=500)
        return process.ask("fresh", cookie=cookie, calls=2000)


def sent_mark(url: str, issuer: str, *, rounds: int) -> dict[str, Any]:
    """Return, in seconds, a renewal for one caller with and without the mark, and the operations of the store."""
    fetch(f"{issuer}/delay?0")
    try:
        with workers(url, issuer, 1) as (process,):
            cookie = process.ask("login", refresh_token=f"alone {time.monotonic_ns()}")["cookie"]
            process.ask("alone", cookie=cookie, marks=True)
            pairs = [
                (process.ask("alone", cookie=cookie, marks=True), process.ask("alone", cookie=cookie, marks=False))
                for _ in range(rounds)
            ]
    finally:
        fetch(f"{issuer}/delay?{DELAY_MS}")
    operations = {
        name: statistics.median(pair[0]["operations"].get(name, 0.0) for pair in pairs)
        for name in pairs[0][0]["operations"]
    }
    return {
        "with": statistics.median(pair[0]["took"] for pair in pairs),
        "without": statistics.median(pair[1]["took"] for pair in pairs),
        "operations": operations,
    }


def crowd(url: str, *, rounds: int, users: int = 50) -> list[float]:
    """Return, for each round, the p95 of calls with renewals as a ratio to that without."""
    ratios = []
    with provider(lifetime=10) as issuer, workers(url, issuer, 1) as (process,):
        sessions = {
            lifetime: [
                process.ask("login", refresh_token=f"{lifetime}-{number}-{time.monotonic_ns()}", lifetime=lifetime)[
                    "cookie"
                ]
                for number in range(users)
            ]
            for lifetime in (10.0, 7000.0)
        }
        process.ask("crowd", cookies=sessions[10.0], seconds=2, pause=0.2)
        for _ in range(rounds):
            p95 = {
                lifetime: statistics.quantiles(
                    process.ask("crowd", cookies=cookies, seconds=10, pause=0.2)["latencies"], n=20
                )[-1]
                for lifetime, cookies in sessions.items()
            }
            # Those with short tokens went without a call while the others were measured; they renew before the next.
            process.ask("crowd", cookies=sessions[10.0], seconds=1, pause=0.2)
            ratios.append(p95[10.0] / p95[7000.0])
        if fetch(issuer + "/reuse")["reuse"]:
            raise SystemExit("a refresh token was used twice")
    return ratios


def show(ratios: Sequence[float]) -> str:
    """Write a median and its range."""
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]"


def main() -> None:
    """Measure what the command line asks for, and print it."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="bench.renewal", description=__doc__.split("\n\n")[0])
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 10, 100, 200, 1000])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--crowd-rounds", type=int, default=4)
    wanted = parser.parse_args()
    for name in wanted.stores:
        with store_url(name) as url, provider(lifetime=300) as issuer:
            for processes in (1, 2) if name != "memory" else (1,):
                for callers in wanted.callers:
                    if callers < processes:
                        continue
                    found = last_answer(url, issuer, processes=processes, callers=callers, rounds=wanted.rounds)
                    aim = f" (aim: at most {AIMS[name]})" if (processes, callers) == (2, 200) else ""
                    print(f"{name:10} {processes} process(es) {callers:5} callers: last answer {show(found)}{aim}")
            fresh = fresh_path(url, issuer)
            asked = ", ".join(f"{count:g} {operation}" for operation, count in fresh["operations"].items())
            print(
                f"{name:10} fresh: load {fresh['load'] * 1e6:.0f} us, token {fresh['ask'] * 1e6:.1f} us; store: {asked}"
            )
            mark = sent_mark(url, issuer, rounds=max(wanted.rounds, 30))
            parts = ", ".join(f"{operation} {took * 1e6:.0f}" for operation, took in mark["operations"].items())
            print(
                f"{name:10} alone: {mark['with'] * 1e3:.2f} ms with the mark, {mark['without'] * 1e3:.2f} without; "
                f"us in the store: {parts}"
            )
            if wanted.crowd_rounds:
                print(f"{name:10} crowd: p95 {show(crowd(url, rounds=wanted.crowd_rounds))} (aim: at most {AIM_CROWD})")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
