"""The command `coatcheck`: run, check, new-key, demo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from coatcheck.errors import ConfigurationError
from coatcheck.sessions.seal import new_key

DEFAULT_FILE = Path("coatcheck.toml")

WRONG = 1
"""`check` and `demo --check` found something wrong."""
MISCONFIGURED = 2
"""A wrong configuration or command line: nothing was started."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. A wrong configuration is one line on stderr, never a traceback."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ConfigurationError as error:
        # The first problem is enough to mend; `check` has them all, and it is one line either way.
        others = len(getattr(error, "problems", ())) - 1
        print(f"coatcheck: {error}{f' ({others} more: coatcheck check)' if others > 0 else ''}", file=sys.stderr)
        return MISCONFIGURED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coatcheck",
        description="A Backend-for-Frontend: tokens stay on the server and renew themselves.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="serve what a file describes")
    run.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="default: %(default)s")
    run.add_argument("--listen", metavar="ADDRESS:PORT", help="in place of server.listen")
    run.add_argument("--workers", metavar="N", type=int, help="in place of server.workers")
    run.set_defaults(run=_run)

    check = commands.add_parser("check", help="say what is wrong with a file, asking its authorization servers, too")
    check.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="default: %(default)s")
    check.set_defaults(run=_check)

    key = commands.add_parser("new-key", help="print a new key that seals sessions; keep it as a secret")
    key.set_defaults(run=_new_key)

    demo = commands.add_parser("demo", help="log in, call an API and watch its token renew itself; needs no network")
    demo.add_argument("--port", type=int, default=8000, help="where the page is; default: %(default)s")
    demo.add_argument("--check", action="store_true", help="go through it once without a browser, and stop")
    demo.set_defaults(run=_demo)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    _need_the_extra()
    from coatcheck.gateway.serving import Start, serve

    serve(Start(arguments.file.absolute(), listen=arguments.listen, workers=arguments.workers))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    _need_the_extra()
    from coatcheck.gateway.check import check

    findings = check(arguments.file)
    for problem in findings.problems:
        print(f"coatcheck: {problem}", file=sys.stderr)
    for line in findings.summary:
        print(line)
    return WRONG if findings.problems else 0


def _new_key(arguments: argparse.Namespace) -> int:
    print(new_key())
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    _need_the_extra()
    from coatcheck.testing.demo import demo

    return demo(port=arguments.port, check=arguments.check)


def _need_the_extra() -> None:
    """The core alone cannot serve; say so in place of an ImportError."""
    missing = [name for name in ("granian", "pyreqwest", "starlette") if find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise ConfigurationError(
            f"{', '.join(missing)} {are} not installed, which the gateway needs: pip install 'coatcheck[gateway]'"
        )


if __name__ == "__main__":
    sys.exit(main())
