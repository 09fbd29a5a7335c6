"""HTTP Strict Transport Security: which answers say it, and what it says. The other lines: see `test_inventory.py`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coatcheck import ConfigurationError
from coatcheck.bff.answers import Answer
from coatcheck.bff.own_headers import hsts_header
from coatcheck.bff.public_url import parse_public_url
from tests.bff.world import PUBLIC, world

HSTS = "strict-transport-security"


def value(policy: Any, public_url: str = PUBLIC) -> bytes | None:
    return dict(hsts_header(policy, parse_public_url(public_url))).get(HSTS.encode())


@pytest.mark.spec("HDR-06")
@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (timedelta(days=30), b"max-age=2592000"),
        (timedelta(seconds=1.5), b"max-age=1"),
        (timedelta(0), b"max-age=0"),
        ("max-age=63072000; includeSubDomains; preload", b"max-age=63072000; includeSubDomains; preload"),
        (None, None),
    ],
)
def test_what_browsers_are_told(policy: timedelta | str | None, said: bytes | None) -> None:
    assert value(policy) == said


@pytest.mark.spec("HDR-06")
@pytest.mark.parametrize(
    "public_url", ["http://localhost:8000", "https://localhost", "https://127.0.0.1:8443", "https://shop.localhost"]
)
def test_never_on_this_machine_where_others_live_on_other_ports(public_url: str) -> None:
    assert value(timedelta(days=30), public_url) is None


@pytest.mark.parametrize(
    "policy",
    ["30d", "", "max-age=", "max-age=1\r\nx: y", "includeSubDomains", timedelta(-1), 30, True, "max-age=\u0661"],
)
def test_anything_else_is_refused_before_it_is_served(policy: Any) -> None:
    for public_url in (PUBLIC, "http://localhost"):
        with pytest.raises(ConfigurationError, match=r"^hsts: .*includeSubDomains"):
            value(policy, public_url)


@pytest.mark.spec("HDR-06")
def test_what_the_application_says_itself_stands() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        own = ((b"Strict-Transport-Security", b"max-age=5"),) if scope["path"] == "/own" else ()
        await Answer(200, own)(scope, receive, send)

    with world(public_url=PUBLIC, app=application) as w:
        assert w.browser().fetch("/").headers.get_list(HSTS) == ["max-age=2592000"]
        assert w.browser().fetch("/own").headers.get_list(HSTS) == ["max-age=5"]


def test_an_answer_that_an_application_sends_again_and_again_is_not_changed() -> None:
    start = {"type": "http.response.start", "status": 200, "headers": ()}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    with world(public_url=PUBLIC, app=application) as w:
        assert w.browser().fetch("/").headers.get_list(HSTS) == ["max-age=2592000"]
    assert start["headers"] == ()


@pytest.mark.spec("HDR-06")
def test_it_can_be_changed_and_switched_off() -> None:
    with world(public_url=PUBLIC, hsts=None) as w:
        assert not [
            answer for answer in (w.browser().fetch("/"), w.logged_in().fetch("/bff/user")) if HSTS in answer.headers
        ]
    with world(public_url=PUBLIC, hsts="max-age=63072000; includeSubDomains") as w:
        assert w.browser().fetch("/bff/user").headers[HSTS] == "max-age=63072000; includeSubDomains"
