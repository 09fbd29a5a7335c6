"""
The nursery and its workers: `python -m tests.rig.fleet_worker SOCKET` imports everything once, then forks a worker for
each order that comes over the Unix socket. `fleet.py` is the other end, and says what workers understand.

A worker is a process of its own with an event loop of its own: coatcheck in front of nothing, one remote API, served by
uvicorn on a loopback port. It speaks JSON lines over a connection of its own to the same socket, and ends with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import uvicorn

from coatcheck import BFF, Client, LogoutOptions
from coatcheck.single_flight import SingleFlight
from coatcheck.stores.urls import open_store
from coatcheck.tokens.lease import LeaseTimes
from coatcheck.tokens.memory import ExpiringMemory
from coatcheck.tokens.rollback import StoreHistory
from tests.rig.gated_store import GatedStore
from tests.rig.worker_plan import WorkerPlan

T = TypeVar("T")

LIFETIME = timedelta(days=30)
"""Of sessions: the clock moves on in leaps."""
_PR_SET_PDEATHSIG = 1


class MovedClock:
    """The machine's clocks, and so many seconds more."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def time(self) -> float:
        return time.time() + self.offset

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


class Gates:
    """Named places at which whoever passes can be stopped. Each one that stops is reported to the parent."""

    def __init__(self) -> None:
        self._armed: Counter[str] = Counter()
        self._released: dict[str, asyncio.Event] = {}
        self.report: Any = None

    def arm(self, name: str, count: int) -> None:
        """Stop the next *count* that come to *name*."""
        self._armed[name] = count
        self._released[name] = asyncio.Event()

    def release(self, name: str) -> None:
        """Let everybody at *name* go on, and nobody stop there any more."""
        self._armed[name] = 0
        self._released[name].set()

    async def __call__(self, name: str) -> None:
        if self._armed[name] <= 0:
            return
        self._armed[name] -= 1
        self.report({"reached": name})
        await self._released[name].wait()


class Worker:
    """What one worker is made of, and what it does when the parent says so."""

    def __init__(self, plan: WorkerPlan, offset: float) -> None:
        self.plan = plan
        self.clock = MovedClock(offset)
        self.gates = Gates()
        store = open_store(plan.store, clock=self.clock)
        self.store = GatedStore(store, self.gates, clock=self.clock, without=plan.without)
        self.bff = self._bff()

    def _bff(self) -> BFF:
        plan = self.plan
        user_tokens: Any = None
        if plan.sessions == "shared-grant":
            from coatcheck.tokens.shared_store import SharedUserTokenStore

            user_tokens = SharedUserTokenStore(self.store, keys=plan.keys, clock=self.clock)
        bff = BFF(
            Client(
                issuer=plan.issuer,
                client_id=plan.client_id,
                client_secret=plan.client_secret,
                scope=plan.scope,
                rotation=plan.rotation,
                endpoints={} if plan.token_endpoint is None else {"token_endpoint": plan.token_endpoint},
            ),
            public_url=plan.public_url,
            keys=plan.keys,
            sessions="cookie" if plan.sessions == "cookie" else self.store,
            coordination=self.store,
            user_token_store=user_tokens,
            lifetime=LIFETIME,
            idle_timeout=timedelta(days=plan.idle_days),
            logout=LogoutOptions(**plan.logout),
            clock=self.clock,
            checkpoints=self.gates,
            lease_times=LeaseTimes(*plan.lease_times or ()),
        )
        bff.remote_api("/api/orders", plan.api)
        return bff

    async def serve(self, control: str) -> None:
        """Serve until the parent says stop, or leaves."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        config = uvicorn.Config(
            self.bff.wrap(_nothing_here),
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=2,
            timeout_keep_alive=60,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.002)
            if serving.done():
                return serving.result()
        reader, writer = await asyncio.open_unix_connection(control)

        def say(message: Mapping[str, object]) -> None:
            writer.write(json.dumps(message).encode() + b"\n")

        self.gates.report = say
        say({"number": self.plan.number, "pid": os.getpid(), "port": listener.getsockname()[1]})
        orders: set[asyncio.Task[None]] = set()
        while line := await reader.readline():
            order = json.loads(line)
            if order["do"] == "stop":
                break
            # A task each: an order that waits must not keep the next one from being heard.
            task = asyncio.create_task(self._follow(order, say))
            orders.add(task)
            task.add_done_callback(orders.discard)
        else:
            os._exit(1)  # the parent is gone
        server.should_exit = True
        await serving
        await self.store.aclose()
        writer.close()

    async def _follow(self, order: dict[str, Any], say: Any) -> None:
        answer: dict[str, object] = {}
        match order["do"]:
            case "clock":
                self.clock.offset = order["offset"]
                self.store.new_round()
            case "arm":
                self.gates.arm(order["name"], order["count"])
            case "release":
                self.gates.release(order["name"])
            case "drain":
                for flights in _all(SingleFlight):
                    await flights.drain()
            case "settle":
                await self.store.settle()
            case "forget":
                for history in _all(StoreHistory):
                    history._spent = ExpiringMemory(1)
            case "sizes":
                answer = _sizes()
            case unknown:
                answer = {"error": f"no such order: {unknown}"}
        say({"id": order["id"], **answer})


def _all(kind: type[T]) -> list[T]:
    """Every living object of a class: the rig looks into maps that nobody else has to know."""
    return [candidate for candidate in gc.get_objects() if isinstance(candidate, kind)]


def _sizes() -> dict[str, object]:
    """How many entries the maps in memory have."""
    gc.collect()
    return {
        "flights": sum(len(flights._flights) for flights in _all(SingleFlight)),
        "memories": sum(len(memory) for memory in _all(ExpiringMemory)),
        "tasks": len(asyncio.all_tasks()),
    }


async def _nothing_here(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """The application behind the BFF."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _be_worker(control: str, order: dict[str, Any]) -> None:
    """Never returns. Whoever forked us may die first, and even a stopped worker must not outlive it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 1
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        worker_plan = WorkerPlan(**order["plan"])

        async def work() -> None:
            await Worker(worker_plan, order["offset"]).serve(control)

        asyncio.run(work())
        status = 0
    except BaseException:
        logging.exception("a worker of the fleet failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Fork on demand, from a process that has no threads and no event loop."""
    control = sys.argv[1]
    logging.basicConfig(level=logging.WARNING, format="%(process)d %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries the dead
    with suppress(ImportError):
        import coatcheck.stores.postgresql
        import coatcheck.stores.redis
        import coatcheck.tokens.shared_store  # noqa: F401
    gc.freeze()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(control)
    connection.sendall(json.dumps({"nursery": os.getpid()}).encode() + b"\n")
    with connection, connection.makefile("rb") as orders:
        for line in orders:
            if os.fork() == 0:
                connection.close()
                _be_worker(control, json.loads(line))


if __name__ == "__main__":
    main()
