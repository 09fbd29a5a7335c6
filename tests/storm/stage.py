"""What a storm and a crash happen on: a provider, a remote API, a fleet of workers over one store, and browsers."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx2

from coatcheck.sessions.seal import new_key
from tests.rig.control_plane import ControlPlane, LoggedRequest
from tests.rig.django_provider import DjangoProvider
from tests.rig.echo_api import EchoAPI
from tests.rig.fleet import Fleet, WorkerProcess
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.postgresql import PostgreSQL
from tests.rig.user_agent import UserAgent
from tests.rig.valkey import Valkey
from tests.rig.volley import Call, CallAnswer, one
from tests.rig.worker_plan import LeaseSeconds, Protection, SessionKind, WorkerPlan

StoreName = Literal["sqlite", "postgresql", "valkey"]
STORES: tuple[StoreName, ...] = ("sqlite", "postgresql", "valkey")

Profile = Literal["strict", "none", "grace"]
PROFILES: tuple[Profile, ...] = ("strict", "none", "grace")

PUBLIC_URL = "http://localhost:8000"
"""Nobody listens there: what a browser sends to it goes to the worker that the test chooses."""
TOKEN_LIFETIME = 300.0
"""Seconds that both providers give an access token."""
GRACE = 10
LONG_LEASE: LeaseSeconds = (60.0, 60.0, 1.5)
"""
Lease times where nobody waits until one has run out. A process gives up before sending when little of its lease is
left, and on a machine that is busy little is left soon: of this one, there is always enough.
"""
_LONG = 10_000_000


@dataclass
class World:
    """The parts that many storms may share. What nobody asks for is not started."""

    stack: ExitStack
    api: EchoAPI
    folder: Path
    oidc: OIDCProvider | None = None
    django: DjangoProvider | None = None
    postgresql: PostgreSQL | None = None
    valkey: Valkey | None = None
    _files: int = 0

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[World]:
        """Everything that was started ends with the block."""
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="coatcheck-storm-"))
            yield cls(stack, stack.enter_context(EchoAPI.serve()), Path(folder))

    def provider(self, profile: Profile) -> ControlPlane:
        """django-oauth-toolkit has a grace period; oidc-provider ends the grant when a refresh token comes again."""
        if profile == "grace":
            self.django = self.django or self.stack.enter_context(DjangoProvider.start())
            self.django.config(grace=GRACE)
            return self.django
        self.oidc = self.oidc or self.stack.enter_context(OIDCProvider.start())
        # The clocks of the workers run ahead of the provider's; their id_tokens stay good all the same.
        self.oidc.config(auto_login="alice", id_token_ttl=_LONG)
        return self.oidc

    def store_url(self, store: StoreName) -> str:
        """The URL of a fresh, empty store."""
        match store:
            case "sqlite":
                self._files += 1
                return f"sqlite://{self.folder}/{self._files}/sessions.db"
            case "postgresql":
                self.postgresql = self.postgresql or self.stack.enter_context(PostgreSQL.start())
                return self.postgresql.fresh_database()
            case "valkey":
                self.valkey = self.valkey or self.stack.enter_context(Valkey.start())
                return self.valkey.fresh_url()

    def plan(
        self,
        store: StoreName,
        profile: Profile,
        *,
        sessions: SessionKind = "server",
        lease_times: LeaseSeconds | None = None,
        without: Protection | None = None,
    ) -> WorkerPlan:
        """An application with a registration of its own."""
        provider = self.provider(profile)
        redirect_uri, logged_out = f"{PUBLIC_URL}/bff/callback", f"{PUBLIC_URL}/bff/logged-out"
        if isinstance(provider, OIDCProvider):
            client = provider.add_client(
                redirect_uris=redirect_uri, post_logout_redirect_uris=logged_out, x_rotate=profile == "strict"
            )
        else:
            assert isinstance(provider, DjangoProvider)
            client = provider.add_client(redirect_uris=redirect_uri, post_logout_redirect_uris=logged_out)
        assert client.client_secret is not None
        return WorkerPlan(
            public_url=PUBLIC_URL,
            issuer=provider.issuer,
            client_id=client.client_id,
            client_secret=client.client_secret,
            keys=[new_key()],
            store=self.store_url(store),
            api=self.api.url,
            rotation=f"grace:{GRACE}s" if profile == "grace" else profile,
            sessions=sessions,
            lease_times=lease_times,
            without=without,
        )


class FrontDoor(httpx2.BaseTransport):
    """Brings what is for the public URL to one worker, and everything else where it belongs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._network = httpx2.HTTPTransport(trust_env=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if str(request.url).startswith(PUBLIC_URL + "/"):
            url = request.url.copy_with(host="127.0.0.1", port=self._port)
            request = httpx2.Request(  # with the Host header as it was
                request.method, url, headers=request.headers, content=request.read(), extensions=request.extensions
            )
        return self._network.handle_request(request)

    def close(self) -> None:
        self._network.close()


@dataclass
class Visitor:
    """A browser with a session."""

    agent: UserAgent = field(repr=False)

    @property
    def cookie(self) -> str:
        """The session's cookies that it sends along with an API call."""
        url = httpx2.URL(PUBLIC_URL + "/")
        sent = self.agent.cookies.header(url, initiator=url, navigation=False, method="GET") or ""
        return "; ".join(cookie for cookie in sent.split("; ") if "-logins=" not in cookie)

    def receive(self, answer: CallAnswer) -> None:
        """Keep the cookies of an answer that has arrived."""
        self.agent.cookies.store(httpx2.URL(PUBLIC_URL + "/"), answer.set_cookie)

    def call(self, worker: WorkerProcess, path: str = "/api/orders", method: str = "GET") -> Call:
        """An API call of its page, to one worker."""
        return Call(worker.port, PUBLIC_URL, self.cookie, path, method)

    async def navigate(self, worker: WorkerProcess, url: str, *, stop_at: str | None = None) -> httpx2.Response:
        """Type *url* into the address bar, as `UserAgent.navigate`; what is for the public URL goes to *worker*."""

        def navigate() -> httpx2.Response:
            with UserAgent(PUBLIC_URL, transport=FrontDoor(worker.port)) as agent:
                agent.cookies = self.agent.cookies
                return agent.navigate(url, stop_at=stop_at)

        return await asyncio.to_thread(navigate)

    async def ask(self, worker: WorkerProcess, path: str = "/api/orders", method: str = "GET") -> CallAnswer:
        """Make one API call; cookies in the answer are kept."""
        answer = await one(self.call(worker, path, method))
        self.receive(answer)
        return answer


async def log_in(worker: WorkerProcess, count: int = 1) -> list[Visitor]:
    """Let so many browsers log in as alice at *worker*, a few at a time."""
    few = asyncio.Semaphore(4)

    async def arrive() -> Visitor:
        async with few:
            return await asyncio.to_thread(_log_in, worker.port)

    return list(await asyncio.gather(*(arrive() for _ in range(count))))


def _log_in(port: int) -> Visitor:
    with UserAgent(PUBLIC_URL, transport=FrontDoor(port)) as agent:
        last = agent.login("/bff/login?returnUrl=/nothing-here")
        assert last.status_code == 404, f"no login: {last.status_code} {last.url} {last.text[:500]}"
        return Visitor(agent)


class TokenLog:
    """What the provider says about the refresh requests of one registration: the only witness that counts."""

    def __init__(self, provider: ControlPlane, plan: WorkerPlan) -> None:
        self._provider = provider
        self._client_id = plan.client_id
        self._rotates = plan.rotation != "none"

    async def refreshes(self) -> int:
        """How many there were."""
        return len(await self._requests())

    async def reuse(self) -> int:
        """How many went wrong, see `reuse`."""
        return reuse(await self._requests(), rotates=self._rotates)

    async def most_uses(self) -> int:
        """How often the refresh token that came most often has come."""
        times = Counter(_token(request) for request in await self._requests())
        return max(times.values(), default=0)

    async def revoked(self) -> set[str]:
        """The fingerprints of the refresh tokens that were revoked."""
        requests = await asyncio.to_thread(self._provider.log, client_id=self._client_id)
        hinted = [request.params for request in requests if "revo" in request.path]
        return {str(params["token"]) for params in hinted if params["token_type_hint"] == "refresh_token"}

    async def _requests(self) -> list[LoggedRequest]:
        return await asyncio.to_thread(self._provider.log, client_id=self._client_id, grant_type="refresh_token")


def reuse(requests: Sequence[LoggedRequest], *, rotates: bool) -> int:
    """Count refresh requests that were refused, or whose token had come before although the provider *rotates*."""
    seen: set[str] = set()
    wrong = 0
    for request in requests:
        wrong += request.status not in (200, None) or (rotates and _token(request) in seen)
        seen.add(_token(request))
    return wrong


def _token(request: LoggedRequest) -> str:
    return str(request.params["refresh_token"])


class Stage:
    """One application on its workers, whose clocks move together."""

    def __init__(self, plan: WorkerPlan, log: TokenLog, workers: list[WorkerProcess]) -> None:
        self.plan = plan
        self.log = log
        self.workers = workers
        self._offset = 0.0
        self._renewed_at = 0.0
        """An instant of the moved clock: no token in use was issued before."""

    @classmethod
    async def of(cls, world: World, fleet: Fleet, plan: WorkerPlan, profile: Profile, *, workers: int) -> Stage:
        """Start the workers."""
        return cls(plan, TokenLog(world.provider(profile), plan), await fleet.start(plan, workers))

    @property
    def now(self) -> float:
        """The instant that the clocks of the workers show."""
        return time.time() + self._offset

    async def expire(self) -> None:
        """Move the clocks until every token has expired."""
        await self.drain()
        await self._move_clocks(TOKEN_LIFETIME + 1)
        self._renewed_at = time.time() + self._offset

    async def make_stale(self, *, left: float) -> None:
        """Move the clocks until the tokens of the last renewal have *left* seconds to live, or a few more."""
        await self.drain()
        now = time.time() + self._offset
        await self._move_clocks(self._renewed_at + TOKEN_LIFETIME - left - now)

    async def advance(self, seconds: float) -> None:
        """Move the clocks on, whatever is under way."""
        await self._move_clocks(seconds)

    async def restart(self, fleet: Fleet, place: int, plan: WorkerPlan) -> WorkerProcess:
        """Let the worker at *place* finish and leave; then start one with *plan*, and let it take the place."""
        await self.workers[place].stop()
        [started] = await fleet.start(plan, offset=self._offset)
        self.workers[place] = started
        return started

    async def drain(self) -> None:
        """Wait until no living worker renews anything."""
        await asyncio.gather(*(worker.drain() for worker in self._living()))

    async def _move_clocks(self, seconds: float) -> None:
        self._offset += seconds
        await asyncio.gather(*(worker.move_clock(self._offset) for worker in self._living()))

    def _living(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if not worker.gone.is_set()]
