"""The wire on real servers: one framing, streams without delay, connections that end when they must."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.bff.raw_upstream import Seen, raw_upstream
from tests.bff.served_bff import SERVERS, ServedBFF, ServerName, served

pytestmark = pytest.mark.parametrize("server", SERVERS)

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def never(_: Seen, __: asyncio.StreamWriter) -> bool:
    await asyncio.Event().wait()
    return False


# Framing


@pytest.mark.spec("PRX-14")
async def test_bodies_are_framed_anew(server: ServerName) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        await bff.ask(b"POST /api/orders HTTP/1.1", b"content-length: 3", body=b"abc")
        chunked = b"2;ext=1\r\nab\r\n1\r\nc\r\n0\r\nx-trailer: 1\r\n\r\n"
        await bff.ask(b"POST /api/orders HTTP/1.1", b"transfer-encoding: chunked", body=chunked)
        await bff.ask(b"POST /api/orders HTTP/1.1", b"content-length: 0")
        await bff.ask(b"POST /api/orders HTTP/1.1")
        big = bytes(range(256)) * 1024
        await bff.ask(b"PUT /api/orders HTTP/1.1", b"content-length: %d" % len(big), body=big)
        framings = [(s.body, s.all(b"content-length"), s.all(b"transfer-encoding")) for s in upstream.requests]
        assert framings == [
            (b"abc", [b"3"], []),
            (b"abc", [], [b"chunked"]),
            (b"", [b"0"], []),
            (b"", [], []),
            (big, [b"%d" % len(big)], []),
        ]
        assert all(b"x-trailer" not in seen.head and b"ext" not in seen.body for seen in upstream.requests)


@pytest.mark.spec("PRX-13", "PRX-14")
@pytest.mark.parametrize(
    "lines",
    [
        (b"content-length: 5", b"transfer-encoding: chunked"),
        (b"transfer-encoding: chunked", b"content-length: 5"),
        (b"content-length: 5", b"content-length: 6"),
        (b"content-length: +5",),
        (b"content-length: 5, 6",),
        (b"content-length : 5",),
        (b"transfer-encoding: xchunked",),
        (b"transfer-encoding: chunked, identity",),
        (b"transfer-encoding : chunked",),
    ],
)
async def test_smuggling_one_request_is_never_two(server: ServerName, lines: tuple[bytes, ...]) -> None:
    smuggled = b"0\r\n\r\nGET /api/orders/smuggled HTTP/1.1\r\nhost: shop.example\r\nx-csrf: 1\r\n\r\n"
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        answer = await bff.send(bff.head(b"POST /api/orders HTTP/1.1", *lines) + smuggled)
        # Both lengths at once: granian drops content-length, as it may, and closes after the answer, as it must.
        assert answer.closed
        assert answer.status == 400 or (server == "granian" and len(lines) == 2)
        assert answer.body.count(b"HTTP/1.1") == 0
        assert [seen.target for seen in upstream.requests] == ([] if answer.status == 400 else [b"/"])


@pytest.mark.spec("PRX-36")
async def test_expect_is_answered_in_front_and_trailers_end_there(server: ServerName) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        reader, writer = await bff.connect()
        writer.write(bff.head(b"POST /api/orders HTTP/1.1", b"expect: 100-continue", b"content-length: 2"))
        line = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert line.startswith(b"HTTP/1.1 100")
        writer.write(b"ab")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 200")
        writer.close()
        assert (upstream.requests[0].body, upstream.requests[0].all(b"expect")) == (b"ab", [])


@pytest.mark.parametrize(
    ("method", "head", "length"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", [b"1000"]),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", []),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\netag: x\r\n\r\n", []),
    ],
)
async def test_an_answer_without_a_body_leaves_the_connection_usable(
    server: ServerName, method: bytes, head: bytes, length: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(head)
        return True

    async with raw_upstream(answer) as upstream, served(server, upstream.url) as bff:
        reader, writer = await bff.connect()
        for _ in range(2):
            writer.write(bff.head(method + b" /api/orders HTTP/1.1"))
            got = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert got.split(b" ")[1] == head.split(b" ")[1]
            lines = [
                line.partition(b": ")[2] for line in got.split(b"\r\n") if line.lower().startswith(b"content-length")
            ]
            assert lines == length
            assert [line.lower()[:5] for line in got.split(b"\r\n")].count(b"date:") <= 1
        writer.close()
        assert upstream.connections == 1
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# Streams


async def open_stream(bff: ServedBFF) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await bff.connect()
    writer.write(bff.head(b"GET /api/orders HTTP/1.1"))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert b"200" in head and b"chunked" in head.lower()
    return reader, writer


async def test_an_event_arrives_within_milliseconds(server: ServerName) -> None:
    sent_at: list[float] = []
    next_event: asyncio.Queue[None] = asyncio.Queue()

    async def events(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(EVENTS)
        while True:
            await next_event.get()
            sent_at.append(time.perf_counter())
            writer.write(b"9\r\ndata: 1\n\n\r\n")

    async with raw_upstream(events) as upstream, served(server, upstream.url) as bff:
        reader, writer = await open_stream(bff)
        delays = []
        for _ in range(10):
            next_event.put_nowait(None)
            await asyncio.wait_for(reader.readuntil(b"data: 1\n\n\r\n"), 5)
            delays.append(time.perf_counter() - sent_at[-1])
        writer.close()
        await writer.wait_closed()
        assert sorted(delays)[5] < 0.25, delays  # milliseconds on a quiet machine; held back, it would never come


@pytest.mark.spec("PRX-27")
async def test_a_browser_that_leaves_a_stream_closes_the_call_behind_it(server: ServerName) -> None:
    async def first_then_silent(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(EVENTS + b"1\r\nx\r\n")
        return await never(seen, writer)

    async with raw_upstream(first_then_silent) as upstream, served(server, upstream.url) as bff:
        reader, writer = await open_stream(bff)
        await asyncio.wait_for(reader.readuntil(b"x"), 5)
        writer.close()
        await asyncio.wait_for(upstream.closed.wait(), 3)


@pytest.mark.spec("PRX-27")
async def test_a_browser_that_leaves_its_upload_closes_the_call_behind_it(server: ServerName) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        _, writer = await bff.connect()
        writer.write(bff.head(b"POST /api/orders HTTP/1.1", b"content-length: 1000000") + b"x" * 70_000)
        await asyncio.wait_for(upstream.arrived.wait(), 5)
        writer.close()
        await asyncio.wait_for(upstream.closed.wait(), 3)


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize(
    "framing", [b"content-length: 10\r\n\r\nhalf", b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
async def test_an_answer_that_breaks_off_is_seen_to_break_off(server: ServerName, framing: bytes) -> None:
    async with raw_upstream(b"HTTP/1.1 200 OK\r\n" + framing) as upstream, served(server, upstream.url) as bff:
        answer = await bff.send(bff.head(b"GET /api/orders HTTP/1.1"))
        assert answer.closed
        assert b"half" in answer.body
        assert b"0\r\n\r\n" not in answer.body


@pytest.mark.spec("PRX-08", "PRX-34")
async def test_a_failing_remote_api_is_a_problem_document(server: ServerName) -> None:
    async with raw_upstream(b"nonsense\r\n\r\n") as upstream, served(server, upstream.url) as bff:
        answer = await bff.ask(b"GET /api/orders HTTP/1.1")
        assert (answer.status, answer.all(b"content-type")) == (502, [b"application/problem+json"])
        assert b"127.0.0.1" not in answer.head + answer.body
