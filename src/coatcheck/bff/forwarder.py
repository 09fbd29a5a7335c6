"""
The way out: one HTTP client for all remote APIs, behind a protocol of three methods.

pyreqwest is told to do nothing on its own: no redirect, no cookie, no proxy from the environment, no decompression, no
header of another request. Its habits, and what is done about them:

- It holds back the head of an answer until 64 KiB have come, unless the read buffer limit is 0.
- Cancelling a request before its head has arrived stops our waiting, not the request: that goes on until its read
  time-out. So every request has one, and the requests in flight are counted here and not in its pool.
- Its messages contain the whole URL with its query: only the type and the innermost cause of an error are kept.
- Header values that are not ASCII cannot be read at all; such a line is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Protocol, TypeGuard
from weakref import WeakKeyDictionary

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import DetailedPyreqwestError, NetworkError, PyreqwestError, RequestTimeoutError
from pyreqwest.http import Url
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response, ResponseBodyReader

from coatcheck.errors import CoatcheckError, ConfigurationError

Body = bytes | AsyncIterator[bytes] | None
"""A body that is known, one that is still coming, or none."""

CONNECT_TIMEOUT = timedelta(seconds=3)
LONGEST_UPLOAD = timedelta(hours=1)
"""How long a streamed request body may take. The client's read time-out runs from the first byte *sent*."""

IDLE_CONNECTION = timedelta(seconds=4)
"""How long a connection may rest: many servers close it after 5 s, and a request that meets the closing is lost."""


class UpstreamError(CoatcheckError):
    """No whole answer came from a remote API. The message is fit for a log: no URL, no header, no body."""


class UpstreamUnreachable(UpstreamError):
    """The connection failed or broke. *sent* is False only when it is certain that no byte of the request left."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class UpstreamTimeout(UpstreamError):
    """The remote API was silent for longer than the route allows."""


class UpstreamProtocolError(UpstreamError):
    """What came back is not HTTP, or breaks off."""


class RequestNotSendable(UpstreamError):
    """The client refuses to write this request: a control character in a header, for instance. The caller's mistake."""


class UpstreamResponse(Protocol):
    """An answer whose head has arrived. Close it in any case."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    def headers(self) -> Iterable[tuple[str, str]]:
        """The header lines with lower-case names, repeated names as often as they came."""
        ...

    async def read(self) -> bytes | None:
        """Return the next piece of the body as it comes, or None after the last. Raises `UpstreamError`."""
        ...

    async def aclose(self) -> None:
        """Give the connection back, or close it if the body was not read to its end."""
        ...


class Forwarder(Protocol):
    """How requests reach a remote API. `BFF(forwarder=...)` takes another one."""

    def target(self, url: str) -> str:
        """Return *url* as it will really be requested, after whatever the HTTP client does to it."""
        ...

    async def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: Body, *, timeout: timedelta
    ) -> UpstreamResponse:
        """
        Send one request and return when the head of the answer is there.

        *timeout* is the longest silence: until the head, and between two pieces of the body. For a body that is still
        coming the caller keeps the time, because silence is then the browser's. Raises `UpstreamError`.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections that were opened in this event loop."""
        ...


