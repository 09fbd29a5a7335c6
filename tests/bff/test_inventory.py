"""
Every path that a BFF answers, and what another site gets done there: nothing.

The paths come from the BFF itself. `TABLE` (in `inventory.py`) says what each is; what is not in there, or lies there
under another name, fails.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from coatcheck.bff.csrf import Protection
from tests.bff.inventory import (
    FRAMED,
    FRONT_CHANNEL,
    HEADER,
    LOGIN,
    LOGOUT_TOKEN,
    MODES,
    NAVIGATION,
    NO_SESSION,
    PARAMETERS,
    SAME_ORIGIN,
    SCRIPTED,
    SID,
    TABLE,
    TRANSACTION,
    VERBS,
    WITHOUT_HEADER,
    Mode,
    running,
    served,
)
from tests.bff.world import World, world
from tests.house import module_files, parse

HOW_TO = (
    "is not in TABLE of tests/bff/inventory.py. Decide what keeps another site from using it (`Protection`, or a "
    "check of your own), add a row with the five statuses, and run test_inventory.py: it tries them."
)


CASES = [
    pytest.param(*way, mode, id=f"{way[0]} {way[1]} {name}")
    for way in TABLE
    for name, mode in MODES.items()
    if way not in mode.absent
]


@pytest.mark.spec("CSR-07")
def test_whatever_is_served_is_in_the_table_and_protected_as_it_says() -> None:
    found: dict[tuple[str, str], Protection | None] = {}
    for mode in MODES.values():
        with running(mode) as (w, _):
            found |= served(w)
            assert mode.absent.isdisjoint(served(w))
    missing = [f"{verb} {path} {HOW_TO}" for verb, path in found if (verb, path) not in TABLE]
    assert not missing, "\n".join(missing)
    differing = {way: p for way, p in found.items() if p is not None and p is not TABLE[way].protection}
    assert not differing, f"TABLE says something else of {differing}"
    gone = [way for way in TABLE if way not in found and way[1].startswith(("/bff/", "/r/"))]
    assert not gone, f"TABLE has rows for what is not served any more: {gone}"
    paths = {path for _, path in found if path.startswith("/bff/")}
    assert len(paths) == endpoints_in_the_source(), "an endpoint is off here: switch it on in EVERYTHING"


def endpoints_in_the_source() -> int:
    """How often the code says `Endpoint(...)`."""
    calls = (node for module in module_files() for node in ast.walk(parse(module)) if isinstance(node, ast.Call))
    return sum(isinstance(call.func, ast.Name) and call.func.id == "Endpoint" for call in calls)


SCRIPT = {"sec-fetch-mode": "cors", "sec-fetch-dest": "empty", "accept": "*/*"}
PERSON = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document", "accept": "text/html,*/*;q=0.8"}
OWN_SCRIPT = {**SCRIPT, "sec-fetch-site": "same-origin", "x-csrf": "1"}
OWN_LINK = {**PERSON, "sec-fetch-site": "same-origin"}
EVIL = {"origin": "https://evil.example", "x-csrf": "1"}

WAYS: dict[str, tuple[Mapping[str, str], ...]] = {
    "stranger": (OWN_SCRIPT,),
    "without_header": (
        {**SCRIPT, "sec-fetch-site": "same-origin"},
        {**SCRIPT, "sec-fetch-site": "same-origin", "x-csrf": "0"},
        {**SCRIPT, "sec-fetch-site": "same-origin", "x-csrf": "1, 1"},
    ),
    "foreign_script": (
        {**SCRIPT, **EVIL, "sec-fetch-site": "cross-site"},
        {**SCRIPT, **EVIL, "sec-fetch-site": "same-site", "origin": "https://sibling.shop.example"},
        {**SCRIPT, **EVIL, "sec-fetch-site": "cross-site", "origin": "null"},
    ),
    "foreign_link": (
        {**PERSON, **EVIL, "sec-fetch-site": "cross-site"},
        {**PERSON, "sec-fetch-site": "same-site"},
    ),
    "user": (OWN_SCRIPT,),  # the last one: it may be the logout
}
"""How each kind of caller asks. All but the stranger bring the session's cookie, as if SameSite did not exist."""

FROM_ELSEWHERE = ("foreign_script", "foreign_link")
UNSEEN: dict[Protection | str, tuple[str, ...]] = {
    HEADER: ("without_header", *FROM_ELSEWHERE),
    NAVIGATION: ("without_header", *FROM_ELSEWHERE),
    SAME_ORIGIN: FROM_ELSEWHERE,
    WITHOUT_HEADER: FROM_ELSEWHERE,
    TRANSACTION: tuple(WAYS),
    LOGOUT_TOKEN: tuple(WAYS),
    FRONT_CHANNEL: tuple(WAYS),
    NO_SESSION: tuple(WAYS),
    LOGIN: (),
    SID: (),
}
"""The callers for whom the session is not even looked up."""

LET_IN: dict[Protection | str, tuple[str, ...]] = {
    HEADER: ("stranger", "user"),
    WITHOUT_HEADER: ("stranger", "user", "without_header"),
}
"""The callers who may cause a call to a remote API or the authorization server. Nobody, otherwise."""


