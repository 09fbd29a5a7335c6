"""
Sessions in a store with few and with many of them: what the same operation costs, and what one of them takes.

    python -m bench.sessions --store postgresql valkey sqlite      # 1,000 and 1,000,000 sessions: about 12 minutes
    python -m bench.sessions --store sqlite --sessions 1000 100000 --rounds 3

For each store two populations (`session_population`), each on a server or in a file of its own, filled in bulk with the
bytes that the package itself would have written. In each round every operation (`session_operations`) is done on the
one and on the other in turn, for sessions that are picked at random from all; the ratio is that of the medians of one
round, because a busy machine slows both. Commits are durable. A process that looks sessions up has opened none of them
before, so its memory of opened seals helps neither. On a busy disk the ratio of the CPU times says more than the other.

Then the dead are deleted, by one process and by two at once: `expire`, a thousand at most with each call. Valkey does
that by itself, at instants of its own. All servers are real; Linux only; a million sessions take up to 3 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from bench.session_cleaning import Cleaned, clean, expired_by_the_server
from bench.session_operations import OPERATIONS, Operation, Site, Turn
from bench.session_places import ValkeyPlace, place
from bench.session_population import Population

STORES = ("postgresql", "valkey", "sqlite")
CLEANED = 0.05
"""The share of a population that is deleted at once."""


async def measure(store: str, sizes: Sequence[int], *, rounds: int, quick: bool) -> None:
    """Fill, measure, and print what was found."""
    async with AsyncExitStack() as stack:
        sites = []
        for size in sizes:
            population = Population(size, time.time())
            site = Site(population, await stack.enter_async_context(place(store)))
            began = time.perf_counter()
            await site.place.fill(population.rows())
            took = time.perf_counter() - began
            print(f"{store}: {size} sessions, filled in {took:.0f} s: {await _sizes(site)}", flush=True)
            sites.append(site)
        await _turns(sites, 0, quick)  # the first round connects and warms
        print(_head(sizes))
        turns = [await _turns(sites, number, quick) for number in range(1, rounds + 1)]
        for operation in OPERATIONS:
            print(_line(operation, [of_round[operation.name] for of_round in turns]), flush=True)
        for site in sites:
            for line in await _cleaned(site, watch=1 if quick else 10):
                print(line, flush=True)
        for site in sites:
            print(f"in the end, {site.population.size} sessions: {await _sizes(site)}", flush=True)


async def _turns(sites: Sequence[Site], number: int, quick: bool) -> dict[str, list[Turn]]:
    """One round: the turns of all sites with each operation, the other way round every second time."""
    turns: dict[str, list[Turn]] = {}
    for operation in OPERATIONS:
        order = sites if number % 2 else sites[::-1]
        calls = max(2, operation.calls // 10) if quick else operation.calls
        taken = [await operation.turn(site, calls) for site in order]
        turns[operation.name] = taken if number % 2 else taken[::-1]
    return turns


async def _sizes(site: Site) -> str:
    sizes = await site.place.sizes()
    return ", ".join(
        f"{what} {size / 1e6:.1f} MB ({size / site.population.size:.0f} B each)" for what, size in sizes.items()
    )


def _head(sizes: Sequence[int]) -> str:
    columns = "".join(f" | {size:>9}: us     p99     cpu" for size in sizes)
    return f"{'':14}{columns} | ratio of medians, of cpu"


def _line(operation: Operation, rounds: Sequence[Sequence[Turn]]) -> str:
    """The medians of the rounds, p99 of all calls, CPU of us and the server; then the last site by the first."""
    line = f"{operation.name:14}"
    for turns in zip(*rounds, strict=True):
        times = [time for turn in turns for time in turn.times]
        p99 = statistics.quantiles(times, n=100)[-1]
        median, cpu = statistics.median(map(_median, turns)), statistics.median(map(_cpu, turns))
        line += f" | {median:>13.0f} {p99:>7.0f} {cpu:>7.0f}"
    ratios = [_median(turns[-1]) / _median(turns[0]) for turns in rounds]
    cpu_ratios = [_cpu(turns[-1]) / _cpu(turns[0]) for turns in rounds]
    aim = "" if operation.aim is None else f"  (aim: at most {operation.aim})"
    return f"{line} | {_spread(ratios)}, {_spread(cpu_ratios)}{aim}"


def _median(turn: Turn) -> float:
    return statistics.median(turn.times)


def _cpu(turn: Turn) -> float:
    return turn.client_cpu + turn.server_cpu


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}..{max(values):.2f}]"


async def _cleaned(site: Site, *, watch: float) -> list[str]:
    """Delete the dead in several ways, or *watch* the server do it for so many seconds; a line for each."""
    if isinstance(site.place, ValkeyPlace):
        found = {"by the server": [await expired_by_the_server(site, site.place, seconds=watch)]}
    else:
        found, after = {}, 0.0
        for processes in (1, 2):
            several = found[f"{processes} process(es)"] = []
            for _ in range(2):
                several.append(await asyncio.to_thread(clean, site, after + CLEANED, after=after, processes=processes))
                after += CLEANED
    return [f"cleanup, {site.population.size} sessions, {who}: {_each(several)}" for who, several in found.items()]


def _each(several: Sequence[Cleaned]) -> str:
    return ", ".join(f"{one.rows} rows at {one.wall:.0f} us ({one.cpu:.0f} us cpu)" for one in several)


def main() -> None:
    """Measure what the command line asks for."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="bench.sessions", description=__doc__.split("\n\n")[0])
    parser.add_argument("--store", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--sessions", nargs="+", type=int, default=[1000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls: to see whether it works")
    wanted = parser.parse_args()
    for store in wanted.store:
        asyncio.run(measure(store, wanted.sessions, rounds=wanted.rounds, quick=wanted.quick))


if __name__ == "__main__":
    main()
