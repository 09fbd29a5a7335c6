"""The back channel: how requests reach an authorization server, and what is certain when they do not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakKeyDictionary

from coatcheck.errors import TransportError
from coatcheck.oauth.messages import Exchange, Request, Response

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

BACK_CHANNEL_HTTP_CLIENT = "coatcheck.back_channel"
"""The name under which `http_clients` takes the HTTP client for all requests to authorization servers."""

Send = Callable[[Request], Awaitable[Response]]
"""Sends one request and reads the whole answer, or raises TransportError."""
SyncSend = Callable[[Request], Response]

DEADLINE = timedelta(seconds=10)
"""For one request altogether, from the first attempt to connect to the last byte of the answer."""
CONNECT_TIMEOUT = timedelta(seconds=3)
MAX_BODY = 1_000_000
"""Bytes of an answer after decompression."""
KEEP_ALIVE = timedelta(seconds=1)
"""
Long enough for the requests of one login, shorter than any server keeps an idle connection.

A connection that the server closes in the moment we send leaves the request in doubt, and a refresh in doubt may cost
a session; a new connection costs a millisecond.
"""


def run(exchange: Exchange[T], send: SyncSend) -> T:
    """Drive an exchange to its result with a synchronous *send*."""
    try:
        request = next(exchange)
        while True:
            request = exchange.send(send(request))
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        exchange.close()


async def arun(exchange: Exchange[T], send: Send) -> T:
    """Drive an exchange to its result."""
    try:
        request = next(exchange)
        while True:
            request = exchange.send(await send(request))
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        exchange.close()


class BackChannel:
    """
    Sends requests to authorization servers.

    Without *http_client* it makes its own, one per event loop and on first use: certificates and host names are always
    verified, no proxy or certificate file is taken from the environment. A given client keeps its proxy, certificates
    and time-outs, and stays its owner's to close. Either way no redirect is followed (a token request must not travel
    on), no cookie is kept or sent, and *deadline* and *max_body* hold.
    """

    def __init__(
        self, http_client: httpx2.AsyncClient | None = None, *, deadline: timedelta = DEADLINE, max_body: int = MAX_BODY
    ) -> None:
        self._given = http_client
        self._own: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncClient] = WeakKeyDictionary()
        self._deadline = deadline
        self._max_body = max_body

    async def send(self, request: Request) -> Response:
        """
        Send one request and read the whole answer.

        Raises:
            TransportError: no usable answer; `sent` is False when it is certain that nothing left.
        """
        import httpx2  # 60 ms, and not every program that imports coatcheck talks to an authorization server

        client = self._client()
        _check_open(client, request)
        prepared = _prepare(client, request)
        response: httpx2.Response | None = None
        try:
            async with asyncio.timeout(self._deadline.total_seconds()):
                response = await client.send(prepared, stream=True, follow_redirects=False)
                try:
                    return await self._read(request, response)
                finally:
                    await response.aclose()
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            raise _failure(request, error, self._deadline, response) from error
        finally:
            client.cookies.clear()

    async def _read(self, request: Request, response: httpx2.Response) -> Response:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            _check_size(request, len(body), self._max_body)
        return Response(response.status_code, dict(response.headers), bytes(body))

    def _client(self) -> httpx2.AsyncClient:
        import httpx2

        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        client = self._own.get(loop)
        if client is None:
            client = self._own[loop] = httpx2.AsyncClient(**_settings(self._deadline))
        return client

    async def aclose(self) -> None:
        """Close the client of this event loop, if it was made here."""
        client = self._own.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


class SyncBackChannel:
    """
    The same for programs without an event loop: close it, or use it in a `with`.

    The deadline is looked at whenever bytes of the answer's body arrive: nothing can interrupt a blocking read, so a
    server that drips its headers can exceed it. Each single wait ends by the time-outs of the HTTP client.
    """

    def __init__(
        self, http_client: httpx2.Client | None = None, *, deadline: timedelta = DEADLINE, max_body: int = MAX_BODY
    ) -> None:
        self._given = http_client
        self._own: httpx2.Client | None = None
        self._making = threading.Lock()
        self._deadline = deadline
        self._max_body = max_body

    def send(self, request: Request) -> Response:
        """
        Send one request and read the whole answer.

        Raises:
            TransportError: no usable answer; `sent` is False when it is certain that nothing left.
        """
        import httpx2

        client = self._client()
        _check_open(client, request)
        prepared = _prepare(client, request)
        response: httpx2.Response | None = None
        ends_at = time.monotonic() + self._deadline.total_seconds()
        try:
            response = client.send(prepared, stream=True, follow_redirects=False)
            try:
                return self._read(request, response, ends_at)
            finally:
                response.close()
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            raise _failure(request, error, self._deadline, response) from error
        finally:
            client.cookies.clear()

    def _read(self, request: Request, response: httpx2.Response, ends_at: float) -> Response:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            _check_size(request, len(body), self._max_body)
            if time.monotonic() > ends_at:
                raise TimeoutError
        return Response(response.status_code, dict(response.headers), bytes(body))

    def _client(self) -> httpx2.Client:
        import httpx2

        if self._given is not None:
            return self._given
        with self._making:  # threads of a worker may share the channel
            if self._own is None:
                self._own = httpx2.Client(**_settings(self._deadline))
            return self._own

    def close(self) -> None:
        """Close the client, if it was made here; the next use makes another one."""
        with self._making:
            client, self._own = self._own, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _settings(deadline: timedelta) -> dict[str, Any]:
    import httpx2

    connect = min(CONNECT_TIMEOUT, deadline).total_seconds()
    return {
        "trust_env": False,
        "follow_redirects": False,
        "timeout": httpx2.Timeout(deadline.total_seconds(), connect=connect, pool=connect),
        "limits": httpx2.Limits(max_connections=50, keepalive_expiry=KEEP_ALIVE.total_seconds()),
        "headers": {"user-agent": "coatcheck"},
    }


def _prepare(client: httpx2.AsyncClient | httpx2.Client, request: Request) -> httpx2.Request:
    import httpx2

    # Answers are small: asking for no compression leaves nothing to inflate. A server that compresses all the same is
    # read with the cap on what comes out.
    headers = {"accept-encoding": "identity", **request.headers}
    try:
        prepared = client.build_request(request.method, request.url, headers=headers, content=request.body or None)
    except httpx2.InvalidURL as error:
        raise TransportError(f"{_place(request)} {_NO_URL}", sent=False) from error
    # The client's jar may hold a cookie of an answer that arrived a moment ago, for another user.
    prepared.headers.pop("cookie", None)
    return prepared


def _check_open(client: httpx2.AsyncClient | httpx2.Client, request: Request) -> None:
    if client.is_closed:
        raise TransportError(
            f"{_place(request)} was not asked: the HTTP client that was given for it is closed. Close it later",
            sent=False,
        )


def _check_size(request: Request, size: int, max_body: int) -> None:
    if size > max_body:
        raise TransportError(
            f"{_place(request)} answered with more than {max_body} bytes: is this the URL of an authorization server?",
            sent=True,
            answered=True,
        )


def _failure(
    request: Request, error: Exception, deadline: timedelta, response: httpx2.Response | None
) -> TransportError:
    """Say what happened and whether the request may have been received, and carried out."""
    import httpx2

    # Only these happen before the first byte of the request is written. Whatever else an HTTP client may raise leaves
    # the request in doubt.
    unsent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
    return TransportError(
        f"{_place(request)} {_what_happened(error, deadline)}",
        sent=not isinstance(error, unsent),
        answered=response is not None and not _may_be_a_result(response),
    )


def _may_be_a_result(response: httpx2.Response) -> bool:
    """
    Say whether an answer that broke off may have been what was asked for: tokens are on their way only in a JSON 2xx.

    Any other beginning says that nothing was done, or that something in front answered.
    """
    return response.is_success and "json" in response.headers.get("content-type", "json").lower()


_NO_URL = "is no URL that can be requested: check the issuer and `endpoints`"


def _what_happened(error: Exception, deadline: timedelta) -> str:
    import httpx2

    causes = _causes(error)
    match error:
        case httpx2.ConnectTimeout():
            return "cannot be reached: no connection in time. Check the address, the network and firewalls"
        case httpx2.PoolTimeout():
            return "was not asked: every connection of the HTTP client is busy"
        case httpx2.ConnectError():
            return f"cannot be reached: {_connect_problem(causes)}"
        case httpx2.UnsupportedProtocol():
            return _NO_URL
        case httpx2.TimeoutException():
            return "did not answer in time. Is it overloaded?"
        case TimeoutError():
            return f"did not answer in full within {deadline.total_seconds():g} s. Is it overloaded?"
        case httpx2.ProxyError():
            return "was not reached: the proxy of the HTTP client refused the connection"
        case httpx2.DecodingError():
            return "answered with a body that cannot be decompressed"
    return f"broke off before its answer was complete ({type(error).__name__})"


def _connect_problem(causes: list[BaseException]) -> str:
    for cause in causes:
        match cause:
            case ssl.SSLCertVerificationError():
                return (
                    f"its certificate is not trusted ({cause.verify_message}). If a CA of your own signed it, add that "
                    f'CA to those of this machine, or pass http_clients={{"{BACK_CHANNEL_HTTP_CLIENT}": '
                    "httpx2.AsyncClient(verify=context)} with an ssl.create_default_context(cafile=...) that knows it"
                )
            case ssl.SSLError():
                return f"the TLS handshake failed ({cause.reason or type(cause).__name__}). Is it https at all?"
            case socket.gaierror():
                return "its name cannot be resolved. Check the host in the issuer, and DNS"
            case ConnectionRefusedError():
                return "the connection was refused. Is it running, and is the port right?"
    return "the connection failed. Check the address and the network"


def _causes(error: BaseException) -> list[BaseException]:
    """List what led to *error*, which the HTTP client wraps several times over, in groups where it tried addresses."""
    found: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending and len(found) < 50:
        cause = pending.pop()
        if cause is None or cause in found:
            continue
        found.append(cause)
        pending += [cause.__cause__, cause.__context__]
        if isinstance(cause, BaseExceptionGroup):
            pending += cause.exceptions
    return found


def _place(request: Request) -> str:
    """Name the endpoint without its query, which may hold what must not be logged."""
    return request.url.partition("?")[0]
