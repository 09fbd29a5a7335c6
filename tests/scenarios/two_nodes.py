"""Two processes of one application over one store, and a provider that may tell either of them who has left."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import httpx2

from tests.bff.world import claims
from tests.oauth.logout_tokens import Mint
from tests.rig.control_plane import RegisteredClient
from tests.rig.fleet import Fleet, WorkerProcess
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.user_agent import UserAgent
from tests.rig.volley import Call, request_bytes, volley
from tests.rig.worker_plan import Protection, SessionKind, WorkerPlan
from tests.storm.stage import PUBLIC_URL, STORES, Stage, StoreName, Visitor, World, log_in

PATIENCE = 10.0
"""Seconds for what happens behind an answer."""
BACKCHANNEL = "/bff/backchannel"
TOKEN_TTL = 60
"""Seconds that an access token lives: nodes whose clocks are ahead by that much still take a fresh logout token."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where sessions are: in a *store*, or in cookies that it coordinates."""

    store: StoreName
    sessions: SessionKind = "server"

    def __str__(self) -> str:
        return f"sessions in {self.store}" if self.sessions == "server" else f"cookies, coordinated by {self.store}"


EVERYWHERE = [Kept(store, sessions) for store in STORES for sessions in ("server", "cookie")]
GONE, ALIVE = [401] * 4, [200] * 4
"""What `TwoNodes.statuses` says of a session."""


class TwoNodes:
    """The application, and its registration at the provider."""

    def __init__(self, provider: OIDCProvider, stage: Stage) -> None:
        self.provider = provider
        self.stage = stage
        self.first, self.second = stage.workers
        self.client = RegisteredClient(stage.plan.client_id, stage.plan.client_secret)

    @classmethod
    async def of(
        cls, world: World, fleet: Fleet, kept: Kept, *, without: Protection | None = None, **logout: bool
    ) -> TwoNodes:
        """Start both; *logout* are options. The provider tells the first, until `register` says otherwise."""
        plan = replace(world.plan(kept.store, "strict", sessions=kept.sessions, without=without), logout=logout)
        stage = await Stage.of(world, fleet, plan, "strict", workers=2)
        assert world.oidc is not None
        nodes = cls(world.oidc, stage)
        await nodes.register()
        return nodes

    async def register(self, told: WorkerProcess | None = None, *, by_sid: bool = True) -> None:
        """Have the provider tell *told* (the first) who has left: one session, or all of a user's."""
        await register(self.provider, self.stage.plan, told or self.first, by_sid=by_sid)

    async def log_in(self, at: WorkerProcess | None = None) -> Visitor:
        """Let alice log in with a new browser, and call an API at both nodes."""
        [visitor] = await log_in(at or self.first)
        assert await self.statuses(visitor.cookie) == [200] * 4
        return visitor

    async def sid(self, visitor: Visitor) -> str:
        """What the provider calls the visitor's session."""
        return str((await self._claims(visitor))["sid"])

    async def logout_url(self, visitor: Visitor) -> str:
        """Where the page's own logout link leads."""
        return str((await self._claims(visitor))["bff:logout_url"])

    async def _claims(self, visitor: Visitor) -> dict[str, Any]:
        answer = await visitor.ask(self.first, "/bff/user")
        return claims(httpx2.Response(200, content=answer.body))

    async def statuses(self, cookie: str) -> list[int]:
        """What a page with that cookie is answered: an API call and the question who it is, at either node."""
        calls = [
            Call(node.port, PUBLIC_URL, cookie, path)
            for node in self.stage.workers
            for path in ("/api/orders", "/bff/user")
        ]
        return [answer.status for answer in await volley(calls)]

    async def leave(self, visitor: Visitor) -> float:
        """
        Let the user log out at the provider, at no application: that ends its session and tells all applications.

        Returns the instant (monotonic seconds) at which the user confirmed.
        """
        return await asyncio.to_thread(self._leave, visitor)

    def _leave(self, visitor: Visitor) -> float:
        told = self._times_told()
        with UserAgent(PUBLIC_URL) as agent:
            agent.cookies = visitor.agent.cookies
            page = agent.navigate(f"{self.provider.issuer}/session/end")
            confirmed = time.monotonic()
            agent.through_foreign_pages(page)
        assert self._times_told() == told + 1, self.provider.events("backchannel.error")
        return confirmed

    def _times_told(self) -> int:
        events = self.provider.events("backchannel.success")
        return sum(event["client_id"] == self.client.client_id for event in events)

    async def told(self, told: WorkerProcess | None = None, *, sub: str = "alice", sid: str | None = None) -> None:
        """Have the provider send *told* (the first) a logout token, and nothing else: its session and tokens stay."""
        await self.register(told, by_sid=sid is not None)
        answer = await asyncio.to_thread(self.provider.backchannel_logout, self.client, sub=sub, sid=sid)
        assert answer == {"delivered": True}
        await self.register()

    async def mint(self, **about: str) -> Mint:
        """Make logout tokens by the provider's own key."""
        kid, pem = await asyncio.to_thread(self.provider.signing_key)
        return Mint(self.provider.issuer, self.client.client_id, int(time.time()), pem, kid, about)

    async def post(self, token: str) -> list[int]:
        """Send a logout token to either node."""
        return [await asyncio.to_thread(_post, node.port, token) for node in self.stage.workers]

    async def good_refresh_tokens(self) -> int:
        """How many refresh tokens of this application the provider would accept."""
        return await asyncio.to_thread(self.provider.good_refresh_tokens, self.client.client_id)

    async def no_refresh_token_is_left(self) -> None:
        """What was given back behind an answer arrives a moment later."""
        await until(lambda: self.provider.good_refresh_tokens(self.client.client_id) == 0)