class PyreqwestForwarder:
    """
    The usual forwarder.

    *ca_pem* is trusted in addition to the machine's certificates; *identity_pem* is a client certificate followed by
    its key. At most *max_in_flight* requests run at once in one event loop; others wait their turn, not longer than
    their time-out. Clients are made per event loop on first use, and so per process: no loop survives a fork.

    Raises:
        ConfigurationError: a certificate cannot be read.
    """

    def __init__(
        self,
        *,
        ca_pem: bytes | None = None,
        identity_pem: bytes | None = None,
        connect_timeout: timedelta = CONNECT_TIMEOUT,
        max_in_flight: int = 1000,
    ) -> None:
        self._ca_pem = ca_pem
        self._identity_pem = identity_pem
        self._connect_timeout = connect_timeout
        self._max_in_flight = max_in_flight
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lines] = WeakKeyDictionary()
        self._latest: tuple[asyncio.AbstractEventLoop, _Lines] | None = None
        if ca_pem is not None or identity_pem is not None:
            self._build_client(connect_timeout)

    def target(self, url: str) -> str:
        """Return *url* as the client writes it: normalised by the WHATWG rules, without a fragment."""
        return str(Url(url)).partition("#")[0]

    async def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: Body, *, timeout: timedelta
    ) -> UpstreamResponse:
        """Send one request; see `Forwarder.send`."""
        lines = self._of_this_loop()
        streamed = body is not None and not isinstance(body, bytes)
        client = lines.client(LONGEST_UPLOAD if streamed else timeout)
        await (lines.busy(timeout) if lines.free.locked() else lines.free.acquire())
        try:
            builder = client.request(method, url).headers(headers).streamed_read_buffer_limit(0)
            if body is not None:
                builder = builder.body_bytes(body) if isinstance(body, bytes) else builder.body_stream(body)
            request = builder.build_streamed()
            response = await request.__aenter__()
        except BaseException as error:
            lines.free.release()
            if isinstance(error, ValueError):
                # Its message repeats the value that it refuses: that stays here.
                raise RequestNotSendable("a header or the method holds characters that HTTP does not allow") from None
            if isinstance(error, PyreqwestError):
                raise _translated(error) from None
            raise
        return _Response(request, response, lines)

    async def aclose(self) -> None:
        """Close the connections that were opened in this event loop."""
        self._latest = None
        lines = self._lines.pop(asyncio.get_running_loop(), None)
        if lines is not None:
            await lines.aclose()

    def _of_this_loop(self) -> _Lines:
        loop = asyncio.get_running_loop()
        latest = self._latest
        if latest is not None and latest[0] is loop:
            return latest[1]
        lines = self._lines.get(loop)
        if lines is None:
            lines = self._lines[loop] = _Lines(self._build_client, self._max_in_flight)
        self._latest = (loop, lines)
        return lines

    def _build_client(self, read_timeout: timedelta) -> Client:
        builder = (
            ClientBuilder()
            .follow_redirects(False)
            .referer(False)
            .no_proxy()
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .user_agent("coatcheck")
            .connect_timeout(self._connect_timeout)
            .read_timeout(read_timeout)
            .pool_idle_timeout(IDLE_CONNECTION)
        )
        try:
            if self._ca_pem is not None:
                builder = builder.add_root_certificate_pem(self._ca_pem)
            if self._identity_pem is not None:
                builder = builder.identity_pem(self._identity_pem)
            return builder.build()
        except (PyreqwestError, ValueError) as error:
            raise ConfigurationError(
                f"a certificate for remote APIs cannot be used ({type(error).__name__}): "
                "give PEM text, and for a client certificate both the certificate and its unencrypted key"
            ) from None


class _Lines:
    """What one event loop keeps: a client for each read time-out, and the count of requests in flight."""

    def __init__(self, build_client: Callable[[timedelta], Client], max_in_flight: int) -> None:
        self._build_client = build_client
        self._clients: dict[timedelta, Client] = {}
        self.free = asyncio.Semaphore(max_in_flight)

    def client(self, read_timeout: timedelta) -> Client:
        client = self._clients.get(read_timeout)
        if client is None:
            client = self._clients[read_timeout] = self._build_client(read_timeout)
        return client

    async def busy(self, timeout: timedelta) -> bool:
        """Wait for one of the requests in flight to end."""
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                return await self.free.acquire()
        except TimeoutError:
            raise UpstreamTimeout("all connections to remote APIs were busy for the whole time-out") from None

    async def aclose(self) -> None:
        while self._clients:
            _, client = self._clients.popitem()
            await client.close()


class _Response:
    """One answer, and the place in the count that it takes until it is closed."""

    __slots__ = ("_lines", "_reader", "_request", "_response", "status")

    def __init__(self, request: StreamRequest, response: Response, lines: _Lines) -> None:
        self.status = response.status
        self._request = request
        self._response = response
        self._reader: ResponseBodyReader = response.body_reader
        self._lines: _Lines | None = lines

    def headers(self) -> Iterable[tuple[str, str]]:
        headers = self._response.headers
        try:
            return list(headers.items())
        except ValueError:
            return self._readable_headers()

    def _readable_headers(self) -> list[tuple[str, str]]:
        """One value that is not ASCII makes the whole list unreadable: read name by name and leave that one out."""
        readable: list[tuple[str, str]] = []
        for name in dict.fromkeys(self._response.headers.keys()):
            try:
                readable += [(name, value) for value in self._response.get_header_all(name)]
            except ValueError:
                continue
        return readable

    async def read(self) -> bytes | None:
        try:
            piece = await self._reader.read_chunk()
        except PyreqwestError as error:
            raise _translated(error) from None
        return None if piece is None else piece.to_bytes()

    async def aclose(self) -> None:
        lines, self._lines = self._lines, None
        if lines is None:
            return
        try:
            await self._request.__aexit__(None, None, None)
        finally:
            lines.free.release()


def _translated(error: PyreqwestError) -> UpstreamError:
    """Sort an error by what the caller can do, and keep of its text only what holds no URL."""
    causes = [cause["message"] for cause in (error.details["causes"] or ())] if _has_details(error) else []
    cause = causes[-1] if causes else "no further cause"
    message = f"{type(error).__name__}: {cause}"
    if any("client error (Connect)" in each for each in causes):
        return UpstreamUnreachable(message, sent=False)
    if isinstance(error, RequestTimeoutError):
        return UpstreamTimeout(cause)  # the names of these errors tell connecting and reading apart, not always rightly
    if isinstance(error, NetworkError):
        return UpstreamUnreachable(message, sent=True)
    return UpstreamProtocolError(message)


def _has_details(error: PyreqwestError) -> TypeGuard[DetailedPyreqwestError]:
    return isinstance(error, DetailedPyreqwestError)
