"""Reads the package's imports from its source: what imports what, at any depth of a file and for types only alike."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = "coatcheck"


@dataclass(frozen=True, slots=True)
class Arrow:
    """One import: the module *importer* uses *imported*, in line *line*."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def module_files() -> dict[str, Path]:
    """Every module of the package, by name."""
    return {_module_name(path): path for path in sorted((SOURCE / PACKAGE).rglob("*.py"))}


def parse(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(module_files()[module].read_text())


def arrows() -> list[Arrow]:
    """All imports of the package, those of other libraries included."""
    modules = module_files()
    return [arrow for module in modules for arrow in _arrows_of(module, modules)]


def _arrows_of(module: str, modules: dict[str, Path]) -> Iterator[Arrow]:
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Arrow(module, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, module, modules)
            for alias in node.names:
                # `from coatcheck.oauth import grants` names a module, `from coatcheck.oauth import Request` does not.
                submodule = f"{origin}.{alias.name}"
                yield Arrow(module, submodule if submodule in modules else origin, node.lineno)


def _absolute(node: ast.ImportFrom, module: str, modules: dict[str, Path]) -> str:
    if node.level == 0:
        assert node.module is not None
        return node.module
    is_package = modules[module].name == "__init__.py"
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def _module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