async def register(provider: OIDCProvider, plan: WorkerPlan, told: WorkerProcess, *, by_sid: bool) -> None:
    """Register the application of *plan* anew, and have the provider tell *told* who has left."""
    await asyncio.to_thread(
        provider.add_client,
        client_id=plan.client_id,
        redirect_uris=f"{PUBLIC_URL}/bff/callback",
        post_logout_redirect_uris=f"{PUBLIC_URL}/bff/logged-out",
        backchannel_logout_uri=f"http://127.0.0.1:{told.port}{BACKCHANNEL}",
        backchannel_logout_session_required=by_sid,
        x_access_token_ttl=TOKEN_TTL,
    )


def _post(port: int, token: str) -> int:
    content = urlencode({"logout_token": token})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    url = f"http://127.0.0.1:{port}{BACKCHANNEL}"
    return httpx2.post(url, content=content, headers=headers, trust_env=False, verify=False).status_code


async def wherever(world: World, kept: Sequence[Kept], tell: Callable[[World, Fleet, Kept], Awaitable[None]]) -> None:
    """Tell a story once for each way to keep sessions."""
    async with Fleet() as fleet:
        for way in kept:
            try:
                await tell(world, fleet, way)
            except (AssertionError, TimeoutError) as failed:
                failed.add_note(f"{way}\n{fleet.output}")
                raise


class Listener:
    """A page that listens to `/bff/events` at one node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._text = b""

    @classmethod
    async def at(cls, node: WorkerProcess, visitor: Visitor) -> Listener:
        """Return when the stream has begun."""
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(request_bytes(visitor.call(node, "/bff/events")))
        listener = cls(reader, writer)
        async with asyncio.timeout(PATIENCE):
            listener._text = await reader.readuntil(b"retry: ")
        assert listener._text.startswith(b"HTTP/1.1 200 "), listener._text
        return listener

    async def closed(self) -> tuple[float, bytes]:
        """Wait for the end of the stream; the instant (monotonic seconds), and all that was said."""
        try:
            async with asyncio.timeout(PATIENCE):
                self._text += await self._reader.read()
            return time.monotonic(), self._text
        finally:
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()


async def all_closed(streams: Sequence[Listener], reason: bytes) -> float:
    """
    Wait until every one of *streams* has said *reason* and ended; the instant of the last.

    A node that had just begun to listen may have missed the message, and see for itself that the session is over.
    """
    closed = await asyncio.gather(*(stream.closed() for stream in streams))
    for _, text in closed:
        assert re.search(rb'event: ended\ndata: {"reason":"(%b|ended)"}' % reason, text), text
    return max(instant for instant, _ in closed)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition*, a question to another process, is met."""
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)
