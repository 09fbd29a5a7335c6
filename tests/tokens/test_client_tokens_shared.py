"""Client tokens that processes share: each `Tokens` here stands for a process, and all have one store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coatcheck.coordination import ExpiringValue, Lease
from coatcheck.errors import StoreUnavailable, TokenUnavailable
from coatcheck.oauth.client import Client
from coatcheck.oauth.messages import Response
from coatcheck.sessions.seal import new_key
from coatcheck.stores import MemoryStore, SQLiteStore
from coatcheck.tokens import ClientToken, Tokens
from tests.testing.clocks import HandClock
from tests.tokens.scene import CLIENT, LIFETIME, STALE
from tests.tokens.token_service import TokenService

KEY = new_key()
OTHER_KEY = new_key()


class WatchedStore(MemoryStore):
    """A store that a test can look into and break."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.values: dict[bytes, bytes] = {}
        self.away = False
        self.failures = 0
        self.looks = 0
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        self._fail()
        self.values[key] = value
        return await super().add(key, value, until=until)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        self._fail()
        self.values[key] = value
        await super().replace(key, value, version=version, until=until)

    async def get(self, key: bytes) -> ExpiringValue | None:
        self._fail()
        self.looks += 1
        return await super().get(key)

    async def acquire(self, key: bytes, holder: bytes, *, seconds: float) -> Lease | None:
        self._fail()
        self.looks += 1
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return await super().acquire(key, holder, seconds=seconds)

    def _fail(self) -> None:
        if self.away:
            self.failures += 1
            raise StoreUnavailable("the test broke it")


