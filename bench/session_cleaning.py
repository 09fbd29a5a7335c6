"""What it costs to delete the dead, for `bench.sessions`: by processes that call `expire`, or by a server."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from dataclasses import dataclass
from typing import Any

from bench.session_operations import Site, cpu_of
from bench.session_places import ValkeyPlace
from coatcheck.stores import open_store

LIMIT = 1000
"""Rows that one call deletes at most."""
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Cleaned:
    """So many dead sessions, and what each cost, in us: by the clock, and of CPU in all processes."""

    rows: int
    wall: float
    cpu: float


def clean(site: Site, share: float, *, after: float, processes: int) -> Cleaned:
    """
    Have *processes* at once delete what is dead when this *share* of the population is. What was dead at the share
    *after* has gone before.
    """
    population, place = site.population, site.place
    expected = population.dead(share) - (population.dead(after) if after else 0)
    spawn = multiprocessing.get_context("spawn")
    gone, cpu, together = spawn.Value("q", 0), spawn.Value("d", 0.0), spawn.Barrier(processes + 1)
    arguments = (place.url, population.when_dead(share), expected, gone, cpu, together)
    running = [spawn.Process(target=_clean, args=arguments) for _ in range(processes)]
    for process in running:
        process.start()
    together.wait(_PATIENCE)
    server, began = cpu_of(place.server_pid), time.perf_counter()
    together.wait(_PATIENCE)  # they begin
    together.wait(_PATIENCE)  # all is gone
    took, server = time.perf_counter() - began, cpu_of(place.server_pid) - server
    together.wait(_PATIENCE)
    for process in running:
        process.join()
    if gone.value != expected:
        raise SystemExit(f"{gone.value} dead rows were deleted, and not {expected}")
    return Cleaned(expected, took / expected * 1e6, (cpu.value + server) / expected * 1e6)


def _clean(url: str, now: float, expected: int, gone: Any, cpu: Any, together: Any) -> None:
    asyncio.run(_expire(url, now, expected, gone, cpu, together))


async def _expire(url: str, now: float, expected: int, gone: Any, cpu: Any, together: Any) -> None:
    """Be one of the processes: delete until all that was *expected* is gone."""
    store = open_store(url)
    await store.load(b"")
    together.wait(_PATIENCE)
    together.wait(_PATIENCE)
    began, until = time.process_time(), time.monotonic() + _PATIENCE / 2
    while gone.value < expected and time.monotonic() < until:
        count = await store.expire(now, limit=LIMIT)
        with gone.get_lock():
            gone.value += count
    with cpu.get_lock():
        cpu.value += time.process_time() - began
    together.wait(_PATIENCE)
    together.wait(_PATIENCE)  # the connections stay until somebody has read what they cost
    await store.aclose()


async def expired_by_the_server(site: Site, place: ValkeyPlace, *, seconds: float) -> Cleaned:
    """
    Let all sessions idle away at one instant, and see for some *seconds* what the server does about it.

    It looks at keys at random, and is content when one in ten is dead: those stay until somebody asks for them.
    """
    population = site.population
    ends_at = time.time() + 1 + population.size / 25_000
    await place.end(map(population.key, range(population.size)), at=ends_at)
    if time.time() > ends_at:
        raise SystemExit("sessions ended before the others were told to")
    before = await place.expired()
    await asyncio.sleep(ends_at - time.time())
    server, began = cpu_of(place.server_pid), time.perf_counter()
    await asyncio.sleep(seconds)
    took, server = time.perf_counter() - began, cpu_of(place.server_pid) - server
    count = await place.expired() - before
    return Cleaned(count, took / count * 1e6, server / count * 1e6)
