"""Streaming both ways, at the pace of the slower side; and what happens when either side leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from coatcheck.bff import relay
from tests.bff.proxy_rig import OURS, Line, route
from tests.bff.raw_upstream import RawUpstream, Seen, raw_upstream

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BIG = relay.BUFFERED_BODY + 1


def length(size: int) -> tuple[Line, ...]:
    return (*OURS, (b"content-length", str(size).encode()))


CHUNKED_BODY: tuple[Line, ...] = (*OURS, (b"transfer-encoding", b"chunked"))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture(autouse=True)
def watch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch begins a quarter of a second late; nobody here waits for that."""
    monkeypatch.setattr(relay, "WATCH_AFTER", 0.01)


# Down


async def test_each_piece_of_an_answer_arrives_before_the_next_is_sent() -> None:
    turn: asyncio.Queue[bytes] = asyncio.Queue()

    async def one_by_one(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(EVENTS)
        while data := await turn.get():
            writer.write(chunk(data))
        writer.write(b"0\r\n\r\n")
        return True

    async with raw_upstream(one_by_one) as upstream, route(upstream.url) as rig:
        browser, call = rig.begin("GET", "/api/orders")
        await asyncio.wait_for(browser.started.wait(), 5)
        assert browser.sent[1:] == []
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            turn.put_nowait(event)
            assert await asyncio.wait_for(browser.got.get(), 5) == event
        turn.put_nowait(b"")
        await asyncio.wait_for(call, 5)
        assert browser.whole


async def test_a_large_answer_comes_whole_and_in_pieces() -> None:
    body = bytes(range(256)) * 12_000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    async with raw_upstream(answer) as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", "/api/orders")
        assert browser.answer == body
        assert browser.whole
        assert len(browser.sent) > 3


@pytest.mark.spec("PRX-28")
async def test_a_slow_reader_slows_the_remote_api_down() -> None:
    """Back-pressure: what the browser does not take is not piled up here."""
    total = 64 * 1024 * 1024
    written = 0
    stuck = asyncio.Event()

    async def pours(_: Seen, writer: asyncio.StreamWriter) -> bool:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while written < total:
            writer.write(bytes(1024 * 1024))
            try:
                await asyncio.wait_for(asyncio.shield(writer.drain()), 0.3)
            except TimeoutError:
                stuck.set()
                await writer.drain()
            written += 1024 * 1024
        return True

    async with raw_upstream(pours) as upstream, route(upstream.url) as rig:
        browser, call = rig.begin("GET", "/api/orders")
        browser.takes.clear()
        await asyncio.wait_for(stuck.wait(), 20)
        assert written < total / 2
        browser.takes.set()
        await asyncio.wait_for(call, 60)
        assert sum(len(message["body"]) for message in browser.sent[1:]) == total


# Up


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize(
    ("headers", "body", "framing"),
    [
        (OURS, (), (b"", [], [])),
        (length(0), (b"",), (b"", [b"0"], [])),
        (length(6), (b"abc", b"", b"def"), (b"abcdef", [b"6"], [])),
        (CHUNKED_BODY, (b"abc", b"def"), (b"abcdef", [], [b"chunked"])),
        (CHUNKED_BODY, (b"",), (b"", [], [b"chunked"])),
        (length(BIG), (b"x" * 10, b"y" * (BIG - 10)), (b"x" * 10 + b"y" * (BIG - 10), [str(BIG).encode()], [])),
    ],
)
async def test_a_body_arrives_with_one_framing_made_here(
    headers: tuple[Line, ...], body: tuple[bytes, ...], framing: tuple[bytes, list[bytes], list[bytes]]
) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        assert (await rig.call("POST", "/api/orders", headers=headers, body=body)).status == 200
        [seen] = upstream.requests
        assert (seen.body, seen.all(b"content-length"), seen.all(b"transfer-encoding")) == framing


@pytest.mark.parametrize(
    ("body", "framing"),
    [((b"",), (b"", [], [])), ((b"abc",), (b"abc", [b"3"], [])), ((b"abc", b"def"), (b"abcdef", [], [b"chunked"]))],
)
async def test_from_http_2_on_a_body_needs_no_announcement(
    body: tuple[bytes, ...], framing: tuple[bytes, list[bytes], list[bytes]]
) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        await rig.call("POST", "/api/orders", body=body, scope={"http_version": "2"})
        [seen] = upstream.requests
        assert (seen.body, seen.all(b"content-length"), seen.all(b"transfer-encoding")) == framing


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize(("announced", "body"), [(5, (b"abc",)), (2, (b"abc",))])
async def test_a_small_body_of_another_length_is_refused_before_the_remote_api(
    announced: int, body: tuple[bytes, ...]
) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser = await rig.call("POST", "/api/orders", headers=length(announced), body=body)
        assert (browser.status, browser.code, upstream.connections) == (400, "body_incomplete", 0)


@pytest.mark.spec("PRX-14")
@pytest.mark.parametrize("size", [BIG - 1, BIG + 1])
async def test_a_streamed_body_of_another_length_breaks_the_connection_off(size: int) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser = await rig.call("POST", "/api/orders", headers=length(BIG), body=(b"x" * 100, b"y" * (size - 100)))
        assert (browser.status, browser.code) == (400, "body_incomplete")
        await asyncio.wait_for(upstream.closed.wait(), 5)
        assert (await rig.call("GET", "/api/orders")).status == 200
        assert upstream.requests[-1].connection == upstream.connections > 1 or upstream.connections == 1


@asynccontextmanager
async def early_answer() -> AsyncIterator[RawUpstream]:
    async def refuses(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
        await writer.drain()
        return False

    async with raw_upstream(refuses, read_body=False) as upstream:
        yield upstream


async def test_an_answer_may_come_before_the_body_is_through() -> None:
    async with early_answer() as upstream, route(upstream.url) as rig:
        browser = await rig.call("POST", "/api/orders", headers=length(BIG), body=(b"x" * 100,), stays_silent=True)
        assert (browser.status, browser.answer, browser.whole) == (413, b"big", True)


async def test_a_body_that_stops_coming_is_given_up_and_the_connection_closed() -> None:
    async with raw_upstream() as upstream, route(upstream.url, timeout=timedelta(milliseconds=300)) as rig:
        browser = await rig.call("POST", "/api/orders", headers=length(BIG), body=(b"x" * 100,), stays_silent=True)
        assert (browser.status, browser.code) == (400, "body_incomplete")
        await asyncio.wait_for(upstream.closed.wait(), 5)


@pytest.mark.spec("PRX-27")
async def test_a_small_body_that_stops_coming_holds_nothing_up_for_longer_than_the_route_waits() -> None:
    async with raw_upstream() as upstream, route(upstream.url, timeout=timedelta(milliseconds=300)) as rig:
        browser = await rig.call("POST", "/api/orders", headers=length(100), body=(b"x",), stays_silent=True)
        assert (browser.status, browser.code, upstream.connections) == (400, "body_incomplete", 0)


async def never(_: Seen, __: asyncio.StreamWriter) -> bool:
    await asyncio.Event().wait()
    return False


async def test_silence_after_an_upload_is_a_time_out() -> None:
    async with raw_upstream(never) as upstream, route(upstream.url, timeout=timedelta(milliseconds=300)) as rig:
        browser = await rig.call("POST", "/api/orders", headers=length(BIG), body=(b"x" * BIG,))
        assert (browser.status, browser.code) == (504, "upstream_timeout")


async def test_an_answer_to_an_upload_may_take_longer_than_the_time_out_in_all() -> None:
    """The time-out is for silence; each piece begins it anew."""

    async def drips(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(EVENTS)
        for _number in range(6):
            await asyncio.sleep(0.2)
            writer.write(chunk(b"tick"))
        writer.write(b"0\r\n\r\n")
        return True

    async with raw_upstream(drips) as upstream, route(upstream.url, timeout=timedelta(milliseconds=900)) as rig:
        browser = await rig.call("POST", "/api/orders", headers=length(BIG), body=(b"x" * BIG,))
        assert (browser.answer, browser.whole) == (b"tick" * 6, True)


async def test_silence_within_the_answer_to_an_upload_breaks_it_off() -> None:
    async def half(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(EVENTS + chunk(b"half"))
        return await never(seen, writer)

    async with raw_upstream(half) as upstream, route(upstream.url, timeout=timedelta(milliseconds=300)) as rig:
        browser = await rig.call("POST", "/api/orders", headers=length(BIG), body=(b"x" * BIG,))
        assert (browser.answer, browser.whole) == (b"half", False)
        await asyncio.wait_for(upstream.closed.wait(), 5)


# The browser leaves


@pytest.mark.spec("PRX-27")
async def test_a_browser_that_leaves_during_an_answer_closes_the_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "coatcheck")

    async def idle(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(EVENTS + chunk(b"first"))
        return await never(seen, writer)

    async with raw_upstream(idle) as upstream, route(upstream.url) as rig:
        browser, call = rig.begin("GET", "/api/orders")
        await asyncio.wait_for(browser.got.get(), 5)
        browser.leave()
        await asyncio.wait_for(call, 5)
        await asyncio.wait_for(upstream.closed.wait(), 5)
        assert not browser.whole
    assert caplog.records == []


@pytest.mark.spec("PRX-27")
async def test_a_browser_that_leaves_while_pieces_flow_closes_the_call() -> None:
    async def pours(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(EVENTS)
        while True:
            writer.write(chunk(b"x" * 1000))
            await writer.drain()
            await asyncio.sleep(0.001)

    async with raw_upstream(pours) as upstream, route(upstream.url) as rig:
        browser, call = rig.begin("GET", "/api/orders")
        await asyncio.wait_for(browser.got.get(), 5)
        browser.leave()
        await asyncio.wait_for(call, 5)
        await asyncio.wait_for(upstream.closed.wait(), 5)


@pytest.mark.spec("PRX-27")
async def test_a_browser_that_leaves_before_the_answer_ends_our_waiting_and_its_place_is_free() -> None:
    """The remote API itself hears of it at the latest when the time-out of the request is over."""
    async with raw_upstream(never) as upstream, route(upstream.url, timeout=timedelta(seconds=2)) as rig:
        browser, call = rig.begin("GET", "/api/orders")
        await asyncio.wait_for(upstream.arrived.wait(), 5)
        browser.leave()
        await asyncio.wait_for(call, 1.8)
        assert browser.sent == []
        await asyncio.wait_for(upstream.closed.wait(), 5)


@pytest.mark.spec("PRX-27")
@pytest.mark.parametrize("headers", [length(100), length(BIG), CHUNKED_BODY])
async def test_a_browser_that_leaves_during_its_upload_closes_the_call(headers: tuple[Line, ...]) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser, call = rig.begin("POST", "/api/orders", headers=headers, body=(b"x" * 10,), stays_silent=True)
        streamed = headers != length(100)
        if streamed:
            await asyncio.wait_for(upstream.arrived.wait(), 5)
        browser.leave()
        await asyncio.wait_for(call, 5)
        assert browser.sent == []
        if streamed:
            await asyncio.wait_for(upstream.closed.wait(), 5)
        else:
            assert upstream.connections == 0


@pytest.mark.spec("PRX-27")
async def test_a_browser_that_leaves_after_its_upload_ends_the_call() -> None:
    async with raw_upstream(never) as upstream, route(upstream.url) as rig:
        browser, call = rig.begin("POST", "/api/orders", headers=length(BIG), body=(b"x" * BIG,))
        await asyncio.wait_for(upstream.arrived.wait(), 5)
        browser.leave()
        await asyncio.wait_for(call, 5)
        assert browser.sent == []


async def test_a_server_that_shuts_down_may_cancel_the_call() -> None:
    async with raw_upstream(never) as upstream, route(upstream.url, timeout=timedelta(seconds=1)) as rig:
        _, call = rig.begin("GET", "/api/orders")
        await asyncio.wait_for(upstream.arrived.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_quick_exchange_is_never_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "WATCH_AFTER", 30.0)
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        await rig.call("GET", "/api/orders")  # opens the client
        before = asyncio.all_tasks()
        browser = await rig.call("GET", "/api/orders")
        assert browser.status == 200
        assert browser.pieces_taken == 0  # nobody asked the browser for anything
        assert not {task for task in asyncio.all_tasks() - before if "relay" in repr(task)}
