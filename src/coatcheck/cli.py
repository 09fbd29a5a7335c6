"""The command `coatcheck`: run, check, sessions, migrate, new-key, dev-tls, demo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from coatcheck.clock import SYSTEM_CLOCK
from coatcheck.errors import ConfigurationError
from coatcheck.sessions.seal import new_key

DEFAULT_FILE = Path("coatcheck.toml")

_KEYCHAIN = "~/Library/Keychains/login.keychain-db"
_NSS = "sql:$HOME/.pki/nssdb"

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
    run.add_argument("--dev-tls", action="store_true", help="serve https on localhost, with a certificate made for it")
    run.set_defaults(run=_run)

    check = commands.add_parser("check", help="say what is wrong with a file, asking its authorization servers, too")
    check.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="default: %(default)s")
    check.set_defaults(run=_check)

    sessions = commands.add_parser("sessions", help="list or revoke sessions; tell of a restored backup")
    verbs = sessions.add_subparsers(title="commands", required=True, metavar="list | revoke | restored")
    for verb, purpose in (("list", "say which there are"), ("revoke", "end them everywhere, give their tokens back")):
        command = verbs.add_parser(verb, help=purpose)
        command.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="default: %(default)s")
        command.add_argument("--sub", help="those of this user")
        command.add_argument("--sid", help="those that this session at the authorization server led to")
        command.add_argument("--iss", help="of this issuer; default: that of the client")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=_sessions, verb=verb)
    restored = verbs.add_parser("restored", help="say that a backup of the store was restored: run it right afterwards")
    restored.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="default: %(default)s")
    restored.set_defaults(run=_sessions_restored)

    migrate = commands.add_parser("migrate", help="bring the tables of the stores in a file to this release's schema")
    migrate.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="default: %(default)s")
    migrate.set_defaults(run=_migrate)

    key = commands.add_parser("new-key", help="print a new key that seals sessions; keep it as a secret")
    key.set_defaults(run=_new_key)

    tls = commands.add_parser("dev-tls", help="make a certificate for https on localhost; say how to have it trusted")
    tls.add_argument("host", nargs="?", default="localhost", help="or a name such as app.localhost")
    tls.set_defaults(run=_dev_tls)

    demo = commands.add_parser("demo", help="log in, call an API and watch its token renew itself; needs no network")
    demo.add_argument("--port", type=int, default=8000, help="where the page is; default: %(default)s")
    demo.add_argument("--check", action="store_true", help="go through it once without a browser, and stop")
    demo.set_defaults(run=_demo)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    _need_the_extra("gateway", "granian", "pyreqwest", "starlette")
    from coatcheck.gateway.serving import Start, serve

    serve(
        Start(arguments.file.absolute(), listen=arguments.listen, workers=arguments.workers, dev_tls=arguments.dev_tls)
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    _need_the_extra("gateway", "granian", "pyreqwest", "starlette")
    from coatcheck.gateway.check import check

    findings = check(arguments.file)
    for problem in findings.problems:
        print(f"coatcheck: {problem}", file=sys.stderr)
    for line in findings.summary:
        print(line)
    return WRONG if findings.problems else 0


def _sessions(arguments: argparse.Namespace) -> int:
    _need_the_extra("gateway", "granian", "pyreqwest", "starlette")
    from coatcheck.gateway.sessions import Whose, list_sessions, revoke_sessions

    whose = Whose(sub=arguments.sub, sid=arguments.sid, iss=arguments.iss)
    work = list_sessions if arguments.verb == "list" else revoke_sessions
    for line in work(arguments.file, whose, as_json=arguments.json):
        print(line)
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    _need_the_extra("gateway", "granian", "pyreqwest", "starlette")
    from coatcheck.gateway.migrate import migrate

    migrate(arguments.file, print)
    return 0


def _sessions_restored(arguments: argparse.Namespace) -> int:
    _need_the_extra("gateway", "granian", "pyreqwest", "starlette")
    from coatcheck.gateway.restored import note_restore

    note_restore(arguments.file)
    print("noted: refresh tokens that came before now are not sent where the provider rotates them")
    return 0


def _new_key(arguments: argparse.Namespace) -> int:
    print(new_key())
    return 0


def _dev_tls(arguments: argparse.Namespace) -> int:
    _need_the_extra("bff", "pyreqwest")
    from coatcheck.bff.development_certificate import development_certificate

    made = development_certificate(arguments.host.lower(), now=SYSTEM_CLOCK.time())
    print(f"certificate: {made.certificate} (until {made.expires}, for {', '.join(made.names)})")
    print(f"key:         {made.key}")
    print(f"to use it:   uvicorn ... --ssl-certfile {made.certificate} --ssl-keyfile {made.key}")
    print("to trust it: accept the browser's warning once; or, without a warning,")
    print(f"  Safari and Chrome on a Mac: security add-trusted-cert -p ssl -k {_KEYCHAIN} {made.certificate}")
    print(f"  Chrome on Linux:            certutil -d {_NSS} -A -t P,, -n coatcheck -i {made.certificate}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    _need_the_extra("gateway", "granian", "pyreqwest", "starlette")
    from coatcheck.testing.demo import demo

    return demo(port=arguments.port, check=arguments.check)


def _need_the_extra(extra: str, *libraries: str) -> None:
    """The core alone cannot serve; say so in place of an ImportError."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        are, what = "is" if len(missing) == 1 else "are", "the gateway" if extra == "gateway" else "this"
        raise ConfigurationError(
            f"{', '.join(missing)} {are} not installed, which {what} needs: pip install 'coatcheck[{extra}]'"
        )


if __name__ == "__main__":
    sys.exit(main())
