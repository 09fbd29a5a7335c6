"""The default store: slots that share a grant, inside one sealed value that is written by compare-and-swap."""

from __future__ import annotations

import dataclasses

import pytest

from coatcheck.errors import LoginRequired, SessionGone, StaleToken, StoreUnavailable
from coatcheck.tokens import SessionUserTokenStore, TokenState, User, UserToken, UserTokenRequestParameters
from tests.tokens.scene import LIFETIME, Scene

DEFAULT = UserTokenRequestParameters()
ORDERS = UserTokenRequestParameters(scope="orders.read")
STORE = SessionUserTokenStore()


async def stored(user: User, parameters: UserTokenRequestParameters = DEFAULT) -> UserToken:
    token = await STORE.get_token(user, parameters)
    assert token is not None
    return token


async def test_a_slot_without_a_token_yet_knows_how_to_renew() -> None:
    scene = Scene()
    user = await (await scene.log_in()).request()
    login = await stored(user)
    empty = await stored(user, ORDERS)
    assert empty.access_token == ""
    assert empty.state(scene.clock.time()) is TokenState.EXPIRED
    assert (empty.refresh_token, empty.id_token) == (login.refresh_token, login.id_token)


async def test_slots_share_the_refresh_token_and_keep_their_access_tokens() -> None:
    user = await (await Scene().log_in()).request()
    login, empty = await stored(user), await stored(user, ORDERS)
    renewed = dataclasses.replace(empty, access_token="for orders", refresh_token="rotated", issued_at=5.0)
    await STORE.store_token(user, renewed, ORDERS, replaces=empty)
    assert await stored(user, ORDERS) == renewed
    assert await stored(user) == dataclasses.replace(login, refresh_token="rotated")


async def test_a_token_that_another_slot_made_stale_is_not_replaced() -> None:
    """The refresh token was rotated for `orders`: what a slow renewal of the default got is older."""
    user = await (await Scene().log_in()).request()
    login, empty = await stored(user), await stored(user, ORDERS)
    rotated = dataclasses.replace(empty, access_token="for orders", refresh_token="rotated")
    await STORE.store_token(user, rotated, ORDERS, replaces=empty)
    with pytest.raises(StaleToken):
        await STORE.store_token(user, dataclasses.replace(login, access_token="late"), DEFAULT, replaces=login)


@pytest.mark.spec("REF-05")
async def test_writes_of_two_requests_to_different_slots_both_survive() -> None:
    """Each request has read the session before the other one wrote."""
    browser = await Scene().log_in()
    one, other = await browser.request(), await browser.request()
    login, empty = await stored(one), await stored(other, ORDERS)
    await STORE.store_token(one, dataclasses.replace(login, access_token="renewed"), DEFAULT, replaces=login)
    await STORE.store_token(other, dataclasses.replace(empty, access_token="for orders"), ORDERS, replaces=empty)
    later = await browser.request()
    assert (await stored(later)).access_token == "renewed"
    assert (await stored(later, ORDERS)).access_token == "for orders"


async def test_a_request_with_an_old_copy_can_replace_what_is_stored_now() -> None:
    """It is compared with what is stored, not with what this request read when it began."""
    browser = await Scene().log_in()
    one, behind = await browser.request(), await browser.request()
    login = await stored(behind)
    renewed = dataclasses.replace(login, access_token="renewed", refresh_token="rotated")
    await STORE.store_token(one, renewed, DEFAULT, replaces=login)
    latest = dataclasses.replace(renewed, access_token="latest")
    await STORE.store_token(behind, latest, DEFAULT, replaces=renewed)
    assert await stored(await browser.request()) == latest


