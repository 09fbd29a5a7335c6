"""
Processes, stores and an authorization server in one event loop with virtual time, where anything may go wrong.

Whatever passes between them passes here, takes time, and may fail, get lost, or be overtaken. What must hold all the
same is looked at in `renewal_model.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from coatcheck.errors import StoreUnavailable, TransportError
from coatcheck.oauth.messages import Request, Response
from coatcheck.sessions import CookiePolicy, CookieSessions, KeyRing, ServerSideSessions, SessionHandle, Sessions
from coatcheck.tokens import Tokens
from tests.rig.gated_store import GatedStore
from tests.tokens.token_service import ISSUER

if TYPE_CHECKING:
    from tests.tokens.renewal_model import World

POLICY = CookiePolicy("abcdefgh")
DEADLINE = 10.0
"""Seconds that the back channel gives a token request."""


class Faults:
    """
    What a store does wrong now, and for how many operations.

    `refuses`: nothing happens. `unheard`: it happens, and nobody hears of it. `hangs`: the same, noticed after a while.
    """

    def __init__(self) -> None:
        self.kind = ""
        self._left = 0
        self.last_at = float("-inf")

    def begin(self, kind: str, operations: int) -> None:
        self.kind, self._left = kind, operations

    def end(self) -> None:
        self.kind = ""

    def next(self, now: float) -> str:
        """Return what happens to the operation that begins *now*."""
        if not self.kind:
            return ""
        kind, self.last_at = self.kind, now
        self._left -= 1
        if self._left == 0:
            self.end()
        return kind


class Line:
    """How one process reaches a store: in its own time, and only while it runs."""

    def __init__(self, process: Process, inner: object, faults: Faults) -> None:
        self._process = process
        self._inner = inner
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def operation(*arguments: Any, **keywords: Any) -> Any:
            return await self._operation(name, lambda: method(*arguments, **keywords), arguments)

        return operation

    async def _operation(self, name: str, operate: Callable[[], Awaitable[Any]], arguments: tuple[Any, ...]) -> Any:
        process, world = self._process, self._process.world
        await process.runs()
        fault = self._faults.next(world.clock.time())
        if fault == "refuses":
            raise StoreUnavailable("the connection to the store was refused")
        if name == "mark_sent":
            process.marks.add(arguments[0])
        await asyncio.sleep(process.distance)
        result: object = None
        error: Exception | None = None
        try:
            result = await operate()
        except Exception as raised:
            error = raised
        await world.look()
        await asyncio.sleep(2.0 if fault == "hangs" else process.distance)
        await process.runs()
        if fault:
            raise StoreUnavailable("the store did not answer")
        if name == "release" and error is None:
            process.marks.discard(arguments[0])
        if error is not None:
            raise error
        return result


class Process:
    """One process of the application; *distance* is how far (in seconds) from the stores it stands."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.distance = (0.001, 0.003, 0.007)[number]
        self.killed = False
        self.interruptions = 0
        self.marks: set[bytes] = set()
        """The leases on which it has written a mark that it has not taken back."""
        self.under_way: list[str] = []
        """The refresh tokens for which it waits for an answer."""
        self._running = asyncio.Event()
        self._running.set()
        self._orders: dict[str, Callable[[], None]] = {}
        store = GatedStore(world.store, self._no_gate, clock=world.clock, without=world.without)
        ring = KeyRing(world.keys)
        coordination: Any = Line(self, store, world.coordination_faults)
        session_store: Any = Line(self, store, world.session_faults)
        self.sessions: Sessions
        if world.kind == "cookies":
            self.sessions = CookieSessions(
                ring, POLICY, lifetime=world.lifetime, idle_timeout=world.lifetime, clock=world.clock,
                coordination=coordination,
            )  # fmt: skip
        else:
            self.sessions = ServerSideSessions(
                session_store, ring, POLICY, lifetime=world.lifetime, idle_timeout=world.lifetime, clock=world.clock
            )
        table: Any = Line(self, world.table, world.session_faults) if world.table is not None else None
        self.tokens = Tokens(
            world.client, store=table, send=self._send, clock=world.clock, checkpoints=self._checkpoint,
            coordination=coordination, keys=world.keys,
        )  # fmt: skip

    @property
    def stopped(self) -> bool:
        return not self._running.is_set()

    @property
    def serves(self) -> bool:
        """Whether it answers requests."""
        return not self.stopped and not self.killed

    async def runs(self) -> None:
        """Return while this process runs; one that was killed never does again."""
        while self.stopped or self.killed:
            if self.world.over:
                raise asyncio.CancelledError
            await (self.world.never if self.killed else self._running).wait()

    def stop(self) -> None:
        """SIGSTOP."""
        if self.serves:
            self._running.clear()
            self._interrupted()

    def wake(self) -> None:
        """SIGCONT."""
        self._running.set()

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = True
        self._running.set()
        self._interrupted()

    def at(self, point: str, act: Callable[[], None]) -> None:
        """Have something happen `now`, or when a renewal comes to *point* next."""
        if point == "now":
            act()
        else:
            self._orders[f"renewal.{point}"] = act

    def obey(self) -> None:
        """Forget what was to happen at a checkpoint."""
        self._orders.clear()

    def _interrupted(self) -> None:
        self.interruptions += 1
        for key in self.marks:
            self.world.excuse_key(key, "its holder was interrupted between mark and release")

    async def _checkpoint(self, name: str) -> None:
        if act := self._orders.pop(name, None):
            act()
        await self.runs()

    async def _no_gate(self, name: str) -> None:
        """Nobody is held up before the lease."""

    async def _send(self, request: Request) -> Response:
        await self.runs()
        world = self.world
        if request.url != f"{ISSUER}/token":
            return await world.service(request)
        fault = world.answers.popleft() if world.answers else ""
        if fault == "not_sent":
            await asyncio.sleep(0.05)
            await self.runs()
            raise TransportError("the connection was refused", sent=False)
        refresh_token = dict(parse_qsl(request.body.decode()))["refresh_token"]
        world.leaves(self, refresh_token)
        before = self.interruptions
        self.under_way.append(refresh_token)
        served = asyncio.create_task(self._served(request, refresh_token, fault))
        try:
            done, _ = await asyncio.wait({served}, timeout=DEADLINE)
        except asyncio.CancelledError:
            world.excuse(refresh_token, "the answer did not come in time")
            raise
        finally:
            self.under_way.remove(refresh_token)
        response = served.result() if done else None
        if response is None or self.interruptions != before:
            world.excuse(refresh_token, "the answer was lost")
        await self.runs()
        if response is None:
            raise TransportError("the answer was lost", sent=True)
        world.heard(self, response)
        return response

    async def _served(self, request: Request, refresh_token: str, fault: str) -> Response | None:
        """Be the authorization server, and the way there and back; None if the answer gets lost."""
        await asyncio.sleep({"slow": 8.0, "too_slow": 12.0}.get(fault, 0.1))
        if fault == "error":
            return Response(500)
        response = await self.world.serve(request, refresh_token, late=fault == "too_slow")
        await asyncio.sleep(30.0 if fault == "never" else 0.1)
        return None if fault in ("lost", "never") else response


@dataclass(eq=False)
class Login:
    """One login of one user. *excuse* says why it may have ended, if anything has happened that may end it."""

    sub: str
    session_id: str
    excuse: str = ""
    ended: bool = False
    revoked: bool = False
    """Whether the logout could see, and went at once to revoke, what was stored."""
    newest: dict[str, int] = field(default_factory=dict)
    """The number of the access token that is stored, by slot."""


class Browser:
    """A cookie jar, and the login that it belongs to."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self.jar: dict[str, str] = {}
        self.leaves: asyncio.Task[None] | None = None

    @property
    def header(self) -> list[tuple[bytes, bytes]]:
        return [(b"cookie", "; ".join(f"{name}={value}" for name, value in self.jar.items()).encode())]

    def receive(self, handle: SessionHandle) -> None:
        for line in handle.set_cookies():
            for morsel in SimpleCookie(line.decode()).values():
                if morsel.value:
                    self.jar[morsel.key] = morsel.value
                else:
                    self.jar.pop(morsel.key, None)
