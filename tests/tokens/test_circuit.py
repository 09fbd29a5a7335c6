"""When to leave an authorization server alone: the values, without any request."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.tokens.circuit import FAILURES_TO_OPEN, Circuit, Passage


class Dice:
    """Shows what it was told to: 1 draws the longest pause of a step, 0 the shortest."""

    def __init__(self, shows: float = 1.0) -> None:
        self.shows = shows

    def __call__(self) -> float:
        return self.shows


def fail(circuit: Circuit, now: float, who: str | None = None, *, retry_after: float | None = None) -> float:
    """Let one request fail, and return for how long the next one of the same has to wait."""
    assert circuit.refusal(now, who) is None
    circuit.failed(circuit.enter(who), now, retry_after=retry_after)
    return circuit.refusal(now, who) or 0.0


def fail_until_open(circuit: Circuit, who: str | None = None) -> float:
    """Let one request after the other fail until the circuit is open, and return the end of the back-off."""
    now = 0.0
    for _ in range(FAILURES_TO_OPEN):
        now += fail(circuit, now, who)
    return now


@pytest.mark.spec("REF-15")
def test_each_failure_in_a_row_doubles_the_pause_up_to_half_a_minute() -> None:
    circuit, now, pauses = Circuit(Dice()), 100.0, []
    for _ in range(9):
        pauses.append(fail(circuit, now))
        now += pauses[-1]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.spec("REF-15")
def test_the_pause_is_drawn_anew_each_time_and_never_vanishes() -> None:
    dice = Dice(0.0)
    circuit = Circuit(dice)
    assert fail(circuit, 0.0) == 0.25
    dice.shows = 0.5
    assert fail(circuit, 0.25) == 0.25 + 0.75 / 2
    dice.shows = 0.0
    assert fail(circuit, 9.0) == 0.25


@pytest.mark.spec("REF-15")
def test_after_a_success_the_pauses_begin_small_again() -> None:
    circuit = Circuit(Dice())
    now = 0.0
    for _ in range(3):
        now += fail(circuit, now)
    circuit.succeeded(circuit.enter())
    assert fail(circuit, now) == 0.5


@pytest.mark.spec("REF-15")
@pytest.mark.parametrize(("asked", "obeyed"), [(7.0, 7.0), (60.0, 60.0), (3600.0, 60.0), (0.0, 0.5), (0.1, 0.5)])
def test_retry_after_is_obeyed_up_to_a_minute(asked: float, obeyed: float) -> None:
    circuit = Circuit(Dice())
    assert fail(circuit, 1000.0, retry_after=asked) == pytest.approx(obeyed)
    assert circuit.refusal(1000.0 + obeyed) is None


@pytest.mark.spec("REF-15")
def test_retry_after_is_asked_of_all_and_no_older_success_shortens_it() -> None:
    circuit = Circuit(Dice())
    older = circuit.enter("alice")
    fail(circuit, 0.0, "bob", retry_after=20.0)
    circuit.succeeded(older)
    assert circuit.refusal(0.0, "carol") == 20
    assert circuit.refusal(20.0, "carol") is None


@pytest.mark.spec("REF-15", "REF-16")
def test_what_fails_together_counts_once() -> None:
    """Two hundred flights of one outage are one outage."""
    circuit = Circuit(Dice())
    flights = [circuit.enter(f"user {number}") for number in range(200)]
    for number, flight in enumerate(flights):
        circuit.failed(flight, number / 1000)
    assert circuit.refusal(0.199) == pytest.approx(0.5 - 0.199)
    assert not circuit.open


@pytest.mark.spec("REF-16")
def test_a_failure_among_successes_is_no_outage() -> None:
    circuit = Circuit(Dice())
    for _ in range(20):
        flaky, other = circuit.enter("alice"), circuit.enter("bob")
        circuit.succeeded(other)
        circuit.failed(flaky, 0.0)
    assert circuit.refusal(0.0, "alice") is None
    assert circuit.well


@pytest.mark.spec("REF-16")
def test_one_grant_that_always_fails_stops_nobody_else() -> None:
    circuit = Circuit(Dice())
    now = fail_until_open(circuit, "alice")
    assert circuit.refusal(now - 1, "alice") == 1
    assert circuit.refusal(now - 1, "bob") is None
    circuit.failed(circuit.enter("bob"), now - 1)
    assert circuit.refusal(now, "carol") is not None


@pytest.mark.spec("REF-16")
def test_an_open_circuit_lets_one_probe_through_at_a_time() -> None:
    circuit = Circuit(Dice())
    now = fail_until_open(circuit)
    assert circuit.open
    probe = circuit.enter()
    assert circuit.refusal(now) == 1.0
    circuit.failed(probe, now)
    assert circuit.refusal(now) == 16.0
    assert circuit.refusal(now + 16) is None


@pytest.mark.spec("REF-16")
def test_one_success_closes_it() -> None:
    circuit = Circuit(Dice())
    fail_until_open(circuit)
    circuit.succeeded(circuit.enter())
    assert not circuit.open
    assert [circuit.refusal(0.0) for _ in range(3)] == [None] * 3


@pytest.mark.spec("REF-16")
def test_a_probe_that_was_abandoned_makes_way_for_the_next() -> None:
    circuit = Circuit(Dice())
    now = fail_until_open(circuit)
    circuit.abandoned(circuit.enter())
    assert circuit.open
    assert circuit.refusal(now) is None


def test_who_failed_in_an_older_outage_does_not_count_in_the_next() -> None:
    circuit = Circuit(Dice())
    fail(circuit, 0.0, "alice")
    circuit.succeeded(circuit.enter("bob"))
    fail(circuit, 0.0, "bob")
    assert circuit.refusal(0.0, "alice") is None


@pytest.mark.spec("REF-16")
def test_a_second_try_at_once_is_one_that_an_open_circuit_does_not_let_through() -> None:
    circuit = Circuit(Dice())
    fail(circuit, 0.0, "alice")
    assert circuit.refusal(0.0, "alice", again=True) is None
    circuit.failed(circuit.enter("alice"), 0.0, retry_after=3.0)
    assert circuit.refusal(0.0, "alice", again=True) == 3
    fail_until_open(still_closed := Circuit(Dice()), "alice")
    assert still_closed.refusal(0.0, "alice", again=True) is not None


ENDS = st.sampled_from(["succeeded", "failed", "asked to wait", "abandoned"])
EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 90), ENDS, st.integers(0, 5)), max_size=60)


@settings(deadline=None)
@given(EVENTS, st.floats(0, 0.999))
@pytest.mark.spec("REF-15", "REF-16")
def test_whatever_happens_the_wait_is_bounded_and_only_one_probe_is_out(
    events: list[tuple[str, int, str, int]], dice: float
) -> None:
    """Requests set out whenever they may, and end in any order, each after some others."""
    circuit, now = Circuit(Dice(dice)), 0.0
    out: list[tuple[Passage, str]] = []
    for who, step, end, index in events:
        now += step
        refusal = circuit.refusal(now, who)
        assert refusal is None or 0 < refusal < 60.001
        if refusal is None:
            out.append((circuit.enter(who), end))
        assert sum(passage.probe for passage, _ in out) <= 1
        if index < len(out):
            _land(circuit, *out.pop(index), now=now)
    while out:
        _land(circuit, *out.pop(), now=now)
    assert all(circuit.refusal(now + 60.001, who) is None for who in "abc")


def _land(circuit: Circuit, passage: Passage, end: str, *, now: float) -> None:
    match end:
        case "succeeded":
            circuit.succeeded(passage)
        case "abandoned":
            circuit.abandoned(passage)
        case _:
            circuit.failed(passage, now, retry_after=1000.0 if end == "asked to wait" else None)
