"""Without its extra, a part of coatcheck says which one to install, and the core works."""

from __future__ import annotations

import subprocess
import sys

import pytest

BARE = ("pyreqwest", "starlette", "fastapi", "granian")
"""What `pip install coatcheck` leaves out."""


def python_without(libraries: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Run *code* where *libraries* cannot be imported, as if they were not installed."""
    hidden = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {libraries!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""
    command = [sys.executable, "-W", "error", "-c", hidden + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import coatcheck; dir(coatcheck)",
        "from coatcheck import Client, DefaultAccessTokenRetriever, Tokens, new_key",
        "from coatcheck.tokens import Tokens",
        "from coatcheck.oauth import PrivateKeyJWT",
        "import coatcheck.testing",
        "from coatcheck.cli import main; sys.exit(main(['new-key']))",
    ],
)
def test_the_core_needs_no_extra(code: str) -> None:
    done = python_without(BARE, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("libraries", "code", "library", "extra"),
    [
        (BARE, "from coatcheck import BFF", "pyreqwest", "bff"),
        (BARE, "from coatcheck import page_user", "pyreqwest", "bff"),
        (BARE, "from coatcheck.config import load_config", "pyreqwest", "bff"),
        (BARE, "import coatcheck.fastapi", "fastapi", "fastapi"),
        (("fastapi",), "from coatcheck.fastapi import CurrentUser", "fastapi", "fastapi"),
    ],
)
def test_a_missing_extra_is_named(libraries: tuple[str, ...], code: str, library: str, extra: str) -> None:
    done = python_without(libraries, code)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {library} is not installed, which this part of coatcheck needs: "
        f"pip install 'coatcheck[{extra}]'"
    )


def test_another_missing_library_is_reported_as_it_is() -> None:
    done = python_without(("msgspec",), "import coatcheck.bff")
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'msgspec'"


@pytest.mark.parametrize("command", [["run"], ["check"], ["demo", "--check"]], ids=" ".join)
def test_the_command_names_the_extra_of_the_gateway(command: list[str]) -> None:
    code = f"""
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "granian" else found(name, package)
from coatcheck.cli import main
sys.exit(main({command!r}))
"""
    done = python_without(("granian",), code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "coatcheck: granian is not installed, which the gateway needs: pip install 'coatcheck[gateway]'\n"
    )
