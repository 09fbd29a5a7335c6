"""What may be used once: how long it is remembered, and that nobody gets through where nobody knows."""

from __future__ import annotations

import pytest

from coatcheck.bff.once import UsedOnceByAll
from coatcheck.coordination import ExpiringValue
from coatcheck.errors import StoreUnavailable
from coatcheck.sessions.seal import KeyRing, new_key
from coatcheck.stores import MemoryStore

NOW = 1_800_000_000.0
RING = KeyRing([new_key()])


async def test_the_answer_is_yes_or_no() -> None:
    used = UsedOnceByAll(MemoryStore(), RING, purpose="tests")
    assert await used.use("a", now=NOW, until=NOW) is False  # nothing would remember it
    assert await used.use("\ud800", now=NOW, until=NOW + 1e9) is True
    assert await used.use("\ud800", now=NOW, until=NOW + 1e9) is False


async def test_asking_whether_a_name_was_used_does_not_use_it() -> None:
    store = MemoryStore()
    used = UsedOnceByAll(store, RING, purpose="tests")
    assert await used.was_used("a") is False
    assert await used.was_used("a") is False
    assert await used.use("a", now=NOW, until=NOW + 1e9) is True
    assert await used.was_used("a") is True
    assert await used.was_used("b") is False
    assert await UsedOnceByAll(store, RING, purpose="other tests").was_used("a") is False


async def test_nodes_that_meet_during_a_key_rotation_know_what_the_other_has_used() -> None:
    store, old, new = MemoryStore(), new_key(), new_key()
    before, during = (UsedOnceByAll(store, KeyRing(keys), purpose="tests") for keys in ([old], [new, old]))
    assert await before.use("a", now=NOW, until=NOW + 1e9) is True
    assert await during.was_used("a") is True
    assert await during.use("b", now=NOW, until=NOW + 1e9) is True
    assert await before.was_used("b") is True


async def test_nobody_knows_what_was_used_while_the_store_raises() -> None:
    class Broken(MemoryStore):
        async def get(self, key: bytes) -> ExpiringValue | None:
            raise LookupError("no such table")

    with pytest.raises(StoreUnavailable, match="LookupError"):
        await UsedOnceByAll(Broken(), RING, purpose="tests").was_used("a")


async def test_a_store_that_says_that_it_is_away_keeps_its_words() -> None:
    class Away(MemoryStore):
        async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
            raise StoreUnavailable("no route to the host of the sessions")

    with pytest.raises(StoreUnavailable, match="no route"):
        await UsedOnceByAll(Away(), RING, purpose="tests").use("a", now=NOW, until=NOW + 60)
