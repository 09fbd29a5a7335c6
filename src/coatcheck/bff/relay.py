"""
One exchange between a browser and a remote API, streamed both ways, each side at the pace of the other.

A browser that leaves must end the call behind it. ASGI tells so only to whoever waits for `receive()`, and a task for
that in every request would cost more than the rest of this file; so the watch begins up to a quarter of a second late,
when most exchanges are over. While a request body is still coming, its reader sees the leaving itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from datetime import timedelta
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from coatcheck.bff.forwarder import (
    Body,
    Forwarder,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamResponse,
    UpstreamTimeout,
)
from coatcheck.bff.headers import CHUNKED, RequestHeaders, response_headers
from coatcheck.oauth.challenge import StepUpChallenge, step_up_challenge

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

WATCH_AFTER = 0.25
"""Seconds after which at the latest an exchange is watched for the browser leaving."""

BeforeSend = Callable[[], Awaitable[None]]

BUFFERED_BODY = 65536
"""A request body of at most so many bytes is read before the remote API is called; a longer one is streamed."""

_WRONG_LENGTH = "it is not as long as its content-length says"


class BrowserLeft(Exception):
    """Nobody is there any more to be answered."""


class BodyNotDelivered(Exception):
    """The browser stopped sending its request body, or sent another length than it had announced."""


class StepUpDemanded(Exception):
    """The remote API wants its user to be authenticated more strongly. Its answer was not passed on (RFC 9470)."""

    def __init__(self, challenge: StepUpChallenge) -> None:
        super().__init__("a step-up is demanded")
        self.challenge = challenge


class AnswerCutShort(Exception):
    """The head of the answer has gone out, and its body cannot be finished because of *cause*: break off."""

    def __init__(self, cause: UpstreamError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Outgoing(NamedTuple):
    """
    A request as the remote API will get it.

    *length* is that of its body, see `RequestHeaderFilter`; *timeout* is the longest silence of either side.
    """

    method: str
    url: str
    headers: RequestHeaders
    length: int | None
    timeout: timedelta


async def ready() -> None:
    """Have nothing to do before a request leaves."""


async def relay(
    outgoing: Outgoing,
    receive: Receive,
    send: Send,
    *,
    forwarder: Forwarder,
    personal: bool,
    set_cookies: Callable[[], list[bytes]],
    before_send: BeforeSend = ready,
    http_version: str = "1.1",
) -> int:
    """
    Forward *outgoing* with the body that *receive* brings, pass the answer on to *send*, and return its status.

    *personal* is explained at `response_headers`; *set_cookies* is asked when the answer begins. *before_send* is
    awaited when everything is ready, right before the head of the request leaves; if it raises, nothing does. A body
    that is streamed follows its head.

    Raises:
        UpstreamError: no answer came. Nothing has been sent to the browser yet, as with `BodyNotDelivered` and
            `StepUpDemanded`, which only a *personal* exchange can lead to.
        AnswerCutShort: the same, after the head had been sent. Return without another message: the server then
            breaks the connection off, which is how a browser learns that the answer is not whole.
        BrowserLeft: there is nobody to answer.
    """
    exchange = _Exchange(receive)
    patrol = _patrol()
    try:
        body: Body = None
        if outgoing.length is not None or not http_version.startswith("1"):
            body, length = await exchange.request_body(outgoing)
            if body is not None and length != CHUNKED:
                outgoing.headers.append(("content-length", str(length)))
        await before_send()
        patrol.join(exchange)
        response = await forwarder.send(outgoing.method, outgoing.url, outgoing.headers, body, timeout=outgoing.timeout)
        try:
            exchange.check()
            await exchange.answer(response, send, outgoing.method, personal=personal, set_cookies=set_cookies)
            return response.status
        finally:
            await response.aclose()
    except asyncio.CancelledError:
        raise exchange.why_cancelled() from None
    finally:
        patrol.leave(exchange)
        exchange.close()


class _Exchange:
    """What is going on between the two sides, and why it has to end early, if so."""

    # Defaults of the class, and no slots: most exchanges never set most of these.
    _watcher: asyncio.Task[None] | None = None
    _silence_timer: asyncio.TimerHandle | None = None
    _ended_by: Exception | None = None
    _head_sent = False
    _uploading = False
    _asking = False
    _silence = 0.0
    _heard_at = 0.0

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[Any] | None = asyncio.current_task()

    # The browser's body, on its way up

    async def request_body(self, outgoing: Outgoing) -> tuple[Body, int | None]:
        """Return the body as far as it is worth waiting for, and its length."""
        length = outgoing.length
        if length is None:
            return await self._undeclared_body(outgoing)
        if length == 0:
            return b"", 0
        if length == CHUNKED or length > BUFFERED_BODY:
            return self._upload(length, outgoing.timeout), length
        try:
            async with asyncio.timeout(outgoing.timeout.total_seconds()):
                return await self._whole_body(length), length
        except TimeoutError:
            raise BodyNotDelivered(f"it took longer than {outgoing.timeout.total_seconds():g} s") from None

    async def _whole_body(self, length: int) -> bytes:
        pieces: list[bytes] = []
        more = True
        while more:
            piece, more = await self._piece()
            pieces.append(piece)
        body = b"".join(pieces)
        if len(body) != length:
            raise BodyNotDelivered(_WRONG_LENGTH)
        return body

    async def _undeclared_body(self, outgoing: Outgoing) -> tuple[Body, int | None]:
        """From HTTP/2 on a body needs no header to announce it: look at the first piece (RFC 9113, section 8.1)."""
        piece, more = await self._piece()
        if more:
            return self._upload(CHUNKED, outgoing.timeout, first=piece), CHUNKED
        return (piece, len(piece)) if piece else (None, None)

    async def _piece(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] != "http.request":
            raise BrowserLeft
        return message.get("body", b""), message.get("more_body", False)

    def _upload(self, length: int, timeout: timedelta, first: bytes = b"") -> AsyncGenerator[bytes, None]:
        self._uploading = True
        self._silence = timeout.total_seconds()
        self._heard()
        self._silence_timer = asyncio.get_running_loop().call_later(self._silence, self._check_silence)
        return self._pieces(length, first)

    async def _pieces(self, length: int, first: bytes) -> AsyncGenerator[bytes, None]:
        """Hand on what the browser sends. Raising in here is what closes the connection to the remote API."""
        received = len(first)
        more = True
        try:
            if first:
                yield first
            while more and self._ended_by is None:
                piece, more = await self._timely_piece()
                received += len(piece)
                if length != CHUNKED and (received > length or (not more and received < length)):
                    raise BodyNotDelivered(_WRONG_LENGTH)
                if piece:
                    yield piece
            if self._ended_by is not None:
                raise self._ended_by
        except (BrowserLeft, BodyNotDelivered) as reason:
            self._end(reason)
            raise
        finally:
            self._uploading = False

    async def _timely_piece(self) -> tuple[bytes, bool]:
        self._asking = True
        try:
            async with asyncio.timeout(self._silence):
                piece, more = await self._piece()
        except TimeoutError:
            raise BodyNotDelivered("it stopped coming") from None
        finally:
            self._asking = False
        self._heard()
        # Told now and not at the end: whoever takes a body of known length does not ask again after its last piece.
        self._uploading = more
        return piece, more

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()

    def _check_silence(self) -> None:
        """For uploads only: everything else is timed by the HTTP client, more cheaply."""
        loop = asyncio.get_running_loop()
        left = self._heard_at + self._silence - loop.time()
        if self._asking:  # then it is the browser that is silent, and its time is kept where it is asked
            left = self._silence
        if left > 0:
            self._silence_timer = loop.call_later(left, self._check_silence)
        else:
            self._end(UpstreamTimeout("it neither took the request body nor answered"))

    # The remote API's answer, on its way down

    async def answer(
        self,
        response: UpstreamResponse,
        send: Send,
        method: str,
        *,
        personal: bool,
        set_cookies: Callable[[], list[bytes]],
    ) -> None:
        status = response.status
        if not 200 <= status <= 599:
            raise UpstreamProtocolError(f"the status {status}, which this request cannot lead to")
        if status == 401 and personal:
            _look_for_step_up(response)
        headers, length = response_headers(response.headers(), status=status, personal=personal)
        headers += [(b"set-cookie", value) for value in set_cookies()]
        self._head_sent = True
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if method == "HEAD" or status in (204, 304):
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._answer_body(response, send, length)

    async def _answer_body(self, response: UpstreamResponse, send: Send, length: int | None) -> None:
        received = 0
        while True:
            try:
                piece = await response.read()
            except UpstreamError as error:
                raise AnswerCutShort(error) from None
            self.check()
            if piece is None:
                break
            if self._silence:
                self._heard()
            received += len(piece)
            if received == length:
                # The last piece by the remote API's own count: no need to wait for an end that carries nothing.
                await send({"type": "http.response.body", "body": piece})
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if length is not None and received != length:
            raise AnswerCutShort(UpstreamProtocolError(f"{received} bytes came instead of {length}"))
        await send({"type": "http.response.body", "body": b""})

    # The browser, leaving

    def begin_watch(self) -> bool:
        """Wait for the browser to leave, from now on. False: not yet, since only one may wait for `receive()`."""
        if self._uploading:
            return False
        self._watcher = asyncio.get_running_loop().create_task(self._wait_until_browser_leaves())
        return True

    async def _wait_until_browser_leaves(self) -> None:
        while (await self._receive())["type"] == "http.request":
            pass
        self._end(BrowserLeft())

    def _end(self, reason: Exception) -> None:
        if self._ended_by is None and self._task is not None:
            self._ended_by = reason
            self._task.cancel()

    def check(self) -> None:
        """A cancellation that meets an arriving piece is lost in the HTTP client: catch up on it here."""
        if self._ended_by is not None:
            raise asyncio.CancelledError

    def why_cancelled(self) -> BaseException:
        """Tell our own cancellation from that of a server which shuts down."""
        reason = self._ended_by
        if reason is None or self._task is None:
            return asyncio.CancelledError()
        self._task.uncancel()
        if self._head_sent and isinstance(reason, UpstreamError):
            return AnswerCutShort(reason)
        return reason

    def close(self) -> None:
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()


def _look_for_step_up(response: UpstreamResponse) -> None:
    for name, value in response.headers():
        challenge = step_up_challenge(value) if name == "www-authenticate" else None
        if challenge is not None:
            raise StepUpDemanded(challenge)


class _Patrol:
    """
    Begins the watches of one event loop, with one timer for all of its exchanges.

    Most exchanges are over before the patrol passes by for the first time: joining and leaving a set is all they cost.
    """

    def __init__(self) -> None:
        self._unwatched: set[_Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.leave = self._unwatched.discard

    def join(self, exchange: _Exchange) -> None:
        self._unwatched.add(exchange)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._pass_by)

    def _pass_by(self) -> None:
        self._timer = None
        for exchange in list(self._unwatched):
            if exchange.begin_watch():
                self._unwatched.discard(exchange)
        if self._unwatched:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._pass_by)


_patrols: WeakKeyDictionary[asyncio.AbstractEventLoop, _Patrol] = WeakKeyDictionary()


def _patrol() -> _Patrol:
    """The patrol of the running event loop."""
    loop = asyncio.get_running_loop()
    patrol = _patrols.get(loop)
    if patrol is None:
        patrol = _patrols[loop] = _Patrol()
    return patrol
