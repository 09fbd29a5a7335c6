"""The synchronous face: any number of threads, one event loop, and an end that leaves nothing half done."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from coatcheck.errors import ConfigurationError, LoginRequired, OAuthError, TokenUnavailable, TransportError
from coatcheck.oauth.messages import Request, Response
from coatcheck.sessions import new_key
from coatcheck.stores import PostgreSQLStore, RedisStore, SQLiteStore
from coatcheck.tokens import BlockingTokens, SharedUserTokenStore, Tokens, User, UserToken, UserTokenRequestParameters
from tests.loopback import answering, serving
from tests.testing.clocks import HandClock
from tests.tokens.scene import CLIENT, LIFETIME, STALE, TableUserTokenStore
from tests.tokens.token_service import ISSUER, TokenService, error

ALICE = User(ISSUER, "alice")
FORCED = UserTokenRequestParameters(force_renewal=True)


@dataclass
class Gated:
    """Sends on to the service, but not before threads of a test have seen each other."""

    service: TokenService
    arrived: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, request: Request) -> Response:
        if request.url.endswith("/token"):
            self.arrived.set()
            while not self.released.is_set():
                await asyncio.sleep(0.001)
        return await self.service(request)


@dataclass
class Tool:
    """A command-line tool with alice's grant, at an authorization server that a test can hold up."""

    clock: HandClock = field(default_factory=HandClock)
    store: TableUserTokenStore = field(default_factory=TableUserTokenStore)
    service: TokenService = field(init=False)
    gate: Gated = field(init=False)

    def __post_init__(self) -> None:
        self.service = TokenService(self.clock)
        self.gate = Gated(self.service)
        self.gate.released.set()

    def tokens(self, **arguments: Any) -> BlockingTokens:
        given: dict[str, Any] = {"store": self.store, "send": self.gate, "clock": self.clock}
        return BlockingTokens(CLIENT, **(given | arguments))

    def log_in(self, tokens: BlockingTokens) -> UserToken:
        answer = self.service.login("alice")
        now = self.clock.time()
        token = UserToken(
            access_token=answer["access_token"],
            issued_at=now,
            expires_at=now + LIFETIME.total_seconds(),
            refresh_token=answer["refresh_token"],
            id_token=answer["id_token"],
        )
        tokens.store_login(ALICE, token)
        return token

    @property
    def stored(self) -> UserToken:
        return self.store.rows[ALICE.iss, ALICE.sub, "default"]


def running_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "coatcheck-tokens"}


@pytest.fixture
def tool() -> Iterator[Tool]:
    """A tool; afterwards no thread of its tokens is left."""
    before = running_threads()
    yield Tool()
    assert running_threads() <= before


def test_it_is_built_like_the_asynchronous_one() -> None:
    asynchronous = dict(inspect.signature(Tokens).parameters)
    del asynchronous["background"]
    assert dict(inspect.signature(BlockingTokens).parameters) == asynchronous
    for name in ("user_token", "client_token", "exchange", "store_login", "revoke", "auth"):
        theirs, ours = (inspect.signature(getattr(kind, name)) for kind in (Tokens, BlockingTokens))
        assert ours.parameters == theirs.parameters


@pytest.mark.spec("REF-01")
def test_many_threads_that_find_an_expired_token_cause_one_renewal(tool: Tool) -> None:
    together = threading.Barrier(20)
    with tool.tokens() as tokens, ThreadPoolExecutor(20) as threads:
        expired = tool.log_in(tokens)
        tool.clock.forward(LIFETIME)

        def ask(_: int) -> UserToken:
            together.wait()
            return tokens.user_token(ALICE)

        answers = list(threads.map(ask, range(20)))
    assert set(answers) == {tool.stored}
    assert tool.stored.access_token != expired.access_token
    assert tool.service.refreshes == 1


