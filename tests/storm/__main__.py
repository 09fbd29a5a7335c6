"""`./scripts/storm`: see `storm.py` for what happens in a storm."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.rig.worker_plan import PROTECTIONS, SessionKind
from tests.storm import storm as storms
from tests.storm.stage import PROFILES, STORES, World


def main() -> int:
    """Run one storm, print one line; 0 if the line is what it has to be."""
    wanted = _wanted(_parser())
    with World.open() as world:
        score = asyncio.run(storms.storm(world, wanted))
    print(score.line, flush=True)
    for complaint in score.complaints:
        print(f"  {complaint}", file=sys.stderr)
    return 0 if score.success else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/storm",
        description="Renew under load, over several processes, with a real authorization server; print what it saw.",
        epilog=storms.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, help="worker processes (default 4; 2 with cookies)")
    parser.add_argument("--calls", type=int, help="calls in each round (default 200; 20 with cookies)")
    parser.add_argument("--rounds", type=int, help="renewals (default 20; 100 with cookies)")
    parser.add_argument("--store", choices=STORES, default="sqlite", help="where sessions and leases are")
    parser.add_argument(
        "--rotation",
        choices=PROFILES,
        default="strict",
        help="oidc-provider with rotation and reuse detection, the same without rotation, or django-oauth-toolkit "
        "with rotation and 10 s of grace",
    )
    parser.add_argument("--sessions", choices=("server", "cookie"), default="server", help="where tokens are")
    parser.add_argument("--store-user", action="store_true", help="two sessions of one user share a grant")
    every = dict.fromkeys(protection for protections in PROTECTIONS.values() for protection in protections)
    parser.add_argument(
        "--without", choices=tuple(every), help="a control: take this protection away; then the storm must fail"
    )
    return parser


def _wanted(parser: argparse.ArgumentParser) -> storms.Wanted:
    arguments = parser.parse_args()
    cookie = arguments.sessions == "cookie"
    if cookie and arguments.store_user:
        parser.error("--store-user keeps no tokens in cookies")
    sessions: SessionKind = "shared-grant" if arguments.store_user else arguments.sessions
    if arguments.without and arguments.without not in PROTECTIONS[sessions]:
        parser.error(
            f"no round of this storm shows what is missing: use --without {' or '.join(PROTECTIONS[sessions])}"
        )
    wanted = storms.Wanted(
        processes=arguments.processes or (2 if cookie else 4),
        calls=arguments.calls or (20 if cookie else 200),
        rounds=arguments.rounds or (100 if cookie else 20),
        store=arguments.store,
        rotation=arguments.rotation,
        sessions=sessions,
        without=arguments.without,
    )
    if wanted.processes < 2 or wanted.calls < 3 * wanted.processes:
        parser.error("a storm needs two processes, and three calls for each")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
