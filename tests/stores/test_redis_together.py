"""Redis and Valkey: several processes at one server, one of them forked while the store was in use."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
import traceback
from pathlib import Path

import pytest

from coatcheck.sessions import ReplacePart
from coatcheck.stores import RedisStore
from tests.rig.programs import Program
from tests.rig.valkey import Valkey
from tests.sessions.samples import NOW
from tests.stores.redis_samples import row
from tests.testing.clocks import HandClock


@pytest.mark.spec("REF-02", "REF-29")
def test_fifty_holders_in_two_processes_race_for_a_lease_and_one_gets_it(valkey: Valkey) -> None:
    url = valkey.fresh_url()
    for _ in range(5):
        words = [sys.executable, Path(__file__).parent / "acquire.py", url, secrets.token_hex(32), "25"]
        with Program(words) as one, Program(words) as other:
            for process in (one, other):
                process.wait_for("ready")
            for process in (one, other):
                assert process._process.stdin is not None
                process._process.stdin.write("go\n")
                process._process.stdin.flush()
            assert sum(int(process.wait_for(r"taken (\d+)").group(1)) for process in (one, other)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_the_store_is_in_use_harms_neither(valkey: Valkey) -> None:
    store, session = RedisStore(valkey.fresh_url(), HandClock(NOW)), row(size=10)
    read_end, write_end = os.pipe()

    async def child() -> None:
        store._loops.clear()  # what it inherited becomes garbage, and that must not close anything
        gc.collect()
        assert await store.load(session.key) == session
        await store.update(session.key, ReplacePart("tokens", b"from the child", 1))
        await store.aclose()

    async def parent() -> None:
        await store.create(session)
        pid = os.fork()
        if not pid:
            _be_a_child(child, write_end)
        os.close(write_end)
        assert await asyncio.to_thread(os.read, read_end, 100) == b"done"
        assert os.waitpid(pid, 0)[1] == 0
        # The connection is the parent's own still, and answers reach it.
        after = await store.load(session.key)
        assert after is not None
        assert after.tokens == b"from the child"
        await store.aclose()

    asyncio.run(parent())
    os.close(read_end)


def _be_a_child(work: object, write_end: int) -> None:
    """Run *work* in an event loop of the child's own and end without what the parent would do at its end."""
    signal.alarm(20)
    try:
        # The parent's loop is inherited as running; a child that lives on leaves it behind like this.
        asyncio._set_running_loop(None)
        asyncio.run(work())  # type: ignore[operator]
        os.write(write_end, b"done")
    except BaseException:
        os.write(write_end, traceback.format_exc().encode()[-100:])
    finally:
        os._exit(0)
