"""
What the package promises to its users, name by name, and that each of them is explained.

A name that appears or disappears is a promise made or broken: `tests/public_api.txt` changes with it, and so does
CHANGELOG.md. `python -m tests.test_public_api` writes the list anew.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import module_files, parse

LIST = Path(__file__).parent / "public_api.txt"


def declared(module: str) -> list[str] | None:
    """The module's `__all__`, read without importing it; None where it has none."""
    for node in parse(module).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            return list(ast.literal_eval(node.value))
    return None


def public_names() -> list[str]:
    return [f"{module}.{name}" for module in module_files() for name in sorted(declared(module) or ())]


def test_the_public_names_are_those_of_the_list() -> None:
    assert public_names() == LIST.read_text().split()


@pytest.mark.parametrize("module", [module for module in module_files() if declared(module) is not None])
def test_each_name_is_declared_once_and_exists(module: str) -> None:
    names = declared(module) or []
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_is_explained(name: str) -> None:
    module, _, short = name.rpartition(".")
    silent = list(_unexplained(getattr(importlib.import_module(module), short), name))
    assert silent == []


def _unexplained(thing: object, name: str) -> Iterator[str]:
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return  # a constant or an alias: its comment stands where it is defined
    if not _has_docstring(thing):
        yield name
    if inspect.isclass(thing):
        for attribute, member in vars(thing).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if not attribute.startswith("_") and inspect.isfunction(function) and not inspect.getdoc(function):
                yield f"{name}.{attribute}"


def _has_docstring(thing: object) -> bool:
    doc = inspect.getdoc(thing) if not inspect.isclass(thing) else thing.__doc__
    if not doc:
        return False
    # dataclasses write a signature where nobody wrote a docstring
    return not (inspect.isclass(thing) and dataclasses.is_dataclass(thing) and doc.startswith(f"{thing.__name__}("))


if __name__ == "__main__":
    LIST.write_text("\n".join(public_names()) + "\n")
