"""What `bench.sessions` does to a store, in turns that are timed call by call."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from bench.session_places import Place
from bench.session_population import CLAIMS, ISSUER, PER_SUB, POLICY, Population
from coatcheck.sessions import SessionFilter, SessionHandle, Touch
from coatcheck.sessions.server_side import ServerSideHandle

Call: TypeAlias = Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Site:
    """A population in its place, and whose turn it is. Nobody is picked twice in one turn."""

    population: Population
    place: Place
    _random: random.Random = field(default_factory=lambda: random.Random(1))
    _touches: int = 0
    _unused: Iterator[int] = field(init=False)
    _subs: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        self._unused = iter(self._random.sample(self._odd, min(len(self._odd), 20_000)))
        subs = self.population.subs
        self._subs = iter(self._random.sample(range(subs), min(subs, 10_000)))

    @property
    def _odd(self) -> range:
        """Sessions that die at their end, however often they are used: the clean-up still finds what it expects."""
        return range(1, self.population.size, 2)

    def any(self, count: int) -> list[int]:
        """So many out of all."""
        return self._random.sample(range(self.population.size), count)

    def to_touch(self, count: int) -> list[tuple[int, float]]:
        """So many, and an instant that is later than that of their last touch."""
        self._touches += 1
        return [(number, self.population.now + self._touches) for number in self._random.sample(self._odd, count)]

    def unused(self, count: int) -> list[int]:
        """So many that have not slid yet."""
        return self._next(self._unused, count)

    def subs(self, count: int) -> list[int]:
        """So many users who have not been taken yet."""
        return self._next(self._subs, count)

    def _next(self, numbers: Iterator[int], count: int) -> list[int]:
        taken = list(islice(numbers, count))
        if len(taken) < count:
            raise SystemExit(f"{self.population.size} sessions are too few for so many rounds")
        return taken


@dataclass(frozen=True, slots=True)
class Turn:
    """How long each call took, and the CPU time of one on the average, ours and the server's; all in us."""

    times: list[float]
    client_cpu: float
    server_cpu: float


async def timed(place: Place, calls: Sequence[Call]) -> tuple[Turn, list[Any]]:
    """Make *calls* one after the other; returns their answers, too."""
    times, answers = [], []
    server, client = cpu_of(place.server_pid), time.process_time()
    for call in calls:
        began = time.perf_counter()
        answer = await call()
        times.append((time.perf_counter() - began) * 1e6)
        answers.append(answer)
    client, server = time.process_time() - client, cpu_of(place.server_pid) - server
    return Turn(times, client / len(calls) * 1e6, server / len(calls) * 1e6), answers


def cpu_of(pid: int | None) -> float:
    """Seconds of CPU of a process and those below it, as long as they live."""
    if pid is None:
        return 0.0
    nanoseconds = 0
    waiting = [pid]
    while waiting:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
                nanoseconds += int((task / "schedstat").read_text().split()[0])
                waiting += map(int, (task / "children").read_text().split())
    return nanoseconds / 1e9


async def load(site: Site, count: int) -> Turn:
    """`SessionStore.load`."""
    keys = [site.population.key(number) for number in site.any(count)]
    turn, rows = await timed(site.place, [partial(site.place.store.load, key) for key in keys])
    assert [row.key for row in rows] == keys
    return turn


async def lookup(site: Site, count: int) -> Turn:
    """A request with a cookie."""
    turn, _ = await _open(site, site.any(count), slide=False)
    return turn


async def touch(site: Site, count: int) -> Turn:
    """`SessionStore.update` with a `Touch`."""
    update, key = site.place.store.update, site.population.key
    turn, _ = await timed(site.place, [partial(update, key(who), Touch(at)) for who, at in site.to_touch(count)])
    return turn