def test_a_stale_token_is_renewed_while_the_caller_waits(tool: Tool) -> None:
    """The process may end right after the call; a renewal that goes on behind it would be cut off."""
    with tool.tokens() as tokens:
        stale = tool.log_in(tokens)
        tool.clock.forward(STALE)
        token = tokens.user_token(ALICE)
        assert token == tool.stored != stale
        assert tool.service.under_way == 0


@pytest.mark.parametrize(
    "failure", [TransportError("no answer", sent=False), Response(503), error("invalid_client", status=401)], ids=str
)
def test_a_stale_token_that_cannot_be_renewed_is_used_as_long_as_it_works(
    tool: Tool, failure: Response | Exception
) -> None:
    with tool.tokens() as tokens:
        stale = tool.log_in(tokens)
        tool.clock.forward(STALE)
        tool.service.answers.extend([failure] * 5)
        assert tokens.user_token(ALICE) == stale


def test_everything_else_answers_as_the_asynchronous_one_does(tool: Tool) -> None:
    with tool.tokens() as tokens:
        refresh_token = tool.log_in(tokens).refresh_token
        assert tokens.user_token(ALICE) == tool.stored
        assert tool.service.owners[tokens.client_token(scope="orders.read").access_token] == "client:orders.read"
        exchanged = tokens.exchange("theirs", audience="https://billing.example")
        assert tool.service.owners[exchanged.access_token] == "exchanged:theirs"
        assert tool.service.requests[-1]["audience"] == "https://billing.example"
        tokens.revoke(ALICE)
    assert tool.service.revoked == [refresh_token]
    assert tool.store.rows == {}


def test_errors_arrive_as_they_are(tool: Tool) -> None:
    with pytest.raises(ConfigurationError, match="at least one client registration"):
        BlockingTokens({})
    with tool.tokens() as tokens:
        with pytest.raises(LoginRequired) as nobody:
            tokens.user_token(ALICE)
        assert nobody.value.code == "login_required"
        with pytest.raises(ConfigurationError, match="no client registration named 'other'"):
            tokens.client_token(client="other")
        with pytest.raises(ConfigurationError, match="give user="):
            tokens.auth(token="user")
        tool.service.answers.append(error("invalid_target"))
        with pytest.raises(OAuthError) as refused:
            tokens.exchange("theirs")
        assert refused.value.error == "invalid_target"
        tool.log_in(tokens)
        tool.clock.forward(LIFETIME)
        tool.service.answers.append(Response(503))
        with pytest.raises(TokenUnavailable):
            tokens.user_token(ALICE)


