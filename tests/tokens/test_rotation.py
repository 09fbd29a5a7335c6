"""Whether a refresh token may be sent again, by what is configured and by what was learned."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from coatcheck.coordination import ExpiringValue, SentMark
from coatcheck.errors import StoreUnavailable
from coatcheck.oauth.rotation import Rotation, RotationKind, parse_rotation
from coatcheck.sessions import KeyRing, new_key
from coatcheck.stores import MemoryStore
from coatcheck.tokens.grant_names import GrantNames
from coatcheck.tokens.rotation import RotationProfiles, may_send_again
from tests.testing.clocks import HandClock
from tests.tokens.scene import CLIENT

LEARN = replace(CLIENT, rotation="learn")
OTHER = replace(LEARN, client_id="another registration")


@pytest.mark.spec("REF-10")
@pytest.mark.parametrize(
    ("profile", "sends", "after", "may"),
    [
        ("none", 1, 0.0, True),
        ("none", 9, 1e6, True),
        ("none", 1, -600.0, True),
        ("strict", 1, 0.0, False),
        ("learn", 1, 0.0, False),
        ("grace:10s", 1, 0.0, True),
        ("grace:10s", 1, 8.9, True),
        ("grace:10s", 1, 9.1, False),  # it has to arrive within the grace, and clocks differ a little
        ("grace:10s", 2, 1.0, False),
        ("grace:10s", 1, -1.0, False),  # a clock that is behind cannot tell how much of the grace is left
    ],
)
def test_the_profile_says_whether_it_may_be_sent_again(profile: str, sends: int, after: float, may: bool) -> None:
    assert may_send_again(parse_rotation(profile), SentMark(1000.0, sends), now=1000.0 + after) is may


class Store(MemoryStore):
    away = False
    reads = 0

    async def get(self, key: bytes) -> ExpiringValue | None:
        self._answers()
        self.reads += 1
        return await super().get(key)

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        self._answers()
        return await super().add(key, value, until=until)

    def _answers(self) -> None:
        if self.away:
            raise StoreUnavailable("the store does not answer")


class Cluster:
    """Processes that share a store, each with keys of its own."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = Store(self.clock)
        self.keys = [new_key()]

    def process(self, *keys: str) -> RotationProfiles:
        ring = KeyRing(list(keys or self.keys))
        return RotationProfiles(self.store, GrantNames(ring.derive_all("grants")), ring, clock=self.clock)


KEPT = Rotation(RotationKind.NONE)
UNKNOWN = Rotation(RotationKind.LEARN)


@pytest.mark.spec("REF-10")
async def test_what_one_process_learns_all_others_know_and_those_that_start_later() -> None:
    cluster = Cluster()
    first, second = cluster.process(), cluster.process()
    assert await second.profile(LEARN) == UNKNOWN
    await first.learn(LEARN, kept=True)
    assert first.known(LEARN) == await first.profile(LEARN) == KEPT
    assert await second.profile(LEARN) == await cluster.process().profile(LEARN) == KEPT
    assert await second.profile(OTHER) == UNKNOWN


@pytest.mark.spec("REF-10")
async def test_what_is_learned_is_forgotten_by_all_when_the_provider_begins_to_rotate() -> None:
    cluster = Cluster()
    first, second = cluster.process(), cluster.process()
    await first.learn(LEARN, kept=True)
    await second.learn(LEARN, kept=False)
    assert await second.profile(LEARN) == await cluster.process().profile(LEARN) == UNKNOWN


async def test_what_is_learned_outlasts_the_rotation_of_keys() -> None:
    cluster = Cluster()
    first, second = cluster.keys[0], new_key()
    await cluster.process(first).learn(LEARN, kept=True)
    assert await cluster.process(second, first).profile(LEARN) == KEPT
    assert await cluster.process(second).profile(LEARN) == UNKNOWN


@pytest.mark.parametrize("rotation", ["strict", "none", "grace:5s"])
async def test_a_profile_that_is_configured_learns_nothing_and_asks_nobody(rotation: str) -> None:
    cluster = Cluster()
    client = replace(CLIENT, rotation=rotation)
    process = cluster.process()
    for kept in (True, False):
        await process.learn(client, kept=kept)
        assert await process.profile(client) == parse_rotation(rotation)
    assert cluster.store.reads == 0
    assert cluster.store._values == {}


async def test_only_news_are_written() -> None:
    cluster = Cluster()
    process = cluster.process()
    await process.learn(LEARN, kept=True)
    (written,) = cluster.store._values.values()
    for _ in range(5):
        await process.learn(LEARN, kept=True)
    assert [*cluster.store._values.values()] == [written]
    assert cluster.store.reads == 0


async def test_two_that_learn_the_same_at_the_same_time_agree() -> None:
    cluster = Cluster()
    await asyncio.gather(*(cluster.process().learn(LEARN, kept=True) for _ in range(5)))
    assert await cluster.process().profile(LEARN) == KEPT


@pytest.mark.spec("REF-26")
async def test_while_the_store_is_away_nobody_guesses_and_what_is_learned_is_written_later() -> None:
    cluster = Cluster()
    process = cluster.process()
    cluster.store.away = True
    with pytest.raises(StoreUnavailable):
        await process.profile(LEARN)
    await process.learn(LEARN, kept=True)
    cluster.store.away = False
    assert await cluster.process().profile(LEARN) == UNKNOWN
    await process.learn(LEARN, kept=True)
    assert await cluster.process().profile(LEARN) == KEPT
