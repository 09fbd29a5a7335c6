"""One grant per user in a store that many processes share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from coatcheck.coordination import ExpiringStore, ExpiringValue
from coatcheck.errors import LoginRequired, SessionGone, StaleToken, StoreUnavailable
from coatcheck.sessions import KeyRing, new_key
from coatcheck.stores import MemoryStore, SQLiteStore
from coatcheck.testing.token_stores import USER_TOKEN_STORE_CHECKS, UserTokenStoreCheck, somebody
from coatcheck.tokens import SharedUserTokenStore, User, UserToken, UserTokenRequestParameters
from tests.testing.clocks import HandClock
from tests.tokens.scene import LIFETIME, Scene

DEFAULT = UserTokenRequestParameters()
ORDERS = UserTokenRequestParameters(scope="orders.read")
ALICE = User("https://issuer.example", "alice")
KEY_A, KEY_B = sorted((new_key(), new_key()))
every_check = pytest.mark.parametrize("check", USER_TOKEN_STORE_CHECKS, ids=lambda check: check.__name__)
every_order = pytest.mark.parametrize(
    ("old", "new"), [(KEY_A, KEY_B), (KEY_B, KEY_A)], ids=["kids in order", "kids in the other order"]
)


def token(name: str = "", *, size: int = 0, issued_at: float = 1_800_000_000.0) -> UserToken:
    name = name or secrets.token_hex(8)
    return UserToken(
        access_token=f"access-{name}{'x' * size}",
        issued_at=issued_at,
        expires_at=issued_at + 300,
        refresh_token=f"refresh-{name}",
        id_token="header.payload.signature",
    )


@every_check
async def test_it_conforms_over_the_memory_store(check: UserTokenStoreCheck) -> None:
    store = MemoryStore()
    await check(lambda: SharedUserTokenStore(store, [KEY_A]), somebody)


@every_check
async def test_it_conforms_over_sqlite_with_a_connection_for_each_process(
    check: UserTokenStoreCheck, tmp_path: Path
) -> None:
    stores: list[SQLiteStore] = []

    def open_store() -> SharedUserTokenStore:
        stores.append(SQLiteStore(tmp_path / "grants.db"))
        return SharedUserTokenStore(stores[-1], [KEY_A])

    try:
        await check(open_store, somebody)
    finally:
        for store in stores:
            await store.aclose()


@every_check
@every_order
async def test_it_conforms_while_the_keys_rotate(check: UserTokenStoreCheck, old: str, new: str) -> None:
    """Nodes of two neighbouring deploys take turns."""
    for rings in ([[old], [old, new]], [[old, new], [new, old]], [[new, old], [new]]):
        store = MemoryStore()
        opened = 0

        def open_store(store: MemoryStore = store, rings: list[list[str]] = rings) -> SharedUserTokenStore:
            nonlocal opened
            opened += 1
            return SharedUserTokenStore(store, rings[opened % 2])

        await check(open_store, somebody)


async def test_what_is_stored_is_sealed_and_names_nobody() -> None:
    store = Spied(MemoryStore())
    await SharedUserTokenStore(store, [KEY_A]).store_token(ALICE, token("secret"), DEFAULT, replaces=None)
    ((key, value),) = store.written
    assert len(key) == 32
    assert b"secret" not in value and b"alice" not in key + value and b"issuer" not in key + value


async def test_a_value_moved_to_another_user_does_not_open() -> None:
    """Whoever can write to the database must not be able to hand one user the tokens of another."""
    store = Spied(MemoryStore())
    shared = SharedUserTokenStore(store, [KEY_A])
    mallory = User(ALICE.iss, "mallory")
    await shared.store_token(ALICE, token(), DEFAULT, replaces=None)
    await shared.store_token(mallory, token(), DEFAULT, replaces=None)
    (_, alices), (name, _) = store.written
    found = await store.get(name)
    assert found is not None
    await store.replace(name, alices, version=found.version, until=4e9)
    assert await shared.get_token(mallory, DEFAULT) is None


async def test_a_grant_that_came_from_elsewhere_has_no_access_token_yet() -> None:
    shared = SharedUserTokenStore(MemoryStore(), [KEY_A])
    await shared.store_token(ALICE, UserToken.from_refresh_token("first"), DEFAULT, replaces=None)
    for parameters in (DEFAULT, ORDERS):
        held = await shared.get_token(ALICE, parameters)
        assert held is not None
        assert (held.access_token, held.refresh_token) == ("", "first")


@pytest.mark.spec("REF-05")
async def test_access_tokens_of_two_scopes_share_the_refresh_token() -> None:
    shared = SharedUserTokenStore(MemoryStore(), [KEY_A])
    login = token("login")
    await shared.store_token(ALICE, login, DEFAULT, replaces=None)
    empty = await shared.get_token(ALICE, ORDERS)
    assert empty is not None
    orders = replace(login, access_token="for orders", refresh_token="rotated")
    await shared.store_token(ALICE, orders, ORDERS, replaces=empty)
    assert await shared.get_token(ALICE, ORDERS) == orders
    assert await shared.get_token(ALICE, DEFAULT) == replace(login, refresh_token="rotated")
    with pytest.raises(StaleToken):
        await shared.store_token(ALICE, token(), DEFAULT, replaces=login)


@pytest.mark.spec("REF-05")
async def test_writes_of_two_processes_to_different_scopes_both_survive() -> None:
    store = MemoryStore()
    await SharedUserTokenStore(store, [KEY_A]).store_token(ALICE, token("login"), DEFAULT, replaces=None)

    async def write(number: int) -> None:
        shared = SharedUserTokenStore(Yielding(store), [KEY_A])
        parameters = UserTokenRequestParameters(scope=f"scope:{number}")
        empty = await shared.get_token(ALICE, parameters)
        assert empty is not None
        await shared.store_token(ALICE, replace(empty, access_token=f"access {number}"), parameters, replaces=empty)

    await asyncio.gather(*(write(number) for number in range(4)))
    shared = SharedUserTokenStore(store, [KEY_A])
    for number in range(4):
        held = await shared.get_token(ALICE, UserTokenRequestParameters(scope=f"scope:{number}"))
        assert held is not None and held.access_token == f"access {number}"


@pytest.mark.spec("REF-13")
async def test_a_logout_wins_over_a_writer_that_is_in_the_middle() -> None:
    """It has read the grant already; then the grant is cleared, and even begun anew."""
    for logs_in_again in (False, True):
        store = Interrupted(MemoryStore())
        slow, other = SharedUserTokenStore(store, [KEY_A]), SharedUserTokenStore(store.inner, [KEY_A])
        first, again = token("first"), token("again")
        await slow.store_token(ALICE, first, DEFAULT, replaces=None)

        store.before_write = partial(_log_out_and_in, other, again if logs_in_again else None)
        with pytest.raises((SessionGone, StaleToken)):
            await slow.store_token(ALICE, token("late"), DEFAULT, replaces=first)
        assert await other.get_token(ALICE, DEFAULT) == (again if logs_in_again else None)


async def _log_out_and_in(shared: SharedUserTokenStore, again: UserToken | None) -> None:
    await shared.clear_token(ALICE, DEFAULT)
    if again is not None:
        await shared.store_token(ALICE, again, DEFAULT, replaces=None)


@every_order
async def test_a_grant_survives_a_rotation_of_the_keys(old: str, new: str) -> None:
    store = MemoryStore()
    held = token("login")
    await SharedUserTokenStore(store, [old]).store_token(ALICE, held, DEFAULT, replaces=None)
    for ring in ([old, new], [new, old]):
        shared = SharedUserTokenStore(store, ring)
        renewed = token()
        await shared.store_token(ALICE, renewed, DEFAULT, replaces=held)
        held = renewed
        assert await shared.get_token(ALICE, DEFAULT) == held
    again = token("a login moves it to the new key")
    await SharedUserTokenStore(store, [new, old]).store_token(ALICE, again, DEFAULT, replaces=None)
    for ring in ([old, new], [new]):
        assert await SharedUserTokenStore(store, ring).get_token(ALICE, DEFAULT) == again


@every_order
async def test_of_two_logins_with_different_first_keys_one_stays(old: str, new: str) -> None:
    for _ in range(20):
        store = MemoryStore()
        nodes = [SharedUserTokenStore(Yielding(store), ring) for ring in ([old, new], [new, old])]
        if secrets.randbits(1):
            await nodes[0].store_token(ALICE, token(), DEFAULT, replaces=None)
        logins = [token("one"), token("other")]
        await asyncio.gather(
            *(node.store_token(ALICE, login, DEFAULT, replaces=None) for node, login in zip(nodes, logins, strict=True))
        )
        seen = [await node.get_token(ALICE, DEFAULT) for node in nodes]
        assert seen[0] in logins
        assert seen[0] == seen[1]
        await nodes[0].clear_token(ALICE, DEFAULT)
        assert [await node.get_token(ALICE, DEFAULT) for node in nodes] == [None, None]


@every_order
async def test_a_login_removes_only_what_it_has_seen(old: str, new: str) -> None:
    """Two logins, each about to remove what stands under the other's name: both would be gone."""
    store = Interrupted(MemoryStore())
    ahead, behind = SharedUserTokenStore(store, [new, old]), SharedUserTokenStore(store.inner, [old, new])
    await behind.store_token(ALICE, token("before"), DEFAULT, replaces=None)
    later = token("later")
    store.before_discard = partial(behind.store_token, ALICE, later, DEFAULT, replaces=None)
    await ahead.store_token(ALICE, token("earlier"), DEFAULT, replaces=None)
    assert await ahead.get_token(ALICE, DEFAULT) == await behind.get_token(ALICE, DEFAULT) == later


