"""Processes that die in the middle of a renewal: `./scripts/chaos` in small, three deaths in each cell of the table."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.rig.fleet import Fleet
from tests.storm.chaos import good, rendered
from tests.storm.crashes import POINTS, Cell, Results, Tally, crash, table, tally
from tests.storm.stage import PROFILES, STORES, StoreName, World

KILLS = 2
AT_ONCE = 8
SENT = ("marked", "answered", "before_write")
"""Where nobody can know whether the refresh token is spent."""


@pytest.mark.spec("REF-09", "REF-10", "REF-25")
@pytest.mark.parametrize("store", STORES)
async def test_a_killed_renewal_is_survived_or_ends_in_one_clean_login(world: World, store: StoreName, capsys) -> None:
    cells = [Cell(point, store, profile) for point in POINTS for profile in PROFILES]
    filled = await table(world, cells, kills=KILLS, at_once=AT_ONCE)
    lines = "\n".join(rendered(filled))
    with capsys.disabled():
        print("\n" + lines)
    assert good(filled), lines
    for cell, tallied in filled.items():
        lost = KILLS if cell.profile == "strict" and cell.point in SENT else 0
        assert (tallied.survived, tallied.relogin) == (KILLS - lost, lost), f"{cell}\n{lines}"


@pytest.mark.spec("REF-25")
async def test_a_dead_process_is_missed_in_good_time_with_the_leases_of_production(world: World) -> None:
    """The session that waits is answered by the first call, before a page or a proxy gives up."""
    async with Fleet() as fleet:
        began = time.monotonic()
        assert await crash(world, fleet, Cell("lease_held", "sqlite", "strict"), kills=1, lease_times=None) == Tally(1)
        assert time.monotonic() - began < 12


async def test_control_without_the_mark_a_spent_refresh_token_is_sent_again(world: World) -> None:
    async with Fleet() as fleet:
        tallied = await crash(world, fleet, Cell("answered", "sqlite", "strict"), kills=KILLS, without="mark")
    assert tallied.other == KILLS
    assert "a refresh token came 2 times" in tallied.remarks[0]


def test_the_table_has_no_room_for_anything_else() -> None:
    cell, early = Cell("marked", "sqlite", "strict"), Cell("lease_held", "sqlite", "strict")
    assert good({cell: tally(["survived", "re-login"]), early: tally(["survived"])})
    assert not good({cell: tally(["survived", "503 token_unavailable"])})
    assert not good({early: tally(["survived", "re-login"])}), "killed before the mark always survives"
    assert rendered({cell: tally(["survived", "re-login", "500 None"])})[1:] == [
        f"marked        sqlite      {'1/1/1':>14}",
        "marked, sqlite, strict: 1 x 500 None",
        "kills=3 survived=1 relogin=1 else=1",
    ]


def test_results_are_taken_up_where_they_were_left(tmp_path: Path) -> None:
    file = tmp_path / "results" / "chaos.jsonl"
    cell = Cell("marked", "valkey", "grace")
    Results(file).add(cell, Tally(survived=2))
    Results(file).add(cell, Tally(survived=1, other=1, remarks=("1 x 500 None",)))
    assert Results(file).of(cell) == Tally(survived=3, other=1, remarks=("1 x 500 None",))
    assert Results(file).of(Cell("marked", "valkey", "strict")) == Tally()
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 2
