"""Answers of a token endpoint that are too long, too slow or no JSON object: an outage, and nothing worse."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.errors import TokenUnavailable
from coatcheck.oauth.messages import Request, Response
from coatcheck.tokens import UserToken
from coatcheck.transport import MAX_BODY, BackChannel
from tests.loopback import Answer, answering, never, serving
from tests.tokens.scene import CLIENT, LIFETIME, STALE, Browser, Scene
from tests.tokens.token_service import ISSUER

MEGABYTE = 1_000_000
TOKEN = {"access_token": "a", "token_type": "Bearer", "expires_in": 300, "refresh_token": "next"}
GOOD = json.dumps(TOKEN).encode()
JSON = "content-type: application/json"


def padded(size: int) -> bytes:
    """A good answer of exactly so many bytes."""
    return GOOD + b" " * (size - len(GOOD))


async def hundred_megabytes(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\n{JSON}\r\ncontent-length: {100 * MEGABYTE}\r\n\r\n".encode() + GOOD)
    for _ in range(100):
        writer.write(b" " * MEGABYTE)
        await writer.drain()


async def without_end(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\n{JSON}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
    while True:
        writer.write(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        await writer.drain()


def drip(head: bytes, piece: bytes) -> Answer:
    """Say *head*, then *piece* again and again: each single read ends soon."""

    async def answer(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)

    return answer


def compressed(body: bytes) -> Answer:
    return answering(gzip.compress(body), headers=(JSON, "content-encoding: gzip"))


TOO_LONG: dict[str, Answer] = {
    "100 MB": hundred_megabytes,
    "without an end": without_end,
    "a byte too long": answering(padded(MAX_BODY + 1), headers=(JSON,)),
    "a bomb of 100 MB": compressed(padded(100 * MEGABYTE)),
}
TOO_SLOW: dict[str, Answer] = {
    "a drip": drip(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\ncontent-type: application/json\r\n\r\n", b" "),
    "a drip of headers": drip(b"HTTP/1.1 200 OK\r\n", b"x-more: 1\r\n"),
    "silence": never,
}
NOT_UNDERSTOOD: dict[str, Answer] = {
    name: answering(body, headers=(JSON,))
    for name, body in {
        "a list": json.dumps([TOKEN]).encode(),
        "a text": b'"token"',
        "null": b"null",
        "nothing": b"",
        "two objects": GOOD + GOOD,
        "cut off": GOOD[:-1],
        "a key twice": GOOD[:-1] + b', "access_token": "b"}',
        "a key twice, once escaped": GOOD[:-1] + b', "access\\u005ftoken": "b"}',
        "nested without end": b"[" * 100_000,
        "not UTF-8": GOOD.replace(b'"a"', b'"\xff"'),
        "a page": b"<!doctype html><title>Maintenance</title>",
    }.items()
}


class World:
    """A scene whose token endpoint is a real server until it is `well`; the rest is the usual one."""

    def __init__(self, origin: str, *, rotation: str = "learn", deadline: timedelta = timedelta(seconds=30)) -> None:
        self._origin = origin
        self._back_channel = BackChannel(deadline=deadline)
        self.well = False
        self.asked = 0
        self.scene = Scene(send=self._send, client=replace(CLIENT, rotation=rotation))

    async def _send(self, request: Request) -> Response:
        if self.well or request.url != f"{ISSUER}/token":
            return await self.scene.service(request)
        self.asked += 1
        return await self._back_channel.send(replace(request, url=f"{self._origin}/token"))

    async def call(self, browser: Browser) -> UserToken:
        return await self.scene.tokens.user_token(await browser.request())

    async def aclose(self) -> None:
        await self.scene.tokens.aclose()
        await self._back_channel.aclose()


@asynccontextmanager
async def world(answer: Answer, **arguments: Any) -> AsyncIterator[World]:
    async with serving(answer) as server:
        built = World(server.origin, **arguments)
        try:
            yield built
        finally:
            await built.aclose()


async def an_outage_and_nothing_else(world: World) -> str:
    """See that it is one: with a token that works nobody notices, without one it is 503, and then all is well."""
    stale, expired = await world.scene.log_in("alice"), await world.scene.log_in("bob")
    before = await stale.stored()
    world.scene.clock.forward(STALE)
    assert await world.call(stale) == before
    await world.scene.tokens.aclose()
    world.scene.clock.forward(LIFETIME - STALE)
    with pytest.raises(TokenUnavailable) as caught:
        await world.call(expired)
    assert world.asked >= 2, "the second was answered from what the first had met"
    assert await stale.is_logged_in()
    assert await expired.is_logged_in()
    world.well = True
    world.scene.clock.forward(timedelta(seconds=5))
    for browser in (stale, expired):
        assert (await world.call(browser)).access_token.startswith("access-")
    return str(caught.value)


@pytest.mark.spec("REF-21", "REF-13", "REF-14")
@pytest.mark.parametrize("answer", TOO_LONG.values(), ids=TOO_LONG)
async def test_an_answer_that_is_too_long_is_cut_off_and_an_outage(answer: Answer) -> None:
    async with world(answer) as w:
        assert f"more than {MAX_BODY} bytes" in await an_outage_and_nothing_else(w)


@pytest.mark.spec("REF-21", "REF-13", "REF-14")
@pytest.mark.parametrize("answer", TOO_SLOW.values(), ids=TOO_SLOW)
async def test_an_answer_that_takes_too_long_in_all_is_an_outage(answer: Answer) -> None:
    """Where refresh tokens are kept. One that may have been used up is a different matter: `test_exactly_once.py`."""
    async with world(answer, rotation="none", deadline=timedelta(seconds=0.3)) as w:
        assert "did not answer in full within 0.3 s" in await an_outage_and_nothing_else(w)


@pytest.mark.spec("REF-21", "REF-14")
@pytest.mark.parametrize("answer", TOO_SLOW.values(), ids=TOO_SLOW)
async def test_with_a_token_that_works_nobody_notices_even_where_nothing_may_be_sent_twice(answer: Answer) -> None:
    async with world(answer, rotation="strict", deadline=timedelta(seconds=0.3)) as w:
        browser = await w.scene.log_in()
        before = await browser.stored()
        w.scene.clock.forward(STALE)
        for _ in range(3):
            assert await w.call(browser) == before
            await w.scene.tokens.aclose()
        assert w.asked == 1
        assert await browser.is_logged_in()


@pytest.mark.spec("REF-21", "REF-13", "REF-14")
@pytest.mark.parametrize("answer", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
async def test_an_answer_that_is_no_object_with_unique_keys_is_an_outage(answer: Answer) -> None:
    async with world(answer) as w:
        await an_outage_and_nothing_else(w)


@pytest.mark.spec("REF-21", "REF-13", "REF-14")
async def test_an_answer_whose_compression_is_broken_is_an_outage() -> None:
    """It may have been tokens, so where refresh tokens rotate it is as good as lost."""
    async with world(answering(b"no gzip", headers=(JSON, "content-encoding: gzip")), rotation="none") as w:
        assert "cannot be decompressed" in await an_outage_and_nothing_else(w)


@pytest.mark.spec("REF-21")
@pytest.mark.parametrize("answer", [answering(padded(MAX_BODY), headers=(JSON,)), compressed(padded(MAX_BODY))])
async def test_an_answer_of_just_a_megabyte_is_taken(answer: Answer) -> None:
    """The control: what is refused above is refused for its size."""
    async with world(answer) as w:
        browser = await w.scene.log_in()
        w.scene.clock.forward(LIFETIME)
        assert (await w.call(browser)).refresh_token == TOKEN["refresh_token"]
