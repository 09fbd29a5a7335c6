"""What never stands in the repository: package hosts, paths of a machine, and files with a second story."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_OURS = re.compile(
    r"^(\.git|\.venv.*|\.cache|\.coatcheck|\..*_cache|\.hypothesis|node_modules|__pycache__|build|dist)$"
)

# In pieces, so that this file does not contain what it looks for.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"py" r"pi\.org",
            r"python" r"hosted\.org",
            r"registry\.npm" r"js",
            r"registry\.yarn" r"pkg",
            r"deb\.deb" r"ian\.org",
            r'"reso' r'lved":',
            r"(?<![\w.])/(root|work|home/\w+|Users/\w+)/",
        ]
    )
)
LONGEST = 400


def files() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not NOT_OURS.match(name)]
        yield from (Path(folder, name) for name in names)


def test_no_file_names_a_package_host_or_a_path_of_a_machine() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert wrong == []


def test_every_requirement_of_the_scripts_is_pinned_with_hashes() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        entries = re.split(r"\n(?=\S)", path.read_text().strip())
        assert [entry for entry in entries if not re.match(r"[\w.-]+==\S+.*\\\n\s+--hash=sha256:", entry)] == []


def test_no_source_file_is_longer_than_a_story() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "src").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert long == {}