async def test_a_grant_lives_from_its_login_on_however_often_it_is_renewed() -> None:
    clock = HandClock()
    shared = SharedUserTokenStore(MemoryStore(clock), [KEY_A], lifetime=timedelta(days=2), clock=clock)
    first, second = token("first"), token("second")
    await shared.store_token(ALICE, first, DEFAULT, replaces=None)
    clock.forward(timedelta(days=1, hours=23))
    await shared.store_token(ALICE, second, DEFAULT, replaces=first)
    assert await shared.get_token(ALICE, DEFAULT) == second
    clock.forward(timedelta(hours=1))
    assert await shared.get_token(ALICE, DEFAULT) is None
    with pytest.raises(SessionGone):
        await shared.store_token(ALICE, token(), DEFAULT, replaces=second)


async def test_large_tokens_push_the_oldest_out() -> None:
    """A value may have 64 KiB; access tokens that were dropped are fetched again when somebody asks."""
    store = Spied(MemoryStore())
    shared = SharedUserTokenStore(store, [KEY_A])
    await shared.store_token(ALICE, token("login"), DEFAULT, replaces=None)
    for number in range(12):
        parameters = UserTokenRequestParameters(scope=f"scope:{number}")
        empty = await shared.get_token(ALICE, parameters)
        assert empty is not None
        large = token(str(number), size=10_000, issued_at=1_800_000_001.0 + number)
        await shared.store_token(ALICE, large, parameters, replaces=empty)
        assert await shared.get_token(ALICE, parameters) == large
    assert max(len(value) for _, value in store.written) <= 64 * 1024
    with pytest.raises(StoreUnavailable, match="more than 61440 bytes"):
        await shared.store_token(ALICE, token(size=70_000), DEFAULT, replaces=None)


