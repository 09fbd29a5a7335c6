"""Code blocks of pages are files: a marker `<!-- docs/examples/NAME -->` before a block names the file it shows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("development", "gateway", "library", "testing")),
)
BLOCK = re.compile(r"<!-- (docs/examples/[\w.]+) -->\n```(\w+)\n.*?```\n", re.DOTALL)


def embed(text: str) -> str:
    """Return *text* with every marked block replaced by the file that it names."""

    def block(match: re.Match[str]) -> str:
        name, language = match.groups()
        return f"<!-- {name} -->\n```{language}\n{(ROOT / name).read_text()}```\n"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(embed(page.read_text()))
