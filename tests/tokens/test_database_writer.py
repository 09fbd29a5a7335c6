"""
What somebody can do who may write into the coordination store, or whose own store says odd things.

They can destroy: delete a session, a lease or a mark, and so log people out. What they cannot do is tested here.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from coatcheck.coordination import ExpiringValue
from coatcheck.errors import LoginRequired
from coatcheck.sessions import KeyRing
from coatcheck.stores import MemoryStore
from coatcheck.tokens import SharedUserTokenStore, Tokens, User, UserToken, UserTokenRequestParameters
from coatcheck.tokens.grant_names import GrantNames
from tests.testing.clocks import HandClock
from tests.tokens.processes import Process
from tests.tokens.scene import CLIENT, LIFETIME, Browser, Scene, TableUserTokenStore
from tests.tokens.token_service import ISSUER, LOST, TokenService

DEFAULT = UserTokenRequestParameters()
FOR_EVER = 4e9


def rotation_name(scene: Scene) -> bytes:
    """Where it is written whether the provider keeps refresh tokens. A hash with a key, but assume that it is known."""
    return GrantNames(KeyRing(scene.keys).derive_all("grants")).registration(CLIENT)[0]


async def forge(store: MemoryStore, name: bytes, value: bytes) -> None:
    await store.discard(name)
    assert await store.add(name, value, until=FOR_EVER)


async def expired(scene: Scene) -> Browser:
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    return browser


async def value_at(scene: Scene, name: bytes) -> ExpiringValue:
    value = await scene.coordination.get(name)
    assert value is not None
    return value


async def assert_the_refresh_token_is_not_sent_again(scene: Scene, browser: Browser) -> None:
    scene.service.answers.append(LOST)
    before = scene.service.refreshes
    with pytest.raises(LoginRequired) as caught:
        await Process(scene).tokens.user_token(await browser.request())
    assert caught.value.code == "renewal_lost"
    assert scene.service.refreshes == before + 1


@pytest.mark.spec("REF-10")
async def test_a_database_writer_cannot_have_a_refresh_token_sent_twice() -> None:
    """`none` in the place of what was learned would do it, and a strict provider would end the grant."""
    scene = Scene()
    browser = await expired(scene)
    for forged in (b"none", b'{"until":4e9}', b""):
        await forge(scene.coordination, rotation_name(scene), forged)
        await assert_the_refresh_token_is_not_sent_again(scene, browser)
        browser = await expired(scene)


@pytest.mark.spec("REF-10")
async def test_what_was_learned_of_one_provider_cannot_be_moved_to_another() -> None:
    lenient = replace(CLIENT, client_id="another shop")
    scene = Scene(client=lenient)
    scene.service.rotation = False
    await scene.tokens.user_token(await (await expired(scene)).request())
    names = GrantNames(KeyRing(scene.keys).derive_all("grants"))
    learned = await value_at(scene, names.registration(lenient)[0])
    strict = Scene()
    strict.keys[:] = scene.keys
    strict.tokens = strict.other_process(keys=scene.keys)
    await forge(strict.coordination, names.registration(CLIENT)[0], learned.value)
    browser = await expired(strict)
    strict.service.answers.append(LOST)
    with pytest.raises(LoginRequired, match="must not be sent twice"):
        await Process(strict, keys=scene.keys).tokens.user_token(await browser.request())


@pytest.mark.spec("REF-10")
async def test_what_was_learned_long_ago_cannot_be_kept_alive_in_the_database() -> None:
    scene = Scene()
    scene.service.rotation = False
    await scene.tokens.user_token(await (await expired(scene)).request())
    learned = await value_at(scene, rotation_name(scene))
    scene.clock.forward(timedelta(days=91))
    scene.service.rotation = True
    await forge(scene.coordination, rotation_name(scene), learned.value)
    await assert_the_refresh_token_is_not_sent_again(scene, await expired(scene))


@pytest.mark.spec("STO-03")
async def test_a_shared_grant_that_has_run_out_cannot_be_kept_alive_in_the_database() -> None:
    clock = HandClock()
    store = Recording(clock)
    keys = Scene().keys
    shared = SharedUserTokenStore(store, keys, lifetime=timedelta(days=1), clock=clock)
    alice = User(ISSUER, "alice")
    token = UserToken(access_token="at", issued_at=clock.time(), refresh_token="rt")
    await shared.store_token(alice, token, DEFAULT, replaces=None)
    [(name, value)] = store.added.items()
    clock.forward(timedelta(days=1))
    await forge(store, name, value)
    assert await shared.get_token(alice, DEFAULT) is None


@pytest.mark.spec("CCT-01")
async def test_tools_with_one_store_and_bound_keys_do_not_get_the_tokens_of_each_other() -> None:
    clock, ring = HandClock(), KeyRing(Scene().keys)
    store, alice = MemoryStore(clock), User(ISSUER, "alice")
    ours, theirs = (SharedUserTokenStore(store, ring.bound_to(tool), clock=clock) for tool in ("ours", "theirs"))
    token = UserToken(access_token="at", issued_at=clock.time(), refresh_token="rt")
    await ours.store_token(alice, token, DEFAULT, replaces=None)
    assert await theirs.get_token(alice, DEFAULT) is None
    assert await ours.get_token(alice, DEFAULT) == token


@pytest.mark.spec("REF-24")
async def test_a_user_whose_refresh_token_is_empty_never_gets_the_token_of_another() -> None:
    """A column that is empty and not null: both would be taken for one grant, and wait for one renewal."""
    clock, store = HandClock(), TableUserTokenStore()
    service = TokenService(clock)
    tokens = Tokens(CLIENT, store=store, send=service, clock=clock)
    alice, bob = User(ISSUER, "alice"), User(ISSUER, "bob")
    for user in (alice, bob):
        token = UserToken(access_token=f"of {user.sub}", issued_at=0.0, expires_at=clock.time(), refresh_token="")
        await store.store_token(user, token, DEFAULT, replaces=None)
    outcomes = await asyncio.gather(tokens.user_token(alice), tokens.user_token(bob), return_exceptions=True)
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == ["token_expired_no_refresh_token"] * 2
    assert service.refreshes == 0, "nothing was sent in vain"


class Recording(MemoryStore):
    """Remembers what was added."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.added: dict[bytes, bytes] = {}

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        self.added[key] = value
        return await super().add(key, value, until=until)
