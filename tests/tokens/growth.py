"""
Does anything stay behind of a session that came, was renewed and left?

    python -m tests.tokens.growth --sessions 100000

prints, for each kind of session, what was in memory before and after: every container that a `Tokens` can reach, all
objects that the garbage collector knows, and the resident memory of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sized
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FunctionType, MethodType
from typing import TypeAlias
from weakref import WeakKeyDictionary

from coatcheck.stores import MemoryStore, SQLiteStore
from tests.tokens.scene import LIFETIME, Browser, Scene

Store: TypeAlias = MemoryStore | SQLiteStore
KINDS = ("memory", "sqlite", "cookies")
AT_ONCE = 50
"""Sessions that are under way together."""
WARMING_UP = 1_000
"""Sessions after which whatever is made on first use is there, and small caches are full."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is in memory at one moment. *containers*: what leads to them from a `Tokens`, and how much is in them."""

    containers: Mapping[str, int]
    objects: int
    tasks: int
    resident: int
    """KiB."""


async def figures_of(scene: Scene, store: Store) -> Figures:
    """Look at everything, once the stores have forgotten what they keep until a session would have ended."""
    scene.clock.forward(timedelta(days=365))
    while await store.expire(scene.clock.time(), limit=10_000):
        pass
    # Spent refresh tokens are forgotten a day later, when the next one is spent.
    scene.tokens._history.spent(bytes(32), sent_at=scene.clock.time())
    gc.collect()
    return Figures(
        containers=containers_of(scene.tokens, leave_out=(store, scene.sessions, scene.service)),
        objects=len(gc.get_objects()),
        tasks=len(asyncio.all_tasks()),
        resident=_resident(),
    )


def containers_of(root: object, *, leave_out: tuple[object, ...] = ()) -> dict[str, int]:
    """Count what is in each container that *root* leads to, by the names on the way: `Tokens._renewals._flights`."""
    found: Counter[str] = Counter()
    seen = {id(each) for each in leave_out}
    pending: list[tuple[str, object]] = [(type(root).__name__, root)]
    while pending:
        path, each = pending.pop()
        if id(each) in seen or isinstance(each, str | bytes | int | float | type | None):
            continue
        seen.add(id(each))
        if isinstance(each, Mapping | WeakKeyDictionary | AbstractSet | list | tuple | deque):
            assert isinstance(each, Sized)
            found[path] += len(each)
        pending += _leads_to(path, each)
    return dict(found)


def _leads_to(path: str, each: object) -> list[tuple[str, object]]:
    match each:
        case Mapping() | WeakKeyDictionary():
            return [(f"{path}[]", inner) for pair in list(each.items()) for inner in pair]
        case AbstractSet() | list() | tuple() | deque():
            return [(f"{path}[]", inner) for inner in list(each)]
        case MethodType():
            return [(f"{path}.__self__", each.__self__)]
        case FunctionType():
            return [(f"{path}.__closure__", cell.cell_contents) for cell in each.__closure__ or ()]
    if not type(each).__module__.startswith("coatcheck"):
        return []
    slots = [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*getattr(each, "__dict__", {}), *slots]
    return [(f"{path}.{name}", getattr(each, name)) for name in names if hasattr(each, name)]


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


@asynccontextmanager
async def scene_of(kind: str, folder: Path) -> AsyncIterator[tuple[Scene, Store]]:
    """An application whose sessions are kept in memory, in an SQLite file, or in cookies."""
    scene = Scene(cookies=kind == "cookies")
    if kind == "memory":
        scene.replace_session_store(scene.coordination)
    if kind != "sqlite":
        yield scene, scene.coordination
        return
    store = SQLiteStore(folder / "coatcheck.db", clock=scene.clock)
    scene.replace_session_store(store)
    scene.tokens = scene.other_process(coordination=store)
    try:
        yield scene, store
    finally:
        await store.aclose()


async def live(scene: Scene, sessions: int) -> None:
    """Let so many sessions come, be renewed once and leave; a few dozen at a time."""
    for first in range(0, sessions, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, sessions))
        browsers = [await scene.log_in(f"user-{number}") for number in numbers]
        scene.clock.forward(LIFETIME)
        await asyncio.gather(*(_one(scene, browser) for browser in browsers))
        _forget(scene)
    await scene.tokens.aclose()


async def _one(scene: Scene, browser: Browser) -> None:
    before = await browser.stored()
    user = await browser.request()
    renewed, again = await asyncio.gather(scene.tokens.user_token(user), scene.tokens.user_token(user))
    assert renewed == again
    assert renewed.access_token != before.access_token
    browser.receive(user.session)
    await browser.log_out()


def _forget(scene: Scene) -> None:
    """The authorization server of the tests remembers everything; that is not what is measured."""
    service = scene.service
    for remembered in (service.requests, service.headers, service.owners, service._grants, service._replaced):
        remembered.clear()


async def measured(kind: str, sessions: int, folder: Path) -> tuple[Figures, Figures]:
    """What is in memory before and after so many sessions, once everything is warm."""
    async with scene_of(kind, folder) as (scene, store):
        await live(scene, WARMING_UP)
        before = await figures_of(scene, store)
        await live(scene, sessions)
        return before, await figures_of(scene, store)


def main() -> None:
    """Print a line for each kind."""
    parser = argparse.ArgumentParser(prog="python -m tests.tokens.growth", description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--kind", choices=KINDS, action="append")
    arguments = parser.parse_args()
    for kind in arguments.kind or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            before, after = asyncio.run(measured(kind, arguments.sessions, Path(folder)))
        grown = {path: size for path, size in after.containers.items() if size > before.containers.get(path, 0)}
        print(
            f"{kind}: sessions={arguments.sessions} in containers={sum(before.containers.values())}"
            f"->{sum(after.containers.values())} grown={grown or 'none'} objects={before.objects}->{after.objects} "
            f"tasks={before.tasks}->{after.tasks} RSS={before.resident}->{after.resident} KiB "
            f"cpu={time.process_time() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
