"""When a remote API fails, or its configuration does."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from coatcheck.errors import (
    ConfigurationError,
)
from tests.bff.proxy_rig import route
from tests.bff.raw_upstream import Seen, raw_upstream

ANYTHING = "/api/orders/1?a=b"


# Failures of the remote API


@pytest.mark.spec("PRX-34")
async def test_a_remote_api_that_cannot_be_reached_is_502(caplog: pytest.LogCaptureFixture) -> None:
    async with raw_upstream() as upstream:
        url = upstream.url
    async with route(url) as rig:
        browser = await rig.call("GET", "/api/orders?q=hidden")
        assert (browser.status, browser.code) == (502, "upstream_unreachable")
        assert url.rpartition(":")[2].encode() not in browser.answer
        assert all(b"127.0.0.1" not in value for _, value in browser.headers)
    [line] = [record for record in caplog.records if record.name == "coatcheck"]
    assert url in line.getMessage() and "Check that it runs" in line.getMessage()
    assert "hidden" not in line.getMessage()


@pytest.mark.spec("PRX-34")
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 999 Who Knows\r\ncontent-length: 2\r\n\r\n{}",  # servers break off over what no table of theirs has
        b"HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2,\r\n\r\n{}",
    ],
)
async def test_a_remote_api_that_does_not_speak_http_is_502(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with raw_upstream(answer) as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", ANYTHING)
        assert (browser.status, browser.code) == (502, "upstream_unreachable")
        assert len(upstream.requests) == 1
    assert len([record for record in caplog.records if record.name == "coatcheck"]) == 1


async def never(_: Seen, __: asyncio.StreamWriter) -> bool:
    await asyncio.Event().wait()
    return False


@pytest.mark.spec("PRX-34", "PRX-27")
async def test_a_remote_api_that_stays_silent_is_504(caplog: pytest.LogCaptureFixture) -> None:
    async with raw_upstream(never) as upstream, route(upstream.url, timeout=timedelta(milliseconds=300)) as rig:
        browser = await rig.call("GET", ANYTHING)
        assert (browser.status, browser.code) == (504, "upstream_timeout")
        await asyncio.wait_for(upstream.closed.wait(), 5)
    [line] = [record for record in caplog.records if record.name == "coatcheck"]
    assert "(0.3 s)" in line.getMessage()


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_never_brought_to_an_end(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw_upstream(answer) as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", ANYTHING)
        assert (browser.status, browser.answer, browser.whole) == (200, b"half", False)
    [line] = [record for record in caplog.records if record.name == "coatcheck"]
    assert "After the answer had begun" in line.getMessage()


# Configuration


@pytest.mark.spec("PRX-23", "PRX-01")
@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://orders.example", "in clear"),
        ("ftp://orders.example", "http"),
        ("orders.example", "http"),
        ("https://", "http"),
        ("https://user:pw@orders.example", "without user"),
        ("https://orders.example/?a=b", "query"),
        ("https://orders.example/?", "query"),
        ("https://orders.example/#a", "fragment"),
        ("https://orders.example/../x", "plain path"),
        ("https://orders.example//x", "plain path"),
        ("https://orders.example/%61", "plain path"),
        ("https://orders.example:port", "no URL"),
        ("https://[::1", "no URL"),
    ],
)
async def test_a_url_that_could_mean_another_server_stops_the_start(url: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as caught:
        async with route(url):
            pass
    assert "user:pw" not in str(caught.value)


@pytest.mark.parametrize("token", ["user", "none"])
async def test_anonymous_has_to_make_sense(token: str) -> None:
    with pytest.raises(ConfigurationError, match="anonymous"):
        async with route("https://orders.example", token=token, anonymous=True):
            pass


async def test_an_unknown_token_type_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="user_or_client"):
        async with route("https://orders.example", token="usr"):
            pass


async def test_a_timeout_is_longer_than_zero() -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        async with route("https://orders.example", timeout=timedelta(0)):
            pass
