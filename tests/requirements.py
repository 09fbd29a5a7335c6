"""
`docs/requirements.toml`, the tests that claim to show its rows, and `docs/specifications.md`, which is made of both.

`python -m tests.requirements` (or `./scripts/docs`) writes the document.
"""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "docs" / "requirements.toml"
DOCUMENT = ROOT / "docs" / "specifications.md"

AREAS = {
    "OAU": "Authorization request and response",
    "MET": "Authorization server metadata",
    "CLA": "Client authentication",
    "DPO": "Proof of possession (DPoP)",
    "TEX": "Token exchange",
    "REV": "Revocation",
    "IDT": "ID tokens",
    "JOS": "Signing keys of the provider",
    "RPL": "Logout that starts here",
    "BCL": "Logout by the provider, behind the browser",
    "FCL": "Logout by the provider, through the browser",
    "SMG": "Session management",
    "COO": "Cookies",
    "LGN": "The login transaction",
    "CSR": "Cross-site request forgery",
    "RTU": "Return URLs",
    "HDR": "Response headers and pages",
    "PRX": "The proxy to remote APIs",
    "WSS": "Live connections",
    "SES": "Sessions",
    "STO": "Sealing and storage",
    "LOG": "Logs",
    "REF": "Renewing tokens",
    "CCT": "Client-credentials tokens",
    "HTC": "Calls to the authorization server",
    "CFG": "Configuration",
    "ABU": "Abuse and limits",
    "DEV": "Development mode",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One row."""

    id: str
    priority: str
    requirement: str
    source: str
    reason: str | None = None
    """Why no test shows it."""


def rows() -> list[Requirement]:
    """The rows, in the order of the file."""
    return [Requirement(**row) for row in tomllib.loads(ROWS.read_text())["requirement"]]


@cache
def marks() -> dict[str, list[str]]:
    """Requirement id to the tests marked with it (`tests/oauth/test_grants.py::test_x`)."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "node_modules" in path.parts:
            continue
        name = path.relative_to(ROOT).as_posix()
        for test, ids in _marks_of(ast.parse(path.read_text())):
            for identifier in dict.fromkeys(ids):
                found[identifier].append(f"{name}::{test}")
    return dict(found)


def _marks_of(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    whole_file = _module_marks(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name, [*whole_file, *(identifier for mark in node.decorator_list for identifier in _ids(mark))]
        elif isinstance(node, ast.ClassDef):
            of_class = [identifier for mark in node.decorator_list for identifier in _ids(mark)]
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name.startswith("test_"):
                    yield inner.name, of_class


def _module_marks(tree: ast.Module) -> list[str]:
    """Those of `pytestmark = pytest.mark.spec(...)`, alone or in a list."""
    return [
        identifier
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)
        for mark in (node.value.elts if isinstance(node.value, ast.List) else [node.value])
        for identifier in _ids(mark)
    ]


def _ids(mark: ast.expr) -> list[str]:
    """The ids in a mark, also where it stands on one case of a parametrized test."""
    return [
        argument.value
        for call in ast.walk(mark)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "spec"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


def document(requirements: Sequence[Requirement], tests: Mapping[str, Sequence[str]]) -> str:
    """`docs/specifications.md`."""
    lines = [
        "# Requirements, where they come from, and the tests that show them",
        "",
        "Written by `./scripts/docs` from [requirements.toml](requirements.toml) and the tests; do not edit.",
        "P0 keeps sessions, tokens and accounts safe; P1 is owed by release 1.0; P2 is hardening.",
    ]
    for area, group in groupby(requirements, key=lambda row: row.id.partition("-")[0]):
        lines += [
            "",
            f"## {AREAS[area]} ({area})",
            "",
            "| | | Requirement | Source | Shown by |",
            "|---|---|---|---|---|",
        ]
        lines += [_line(row, tests.get(row.id, ())) for row in group]
    return "\n".join(lines) + "\n"


def _line(row: Requirement, tests: Sequence[str]) -> str:
    shown = "<br>".join(_link(test) for test in tests) or f"*{row.reason or 'nothing yet'}*"
    cells = [row.id, row.priority, row.requirement, row.source, shown]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{path})"


if __name__ == "__main__":
    DOCUMENT.write_text(document(rows(), marks()))
