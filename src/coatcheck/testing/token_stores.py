"""
Does your own `UserTokenStore` keep the rules of `coatcheck.tokens.store`? Run these checks on it.

Each check is a coroutine function of two arguments: a callable that opens the store *on the same data* each time it is
called, because that is how processes and nodes meet in production, and a callable that makes a user whom the store has
never seen. No check needs an empty store.

    import asyncio
    import pytest
    from coatcheck.testing.token_stores import USER_TOKEN_STORE_CHECKS, somebody

    @pytest.mark.parametrize("check", USER_TOKEN_STORE_CHECKS, ids=lambda check: check.__name__)
    def test_my_store(check, database_url):
        asyncio.run(check(lambda: MyTokenStore(database_url), somebody))

Without pytest, `asyncio.run(check_user_token_store(lambda: MyTokenStore(database_url)))` runs all of them. A broken
rule is an `AssertionError` that says which one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from coatcheck.errors import LoginRequired, SessionGone, StaleToken
from coatcheck.tokens.store import UserTokenStore
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters

OpenUserTokenStore = Callable[[], UserTokenStore]
MakeUser = Callable[[], Awaitable[User]]
UserTokenStoreCheck = Callable[[OpenUserTokenStore, MakeUser], Awaitable[None]]

_NOW = 1_800_000_000.0
_DEFAULT = UserTokenRequestParameters()
_OTHER = UserTokenRequestParameters(client="other")


async def somebody() -> User:
    """Make a user whom no store has seen."""
    return User(iss="https://issuer.example", sub=f"user-{secrets.token_hex(8)}")


async def check_user_token_store(open_store: OpenUserTokenStore, make_user: MakeUser = somebody) -> None:
    """Run every check of `USER_TOKEN_STORE_CHECKS`, one after another."""
    for check in USER_TOKEN_STORE_CHECKS:
        await check(open_store, make_user)


async def an_unknown_user_has_no_token(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """Absence is None, not an error, and another user's token is not an answer."""
    known, unknown = await make_user(), await make_user()
    await open_store().store_token(known, _token(), _DEFAULT, replaces=None)
    _expect(await open_store().get_token(unknown, _DEFAULT) is None, "get_token of an unknown user must return None")


