"""
Runs the tests of a file against small wrong changes to it, and says which changes no test noticed.

A change that a test notices is killed, as is one that makes the tests hang; 90 % of the changes to each file have to be
killed. The files that read a browser's bytes are the default. Others can be named, with their tests or without:

    scripts/mutate src/coatcheck/bff/once.py
    scripts/mutate src/coatcheck/bff/callback.py --tests tests/bff/test_callback.py tests/bff/test_login.py
    scripts/mutate src/coatcheck/bff/current.py::parameters,parameter

The files themselves are never touched. Two controls come first: a file that is merely written anew must pass its tests,
and one whose every function fails must not. `tests/fuzz/equivalent_mutants.toml` names the changes that change nothing,
with the reason. They count as not killed all the same, and an entry that no longer fits is a failure.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import os
import resource
import signal
import sys
import time
import tomllib
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType

from tests.fuzz.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).parent / "equivalent_mutants.toml"
DEMANDED = 0.9
MEMORY = 4 * 2**30
"""Bytes of address space, after which a change that collects for ever is stopped."""

READING = "read_authorization_response,_once_each,_check_state,_check_iss,_authorization_error,_MAX_CODE,_CODE,_TOKENS"
TESTS = {
    "src/coatcheck/sessions/cookie.py": ("tests/sessions/test_cookie.py",),
    "src/coatcheck/sessions/chunks.py": ("tests/sessions/test_chunks.py",),
    "src/coatcheck/bff/return_url.py": ("tests/bff/test_return_url.py",),
    "src/coatcheck/bff/csrf.py": ("tests/bff/test_csrf.py",),
    "src/coatcheck/bff/form.py": ("tests/bff/test_form.py",),
    "src/coatcheck/bff/login_parameters.py": ("tests/bff/test_login_parameters.py", "tests/bff/test_login.py"),
    "src/coatcheck/oauth/authorize.py": ("tests/oauth/test_authorize.py",),
    "src/coatcheck/oauth/challenge.py": ("tests/oauth/test_challenge.py",),
    "src/coatcheck/bff/transactions.py": ("tests/bff/test_transactions.py", "tests/bff/test_silent_login.py"),
    "src/coatcheck/bff/login_loop.py": ("tests/bff/test_login_loop.py",),
    "src/coatcheck/bff/once.py": ("tests/bff/test_once.py", "tests/bff/test_transactions.py"),
}
"""What is run for which file, if nothing else is said."""

DEFAULT = [
    "src/coatcheck/sessions/cookie.py",
    "src/coatcheck/sessions/chunks.py",
    "src/coatcheck/bff/return_url.py",
    "src/coatcheck/bff/csrf.py",
    "src/coatcheck/bff/form.py",
    "src/coatcheck/bff/login_parameters.py",
    f"src/coatcheck/oauth/authorize.py::{READING}",
    "src/coatcheck/oauth/challenge.py",
]
"""What reads a browser's bytes, and an API's."""


class Verdict(Enum):
    """What became of a change."""

    KILLED = 1
    TIMED_OUT = 2
    SURVIVED = 3
    UNUSABLE = 4
    """The file cannot even be imported: no test is needed to notice, so it does not count at all."""


@dataclass(frozen=True, slots=True)
class Target:
    """One file, perhaps only some functions and constants of it, and the tests that should notice."""

    path: str
    within: frozenset[str]
    tests: tuple[str, ...]

    @property
    def module(self) -> str:
        return self.path.removeprefix("src/").removesuffix(".py").replace("/", ".")


@dataclass(slots=True)
class Score:
    """Of one file, or of all."""

    mutants: int = 0
    killed: int = 0
    timed_out: int = 0
    """How many of the killed."""
    equivalent: int = 0
    """How many of those that survived are known to change nothing."""

    @property
    def is_enough(self) -> bool:
        return self.killed >= DEMANDED * self.mutants

    def add(self, other: Score) -> None:
        for name in ("mutants", "killed", "timed_out", "equivalent"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        return (
            f"{self.mutants} mutants, {self.killed} killed ({self.killed / max(self.mutants, 1):.1%}; "
            f"{self.timed_out} by hanging), {self.mutants - self.killed} survived, {self.equivalent} of these change "
            "nothing"
        )


def main() -> int:
    """Mutate, print one line for each file and each survivor; 0 if enough were killed."""
    arguments = _parser().parse_args()
    os.chdir(ROOT)
    total, enough = Score(), True
    for name in arguments.files or DEFAULT:
        target = _target(name, arguments.tests)
        found = list(mutants(Path(target.path).read_text(), within=target.within))
        if not found:
            sys.exit(f"{name}: there is nothing to change")
        if arguments.list:
            print(*(f"{target.path}:{mutant.line}: {mutant.change}" for mutant in found), sep="\n")
            continue
        score, stale = _run(target, found, jobs=arguments.jobs)
        total.add(score)
        enough &= score.is_enough and not stale
    if total.mutants:
        print(f"all: {total}")
    return 0 if enough else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="FILE[::NAME,NAME]", help="what to change (default: see above)")
    parser.add_argument("--tests", nargs="+", help="what to run (default: the file's own tests)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once (default 1)")
    parser.add_argument("--list", action="store_true", help="print the changes and run nothing")
    return parser


def _target(name: str, tests: Sequence[str] | None) -> Target:
    path, _, within = name.partition("::")
    if not path.startswith("src/coatcheck/") or not Path(path).is_file():
        sys.exit(f"{path} is no file below src/coatcheck")
    folder, file = os.path.split(path.removeprefix("src/coatcheck/"))
    own = tuple(tests or TESTS.get(path) or (os.path.join("tests", folder, f"test_{file}"),))
    if missing := [test for test in own if not Path(test.partition("::")[0]).exists()]:
        sys.exit(f"there is no {missing[0]}: name the tests of {path} with --tests")
    return Target(path, frozenset(filter(None, within.split(","))), own)


def _run(target: Target, found: list[Mutant], *, jobs: int) -> tuple[Score, bool]:
    """Try all of *found*. The score, and whether an entry of the file of equivalent ones does not fit any more."""
    started = time.monotonic()
    _import_others(target)
    patience = _controls(target)
    verdicts = _verdicts(target, [mutant.source for mutant in found], jobs=jobs, seconds=patience)
    judged = [pair for pair in zip(found, verdicts, strict=True) if pair[1] is not Verdict.UNUSABLE]
    survivors = [mutant for mutant, verdict in judged if verdict is Verdict.SURVIVED]
    known, stale = _equivalent(target, found, survivors)
    timed_out = sum(verdict is Verdict.TIMED_OUT for _, verdict in judged)
    score = Score(len(judged), len(judged) - len(survivors), timed_out, len(known))
    print(f"{target.path}: {score}; {time.monotonic() - started:.0f} s", flush=True)
    for mutant in survivors:
        if mutant not in known:
            print(f"  survived: {target.path}:{mutant.line}: {mutant.change}\n      {mutant.before}", flush=True)
    for entry in stale:
        print(f"  no survivor, or no mutant at all: {entry['before']} ({entry['change']})", flush=True)
    return score, bool(stale)


def _controls(target: Target) -> float:
    """Try a change that must survive and one that must not; how many seconds to wait for the others."""
    tree = ast.parse(Path(target.path).read_text())
    started = time.monotonic()
    if _verdicts(target, [ast.unparse(tree)], jobs=1, seconds=600) != [Verdict.SURVIVED]:
        sys.exit(f"the tests of {target.path} fail without any change: {' '.join(target.tests)}")
    patience = 10 + 5 * (time.monotonic() - started)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = ast.parse("raise RuntimeError('control')").body
    if _verdicts(target, [ast.unparse(tree)], jobs=1, seconds=patience) != [Verdict.KILLED]:
        sys.exit(f"the tests of {target.path} do not notice that all its functions fail: {' '.join(target.tests)}")
    return patience


def _equivalent(
    target: Target, found: list[Mutant], survivors: list[Mutant]
) -> tuple[list[Mutant], list[dict[str, str]]]:
    """The survivors that are known to change nothing, and the entries of this file that fit none."""
    entries = [entry for entry in tomllib.loads(EQUIVALENT.read_text())["mutant"] if entry["file"] == target.path]
    if target.within:
        tried = {mutant.before for mutant in found}
        entries = [entry for entry in entries if entry["before"] in tried]
    keys = {(entry["before"], entry["change"]) for entry in entries}
    known = [mutant for mutant in survivors if (mutant.before, mutant.change) in keys]
    fitting = {(mutant.before, mutant.change) for mutant in known}
    return known, [entry for entry in entries if (entry["before"], entry["change"]) not in fitting]


def _verdicts(target: Target, sources: Iterable[str], *, jobs: int, seconds: float) -> list[Verdict]:
    """
    Run the tests once for each of *sources*, in a child process that sees it in place of the file.

    The child is a copy of this process, so what is imported here is not imported again for each; modules of the project
    are imported in children only.
    """
    waiting = deque(enumerate(sources))
    verdicts: dict[int, Verdict] = {}
    running: dict[int, tuple[int, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            index, source = waiting.popleft()
            running[_start(target, source)] = index, time.monotonic() + seconds
        for child, (index, deadline) in list(running.items()):
            verdict = _verdict(child, deadline)
            if verdict is not None:
                verdicts[index] = verdict
                del running[child]
        time.sleep(0.01)
    return [verdicts[index] for index in sorted(verdicts)]


def _start(target: Target, source: str) -> int:
    child = os.fork()
    if child == 0:
        os._exit(_in_child(target, source))
    return child


def _verdict(child: int, deadline: float) -> Verdict | None:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        code = os.waitstatus_to_exitcode(status)
        return {0: Verdict.SURVIVED, _UNUSABLE: Verdict.UNUSABLE}.get(code, Verdict.KILLED)
    if time.monotonic() < deadline:
        return None
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Verdict.TIMED_OUT


def _in_child(target: Target, source: str | None) -> int:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    import pytest
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "mutants", derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    settings.load_profile("mutants")
    if source is not None:
        sys.meta_path.insert(0, _Mutated(target.module, source))
        try:
            importlib.import_module(target.module)
        except BaseException:
            return _UNUSABLE
    quiet = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*quiet, *target.tests]))


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module of the project, with a change in it."""

    def __init__(self, module: str, source: str) -> None:
        self._module, self._source = module, source

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self._module else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, f"<mutant of {self._module}>", "exec"), module.__dict__)  # noqa: S102


_imported: set[tuple[str, ...]] = set()
_UNUSABLE = 77


def _import_others(target: Target) -> None:
    """Import what the tests import from elsewhere, once; found out by a child."""
    if target.tests in _imported:
        return
    _imported.add(target.tests)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(target, None)
        others = [name for name in sys.modules if name.partition(".")[0] not in ("coatcheck", "tests", "__main__")]
        os.write(writing, "\n".join(others).encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with open(reading) as names:
        others = names.read().split("\n")
    os.waitpid(child, 0)
    for name in others:
        with suppress(Exception):  # some modules only live inside of another one
            importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