async def test_a_key_that_is_missing_is_an_operators_fault_and_loses_nothing() -> None:
    """A deploy was left out: this node knows the name by the old key, but not the key that sealed."""
    store = MemoryStore()
    first = token("first")
    await SharedUserTokenStore(store, [KEY_A]).store_token(ALICE, first, DEFAULT, replaces=None)
    await SharedUserTokenStore(store, [KEY_B, KEY_A]).store_token(ALICE, token(), DEFAULT, replaces=first)
    behind = SharedUserTokenStore(store, [KEY_A])
    with pytest.raises(StoreUnavailable, match="add it back to `keys`"):
        await behind.get_token(ALICE, DEFAULT)
    with pytest.raises(StoreUnavailable):
        await behind.store_token(ALICE, token(), DEFAULT, replaces=first)
    assert await SharedUserTokenStore(store, [KEY_B, KEY_A]).get_token(ALICE, DEFAULT) is not None


async def test_it_takes_a_key_ring_as_well() -> None:
    store = MemoryStore()
    held = token()
    await SharedUserTokenStore(store, KeyRing([KEY_A])).store_token(ALICE, held, DEFAULT, replaces=None)
    assert await SharedUserTokenStore(store, [KEY_A]).get_token(ALICE, DEFAULT) == held
    other = SharedUserTokenStore(store, KeyRing([KEY_A], application_id="other"))
    assert await other.get_token(ALICE, DEFAULT) is None


