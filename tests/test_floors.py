"""
The house keeps its shape: arrows only go down, there are no circles, and each library of others has one home.

    errors, base64url, clock, codec, telemetry, audit    floor 0
    oauth                               the protocol, pure
    single_flight, transport, provider
    coordination, sessions, stores      what processes agree on, who is here, and where it rests
    tokens                              which token may this request carry
    bff                                 what the browser meets
    fastapi, config                     adapters
    gateway                             the same as a process of its own
    testing                             for users' tests, and the demo
    cli                                 the command
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.house import PACKAGE, Arrow, arrows, module_files, parse

FLOORS = [
    ["errors"],
    ["base64url"],
    ["clock"],
    ["codec"],
    ["telemetry"],
    ["audit"],
    ["oauth"],
    ["single_flight"],
    ["transport"],
    ["provider"],
    ["coordination"],
    ["sessions"],
    ["stores"],
    ["tokens"],
    ["bff"],
    ["fastapi", "config"],
    ["gateway"],
    ["testing"],
    ["cli"],
    ["__main__"],
]
"""From the ground up. Rooms of one floor do not know each other."""

HOMES = {
    "httpx2": {"transport", "tokens.auth"},
    "joserfc": {"oauth.jwt"},
    "cryptography": {"sessions.seal", "oauth.dpop", "bff.development_certificate"},
    "msgspec": {"codec", "config"},
    "opentelemetry": {"telemetry"},
    "pyreqwest": {"bff.forwarder"},
    "starlette": {"bff", "fastapi"},
    "fastapi": {"fastapi"},
    "granian": {"gateway"},
    "asyncpg": {"stores.postgresql"},
    "redis": {"stores.redis"},
    "uvicorn": {"testing"},
    "json": {"codec"},
}
"""The one file (or folder) that may import a library."""

LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FRONT_DOOR = PACKAGE
"""`coatcheck/__init__.py` names what is public, and nobody inside goes through it."""


def room_of(module: str) -> str:
    """`coatcheck.oauth.token` is in the room `oauth`."""
    return module.split(".")[1] if "." in module else FRONT_DOOR


def inside(arrow: Arrow) -> bool:
    return arrow.imported.split(".")[0] == PACKAGE


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room_of(module) for module in module_files()} - {FRONT_DOOR, "__main__"}
    assert rooms <= set(LEVEL)


def test_arrows_only_go_down() -> None:
    wrong = [
        str(arrow)
        for arrow in arrows()
        if inside(arrow) and room_of(arrow.importer) in LEVEL and not _goes_down(arrow.importer, arrow.imported)
    ]
    assert wrong == []


def _goes_down(importer: str, imported: str) -> bool:
    above, below = room_of(importer), room_of(imported)
    return below == above or (below in LEVEL and LEVEL[below] < LEVEL[above])


def test_no_module_imports_itself_by_a_detour() -> None:
    graph: dict[str, set[str]] = {module: set() for module in module_files()}
    for arrow in arrows():
        if arrow.imported in graph and arrow.imported != arrow.importer:
            graph[arrow.importer].add(arrow.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


def test_each_library_has_one_home() -> None:
    wrong = [
        str(arrow)
        for arrow in arrows()
        if not inside(arrow) and not _at_home(arrow.importer.removeprefix(f"{PACKAGE}."), arrow.imported.split(".")[0])
    ]
    assert wrong == []


def _at_home(module: str, library: str) -> bool:
    if library not in HOMES:
        return library in sys.stdlib_module_names
    return any(module == home or module.startswith(f"{home}.") for home in HOMES[library])


def test_the_protocol_neither_waits_nor_looks_at_the_clock() -> None:
    """oauth/ is pure: nothing is awaited, no event loop, no thread, no clock of its own."""
    forbidden = {"asyncio", "time", "threading", "socket", "urllib.request", "http.client"}
    wrong = [str(arrow) for arrow in arrows() if room_of(arrow.importer) == "oauth" and arrow.imported in forbidden]
    for module in module_files():
        if room_of(module) == "oauth":
            wrong += [
                f"{module}:{node.lineno} waits"
                for node in ast.walk(parse(module))
                if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor)
            ]
    assert wrong == []


def test_imports_are_absolute() -> None:
    """One way to write an import, so that a search finds every use."""
    relative = [
        f"{module}:{node.lineno}"
        for module in module_files()
        for node in ast.walk(parse(module))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []
