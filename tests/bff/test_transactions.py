"""Logins under way, as values: sealed, bound to one cookie, used once, bounded."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coatcheck.bff.transactions import CLOCK_SKEW, LIFETIME, LoginAttempt, LoginAttempts, LostLogin
from coatcheck.coordination import ExpiringStore
from coatcheck.errors import StoreUnavailable
from coatcheck.oauth.authorize import AuthorizationTransaction
from coatcheck.sessions.cookie import CookiePolicy, Cookies, parse_cookies
from coatcheck.sessions.seal import KeyRing, new_key
from coatcheck.stores.memory import MemoryStore
from tests.testing.clocks import HandClock

NOW = 1_800_000_000.0
RING = KeyRing([new_key()])
POLICY = CookiePolicy("abcdefgh")
NOTHING = parse_cookies([])


def attempts(
    *,
    ring: KeyRing = RING,
    policy: CookiePolicy = POLICY,
    issuer: str = "https://idp.example",
    shared: ExpiringStore | None = None,
) -> LoginAttempts:
    return LoginAttempts(ring, policy, issuer=issuer, shared=shared or MemoryStore(HandClock(NOW)))


def attempt(state: str = "s" * 43, *, at: float = NOW, return_url: str = "/") -> LoginAttempt:
    return LoginAttempt(
        AuthorizationTransaction(
            issuer="https://idp.example",
            client="default",
            client_id="shop",
            redirect_uri="https://shop.example/bff/callback",
            state=state,
            nonce="n" * 43,
            code_verifier="v" * 43,
            created_at=at,
            return_url=return_url,
            scope="openid",
        )
    )


def browser_with(*lines: bytes) -> Cookies:
    """The cookies of a browser that was sent these `Set-Cookie` values."""
    return parse_cookies([(b"cookie", b"; ".join(line.partition(b";")[0] for line in lines))])


def test_what_was_remembered_is_recalled() -> None:
    (line,) = attempts().remember(attempt(), NOTHING)
    assert attempts().recall("s" * 43, browser_with(line), now=NOW + 1) == attempt()


@pytest.mark.spec("LGN-07")
@pytest.mark.parametrize(
    "elsewhere",
    [
        attempts(ring=KeyRing([new_key()])),
        attempts(issuer="https://other.example"),
        attempts(policy=CookiePolicy("ijklmnop")),
    ],
)
def test_it_opens_nowhere_else(elsewhere: LoginAttempts) -> None:
    (line,) = attempts().remember(attempt(), NOTHING)
    renamed = line.replace(b"abcdefgh", b"ijklmnop")
    lost = elsewhere.recall("s" * 43, browser_with(line, renamed), now=NOW)
    assert isinstance(lost, LostLogin) and lost.why == "unreadable"


def test_it_ends_after_fifteen_minutes() -> None:
    (line,) = attempts().remember(attempt(), NOTHING)
    assert isinstance(attempts().recall("s" * 43, browser_with(line), now=NOW + LIFETIME - 1), LoginAttempt)
    for now in (NOW + LIFETIME, NOW - 61):
        lost = attempts().recall("s" * 43, browser_with(line), now=now)
        assert isinstance(lost, LostLogin) and lost.why == "expired"


@pytest.mark.spec("OAU-08")
async def test_it_is_used_once_whichever_process_it_is_shown_to() -> None:
    store = MemoryStore(HandClock(NOW))
    one, other = attempts(shared=store), attempts(shared=store)
    (line,) = one.remember(attempt(), NOTHING)
    cookies = browser_with(line)
    assert await one.consume(attempt(), cookies, now=NOW) is None
    for node in (one, other):
        again = await node.consume(attempt(), cookies, now=NOW)
        assert again is not None and again.why == "consumed"


@pytest.mark.spec("OAU-08")
async def test_nodes_meet_during_a_key_rotation() -> None:
    store = MemoryStore(HandClock(NOW))
    old, new = new_key(), new_key()
    before, after = (attempts(ring=KeyRing(keys), shared=store) for keys in ([old], [new, old]))
    assert await before.consume(attempt(), NOTHING, now=NOW) is None
    assert await after.consume(attempt(), NOTHING, now=NOW) is not None


@pytest.mark.spec("OAU-08", "LGN-09")
async def test_what_was_used_is_forgotten_when_it_would_be_refused_anyway() -> None:
    clock = HandClock(NOW)
    store = MemoryStore(clock)
    one = attempts(shared=store)
    assert await one.consume(attempt(at=NOW), NOTHING, now=NOW + 1) is None
    assert len(store._values) == 1
    clock.forward(timedelta(seconds=LIFETIME + CLOCK_SKEW))
    assert await one.consume(attempt(at=NOW), NOTHING, now=clock.time()) is not None  # too old to be used at all
    await store.add(b"k" * 32, b"", until=clock.time() + 1)  # lets the store sweep
    assert list(store._values) == [b"k" * 32]


async def test_a_store_that_does_not_answer_uses_nothing_up_and_lets_nobody_in() -> None:
    class Away(MemoryStore):
        async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
            raise RuntimeError("an application's own store fails in its own way")

    with pytest.raises(StoreUnavailable, match="RuntimeError"):
        await attempts(shared=Away()).consume(attempt(), NOTHING, now=NOW)


def test_a_restart_says_so_in_its_state() -> None:
    second = attempt().as_second()
    assert second.is_second and not attempt().is_second
    lost = attempts().recall(second.transaction.state, NOTHING, now=NOW)
    assert lost == LostLogin("no_cookie", second=True, other_logins=False)


def test_the_seven_newest_are_kept() -> None:
    lines = [attempts().remember(attempt(f"{n}" * 43, at=NOW + n), NOTHING)[0] for n in range(9)]
    kept, *deleted = attempts().remember(attempt("x" * 43, at=NOW + 10), browser_with(*lines))
    assert b"Max-Age=900" in kept
    assert len(deleted) == 3 and all(b"Max-Age=0" in line for line in deleted)
    names = [line.partition(b"=")[0] for line in lines[:3]]
    assert sorted(line.partition(b"=")[0] for line in deleted) == sorted(names)


def test_what_cannot_be_opened_makes_room_first() -> None:
    (good,) = attempts().remember(attempt("g" * 43), NOTHING)
    (foreign,) = attempts(ring=KeyRing([new_key()])).remember(attempt("f" * 43), NOTHING)
    _, deleted = attempts().remember(attempt("x" * 43), browser_with(good, foreign))
    assert deleted.partition(b"=")[0] == foreign.partition(b"=")[0]


def test_a_planted_name_that_is_too_long_to_be_deleted_stops_no_login() -> None:
    planted = POLICY.login("a" * 4050).encode() + b"=x"
    kept, *deleted = attempts().remember(attempt(), browser_with(planted))
    assert (attempts().recall("s" * 43, browser_with(kept, planted), now=NOW + 1), deleted) == (attempt(), [])


def test_secrets_stay_out_of_repr() -> None:
    assert "vvv" not in repr(attempt()) and "nnn" not in repr(attempt()) and "sss" not in repr(attempt())