class Deployment:
    """Processes of one application, started with the same or with other settings."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.service = TokenService(self.clock)
        self.store = WatchedStore(self.clock)

    def process(self, client: Client = CLIENT, *, keys: list[str] | None = None, **arguments: Any) -> Tokens:
        common: dict[str, Any] = {
            "coordination": self.store,
            "keys": keys or [KEY],
            "clock": self.clock,
            "send": self.service,
        }
        return Tokens(client, **(common | arguments))

    @property
    def fetches(self) -> int:
        return len(self.service.requests)


async def ask(processes: list[Tokens], **arguments: Any) -> list[ClientToken]:
    return await asyncio.gather(*(process.client_token(**arguments) for process in processes))


@pytest.mark.spec("CCT-02")
async def test_processes_that_ask_together_cost_one_request() -> None:
    deployment = Deployment()
    processes = [deployment.process() for _ in range(8)]
    tokens = await ask(processes * 10)
    assert len({token.access_token for token in tokens}) == 1
    assert deployment.fetches == 1


@pytest.mark.spec("CCT-02")
async def test_processes_that_meet_in_a_database_cost_one_request(tmp_path: Path) -> None:
    deployment = Deployment()
    async with AsyncExitStack() as closing:
        processes = []
        for _ in range(4):
            store = SQLiteStore(tmp_path / "store.db", clock=deployment.clock)
            closing.push_async_callback(store.aclose)
            processes.append(deployment.process(coordination=store))
        async with deployment.service.held() as gate:
            asking = asyncio.ensure_future(ask(processes * 5))
            await gate.arrived.wait()
            gate.released.set()
            tokens = await asking
        (refused,) = set(tokens)
        (replaced,) = set(await ask(processes, refused=refused.access_token))
    assert replaced != refused
    assert deployment.fetches == 2


@pytest.mark.spec("CCT-02")
async def test_a_token_too_large_for_the_store_is_each_process_own() -> None:
    deployment = Deployment()
    deployment.service.answers.extend({"access_token": letter * 65_536} for letter in "ab")
    first, second = deployment.process(), deployment.process()
    assert await first.client_token() != await second.client_token()
    assert await first.client_token() is await first.client_token()


@pytest.mark.spec("CCT-02")
async def test_a_process_that_gets_the_lease_after_another_one_looks_again() -> None:
    deployment = Deployment()
    first, second = deployment.process(), deployment.process()
    deployment.store.meanwhile = second.client_token
    assert await first.client_token() == await second.client_token()
    assert deployment.fetches == 1


@pytest.mark.spec("CCT-02")
async def test_a_process_that_starts_later_finds_the_token() -> None:
    deployment = Deployment()
    first = await deployment.process().client_token(scope="a")
    assert await deployment.process().client_token(scope="a") == first
    assert deployment.fetches == 1


@pytest.mark.spec("CCT-02")
async def test_a_process_that_starts_late_uses_a_stale_token_and_one_process_replaces_it() -> None:
    deployment = Deployment()
    first = await deployment.process().client_token()
    deployment.clock.forward(STALE)
    processes = [deployment.process() for _ in range(3)]
    assert await ask(processes) == [first] * 3
    assert deployment.fetches == 1
    await ask(processes)
    for process in processes:
        await process.aclose()
    (replaced,) = set(await ask(processes))
    assert replaced != first
    assert deployment.fetches == 2


@pytest.mark.spec("CCT-02", "CCT-04")
async def test_nobody_finds_a_token_that_has_ended() -> None:
    deployment = Deployment()
    first = await deployment.process().client_token()
    deployment.clock.forward(LIFETIME - timedelta(seconds=5))
    assert (await deployment.process().client_token()).access_token != first.access_token


@pytest.mark.spec("CCT-04")
@pytest.mark.parametrize("expires_in", [0, -5])
async def test_a_token_that_is_expired_at_once_is_not_shared(expires_in: int) -> None:
    deployment = Deployment()
    deployment.service.expires_in = expires_in
    tokens = [await deployment.process().client_token() for _ in range(2)]
    assert len({token.access_token for token in tokens}) == 2
    assert deployment.store.values == {}


@pytest.mark.spec("CCT-01")
async def test_processes_that_want_different_tokens_get_different_tokens() -> None:
    deployment = Deployment()
    wanted: list[dict[str, Any]] = [
        {},
        {"scope": "a"},
        {"scope": "a b"},
        {"resource": ("https://a.example",)},
        {"form_parameters": (("audience", "a"),)},
        {"context": {"tenant": "1"}},
        {"context": {"tenant": 1}},
        {"context": {"tenant": True}},
        {"context": {"tenant": None}},
    ]
    first, second = deployment.process(), deployment.process()
    ones = await asyncio.gather(*(first.client_token(**arguments) for arguments in wanted))
    assert len({token.access_token for token in ones}) == len(wanted)
    assert [await second.client_token(**arguments) for arguments in wanted] == list(ones)


@pytest.mark.spec("CCT-01")
async def test_a_context_that_only_this_process_can_compare_is_not_shared() -> None:
    deployment = Deployment()
    context = {"tenant": frozenset({"a", "b"})}
    first, second = deployment.process(), deployment.process()
    assert await first.client_token(context=context) is await first.client_token(context=context)
    assert await second.client_token(context=context) != await first.client_token(context=context)
    assert deployment.store.values == {}


@pytest.mark.spec("CCT-07")
@pytest.mark.parametrize(
    "changed",
    [
        replace(CLIENT, client_secret="a new secret"),
        replace(CLIENT, client_auth="client_secret_post"),
        replace(CLIENT, client_id="another"),
        replace(CLIENT, resource=("https://a.example",)),
        replace(CLIENT, token_params={"audience": "https://b.example"}),
    ],
    ids=["secret", "method", "id", "resource", "parameters"],
)
async def test_after_a_change_of_the_registration_no_older_token_is_found(changed: Client) -> None:
    deployment = Deployment()
    before = await deployment.process().client_token()
    assert (await deployment.process(changed).client_token()).access_token != before.access_token
    assert deployment.fetches == 2


@pytest.mark.spec("CCT-07")
async def test_the_store_sees_neither_tokens_nor_secrets_nor_what_they_are_for() -> None:
    deployment = Deployment()
    token = await deployment.process().client_token(scope="orders.read")
    (key,), (value,) = deployment.store.values.keys(), deployment.store.values.values()
    assert len(key) == 32
    for secret in (token.access_token, "orders.read", CLIENT.client_id, CLIENT.client_secret or ""):
        assert secret.encode() not in value
    assert key != hashlib.blake2b(b"", digest_size=32).digest()


@pytest.mark.spec("CCT-07")
@pytest.mark.parametrize(
    "forge", [lambda value: value[:-1] + bytes([value[-1] ^ 1]), lambda value: b"", lambda value: b"{}"]
)
async def test_a_value_that_was_changed_in_the_store_is_nobodys_token(forge: Callable[[bytes], bytes]) -> None:
    deployment = Deployment()
    first = await deployment.process().client_token()
    ((key, value),) = deployment.store.values.items()
    await deployment.store.replace(key, forge(value), version=1, until=deployment.clock.time() + 100)
    second = await deployment.process().client_token()
    assert second.access_token != first.access_token
    assert await deployment.process().client_token() == second


@pytest.mark.spec("CCT-07")
async def test_a_token_that_was_moved_to_another_name_in_the_store_does_not_open() -> None:
    """Otherwise whoever can write there hands a strong token to a request for a weak one."""
    deployment = Deployment()
    strong = await deployment.process().client_token(scope="admin")
    (stolen,) = deployment.store.values.values()
    await deployment.process().client_token(scope="read")
    (weak,) = [key for key, value in deployment.store.values.items() if value != stolen]
    await deployment.store.replace(weak, stolen, version=1, until=deployment.clock.time() + 100)
    assert (await deployment.process().client_token(scope="read")).access_token != strong.access_token


@pytest.mark.spec("CCT-07")
async def test_keys_rotate_without_another_request() -> None:
    deployment = Deployment()
    token = await deployment.process(keys=[KEY]).client_token()
    for keys in ([KEY, OTHER_KEY], [OTHER_KEY, KEY]):
        assert await deployment.process(keys=keys).client_token() == token
    assert deployment.fetches == 1
    assert (await deployment.process(keys=[OTHER_KEY]).client_token()).access_token != token.access_token


@pytest.mark.spec("CCT-03")
async def test_a_failure_reaches_the_waiters_of_all_processes_and_costs_one_request() -> None:
    deployment = Deployment()
    deployment.service.answers.append(Response(429, {"retry-after": "20"}))
    processes = [deployment.process() for _ in range(4)]
    results = await asyncio.gather(*(process.client_token() for process in processes * 5), return_exceptions=True)
    assert {type(result) for result in results} == {TokenUnavailable}
    assert {getattr(result, "retry_after", None) for result in results} == {timedelta(seconds=20)}
    assert deployment.fetches == 1
    deployment.clock.forward(timedelta(seconds=19))
    with pytest.raises(TokenUnavailable):
        await deployment.process().client_token()
    deployment.clock.forward(timedelta(seconds=1))
    assert len(set(await ask(processes))) == 1
    assert deployment.fetches == 2


@pytest.mark.spec("CCT-05")
async def test_a_token_that_an_api_refused_everywhere_is_replaced_once() -> None:
    deployment = Deployment()
    processes = [deployment.process() for _ in range(4)]
    (refused,) = set(await ask(processes))
    (replaced,) = set(await ask(processes, refused=refused.access_token))
    assert replaced.access_token != refused.access_token
    assert deployment.fetches == 2
    for process in processes:
        with pytest.raises(TokenUnavailable, match="refuses new tokens, too"):
            await process.client_token(refused=replaced.access_token)
    assert deployment.fetches == 2


@pytest.mark.spec("CCT-02")
async def test_a_process_that_died_while_fetching_is_missed_after_seconds() -> None:
    deployment = Deployment()
    async with deployment.service.held() as gate:
        dying = deployment.process()
        task = asyncio.create_task(dying.client_token())
        await gate.arrived.wait()
        waiting = asyncio.create_task(deployment.process().client_token())
        while deployment.store.looks < 20:
            await asyncio.sleep(0.001)
        assert deployment.fetches == 1
        deployment.clock.forward(timedelta(seconds=5))  # what a heart would have prevented beats no more
        while deployment.fetches < 2:
            await asyncio.sleep(0.001)
        gate.released.set()
        assert (await waiting).access_token
        await task


@pytest.mark.spec("CCT-02")
async def test_without_the_store_each_process_fetches_for_itself_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    deployment = Deployment()
    deployment.store.away = True
    first, second = deployment.process(), deployment.process()
    tokens = [await process.client_token(scope=scope) for process in (first, second) for scope in ("a", "b", "c")]
    assert len({token.access_token for token in tokens}) == 6
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2  # one for each process
    assert deployment.store.failures == 2  # and none of them asks it for each token
    deployment.store.away = False
    deployment.clock.forward(timedelta(seconds=5))
    assert await first.client_token(scope="d") == await second.client_token(scope="d")


@pytest.mark.spec("CCT-02")
async def test_a_store_that_goes_away_while_a_token_is_fetched_costs_nobody_the_token() -> None:
    deployment = Deployment()
    process = deployment.process()
    async with deployment.service.held() as gate:
        task = asyncio.create_task(process.client_token())
        await gate.arrived.wait()
        deployment.store.away = True
        gate.released.set()
        token = await task
    assert await process.client_token() is token
