"""Measurements that are run by hand do not rot meanwhile: a very small one of each kind. No figure is looked at."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.rig.programs import ROOT


@pytest.mark.parametrize("store", ["sqlite", "valkey", "postgresql"])
def test_sessions(store: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "bench.sessions", "--store", store]
    command += ["--sessions", "400", "--rounds", "1", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for operation in ("lookup", "slide", "revoke by sub", "find by sid", "create"):
        assert re.search(rf"(?m)^{operation} .*\d \| \d+\.\d\d \[", done.stdout), done.stdout
    assert re.search(r"(?m)^cleanup, 400 sessions, .*: \d+ rows at \d+ us", done.stdout), done.stdout