@contextmanager
def interrupted_when(arrived: threading.Event) -> Iterator[None]:
    """Press Ctrl-C in the main thread as soon as *arrived*."""
    main = threading.main_thread().ident
    assert main is not None and main == threading.get_ident()

    def press() -> None:
        assert arrived.wait(30)
        signal.pthread_kill(main, signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    presser.join()


@pytest.mark.spec("REF-07")
def test_an_interrupted_caller_leaves_and_the_renewal_goes_on(tool: Tool) -> None:
    """Ctrl-C, after the refresh token was sent: what comes back must not be lost."""
    tokens = tool.tokens()
    tool.log_in(tokens)
    tool.clock.forward(LIFETIME)
    tool.gate.arrived.clear()
    tool.gate.released.clear()
    with interrupted_when(tool.gate.arrived):
        tokens.user_token(ALICE)
    closing = threading.Thread(target=tokens.close)
    closing.start()
    tool.gate.released.set()
    closing.join(30)
    assert tool.service.refreshes == 1
    assert tool.stored.access_token in tool.service.owners
    assert tool.stored.issued_at == tool.clock.time()


@pytest.mark.parametrize(
    "work",
    [
        lambda tokens: tokens.user_token(ALICE, FORCED),
        lambda tokens: tokens.client_token(),
        lambda tokens: tokens.exchange("theirs"),
    ],
    ids=["renewal", "client token", "exchange"],
)
def test_closing_waits_for_the_calls_of_other_threads(tool: Tool, work: Callable[[BlockingTokens], Any]) -> None:
    tokens = tool.tokens()
    tool.log_in(tokens)
    tool.gate.arrived.clear()
    tool.gate.released.clear()
    with ThreadPoolExecutor(2) as threads:
        answer = threads.submit(work, tokens)
        assert tool.gate.arrived.wait(30)
        closing = threads.submit(tokens.close)
        while True:  # closing has begun when a call is refused
            try:
                tokens.client_token(client="other")
            except RuntimeError:
                break
            except ConfigurationError:
                continue
        assert not closing.done()
        tool.gate.released.set()
        assert answer.result(30).access_token in tool.service.owners
        closing.result(30)


def test_use_after_closing_says_so(tool: Tool) -> None:
    tokens = tool.tokens()
    tool.log_in(tokens)
    tokens.close()
    tokens.close()
    with pytest.raises(RuntimeError, match="are closed"):
        tokens.user_token(ALICE)
    with pytest.raises(RuntimeError, match="are closed"), tokens:
        tokens.client_token()
    tool.tokens().close()  # one that was never used


def test_what_is_no_longer_referred_to_ends_its_thread(tool: Tool) -> None:
    before = running_threads()
    tokens = tool.tokens()
    tool.log_in(tokens)
    (thread,) = running_threads() - before
    del tokens
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_a_call_from_inside_its_own_event_loop_is_refused_instead_of_waiting_for_ever(tool: Tool) -> None:
    """A store, for instance, that asks for a token while a token is renewed."""

    class Recursive(TableUserTokenStore):
        async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
            tokens.client_token()
            return None

    with tool.tokens(store=Recursive()) as tokens, pytest.raises(RuntimeError, match="use the asynchronous Tokens"):
        tokens.user_token(ALICE)


def test_a_farewell_that_fails_is_told(tool: Tool) -> None:
    class Unclosable(TableUserTokenStore):
        async def aclose(self) -> None:
            raise OSError("the disk is on fire")

    tokens = tool.tokens(store=Unclosable())
    tool.log_in(tokens)
    with pytest.raises(OSError, match="on fire"):
        tokens.close()


def test_closing_closes_what_its_event_loop_had_opened(tool: Tool, tmp_path: Path) -> None:
    """Otherwise the connections and the writer's thread of the store would stay: nobody else can reach that loop."""
    database = SQLiteStore(tmp_path / "grants.db")
    keys = [new_key()]
    threads = set(threading.enumerate())
    arguments: dict[str, Any] = {"coordination": database, "keys": keys, "store": SharedUserTokenStore(database, keys)}
    with tool.tokens(**arguments) as tokens:
        tool.log_in(tokens)
        tool.clock.forward(LIFETIME)
        renewed = tokens.user_token(ALICE)
    for thread in set(threading.enumerate()) - threads:
        thread.join(30)
    assert set(threading.enumerate()) <= threads
    with tool.tokens(**arguments) as again:
        assert again.user_token(ALICE) == renewed


@pytest.fixture(params=["sqlite", "postgresql", "valkey"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path, tool: Tool) -> Callable[[], Any]:
    """Open one more store on the same data, as another process does."""
    match request.param:
        case "sqlite":
            return lambda: SQLiteStore(tmp_path / "grants.db", clock=tool.clock)
        case "postgresql":
            dsn = request.getfixturevalue("postgresql").fresh_database()
            return lambda: PostgreSQLStore(dsn, clock=tool.clock)
        case _:
            url = request.getfixturevalue("valkey").fresh_url()
            return lambda: RedisStore(url, clock=tool.clock)


@pytest.mark.spec("REF-02", "REF-29")
def test_event_loops_that_share_a_grant_renew_it_once_over_each_store(
    tool: Tool, open_store: Callable[[], Any]
) -> None:
    keys = [new_key()]

    def process() -> BlockingTokens:
        database = open_store()
        shared = SharedUserTokenStore(database, keys, clock=tool.clock)
        return tool.tokens(store=shared, coordination=database, keys=keys)

    with process() as one, process() as two, process() as three, ThreadPoolExecutor(6) as threads:
        expired = tool.log_in(one)
        tool.clock.forward(LIFETIME)
        tool.gate.arrived.clear()
        tool.gate.released.clear()
        asking = [threads.submit(tokens.user_token, ALICE) for tokens in (one, two, three) * 2]
        assert tool.gate.arrived.wait(30)
        tool.gate.released.set()
        answers = {answer.result(30) for answer in asking}
    assert tool.service.refreshes == 1
    (renewed,) = answers
    assert renewed.access_token != expired.access_token


@pytest.mark.spec("OAU-31")
async def test_an_auth_for_a_synchronous_client_attaches_a_token_and_renews_a_refused_one(tool: Tool) -> None:
    refused: list[bytes] = []

    def calls(origin: str) -> list[httpx2.Response]:
        with tool.tokens() as tokens:
            refused.append(f"bearer {tool.log_in(tokens).access_token}\r\n".encode())
            auth = tokens.auth(token="user", user=ALICE)
            with httpx2.Client(base_url=origin, auth=auth, trust_env=False) as http:
                return [http.post("/orders", json={"a": 1}), http.get("/orders")]

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        await answering(status=401 if refused[0] in request.lower() else 200)(request, writer)

    async with serving(answer) as api:
        responses = await asyncio.to_thread(calls, api.origin)
    assert [response.status_code for response in responses] == [200, 200]
    renewed = f"authorization: bearer {tool.stored.access_token}".encode()
    assert [renewed in request.lower() for request in api.requests] == [False, True, True]
    assert api.requests[0].partition(b"\r\n\r\n")[2] == api.requests[1].partition(b"\r\n\r\n")[2] == b'{"a":1}'
    assert tool.service.refreshes == 1


async def test_an_api_that_refuses_every_token_costs_a_synchronous_client_one_renewal(tool: Tool) -> None:
    def calls(origin: str) -> list[int]:
        with tool.tokens() as tokens:
            tool.log_in(tokens)
            with httpx2.Client(base_url=origin, auth=tokens.auth(token="user", user=ALICE), trust_env=False) as http:
                return [http.get("/orders").status_code for _ in range(4)]

    async with serving(answering(status=401)) as api:
        assert await asyncio.to_thread(calls, api.origin) == [401] * 4
    assert tool.service.refreshes == 1
    assert len(api.requests) == 5


async def test_each_auth_says_which_client_it_is_for(tool: Tool) -> None:
    def synchronous() -> None:
        with httpx2.Client(auth=Tokens(CLIENT, send=tool.service).auth()) as http:
            http.get("http://127.0.0.1:1")

    with pytest.raises(RuntimeError, match=r"for httpx2\.Client use BlockingTokens"):
        await asyncio.to_thread(synchronous)
    with tool.tokens() as tokens:
        async with httpx2.AsyncClient(auth=tokens.auth()) as http:
            with pytest.raises(RuntimeError, match=r"for httpx2\.AsyncClient use Tokens"):
                await http.get("http://127.0.0.1:1")


PROGRAM = """
import os, signal, sys, threading, time
from coatcheck.oauth import Client
from coatcheck.oauth.messages import Response
from coatcheck.sessions import key_from_file
from coatcheck.stores import SQLiteStore
from coatcheck.tokens import BlockingTokens, SharedUserTokenStore, User, UserToken
import asyncio

ALICE = User("https://issuer.example", "alice")
METADATA = b'{"issuer": "https://issuer.example", "token_endpoint": "https://issuer.example/token"}'
sent = threading.Event()

async def send(request):
    if request.url.endswith("/token"):
        sent.set()
        await asyncio.sleep(delay)
        answer = f'{{"access_token": "access-{os.getpid()}", "token_type": "Bearer", "expires_in": 300}}'
        return Response(200, {"content-type": "application/json"}, answer.encode())
    return Response(200, {"content-type": "application/json"}, METADATA)

delay = 0.0
database = SQLiteStore("grants.db")
keys = [key_from_file("key")]
client = Client(issuer="https://issuer.example", client_id="tool", client_secret="secret",
                endpoints={"authorization_endpoint": "https://issuer.example/authorize"})
store = SharedUserTokenStore(database, keys)
tokens = BlockingTokens(client, store=store, coordination=database, keys=keys, send=send)
tokens.store_login(ALICE, UserToken.from_refresh_token("first"))
"""


def ran(code: str, folder: Path) -> str:
    """Run a program that ends by itself, silently on standard error."""
    command = [sys.executable, "-X", "dev", "-c", PROGRAM + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_a_program_that_closes_nothing_ends_all_the_same(tmp_path: Path) -> None:
    assert ran("print(tokens.user_token(ALICE).access_token)", tmp_path).startswith("access-")


@pytest.mark.spec("REF-07")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_renewal_under_way_at_the_end_of_a_program_is_written(name: str, tmp_path: Path) -> None:
    """Whoever waited for it was interrupted, and nobody closed."""
    ran(
        f"""
delay = 0.5
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
threading.Thread(target=lambda: (sent.wait(), os.kill(os.getpid(), signal.{name})), daemon=True).start()
try:
    tokens.user_token(ALICE)
except KeyboardInterrupt:
    pass
""",
        tmp_path,
    )
    found = """
tokens.close()
found = BlockingTokens(client, store=store, coordination=database, keys=keys, send=send)
"""
    program = found + "print(found.user_token(ALICE).access_token == f'access-{os.getpid()}', sent.is_set())"
    without_login = PROGRAM.replace("tokens.store_login", "(lambda *given: None)")
    command = [sys.executable, "-c", without_login + program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"], "the second program found what the first had renewed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.spec("REF-29")
def test_a_forked_child_gets_a_thread_of_its_own(tmp_path: Path) -> None:
    out = ran(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: threads and forks; that is the point here
mine = tokens.user_token(ALICE)
child = os.fork()
if child == 0:
    same = tokens.user_token(ALICE) == mine
    print("child", same, tokens.client_token(scope="child").access_token == f"access-{os.getpid()}", flush=True)
    tokens.close()
    sys.exit()
status = os.waitpid(child, 0)[1]
print("parent", status, tokens.client_token(scope="parent").access_token == f"access-{os.getpid()}")
tokens.close()
""",
        tmp_path,
    )
    assert out.splitlines() == ["child True True", "parent 0 True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_never_talks_on_the_connections_of_its_parent(tmp_path: Path) -> None:
    """A client that was given has them in its pool: each would get the answers of the other."""
    out = ran(
        """
import httpx2, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: threads and forks; that is the point here
from coatcheck import BACK_CHANNEL_HTTP_CLIENT
given = {BACK_CHANNEL_HTTP_CLIENT: httpx2.AsyncClient()}
unused = BlockingTokens(client, http_clients=given, send=send)
used = BlockingTokens(client, http_clients=given, send=send)
used.client_token()
child = os.fork()
if child == 0:
    try:
        used.client_token()
    except RuntimeError as error:
        print("child:", error, flush=True)
    print("unused:", bool(unused.client_token().access_token), flush=True)
    unused.close()
    tokens.close()
    sys.exit()
print("parent:", os.waitpid(child, 0)[1], bool(used.client_token().access_token))
used.close()
tokens.close()
""",
        tmp_path,
    )
    refusal, unused, parent = out.splitlines()
    assert "belong to the parent" in refusal
    assert (unused, parent) == ("unused: True", "parent: 0 True")


def test_nothing_starts_before_the_first_call(tool: Tool) -> None:
    before = set(threading.enumerate())
    tokens: BlockingTokens = tool.tokens()
    ask: Callable[[], object] = tokens.auth
    assert ask() is not None
    assert set(threading.enumerate()) == before