async def test_a_scope_of_its_own_in_every_request_does_not_fill_the_session() -> None:
    """Nobody asks for most of these tokens again."""
    scene = Scene()
    browser = await scene.log_in()
    login = await browser.stored()
    sizes = []
    for number in range(100):
        await scene.tokens.user_token(await browser.request(), UserTokenRequestParameters(scope=f"order:{number}"))
        session = (await browser.request()).session
        assert session is not None
        sizes.append(len((await session.tokens())[0]))
    assert max(sizes[50:]) < 1.1 * max(sizes[:40])
    newest = await stored(await browser.request(), UserTokenRequestParameters(scope="order:99"))
    assert newest.access_token
    assert (await browser.stored()).access_token == login.access_token
    scene.clock.forward(2 * LIFETIME)
    await scene.tokens.user_token(await browser.request(), ORDERS)
    session = (await browser.request()).session
    assert session is not None
    assert len((await session.tokens())[0]) < max(sizes) / 5
    assert (await browser.stored()).access_token == login.access_token


async def test_a_login_drops_the_slots_of_the_grant_before_it() -> None:
    user = await (await Scene().log_in()).request()
    login, empty = await stored(user), await stored(user, ORDERS)
    await STORE.store_token(user, dataclasses.replace(empty, access_token="for orders"), ORDERS, replaces=empty)
    await STORE.store_token(user, dataclasses.replace(login, refresh_token="new grant"), DEFAULT, replaces=None)
    assert (await stored(user, ORDERS)).access_token == ""


async def test_a_session_remembers_that_its_grant_has_ended() -> None:
    """So that the next request ends it, even when no caller saw the renewal fail."""
    browser = await Scene().log_in()
    await STORE.clear_token(await browser.request(), DEFAULT)
    with pytest.raises(LoginRequired) as caught:
        await STORE.get_token(await browser.request(), DEFAULT)
    assert caught.value.code == "session_ended"


async def test_an_update_never_brings_a_deleted_session_back() -> None:
    browser = await Scene().log_in()
    user = await browser.request()
    token = await stored(user)
    await browser.log_out()
    with pytest.raises(SessionGone):
        await STORE.store_token(user, dataclasses.replace(token, access_token="late"), DEFAULT, replaces=token)
    await STORE.clear_token(user, DEFAULT)
    assert not await browser.is_logged_in()


async def test_a_session_without_tokens_has_none() -> None:
    """With `save_tokens=False`."""
    scene = Scene()
    handle = await scene.sessions.create(claims={}, iss="i", sub="s", sid=None, tokens=b"", now=scene.clock.time())
    user = User("i", "s", session=handle)
    assert await STORE.get_token(user, DEFAULT) is None
    with pytest.raises(LoginRequired) as caught:
        await scene.tokens.user_token(user)
    assert caught.value.code == "login_required"


@pytest.mark.parametrize("data", [b"\x02{}", b"{}", b"\x01{", b'\x01{"default":{"slots":7}}'])
async def test_tokens_in_an_unknown_format_are_an_operators_fault_and_stay(data: bytes) -> None:
    """While an update rolls out, an old process meets what a new one wrote: 503, and nothing is overwritten."""
    browser = await Scene().log_in()
    user = await browser.request()
    assert user.session is not None
    _, version = await user.session.tokens()
    await user.session.replace_tokens(data, version=version)
    with pytest.raises(StoreUnavailable, match="tokens of this session"):
        await STORE.get_token(user, DEFAULT)
    with pytest.raises(StoreUnavailable):
        await STORE.clear_token(user, DEFAULT)
    session = (await browser.request()).session
    assert session is not None
    assert (await session.tokens())[0] == data


async def test_a_field_that_a_newer_version_added_is_ignored() -> None:
    user = await (await Scene().log_in()).request()
    assert user.session is not None
    data, version = await user.session.tokens()
    await user.session.replace_tokens(data.replace(b'"slots":', b'"later":1,"slots":'), version=version)
    assert (await stored(user)).access_token != ""


async def test_a_user_without_a_session_needs_another_store() -> None:
    with pytest.raises(LoginRequired, match="give Tokens a store"):
        await STORE.get_token(User("https://issuer.example", "worker"), DEFAULT)
