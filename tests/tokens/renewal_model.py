"""What must hold in a faulty world: the invariants of `coatcheck.tokens.coordinator`, as far as they can be seen."""

from __future__ import annotations

import asyncio
import json
from asyncio import Task
from collections import deque
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

from coatcheck.codec import decoder
from coatcheck.errors import LoginRequired, SessionGone, StoreUnavailable, TokenUnavailable
from coatcheck.oauth.messages import Request, Response
from coatcheck.sessions import (
    CookieSessions,
    KeyRing,
    ServerSideSessions,
    SessionHandle,
    Sessions,
    new_key,
    parse_cookies,
)
from coatcheck.sessions.pending import PendingTokens
from coatcheck.stores import MemoryStore
from coatcheck.tokens import User, UserToken, UserTokenRequestParameters
from coatcheck.tokens.freshness import TokenState
from coatcheck.tokens.grant_names import GrantNames
from coatcheck.tokens.store import session_bytes
from coatcheck.tokens.stored_grants import Grant, from_bytes
from tests.rig.worker_plan import Protection
from tests.testing.clocks import HandClock
from tests.tokens.faulty_world import POLICY, Browser, Faults, Login, Process
from tests.tokens.scene import CLIENT, TableUserTokenStore
from tests.tokens.token_service import ISSUER, TokenService

LOGIN = UserTokenRequestParameters()
ORDERS = UserTokenRequestParameters(resource=("https://orders.example",))
PARAMETERS = {"login": LOGIN, "orders": ORDERS, "forced": replace(LOGIN, force_renewal=True)}
PROFILES = ("strict", "none", "grace:10s", "learn", "learn, kept", "strict, kept")
_PATIENCE = 20.0  # seconds within which every call ends, unless its process was interrupted

_decode_grants = decoder(dict[str, Grant]).decode