async def slide(site: Site, count: int) -> Turn:
    """A request with a cookie that counts as a use: a look-up and a touch."""
    turn, handles = await _open(site, site.unused(count), slide=True)
    assert all(handle.session.seen_at >= site.population.now for handle in handles)
    return turn


async def revoke(site: Site, count: int) -> Turn:
    """`SessionIndex.revoke` of one user. The sessions are put back behind it."""
    subs, store = site.subs(count), site.place.store
    keys = [[site.population.sub_key(sub)] for sub in subs]
    turn, answers = await timed(site.place, [partial(store.revoke, POLICY.application_id, key) for key in keys])
    assert [len(rows) for rows in answers] == [PER_SUB] * count
    for rows in answers:
        for row in rows:
            await store.create(row)
    return turn


async def end_all(site: Site, count: int) -> Turn:
    """`ServerSideSessions.find_all` of one user and `end` of each, as logouts do. They are put back behind it."""
    sessions, now = site.population.sessions(site.place.store), site.population.now

    async def end(who: SessionFilter) -> list[ServerSideHandle]:
        found = [handle for handle in await sessions.find_all(who, now=now) if isinstance(handle, ServerSideHandle)]
        for handle in found:
            await sessions.end(handle)
        return found

    turn, answers = await timed(site.place, [partial(end, site.population.who(sub)) for sub in site.subs(count)])
    assert [len(handles) for handles in answers] == [PER_SUB] * count
    for handles in answers:
        for handle in handles:
            await site.place.store.create(handle.row)
    return turn


async def find_by_sub(site: Site, count: int) -> Turn:
    """`SessionIndex.find` of one user."""
    keys = [[site.population.sub_key(number % site.population.subs)] for number in site.any(count)]
    turn, answers = await _find(site, keys)
    assert [len(rows) for rows in answers] == [PER_SUB] * count
    return turn


async def find_by_sid(site: Site, count: int) -> Turn:
    """`SessionIndex.find` of one session of the authorization server."""
    turn, answers = await _find(site, [[site.population.sid_key(number)] for number in site.any(count)])
    assert [len(rows) for rows in answers] == [1] * count
    return turn


async def create(site: Site, count: int) -> Turn:
    """A login. The sessions are ended behind it."""
    sessions, now = site.population.sessions(site.place.store), site.population.now
    calls = [
        partial(
            sessions.create,
            claims=CLAIMS,
            iss=ISSUER,
            sub=f"new-{number}",
            sid=f"new-{number}",
            tokens=bytes(600),
            now=now,
        )
        for number in range(count)
    ]
    turn, handles = await timed(site.place, calls)
    for handle in handles:
        await sessions.end(handle)
    return turn


async def _open(site: Site, numbers: list[int], *, slide: bool) -> tuple[Turn, list[SessionHandle]]:
    sessions, now = site.population.sessions(site.place.store), site.population.now
    cookies = [site.population.cookies(number) for number in numbers]
    turn, handles = await timed(site.place, [partial(sessions.open, one, now=now, slide=slide) for one in cookies])
    assert None not in handles
    return turn, handles


async def _find(site: Site, keys: list[list[bytes]]) -> tuple[Turn, list[Any]]:
    return await timed(site.place, [partial(site.place.store.find, POLICY.application_id, key) for key in keys])


@dataclass(frozen=True, slots=True)
class Operation:
    """A name for the table, so many calls in a turn, and the most that the larger population may cost."""

    name: str
    turn: Callable[[Site, int], Awaitable[Turn]]
    calls: int
    aim: float | None = None


OPERATIONS = (
    Operation("load", load, 150),
    Operation("lookup", lookup, 150, 1.5),
    Operation("touch", touch, 40),
    Operation("slide", slide, 40, 1.5),
    Operation("revoke by sub", revoke, 11, 1.5),
    Operation("end by sub", end_all, 11, 1.5),
    Operation("find by sub", find_by_sub, 40),
    Operation("find by sid", find_by_sid, 40),
    Operation("create", create, 25),
)
