"""
Would a user's type checker know the type of everything the package shows? Run by `scripts/check`.

Pyright answers from the installed package, as it would for a user. Types that it infers where nothing is written count
as known: mypy in strict mode has the last word on those.
"""

from __future__ import annotations

import json
import subprocess
import sys

COMMAND = [sys.executable, "-m", "pyright", "--verifytypes", "coatcheck", "--ignoreexternal", "--outputjson"]


def main() -> int:
    """The exit status: 1 where some type is unknown."""
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    try:
        report = json.loads(done.stdout)["typeCompleteness"]
    except (ValueError, KeyError):
        print(done.stdout, done.stderr, sep="", file=sys.stderr)
        return 1
    exported = [symbol for symbol in report["symbols"] if symbol["isExported"]]
    unknown = [symbol for symbol in exported if not symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]]
    for symbol in unknown:
        print(symbol["name"], *(diagnostic["message"] for diagnostic in symbol["diagnostics"]), sep="\n  ")
    if not exported:
        print("pyright found no py.typed package coatcheck")
    return 1 if unknown or not exported else 0


if __name__ == "__main__":
    sys.exit(main())
