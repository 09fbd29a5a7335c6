from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coatcheck.tokens.memory import ExpiringMemory


def test_a_value_is_there_until_its_end_and_not_at_it() -> None:
    memory: ExpiringMemory[str, int] = ExpiringMemory(10)
    memory.put("key", 1, now=0, until=5)
    assert memory.get("key", now=4.999) == 1
    assert memory.get("key", now=5) is None
    assert len(memory) == 0


def test_a_value_that_has_ended_already_forgets_the_key() -> None:
    memory: ExpiringMemory[str, int] = ExpiringMemory(10)
    memory.put("key", 1, now=0, until=5)
    memory.put("key", 2, now=0, until=0)
    assert memory.get("key", now=0) is None


def test_when_full_the_one_unused_for_longest_goes() -> None:
    memory: ExpiringMemory[str, int] = ExpiringMemory(2)
    memory.put("a", 1, now=0, until=9)
    memory.put("b", 2, now=0, until=9)
    assert memory.get("a", now=0) == 1
    memory.put("c", 3, now=0, until=9)
    assert memory.get("b", now=0) is None
    assert (memory.get("a", now=0), memory.get("c", now=0)) == (1, 3)


def test_ended_values_do_not_wait_for_the_memory_to_fill_up() -> None:
    memory: ExpiringMemory[int, str] = ExpiringMemory(1000)
    for number in range(10):
        memory.put(number, "secret", now=0, until=5)
    memory.put(10, "secret", now=6, until=9)
    assert len(memory) == 1


def test_a_key_can_be_forgotten() -> None:
    memory: ExpiringMemory[str, int] = ExpiringMemory(2)
    memory.put("a", 1, now=0, until=9)
    memory.forget("a")
    memory.forget("never there")
    assert memory.get("a", now=0) is None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30), st.integers(0, 3)), max_size=200), st.integers(1, 8))
def test_it_never_holds_more_than_it_may_nor_returns_what_has_ended(
    steps: list[tuple[int, int, int]], max_entries: int
) -> None:
    memory: ExpiringMemory[int, int] = ExpiringMemory(max_entries)
    now = 0
    for key, until, later in steps:
        now += later
        memory.put(key, until, now=now, until=until)
        assert len(memory) <= max_entries
        found = memory.get(key, now=now)
        assert found == until if until > now else found is None