@pytest.mark.spec("REF-01", "REF-02")
async def test_two_sessions_and_two_processes_that_share_a_grant_renew_it_once() -> None:
    """The lease is about the refresh token, not about a session: somebody at two browsers has one grant here."""
    scene = Scene()
    shared = SharedUserTokenStore(scene.coordination, scene.keys, clock=scene.clock)
    processes = [scene.other_process(store=shared) for _ in range(2)]
    scene.tokens = processes[0]
    browsers = [await scene.log_in("alice") for _ in range(2)]
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        asking = [
            asyncio.create_task(tokens.user_token(await browser.request()))
            for tokens in processes
            for browser in browsers
        ]
        await gate.arrived.wait()
    answers = {token.access_token for token in await asyncio.gather(*asking)}
    assert scene.service.refreshes == 1
    assert answers == {(await browser.stored()).access_token for browser in browsers}
    for tokens in processes:
        await tokens.aclose()


async def test_a_logout_in_one_session_ends_the_grant_for_all() -> None:
    scene = Scene(store=SharedUserTokenStore(MemoryStore(), [KEY_A]))
    one, other = await scene.log_in("alice"), await scene.log_in("alice")
    refresh_token = (await other.stored()).refresh_token
    await scene.tokens.revoke(await one.request())
    assert scene.service.revoked == [refresh_token]
    with pytest.raises(LoginRequired) as caught:
        await scene.tokens.user_token(await other.request())
    assert caught.value.code == "login_required"


class Around:
    """An expiring store around another one."""

    def __init__(self, inner: ExpiringStore) -> None:
        self.inner = inner

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        return await self.inner.add(key, value, until=until)

    async def get(self, key: bytes) -> ExpiringValue | None:
        return await self.inner.get(key)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        await self.inner.replace(key, value, version=version, until=until)

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        return await self.inner.discard(key, version=version)


class Spied(Around):
    """Shows what was written."""

    def __init__(self, inner: ExpiringStore) -> None:
        super().__init__(inner)
        self.written: list[tuple[bytes, bytes]] = []

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        self.written.append((key, value))
        return await super().add(key, value, until=until)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        self.written.append((key, value))
        await super().replace(key, value, version=version, until=until)


class Yielding(Around):
    """Lets others run before each step, as a database does."""

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        await _yield()
        return await super().add(key, value, until=until)

    async def get(self, key: bytes) -> ExpiringValue | None:
        await _yield()
        return await super().get(key)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        await _yield()
        await super().replace(key, value, version=version, until=until)

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        await _yield()
        return await super().discard(key, version=version)


class Interrupted(Around):
    """Something happens in the moment before the next change of a value, or before the next removal."""

    before_write: Callable[[], Awaitable[None]] | None = None
    before_discard: Callable[[], Awaitable[None]] | None = None

    async def discard(self, key: bytes, *, version: int | None = None) -> bool:
        if self.before_discard is not None:
            meanwhile, self.before_discard = self.before_discard, None
            await meanwhile()
        return await super().discard(key, version=version)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        if self.before_write is not None:
            meanwhile, self.before_write = self.before_write, None
            await meanwhile()
        await super().replace(key, value, version=version, until=until)


async def _yield() -> None:
    for _ in range(secrets.randbelow(3)):
        await asyncio.sleep(0)