class World:
    """Everything, and all that is known about what may and what must have become of it."""

    def __init__(self, kind: str, profile: str, processes: int, clock: HandClock, without: Protection | None) -> None:
        self.kind = kind
        self.without = without
        self.rotation = profile.partition(",")[0]
        self.clock = clock
        self.client = replace(CLIENT, rotation=self.rotation)
        self.service = TokenService(clock)
        self.service.rotation = self.rotation != "none" and "kept" not in profile
        self.service.grace = 10.0 if self.rotation.startswith("grace") else 0.0
        self.keys = [new_key()]
        self.lifetime = timedelta(days=30)
        self.store = MemoryStore(clock)
        self.table = TableUserTokenStore() if kind == "table" else None
        self.coordination_faults, self.session_faults = Faults(), Faults()
        self.answers: deque[str] = deque()
        self.over = False
        self.never = asyncio.Event()
        self.rolled_back = False
        self.browsers: dict[str, Browser] = {}
        self._logins: list[Login] = []
        self._by_refresh_token: dict[str, Login] = {}
        self._by_key: dict[bytes, Login] = {}
        self._ever_stored: set[str] = set()
        self._audience: dict[str, str] = {}
        self._heard_by: dict[str, Process] = {}
        self._calls: dict[Task[None], tuple[float, Process, int]] = {}
        self._snapshot: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._failures: list[BaseException] = []
        ring = KeyRing(self.keys)
        self._names = GrantNames(ring.derive_all("grants"))
        self._pending = PendingTokens(self.store, ring.bound_to(POLICY.application_id), POLICY.application_id)
        self._all_sessions: Sessions
        if kind == "cookies":
            self._all_sessions = CookieSessions(
                ring, POLICY, lifetime=self.lifetime, idle_timeout=self.lifetime, clock=clock, coordination=self.store
            )
        else:
            self._all_sessions = ServerSideSessions(
                self.store, ring, POLICY, lifetime=self.lifetime, idle_timeout=self.lifetime, clock=clock
            )
        self.processes = [Process(self, number) for number in range(processes)]
        self._past: list[Process] = []

    # What users do

    async def log_in(self, sub: str) -> None:
        """Begin a session, in place of the one that this browser has; nothing ever goes wrong here."""
        answer = self.service.login(sub)
        now = self.clock.time()
        token = UserToken(
            access_token=answer["access_token"],
            issued_at=now,
            expires_at=now + 300.0,
            refresh_token=answer["refresh_token"],
        )
        before = self.browsers.get(sub)
        old = None if before is None else await self._all_sessions.open(parse_cookies(before.header), now=now)
        handle = await self._all_sessions.create(
            claims={}, iss=ISSUER, sub=sub, sid=None, now=now, replaces=old,
            tokens=b"" if self.table is not None else session_bytes(token),
        )  # fmt: skip
        if before is not None:
            before.login.excuse = before.login.excuse or "there was another login"
            before.login.ended = before.login.ended or old is not None
        login = Login(sub, handle.session.id)
        if self.table is not None and before is not None and before.leaves is not None and not before.leaves.done():
            login.excuse = "a logout that was under way has cleared the row of the user"
        self._logins.append(login)
        self._belongs(token.refresh_token or "", login)
        self._audience[token.access_token] = LOGIN.slot
        if self.table is not None:
            await self.table.store_token(_user(handle), token, LOGIN, replaces=None)
        self.browsers[sub] = Browser(login)
        self.browsers[sub].receive(handle)
        self._ever_stored.add(token.access_token)

    def begin_call(self, process: Process, sub: str, parameters: UserTokenRequestParameters) -> None:
        """Begin a call; nobody waits for it here."""
        _ = self._begin(self.call(process, self.browsers[sub], parameters), process)

    def begin_logout(self, process: Process, sub: str) -> None:
        browser = self.browsers[sub]
        browser.leaves = self._begin(self._log_out(process, browser), process)

    async def call(self, process: Process, browser: Browser, parameters: UserTokenRequestParameters) -> str:
        """Return what became of a call: `ok`, `unavailable`, `login_required` or `anonymous`."""
        login, began, interruptions = browser.login, self.clock.time(), process.interruptions
        try:
            handle = await process.sessions.open(parse_cookies(browser.header), now=self.clock.time())
        except StoreUnavailable:
            return "unavailable"
        if handle is None:
            assert login.excuse, "I7: a session was gone, and nobody knows why"
            return "anonymous"
        try:
            token = await process.tokens.user_token(_user(handle), parameters)
        except LoginRequired as error:
            assert login.excuse, f"I7: {login.sub} was logged out, and nobody knows why: {error}"
            assert error.code, "I7: a login is required, and no code says why"
            return "login_required"
        except (TokenUnavailable, StoreUnavailable):
            return "unavailable"
        finally:
            await process.runs()
            browser.receive(handle)
        name = token.access_token
        assert self.service.owners[name] == login.sub, f"I5: {login.sub} got the token of {self.service.owners[name]}"
        if self.table is None:
            assert self._audience[name] == parameters.slot, "I5: a token was given to a caller of another slot"
        waited = max(self.coordination_faults.last_at, self.session_faults.last_at) >= began
        waited = waited or bool(self.session_faults.kind or self.coordination_faults.kind)
        assert waited or name in self._ever_stored, f"I6: {name} was used before it was stored"
        if process.interruptions == interruptions:
            assert token.state(self.clock.time() - 5.0) is not TokenState.EXPIRED, "I7: an expired token was given out"
        return "ok"

    async def _log_out(self, process: Process, browser: Browser) -> None:
        login = browser.login
        login.excuse = login.excuse or "there was a logout"
        began, interruptions = self.clock.time(), process.interruptions
        try:
            handle = await process.sessions.open(parse_cookies(browser.header), now=self.clock.time())
            if handle is None:
                return
            await process.tokens.revoke(_user(handle))
            await process.sessions.end(handle)
        except StoreUnavailable:
            return
        await process.runs()
        browser.receive(handle)
        login.ended = self.kind != "cookies" or not self.coordination_faults.kind
        faulty_at = max(self.session_faults.last_at, self.coordination_faults.last_at)
        login.revoked = faulty_at < began and process.interruptions == interruptions

    # What others do

    def revoke_at_the_provider(self, sub: str) -> None:
        for refresh_token, login in self._by_refresh_token.items():
            if login is self.browsers[sub].login:
                login.excuse = login.excuse or "the grant was ended at the provider"
                self.service.revoke_at_the_provider(refresh_token)

    def take_snapshot(self) -> None:
        """Remember what a replica has got so far."""
        self._snapshot = [(part, dict(part)) for part in self._parts()]

    def roll_back(self) -> None:
        """Promote the replica. Logins since then are lost, and logouts too; and marks, and what came of them."""
        for part, then in self._snapshot:
            part.clear()
            part.update(then)
        if self._snapshot:
            self.rolled_back = True
            for login in self._logins:
                login.excuse = login.excuse or "the store was rolled back"
                login.ended = False
                login.newest.clear()

    def _parts(self) -> list[dict[Any, Any]]:
        """Return all that a database would hold."""
        parts: list[dict[Any, Any]] = [self.store._rows, self.store._leases, self.store._values]
        return parts if self.table is None else [*parts, self.table.rows]

    def replace(self, process: Process) -> None:
        """Start a new process in the place of one that is over, or about to be."""
        number = self.processes.index(process)
        self._past.append(process)
        self.processes[number] = Process(self, number)

    def begin_ending(self, process: Process) -> None:
        """SIGTERM."""
        _ = self._begin(_within(120.0, process.tokens.aclose()), process, patience=121.0)

    # What is seen

    def leaves(self, process: Process, refresh_token: str) -> None:
        """A refresh token is about to be sent."""
        for other in self.processes:
            elsewhere = refresh_token in other.under_way and not other.interruptions
            assert not elsewhere or self.rolled_back, "I1: two at the same time"

    async def serve(self, request: Request, refresh_token: str, *, late: bool) -> Response:
        """Have the authorization server answer. *late*: after its process has given up, so another may have come."""
        login, grant = self._by_refresh_token[refresh_token], self.service._grants[refresh_token]
        was_over = grant.over
        response = await self.service(request)
        used_twice = grant.over and not was_over
        excused = self.rolled_back or late
        assert not used_twice or excused, f"I2: {refresh_token} was used twice"
        if used_twice:
            login.excuse = login.excuse or "a rollback, or a late request, used a refresh token twice"
        if response.status == 200:
            answer = json.loads(response.body)
            slot = UserTokenRequestParameters(resource=_resource(request)).slot
            self._audience.setdefault(answer["access_token"], slot)
            self._belongs(answer.get("refresh_token", refresh_token), login)
        return response

    def heard(self, process: Process, response: Response) -> None:
        """An answer has reached a process."""
        if response.status == 200:
            self._heard_by[json.loads(response.body).get("refresh_token", "")] = process

    def excuse(self, refresh_token: str, why: str) -> None:
        """From now on the user of *refresh_token* may have to log in again, unless refresh tokens may be resent."""
        login = self._by_refresh_token[refresh_token]
        if self.rotation != "none":
            login.excuse = login.excuse or why

    def excuse_key(self, key: bytes, why: str) -> None:
        if self.rotation != "none" and key in self._by_key:
            login = self._by_key[key]
            login.excuse = login.excuse or why

    async def look(self) -> None:
        """Look at all that is stored: nothing newer may have been replaced, and nothing that was ended be back."""
        for login in self._logins:
            for slot, access_token in (await self._stored(login)).items():
                number = int(access_token.removeprefix("access-"))
                try:
                    older = number < login.newest.get(slot, 0)
                    assert not older or self.rolled_back, f"I3: {access_token} came after {login.newest[slot]}"
                except AssertionError as error:
                    self._failures.append(error)
                login.newest[slot] = number
                self._ever_stored.add(access_token)

    async def check(self) -> None:
        """Raise what was found since the last look."""
        await self.look()
        for call, (until, process, interruptions) in list(self._calls.items()):
            if call.done():
                del self._calls[call]
                error = None if call.cancelled() else call.exception()
                if error is not None and not (isinstance(error, TimeoutError) and process.interruptions):
                    raise error
            elif process.interruptions == interruptions:
                assert self.clock.time() < until, "I7: a call does not come to an end"
        if self._failures:
            raise self._failures[0]

    async def calm(self) -> None:
        """Let everything be well again, and see that everybody is logged in, or is told to log in."""
        self.coordination_faults.end()
        self.session_faults.end()
        self.answers.clear()
        for process in (*self.processes, *self._past):
            process.obey()
            process.wake()
        for process in list(self.processes):
            if process.killed:
                self.replace(process)
        await asyncio.sleep(70.0)  # as long as the longest back-off
        await self.check()
        for sub in (*self.browsers, *self.browsers):
            await asyncio.sleep(301.0)
            await self._is_in_or_out(sub)
        await self.check()
        self._check_nothing_is_left_of_ended_sessions()

    async def _is_in_or_out(self, sub: str) -> None:
        browser = self.browsers[sub]
        words = []
        for process in self.processes:
            word = await self.call(process, browser, LOGIN)
            for _ in range(3):
                if word != "unavailable":
                    break
                await asyncio.sleep(31.0)
                word = await self.call(process, browser, LOGIN)
            words.append(word)
        assert "unavailable" not in words, "I7: a token could not be had though all was well"
        assert set(words) == {"ok"} or "ok" not in words, f"I7: neither in nor out: {words}"
        if "ok" not in words:
            await self.log_in(sub)
            for process in self.processes:
                assert await self.call(process, self.browsers[sub], LOGIN) == "ok", "I7: a new login does not help"

    def _check_nothing_is_left_of_ended_sessions(self) -> None:
        if self.rolled_back or self.kind != "sessions":
            return  # in a table another login replaces the row: nobody can tell that from a rotation
        for refresh_token, process in self._heard_by.items():
            login = self._by_refresh_token.get(refresh_token)
            if login is None or login.excuse != "there was a logout" or not login.revoked or process.interruptions:
                continue
            grant = self.service._grants[refresh_token]
            spent = grant.over or grant.refresh_token != refresh_token
            assert spent or refresh_token in self.service.revoked, "I4: a refresh token survived its session"

    async def _stored(self, login: Login) -> dict[str, str]:
        """Return the access tokens of a login by slot."""
        if self.table is not None:
            row = self.table.rows.get((ISSUER, login.sub, "default"))
            ours = row is not None and self._by_refresh_token.get(row.refresh_token or "") is login
            return {"": row.access_token} if row is not None and ours else {}
        data = await self._stored_bytes(login)
        if not data:
            return {}
        grant = from_bytes(data, _decode_grants, what="session")["default"]
        return {name: slot.access_token for name, slot in grant.slots.items()}

    async def _stored_bytes(self, login: Login) -> bytes:
        if self.kind == "cookies":
            try:
                waiting = await self._pending.get(login.session_id)
            except SessionGone:
                return b""
            return b"" if waiting is None else await self._pending.straggling(login.session_id, waiting) or b""
        handle = await self._all_sessions.find(login.session_id, now=self.clock.time())
        if handle is None:
            return b""
        if login.ended:
            self._failures.append(AssertionError(f"I4: a session of {login.sub} is back"))
        return (await handle.tokens())[0]

    def _belongs(self, refresh_token: str, login: Login) -> None:
        self._by_refresh_token[refresh_token] = login
        for key in self._names.grant(self.client, refresh_token):
            self._by_key[key] = login

    def _begin(self, work: Coroutine[Any, Any, Any], process: Process, *, patience: float = _PATIENCE) -> Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._calls[task] = (self.clock.time() + patience, process, process.interruptions)
        return task


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(seconds):
        await work


def _user(handle: SessionHandle) -> User:
    session = handle.session
    return User(iss=session.iss, sub=session.sub, session=handle)


def _resource(request: Request) -> tuple[str, ...]:
    return tuple(parse_qs(request.body.decode()).get("resource", ()))