async def a_stored_token_comes_back_as_it_was(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """Every field comes back, also those that are None, through another opener as well."""
    full = _token(scope="openid orders.read", id_token="header.payload.signature", dpop_key='{"kty":"EC"}')
    bare = UserToken(access_token="only-this", issued_at=_NOW + 0.25)
    for token in (full, bare):
        user = await make_user()
        await open_store().store_token(user, token, _DEFAULT, replaces=None)
        _expect(await open_store().get_token(user, _DEFAULT) == token, "get_token must return every field as stored")


async def an_expired_token_is_returned_all_the_same(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """The store does not judge: the refresh token of an expired access token is what renews it."""
    user, token = await make_user(), _token(issued_at=0.0, expires_at=1.0)
    await open_store().store_token(user, token, _DEFAULT, replaces=None)
    _expect(await open_store().get_token(user, _DEFAULT) == token, "get_token must return expired tokens too")


async def a_login_replaces_what_an_earlier_login_left(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """`replaces=None` stores whatever is there: a user who logs in again must not be stuck with an old grant."""
    user, first, second = await make_user(), _token(), _token()
    await open_store().store_token(user, first, _DEFAULT, replaces=None)
    await open_store().store_token(user, second, _DEFAULT, replaces=None)
    _expect(await open_store().get_token(user, _DEFAULT) == second, "a login must replace what is stored")


async def a_renewal_replaces_the_token_it_names(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """With `replaces` equal to what is stored, the new token takes its place."""
    user, first, second = await make_user(), _token(), _token()
    await open_store().store_token(user, first, _DEFAULT, replaces=None)
    await open_store().store_token(user, second, _DEFAULT, replaces=first)
    _expect(await open_store().get_token(user, _DEFAULT) == second, "a renewal must replace the token it names")


async def a_late_renewal_is_refused(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """When another token is stored than `replaces`, `StaleToken` is raised and nothing changes."""
    user, first, second = await make_user(), _token(), _token()
    await open_store().store_token(user, first, _DEFAULT, replaces=None)
    await open_store().store_token(user, second, _DEFAULT, replaces=first)
    refused = await _is_refused(open_store().store_token(user, _token(), _DEFAULT, replaces=first), StaleToken)
    _expect(refused, "store_token must raise StaleToken when another token is stored than `replaces`")
    _expect(await open_store().get_token(user, _DEFAULT) == second, "a refused renewal must change nothing")


async def of_two_racing_renewals_one_wins(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """Comparing and storing are one atomic step: of two that name the same token exactly one is stored."""
    for _ in range(10):
        user, first = await make_user(), _token()
        await open_store().store_token(user, first, _DEFAULT, replaces=None)
        racers = [_token(), _token()]
        refused = await asyncio.gather(
            *(
                _is_refused(open_store().store_token(user, racer, _DEFAULT, replaces=first), StaleToken)
                for racer in racers
            )
        )
        winners = [racer for racer, lost in zip(racers, refused, strict=True) if not lost]
        _expect(len(winners) == 1, f"of two racing renewals exactly one must be stored, not {len(winners)}")
        _expect(await open_store().get_token(user, _DEFAULT) == winners[0], "the token of the winner must be stored")


async def clearing_forgets_the_token(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """A cleared token is gone; clearing what is not there is no error."""
    user, bystander, kept = await make_user(), await make_user(), _token()
    await open_store().clear_token(user, _DEFAULT)
    await open_store().store_token(user, _token(), _DEFAULT, replaces=None)
    await open_store().store_token(bystander, kept, _DEFAULT, replaces=None)
    await open_store().clear_token(user, _DEFAULT)
    _expect(await _is_absent(open_store(), user), "a cleared token must not be returned any more")
    _expect(await open_store().get_token(bystander, _DEFAULT) == kept, "clear_token must leave other users alone")


async def a_renewal_never_brings_back_a_cleared_token(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """A logout during a renewal wins: an update never creates."""
    user, first = await make_user(), _token()
    await open_store().store_token(user, first, _DEFAULT, replaces=None)
    await open_store().clear_token(user, _DEFAULT)
    late = open_store().store_token(user, _token(), _DEFAULT, replaces=first)
    refused = await _is_refused(late, StaleToken, SessionGone, LoginRequired)
    _expect(refused, "store_token must raise StaleToken or SessionGone when what `replaces` names was cleared")
    _expect(await _is_absent(open_store(), user), "a renewal must never bring back a cleared token")


async def client_registrations_do_not_share_tokens(open_store: OpenUserTokenStore, make_user: MakeUser) -> None:
    """`parameters.client` is part of the key: grants of different registrations know nothing of each other."""
    user, ours, theirs = await make_user(), _token(), _token()
    await open_store().store_token(user, ours, _DEFAULT, replaces=None)
    await open_store().store_token(user, theirs, _OTHER, replaces=None)
    _expect(await open_store().get_token(user, _DEFAULT) == ours, "another registration's token must not replace ours")
    await open_store().clear_token(user, _OTHER)
    _expect(await open_store().get_token(user, _DEFAULT) == ours, "clearing one registration must leave the others")


USER_TOKEN_STORE_CHECKS: tuple[UserTokenStoreCheck, ...] = (
    an_unknown_user_has_no_token,
    a_stored_token_comes_back_as_it_was,
    an_expired_token_is_returned_all_the_same,
    a_login_replaces_what_an_earlier_login_left,
    a_renewal_replaces_the_token_it_names,
    a_late_renewal_is_refused,
    of_two_racing_renewals_one_wins,
    clearing_forgets_the_token,
    a_renewal_never_brings_back_a_cleared_token,
    client_registrations_do_not_share_tokens,
)


def _token(
    *,
    issued_at: float = _NOW,
    expires_at: float | None = _NOW + 300.5,
    scope: str | None = None,
    id_token: str | None = None,
    dpop_key: str | None = None,
) -> UserToken:
    name = secrets.token_hex(8)
    return UserToken(
        access_token=f"access-{name}",
        issued_at=issued_at,
        expires_at=expires_at,
        scope=scope,
        refresh_token=f"refresh-{name}",
        id_token=id_token,
        dpop_key=dpop_key,
    )


async def _is_refused(attempt: Awaitable[None], *refusals: type[Exception]) -> bool:
    try:
        await attempt
    except refusals:
        return True
    return False


async def _is_absent(store: UserTokenStore, user: User) -> bool:
    try:
        return await store.get_token(user, _DEFAULT) is None
    except LoginRequired:
        return True


def _expect(kept: bool, rule: str) -> None:
    if not kept:
        raise AssertionError(rule)
