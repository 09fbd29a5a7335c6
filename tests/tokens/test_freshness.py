from __future__ import annotations

import pytest

from coatcheck.tokens.freshness import TokenState, token_state

ISSUED = 1_800_000_000.0


def state(age: float, *, lifetime: float, access_token: str = "token") -> TokenState:
    return token_state(access_token, issued_at=ISSUED, expires_at=ISSUED + lifetime, now=ISSUED + age)


@pytest.mark.spec("REF-18")
@pytest.mark.parametrize(
    ("lifetime", "fresh_until", "stale_at", "stale_until", "expired_at"),
    [
        pytest.param(3600, 3539.9, 3570, 3594.9, 3595, id="an hour: windows of 60 s and 5 s"),
        pytest.param(300, 239.9, 270, 294.9, 295, id="five minutes: the same windows"),
        pytest.param(100, 79.9, 90, 94.9, 95, id="100 s: a fifth, and 5 s"),
        pytest.param(30, 23.9, 27, 28.4, 28.5, id="30 s: a fifth, and a twentieth"),
        pytest.param(5, 3.9, 4.5, 4.7, 4.75, id="5 s: no storm of renewals"),
    ],
)
def test_the_windows_follow_from_the_lifetime(
    lifetime: float, fresh_until: float, stale_at: float, stale_until: float, expired_at: float
) -> None:
    assert state(0, lifetime=lifetime) is TokenState.FRESH
    assert state(fresh_until, lifetime=lifetime) is TokenState.FRESH
    assert state(stale_at, lifetime=lifetime) is TokenState.STALE
    assert state(stale_until, lifetime=lifetime) is TokenState.STALE
    assert state(expired_at, lifetime=lifetime) is TokenState.EXPIRED
    assert state(lifetime * 10, lifetime=lifetime) is TokenState.EXPIRED


@pytest.mark.spec("REF-17")
@pytest.mark.parametrize("lifetime", [0.0, -1.0, -3600.0])
def test_a_lifetime_of_zero_or_less_is_expired_at_once(lifetime: float) -> None:
    assert state(0, lifetime=lifetime) is TokenState.EXPIRED


def test_jitter_spreads_tokens_over_half_the_window_and_is_the_same_everywhere() -> None:
    """The first second at which a token is stale: fixed for a token, different between tokens."""

    def first_stale_second(access_token: str) -> int:
        return next(
            age for age in range(300) if state(age, lifetime=300, access_token=access_token) is TokenState.STALE
        )

    starts = [first_stale_second(f"token-{number}") for number in range(200)]
    assert min(starts) in range(240, 245)
    assert max(starts) in range(266, 271)
    assert first_stale_second("token-0") == 245  # from a checksum of the token, not from this process


def test_a_token_never_becomes_fresher_with_time() -> None:
    order = [TokenState.FRESH, TokenState.STALE, TokenState.EXPIRED]
    for number in range(50):
        ages = [order.index(state(age, lifetime=300, access_token=f"token-{number}")) for age in range(310)]
        assert ages == sorted(ages)