@pytest.mark.spec("CSR-07", "CSR-08", "HDR-01", "HDR-02", "HDR-05", "HDR-06", "COO-13")
@pytest.mark.parametrize(("verb", "path", "mode"), CASES)
def test_each_answers_as_the_table_says_and_another_site_gets_nothing_done(verb: str, path: str, mode: Mode) -> None:
    row = TABLE[verb, path]
    with running(mode) as (w, upstream):
        cookie = w.logged_in().cookies.header(httpx2.URL(w.public_url), initiator=None)
        for caller, requests in WAYS.items():
            for headers in requests:
                if row.protection in (NAVIGATION, LOGIN) and headers is OWN_SCRIPT:
                    headers = OWN_LINK
                loads, calls = w.store.loads, (upstream.calls, len(w.provider.log))
                answer = ask(w, verb, path, headers, cookie=None if caller == "stranger" else cookie)
                assert answer.status_code == getattr(row, caller), (caller, headers, answer.text)
                if caller in UNSEEN[row.protection]:
                    assert w.store.loads == loads, caller
                if caller not in LET_IN.get(row.protection, ()):
                    assert (upstream.calls, len(w.provider.log)) == calls, caller
                if caller != "user":
                    assert w.sessions() == 1 and not planted(answer)
                check_headers(answer, path, secure=mode.secure)


def ask(w: World, verb: str, path: str, headers: Mapping[str, str], *, cookie: str | None) -> httpx2.Response:
    sent = {**headers, "cookie": cookie} if cookie else dict(headers)
    parameters = PARAMETERS.get(path, "")
    url = w.public_url + path
    if verb == "POST":
        sent["content-type"] = "application/x-www-form-urlencoded"
        return w.transport.handle_request(httpx2.Request(verb, url, headers=sent, content=parameters))
    return w.transport.handle_request(httpx2.Request(verb, f"{url}?{parameters}", headers=sent))


def planted(answer: httpx2.Response) -> list[str]:
    """The cookies that it sets or deletes, but for those of logins that begin."""
    return [line for line in answer.headers.get_list("set-cookie") if "-login-" not in line and "Max-Age=0" in line]


PRIVATE = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


def check_headers(answer: httpx2.Response, path: str, *, secure: bool) -> None:
    """What an answer must carry, by what it is."""
    got = answer.headers
    lines = got.get_list("strict-transport-security")
    assert lines == (["max-age=2592000"] if secure else [])
    if "set-cookie" in got:
        assert got.get_list("cache-control") == ["no-store"]
        assert "planted" not in got["set-cookie"]
    assert not [name for name in got if name.startswith("access-control-")]
    assert "server" not in got
    kind = got.get("content-type", "")
    if not path.startswith("/bff/") and answer.status_code == 200 and not kind.startswith("text/html"):
        assert "coatcheck-error" not in got
        if path.startswith("/r/"):
            assert got["vary"] == "Cookie"
        return  # the application's own, or the remote API's
    framed = path in FRAMED and answer.status_code == 200
    frame_options, ancestors = FRAMED[path] if framed else ("DENY", "'none'")
    assert {name: got.get(name) for name in PRIVATE} == {**PRIVATE, "x-frame-options": frame_options}
    policy = got["content-security-policy"].split("; ")
    assert {"default-src 'none'", f"frame-ancestors {ancestors}", "base-uri 'none'", "form-action 'none'"} <= set(
        policy
    )
    assert "unsafe" not in str(policy) and ("script" in str(policy)) == (framed and path == SCRIPTED)
    if answer.status_code >= 400 and "refresh" not in answer.text:
        assert got["coatcheck-error"]
    shown = kind.startswith("text/html") and "http-equiv" not in answer.text and not framed
    assert got.get("cross-origin-opener-policy") == ("same-origin" if shown else None)
    assert ("permissions-policy" in got) == shown
    stream = ("text/event-stream",) if path == "/bff/events" else ()
    script = ("text/javascript; charset=utf-8",) if path == "/bff/session.js" else ()
    assert kind in (
        ("text/html; charset=utf-8",) if shown else ("", "text/html; charset=utf-8", *JSON, *stream, *script)
    )
    if answer.text.startswith(("{", "[")):
        assert kind in JSON


JSON = ("application/json", "application/problem+json")


@pytest.mark.spec("HDR-01", "CSR-08")
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_other_method_and_path_of_ours_is_refused_with_the_same_headers(mode: Mode) -> None:
    with running(mode) as (w, _):
        cookie = w.logged_in().cookies.header(httpx2.URL(w.public_url), initiator=None)
        loads = w.store.loads
        known = served(w)
        paths = {path for _, path in TABLE if path.startswith("/bff/")} | {"/bff/nothing", "/bff/", "/bff/user/more"}
        for path in sorted(paths):
            for verb in (*VERBS, "HEAD", "PUT", "DELETE", "TRACE", "PROPFIND"):
                if (verb, path) in known:
                    continue
                answer = ask(w, verb, path, OWN_SCRIPT, cookie=cookie)
                expected = 405 if any(path == other for _, other in known) else 404
                assert (verb, path, answer.status_code) == (verb, path, expected)
                check_headers(answer, path, secure=mode.secure)
        for path in ("//x", "/bff/../bff/user", "/%2e/bff/user"):
            request = httpx2.Request("GET", w.public_url, headers=OWN_SCRIPT, extensions={"target": path.encode()})
            answer = w.transport.handle_request(request)
            assert answer.status_code == 400
            check_headers(answer, "/bff/", secure=mode.secure)
        assert w.store.loads == loads


def test_only_an_endpoint_that_is_registered_so_is_exempt_from_the_check() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["coatcheck"].exempt()

    with world(app=application) as w, pytest.raises(RuntimeError, match="not exempt"):
        w.browser().fetch("/")
