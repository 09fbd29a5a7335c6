"""The HTTP client of the data plane, on real sockets: what it sends, what it reports, and what it must never do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import pytest

from coatcheck.bff.forwarder import (
    PyreqwestForwarder,
    RequestNotSendable,
    UpstreamProtocolError,
    UpstreamResponse,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from coatcheck.errors import ConfigurationError
from tests.bff.certificates import make_certificates
from tests.bff.raw_upstream import OK, Seen, raw_upstream

SECOND = timedelta(seconds=5)
SHORT = timedelta(milliseconds=300)


async def send(
    forwarder: PyreqwestForwarder,
    url: str,
    *,
    method: str = "GET",
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes | AsyncIterator[bytes] | None = None,
    timeout: timedelta = SECOND,
) -> UpstreamResponse:
    return await forwarder.send(method, url, headers, body, timeout=timeout)


async def fetch(forwarder: PyreqwestForwarder, url: str, **options: object) -> tuple[int, list[tuple[str, str]], bytes]:
    response = await send(forwarder, url, **options)  # type: ignore[arg-type]
    try:
        body = b""
        while (piece := await response.read()) is not None:
            body += piece
        return response.status, list(response.headers()), body
    finally:
        await response.aclose()


async def test_a_request_goes_out_as_it_was_given_and_the_answer_comes_back() -> None:
    async with raw_upstream() as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        lines = (("accept", "a"), ("x-name", "Zoë"), ("accept", "b"))
        status, headers, body = await fetch(forwarder, upstream.url + "/a%20b?c=d", headers=lines)
        assert (status, body) == (200, b"{}")
        assert ("content-type", "application/json") in headers
        seen = upstream.requests[0]
        assert seen.request_line == b"GET /a%20b?c=d HTTP/1.1"
        assert seen.all(b"accept") == [b"a", b"b"]
        assert seen.all(b"x-name") == ["Zoë".encode()]
        assert seen.all(b"host") == [upstream.url.removeprefix("http://").encode()]
        assert seen.all(b"accept-encoding") == []
        assert seen.all(b"user-agent") == [b"coatcheck"]


async def test_one_connection_serves_one_request_after_another() -> None:
    async with raw_upstream() as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        for _ in range(3):
            response = await send(forwarder, upstream.url)
            assert await response.read() == b"{}"
            await response.aclose()  # the last piece is read, its end is not
        assert upstream.connections == 1


@pytest.mark.spec("PRX-17")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_the_token_reaches_no_other_host(status: int) -> None:
    async with raw_upstream() as other, aclosing(PyreqwestForwarder()) as forwarder:
        answer = b"HTTP/1.1 %d Go\r\nlocation: %s/x\r\ncontent-length: 0\r\n\r\n" % (status, other.url.encode())
        async with raw_upstream(answer) as upstream:
            got, headers, _ = await fetch(forwarder, upstream.url, headers=(("authorization", "Bearer t"),))
            assert (got, dict(headers)["location"]) == (status, other.url + "/x")
        assert other.requests == []


@pytest.mark.spec("PRX-18")
async def test_a_cookie_or_header_of_one_call_never_shows_up_in_another() -> None:
    answer = b"HTTP/1.1 200 OK\r\nset-cookie: a=1; path=/\r\ncontent-length: 0\r\n\r\n"

    async def keep_alive(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer)
        return True

    async with raw_upstream(keep_alive) as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        await fetch(forwarder, upstream.url + "/first", headers=(("authorization", "Bearer alice"), ("x-own", "1")))
        await fetch(forwarder, upstream.url + "/second")
        assert upstream.connections == 1
        names = {name for name, _ in upstream.requests[1].lines}
        assert names == {b"host", b"accept", b"user-agent"}


@pytest.mark.spec("PRX-19")
async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_upstream() as proxy, raw_upstream() as upstream:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with aclosing(PyreqwestForwarder()) as forwarder:
            await fetch(forwarder, upstream.url)
        assert (len(proxy.requests), len(upstream.requests)) == (0, 1)


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize(("body", "length"), [(None, []), (b"", [b"0"]), (b"abc", [b"3"])])
async def test_a_known_body_has_one_length(body: bytes | None, length: list[bytes]) -> None:
    async with raw_upstream() as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        lines = () if body is None else (("content-length", str(len(body))),)
        await fetch(forwarder, upstream.url, method="POST", body=body, headers=lines)
        seen = upstream.requests[0]
        assert seen.all(b"content-length") == length
        assert seen.all(b"transfer-encoding") == []
        assert seen.body == (body or b"")


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.spec("PRX-14")
async def test_a_coming_body_is_chunked_or_keeps_its_announced_length_never_both() -> None:
    async with raw_upstream() as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        await fetch(forwarder, upstream.url, method="POST", body=pieces(b"ab", b"c"))
        await fetch(
            forwarder, upstream.url, method="POST", body=pieces(b"ab", b"c"), headers=(("content-length", "3"),)
        )
        first, second = upstream.requests
        assert (first.all(b"transfer-encoding"), first.all(b"content-length")) == ([b"chunked"], [])
        assert (second.all(b"transfer-encoding"), second.all(b"content-length")) == ([], [b"3"])
        assert first.body == second.body == b"abc"


@pytest.mark.spec("PRX-14")
async def test_a_body_shorter_than_announced_breaks_the_connection_off() -> None:
    async with raw_upstream() as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        with pytest.raises(UpstreamProtocolError):
            await fetch(forwarder, upstream.url, method="POST", body=pieces(b"ab"), headers=(("content-length", "3"),))
        await asyncio.wait_for(upstream.closed.wait(), 5)
        await fetch(forwarder, upstream.url)
        assert upstream.requests[-1].connection == 2


async def test_what_a_coming_body_raises_comes_back_as_itself_and_closes_the_connection() -> None:
    class Gone(Exception):
        pass

    async def leaving() -> AsyncIterator[bytes]:
        yield b"ab"
        await asyncio.wait_for(upstream.arrived.wait(), 5)
        raise Gone

    async with raw_upstream() as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        with pytest.raises(Gone):
            await send(forwarder, upstream.url, method="POST", body=leaving())
        await asyncio.wait_for(upstream.closed.wait(), 5)


async def test_the_head_is_delivered_before_the_body_has_begun() -> None:
    go_on = asyncio.Event()

    async def slow(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await go_on.wait()
        writer.write(b"4\r\nping\r\n")
        await go_on.wait()
        writer.write(b"0\r\n\r\n")
        return True

    async with raw_upstream(slow) as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        response = await send(forwarder, upstream.url)
        assert response.status == 200
        go_on.set()
        assert await response.read() == b"ping"
        await response.aclose()


@pytest.mark.spec("PRX-28")
async def test_compressed_bytes_stay_compressed() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x00\xff"
    async with raw_upstream(answer) as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        _, headers, body = await fetch(forwarder, upstream.url, headers=(("accept-encoding", "gzip"),))
        assert (dict(headers)["content-encoding"], body) == ("gzip", b"\x1f\x8b\x00\xff")


async def test_a_header_that_is_not_ascii_is_left_out_and_harms_no_other() -> None:
    answer = b"HTTP/1.1 200 OK\r\nx-a: 1\r\nx-bad: caf\xc3\xa9\r\nx-a: 2\r\ncontent-length: 0\r\n\r\n"
    async with raw_upstream(answer) as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        _, headers, _ = await fetch(forwarder, upstream.url)
        assert headers == [("x-a", "1"), ("x-a", "2"), ("content-length", "0")]


@pytest.mark.spec("PRX-34")
async def test_a_refused_connection_certainly_sent_nothing() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/path?secret=1"
        async with aclosing(PyreqwestForwarder()) as forwarder:
            with pytest.raises(UpstreamUnreachable) as caught:
                await send(forwarder, url)
    assert caught.value.sent is False
    assert "refused" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_an_unknown_name_certainly_sent_nothing() -> None:
    async with aclosing(PyreqwestForwarder()) as forwarder:
        with pytest.raises(UpstreamUnreachable) as caught:
            await send(forwarder, "http://nowhere.invalid/?secret=1")
    assert caught.value.sent is False
    assert "secret" not in str(caught.value)


async def test_a_certificate_that_nobody_vouches_for_certainly_sent_nothing(tmp_path: Path) -> None:
    certificates = make_certificates()
    async with raw_upstream(tls=certificates.server_context(tmp_path)) as upstream:
        async with aclosing(PyreqwestForwarder()) as forwarder:
            with pytest.raises(UpstreamUnreachable) as caught:
                await send(forwarder, upstream.url + "/?secret=1")
        assert caught.value.sent is False
        assert "certificate" in str(caught.value)
        assert "secret" not in str(caught.value)
        async with aclosing(PyreqwestForwarder(ca_pem=certificates.ca)) as forwarder:
            assert (await fetch(forwarder, upstream.url))[0] == 200
        assert len(upstream.requests) == 1


async def test_a_client_certificate_is_shown_to_a_server_that_asks(tmp_path: Path) -> None:
    certificates = make_certificates()
    context = certificates.server_context(tmp_path, ask_for_client=True)
    async with raw_upstream(tls=context) as upstream:
        async with aclosing(PyreqwestForwarder(ca_pem=certificates.ca)) as forwarder:
            with pytest.raises((UpstreamUnreachable, UpstreamProtocolError)):
                await fetch(forwarder, upstream.url)
        async with aclosing(PyreqwestForwarder(ca_pem=certificates.ca, identity_pem=certificates.client)) as forwarder:
            assert (await fetch(forwarder, upstream.url))[0] == 200


async def test_a_connection_closed_without_an_answer_may_have_been_a_request() -> None:
    async with raw_upstream(b"") as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        with pytest.raises(UpstreamUnreachable) as caught:
            await send(forwarder, upstream.url + "/?secret=1")
        assert len(upstream.requests) == 1
    assert caught.value.sent is True
    assert "secret" not in str(caught.value)


async def silent(_: Seen, __: asyncio.StreamWriter) -> bool:
    await asyncio.Event().wait()
    return False


async def test_silence_before_the_head_ends_with_the_time_out_and_closes_the_connection() -> None:
    async with raw_upstream(silent) as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        with pytest.raises(UpstreamTimeout):
            await send(forwarder, upstream.url, timeout=SHORT)
        await asyncio.wait_for(upstream.closed.wait(), 5)


async def test_a_cancelled_request_ends_at_the_latest_with_its_time_out() -> None:
    """Known: cancelling before the head does not reach the remote API. The time-out that each request carries does."""
    async with raw_upstream(silent) as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        call = asyncio.ensure_future(send(forwarder, upstream.url, timeout=SHORT))
        await asyncio.wait_for(upstream.arrived.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(upstream.closed.wait(), 5)


async def test_silence_within_the_body_is_a_time_out_too() -> None:
    async def half(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        return await silent(_, writer)

    async with raw_upstream(half) as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        response = await send(forwarder, upstream.url, timeout=SHORT)
        assert await response.read() == b"half"
        with pytest.raises(UpstreamTimeout):
            await response.read()
        await response.aclose()


@pytest.mark.spec("PRX-15")
@pytest.mark.parametrize(
    "answer",
    [
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_protocol_error(answer: bytes) -> None:
    async with raw_upstream(answer) as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        with pytest.raises(UpstreamProtocolError):
            await fetch(forwarder, upstream.url)


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ],
)
async def test_a_body_that_breaks_off_is_an_error_after_what_had_come(answer: bytes) -> None:
    async with raw_upstream(answer) as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        response = await send(forwarder, upstream.url)
        assert await response.read() == b"half"
        with pytest.raises((UpstreamUnreachable, UpstreamProtocolError)):
            await response.read()
        await response.aclose()


@pytest.mark.spec("PRX-16")
@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\x00", "a\x01b"])
async def test_a_header_with_a_line_break_is_not_sent(value: str) -> None:
    async with raw_upstream() as upstream, aclosing(PyreqwestForwarder()) as forwarder:
        with pytest.raises(RequestNotSendable) as caught:
            await send(forwarder, upstream.url, headers=(("x-a", value),))
        assert upstream.requests == []
    assert value not in str(caught.value)


async def test_only_so_many_requests_run_at_once_and_the_others_wait_their_turn() -> None:
    release = asyncio.Event()

    async def when_released(_: Seen, writer: asyncio.StreamWriter) -> bool:
        await release.wait()
        writer.write(OK)
        return True

    async with raw_upstream(when_released) as upstream, aclosing(PyreqwestForwarder(max_in_flight=2)) as forwarder:
        calls = [asyncio.ensure_future(fetch(forwarder, upstream.url)) for _ in range(5)]
        late = asyncio.ensure_future(fetch(forwarder, upstream.url, timeout=SHORT))
        with pytest.raises(UpstreamTimeout, match="busy"):
            await late
        assert len(upstream.requests) == 2
        release.set()
        assert [status for status, _, _ in await asyncio.gather(*calls)] == [200] * 5


async def test_a_failed_or_cancelled_request_gives_its_turn_back() -> None:
    async with (
        raw_upstream(silent) as mute,
        raw_upstream() as upstream,
        aclosing(PyreqwestForwarder(max_in_flight=1)) as forwarder,
    ):
        with pytest.raises(UpstreamTimeout):
            await send(forwarder, mute.url, timeout=SHORT)
        with pytest.raises(RequestNotSendable):
            await send(forwarder, upstream.url, method="BAD METHOD")
        cancelled = asyncio.ensure_future(send(forwarder, mute.url))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        response = await send(forwarder, upstream.url)
        await response.aclose()
        await response.aclose()  # twice is once
        assert (await fetch(forwarder, upstream.url))[0] == 200


def test_each_event_loop_has_connections_of_its_own() -> None:
    forwarder = PyreqwestForwarder()

    async def once() -> int:
        async with raw_upstream() as upstream:
            status, _, _ = await fetch(forwarder, upstream.url)
            await forwarder.aclose()
            return status

    assert [asyncio.run(once()) for _ in range(3)] == [200, 200, 200]


async def test_after_closing_it_opens_again() -> None:
    async with raw_upstream() as upstream:
        forwarder = PyreqwestForwarder()
        await fetch(forwarder, upstream.url)
        await forwarder.aclose()
        await fetch(forwarder, upstream.url)
        await forwarder.aclose()
        assert upstream.connections == 2


@pytest.mark.spec("PRX-02")
def test_the_target_is_what_the_client_will_make_of_a_url() -> None:
    forwarder = PyreqwestForwarder()
    assert forwarder.target("https://api.example.com") == "https://api.example.com/"
    assert forwarder.target("https://API.example.com:443/a?b=c#d") == "https://api.example.com/a?b=c"
    assert forwarder.target("https://api.example.com/a/../b") == "https://api.example.com/b"


@pytest.mark.parametrize("pem", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"])
def test_a_wrong_certificate_stops_the_start(pem: bytes) -> None:
    with pytest.raises(ConfigurationError, match="certificate"):
        PyreqwestForwarder(identity_pem=pem)
