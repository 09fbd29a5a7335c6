"""The files of a single-page application, asked for as an ASGI server would hand the request over."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coatcheck.gateway.frontend import Frontend

NAVIGATION = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@dataclass
class Got:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


async def ask(app: Frontend, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Got:
    got = Got()

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            got.status = message["status"]
            got.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            got.body += message["body"]

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("a file needs no request body")

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    await app(scope, receive, send)
    return got


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "docs").mkdir()
    (dist / "index.html").write_text("<h1>shell</h1>")
    (dist / "docs" / "index.html").write_text("<h1>docs</h1>")
    (dist / "assets" / "app.js").write_text("export {}")
    (dist / "assets" / "größe 1.svg").write_text("<svg/>")
    (dist / ".env").write_text("SECRET=1")
    (tmp_path / "outside.txt").write_text("outside")
    return dist


@pytest.fixture
def frontend(dist: Path) -> Frontend:
    return Frontend(dist, "index.html", reserved=("/api", "/bff"))


async def test_files_come_with_their_types(frontend: Frontend) -> None:
    page = await ask(frontend, "/")
    assert (page.status, page.headers["content-type"], page.body) == (
        200,
        "text/html; charset=utf-8",
        b"<h1>shell</h1>",
    )
    assert page.headers["content-security-policy"] == "frame-ancestors 'self'"
    script = await ask(frontend, "/assets/app.js")
    assert (script.status, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert script.headers["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in script.headers
    assert (await ask(frontend, "/assets/gr%C3%B6%C3%9Fe%201.svg")).headers["content-type"] == "image/svg+xml"
    assert (await ask(frontend, "/docs/")).body == b"<h1>docs</h1>"


async def test_head_has_the_headers_of_get_and_no_body(frontend: Frontend) -> None:
    got, head = await ask(frontend, "/assets/app.js"), await ask(frontend, "/assets/app.js", method="HEAD")
    assert head.headers == got.headers
    assert (head.headers["content-length"], head.body) == ("9", b"")


async def test_an_unchanged_file_is_304_and_a_changed_one_is_not(frontend: Frontend, dist: Path) -> None:
    first = await ask(frontend, "/")
    known = {"if-none-match": f'"other", W/{first.headers["etag"]}'}
    again = await ask(frontend, "/", headers=known)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert "content-length" not in again.headers
    assert first.headers["cache-control"] == "no-cache"
    (dist / "index.html").write_text("<h1>rebuilt</h1>")
    os.utime(dist / "index.html", (1, 1))
    assert (await ask(frontend, "/", headers=known)).body == b"<h1>rebuilt</h1>"


async def test_routes_inside_the_page_get_the_page(frontend: Frontend) -> None:
    for path in ("/orders/7", "/users/jane.doe", "/docs"):
        assert (await ask(frontend, path, headers=NAVIGATION)).body == b"<h1>shell</h1>", path
    assert (await ask(frontend, "/orders/7")).status == 200


async def test_a_missing_file_is_no_page(frontend: Frontend) -> None:
    """A script that gets HTML fails with a puzzle; one that gets 404 fails with a reason."""
    missing = await ask(frontend, "/assets/gone.js", headers={"accept": "*/*"})
    assert (missing.status, missing.headers["coatcheck-error"]) == (404, "not_found")


async def test_an_api_never_gets_the_page(frontend: Frontend) -> None:
    for path in ("/api", "/api/", "/api/unknown", "/bff/unknown"):
        assert (await ask(frontend, path, headers=NAVIGATION)).status == 404, path
    assert (await ask(frontend, "/apiary", headers=NAVIGATION)).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/..%2foutside.txt",
        "/..%5coutside.txt",
        "/assets/../../outside.txt",
        "/assets/%2e%2e/%2e%2e/outside.txt",
        "//outside.txt",
        "/%00",
        "/index.html%00.js",
        "/C:/outside.txt",
        "/.env",
        "/%2eenv",
        "/assets/app.js/",
        "/assets/app.js/x.js",
        "/%ff.js",
    ],
)
async def test_path_traversal_and_hidden_files(frontend: Frontend, path: str) -> None:
    got = await ask(frontend, path, headers={"accept": "*/*"})
    assert got.status == 404 or got.body == b"<h1>shell</h1>"


async def test_a_symbolic_link_out_of_the_folder(frontend: Frontend, dist: Path) -> None:
    (dist / "leak.txt").symlink_to(dist.parent / "outside.txt")
    (dist / "inside.js").symlink_to(dist / "assets" / "app.js")
    assert (await ask(frontend, "/leak.txt")).status == 404
    assert (await ask(frontend, "/inside.js")).status == 200


async def test_a_symbolic_link_to_a_hidden_file_or_folder(frontend: Frontend, dist: Path) -> None:
    (dist / ".git").mkdir()
    (dist / ".git" / "config").write_text("[remote]")
    (dist / "environment.txt").symlink_to(dist / ".env")
    (dist / "repository").symlink_to(dist / ".git")
    assert (await ask(frontend, "/environment.txt")).status == 404
    assert (await ask(frontend, "/repository/config", headers={"accept": "*/*"})).body == b"<h1>shell</h1>"


async def test_only_get_and_head(frontend: Frontend) -> None:
    got = await ask(frontend, "/", method="POST")
    assert (got.status, got.headers["allow"]) == (405, "GET, HEAD")


async def test_large_and_empty_files(frontend: Frontend, dist: Path) -> None:
    content = os.urandom(1_000_000)
    (dist / "big.bin").write_bytes(content)
    (dist / "empty.txt").write_bytes(b"")
    big = await ask(frontend, "/big.bin")
    assert big.headers["content-type"] == "application/octet-stream"
    assert big.body == content
    assert (await ask(frontend, "/empty.txt")).headers["content-length"] == "0"
