"""
`./scripts/chaos`: the table of `crashes.py`, with as many deaths in each cell as one likes.

Tallies are appended to a file as they come. The same command goes on where it was cut off, and does nothing where
there are enough of them; remove the file to start anew.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TypeVar

from tests.rig.programs import CACHE
from tests.storm import crashes
from tests.storm.crashes import POINTS, Cell, Results, Tally
from tests.storm.stage import PROFILES, STORES, World

T = TypeVar("T")


def main() -> int:
    """Fill the table and print it; 0 if nothing but survival and clean ends are in it."""
    arguments = _parser().parse_args()
    cells = [
        Cell(point, store, profile)
        for store, profile, point in product(arguments.store or STORES, arguments.profile or PROFILES, POINTS)
        if not arguments.point or point in arguments.point
    ]
    results = Results(arguments.results)
    with World.open() as world:
        filled = asyncio.run(
            crashes.table(world, cells, kills=arguments.kills, at_once=arguments.at_once, results=results)
        )
    print("\n".join(rendered(filled)))
    return 0 if good(filled) else 1


def good(filled: Mapping[Cell, Tally]) -> bool:
    """Nothing else than the table's two good ends, and no session lost that was killed before its mark."""
    return not any(
        tallied.other or (cell.point == "lease_held" and tallied.survived < tallied.kills)
        for cell, tallied in filled.items()
    )


def rendered(filled: Mapping[Cell, Tally]) -> list[str]:
    """The table as lines: survived/re-login/else by checkpoint and store, a column for each profile."""
    profiles = _in_order([cell.profile for cell in filled])
    lines = [f"{'killed at':14}{'store':12}" + "".join(f"{profile:>14}" for profile in profiles)]
    for point, store in _in_order([(cell.point, cell.store) for cell in filled]):
        row = [str(filled.get(Cell(point, store, profile), Tally())) for profile in profiles]
        lines.append(f"{point:14}{store:12}" + "".join(f"{tallied:>14}" for tallied in row))
    for cell, tallied in filled.items():
        lines += [f"{cell.point}, {cell.store}, {cell.profile}: {remark}" for remark in tallied.remarks]
    total = sum(filled.values(), Tally())
    lines.append(f"kills={total.kills} survived={total.survived} relogin={total.relogin} else={total.other}")
    return lines


def _in_order(values: Sequence[T]) -> list[T]:
    return list(dict.fromkeys(values))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Kill processes in the middle of renewals; print survived/re-login/else for each kind of death.",
        epilog=f"{crashes.__doc__}\n{__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=50, help="renewals to kill in each cell (default 50)")
    parser.add_argument("--store", action="append", choices=STORES, help="only this one; may be repeated")
    parser.add_argument("--profile", action="append", choices=PROFILES, help="only this one; may be repeated")
    parser.add_argument("--point", action="append", choices=POINTS, help="only this one; may be repeated")
    parser.add_argument("--at-once", type=int, default=6, help="cells under way at the same time (default 6)")
    parser.add_argument(
        "--results", type=Path, default=CACHE / "chaos.jsonl", help="where tallies are kept (default %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
