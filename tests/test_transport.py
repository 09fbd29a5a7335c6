from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import logging
import socket
import ssl
import tracemalloc
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from coatcheck.errors import TransportError
from coatcheck.oauth.messages import Request, Response, form_request
from coatcheck.transport import BACK_CHANNEL_HTTP_CLIENT, BackChannel, SyncBackChannel, arun, run
from tests.loopback import answering, never, serving

CANARY = "canary-refresh-token-4711"
SHORT = timedelta(seconds=0.2)

Sender = Callable[[Request], Awaitable[Response]]


def refresh(origin: str) -> Request:
    return form_request(
        f"{origin}/token?tenant=secret-tenant", [("refresh_token", CANARY)], {"authorization": f"Basic {CANARY}"}
    )


@pytest.fixture(params=["async", "sync"])
def channel_of(request: pytest.FixtureRequest) -> Callable[..., Sender]:
    """Makes back channels of both kinds, so that one set of rules is shown for both."""

    def make(**settings: Any) -> Sender:
        if request.param == "async":
            return lambda message: _send(BackChannel(**settings), message)
        return lambda message: asyncio.to_thread(_send_blocking, SyncBackChannel(**settings), message)

    return make


async def _send(channel: BackChannel, request: Request) -> Response:
    try:
        return await channel.send(request)
    finally:
        await channel.aclose()


def _send_blocking(channel: SyncBackChannel, request: Request) -> Response:
    with channel:
        return channel.send(request)


async def test_a_request_arrives_as_it_was_made_and_its_answer_is_read(channel_of: Callable[..., Sender]) -> None:
    async with serving(answering(b'{"a":1}', status=201, headers=("X-Answer: yes",))) as server:
        response = await channel_of()(refresh(server.origin))
    assert (response.status, response.headers["x-answer"], response.body) == (201, "yes", b'{"a":1}')
    (received,) = server.requests
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /token?tenant=secret-tenant HTTP/1.1\r\n")
    assert body == b"refresh_token=" + CANARY.encode()
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert headers["authorization"] == f"basic {CANARY}"
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "coatcheck"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.spec("REF-22", "MET-05", "HTC-01")
async def test_a_redirect_is_an_answer_and_nothing_reaches_its_target(
    channel_of: Callable[..., Sender], status: int
) -> None:
    async with serving(answering(b"stolen")) as thief:
        location = f"Location: {thief.origin}/token"
        async with serving(answering(b"moved", status=status, headers=(location,))) as server:
            response = await channel_of()(refresh(server.origin))
            assert (response.status, response.body) == (status, b"moved")
            async with httpx2.AsyncClient(follow_redirects=True) as following:
                response = await BackChannel(following).send(refresh(server.origin))
            assert response.status == status
        assert len(server.requests) == 2
    assert thief.requests == []
    assert thief.connections == 0


@pytest.mark.parametrize("location", ["http://[", "ftp://x/", "//", "\x7f", "http://a:99999999/", ""])
@pytest.mark.spec("REF-22")
async def test_a_malformed_redirect_does_not_pass_for_an_unsent_request(
    channel_of: Callable[..., Sender], location: str
) -> None:
    async with serving(answering(b"moved", status=302, headers=(f"Location: {location}",))) as server:
        try:
            assert (await channel_of()(refresh(server.origin))).status == 302
        except TransportError as error:
            assert error.sent


@pytest.mark.spec("HTC-01")
async def test_cookies_are_neither_kept_nor_sent() -> None:
    async with serving(answering(headers=("Set-Cookie: session=of-another-user; Path=/",))) as server:
        given = httpx2.AsyncClient(cookies={"planted": "1"}, headers={"cookie": "also=planted"})
        own = BackChannel()
        for channel in (own, BackChannel(given)):
            for _ in range(3):
                await channel.send(refresh(server.origin))
            await asyncio.gather(*(channel.send(refresh(server.origin)) for _ in range(10)))
        assert len(given.cookies) == 0
        await own.aclose()
        await given.aclose()
    assert len(server.requests) == 26
    assert not any(b"\r\ncookie:" in request.lower() for request in server.requests)


@pytest.mark.spec("HTC-01")
async def test_a_cookie_of_an_answer_does_not_reach_a_request_that_was_made_meanwhile() -> None:
    """The jar of a client is shared by all its requests: clearing it afterwards alone would leave a gap."""
    given = httpx2.AsyncClient()

    async def plant(response: httpx2.Response) -> None:
        await asyncio.sleep(0)  # the jar holds the cookie already, and other requests go out now

    given.event_hooks = {"response": [plant]}
    async with serving(answering(headers=("Set-Cookie: session=of-another-user",))) as server:
        channel = BackChannel(given)
        await asyncio.gather(*(channel.send(refresh(server.origin)) for _ in range(30)))
        await given.aclose()
    assert not any(b"\r\ncookie:" in request.lower() for request in server.requests)


@pytest.mark.spec("HTC-01")
async def test_the_environment_names_neither_a_proxy_nor_certificates(
    channel_of: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tls, ca = _self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    async with serving(answering()) as proxy, serving(answering()) as server, serving(answering(), tls=tls) as secure:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.origin)
        await channel_of()(refresh(server.origin))
        with pytest.raises(TransportError, match="certificate is not trusted"):
            await channel_of()(refresh(secure.origin))
    assert len(server.requests) == 1
    assert proxy.connections == 0


@pytest.mark.spec("MET-04", "HTC-01")
async def test_a_certificate_that_is_not_trusted_stops_the_request_and_the_message_says_what_to_do(
    channel_of: Callable[..., Sender], tmp_path: Path
) -> None:
    tls, _ = _self_signed(tmp_path)
    async with serving(answering(), tls=tls) as server:
        with pytest.raises(TransportError) as refused:
            await channel_of()(refresh(server.origin))
    assert not refused.value.sent
    assert "self-signed certificate" in str(refused.value)
    assert f'http_clients={{"{BACK_CHANNEL_HTTP_CLIENT}"' in str(refused.value)
    assert "cafile" in str(refused.value)
    assert server.requests == []


@pytest.mark.spec("MET-04")
async def test_a_certificate_for_another_host_stops_the_request(tmp_path: Path) -> None:
    tls, ca = _self_signed(tmp_path, host="other.example")
    trusting = httpx2.AsyncClient(verify=ssl.create_default_context(cafile=ca))
    async with serving(answering(), tls=tls) as server, trusting:
        with pytest.raises(TransportError, match="certificate is not trusted") as refused:
            await BackChannel(trusting).send(refresh(server.origin))
    assert not refused.value.sent
    assert server.requests == []


@pytest.mark.spec("HTC-01")
async def test_a_ca_of_ones_own_is_given_with_the_client(tmp_path: Path) -> None:
    tls, ca = _self_signed(tmp_path)
    trusting = httpx2.AsyncClient(verify=ssl.create_default_context(cafile=ca))
    async with serving(answering(b"secure"), tls=tls) as server, trusting:
        assert (await BackChannel(trusting).send(refresh(server.origin))).body == b"secure"


@pytest.mark.spec("MET-04")
async def test_https_asked_of_a_server_without_tls_is_not_sent(channel_of: Callable[..., Sender]) -> None:
    async def answer_in_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    plain = await asyncio.start_server(answer_in_clear, "127.0.0.1", 0)
    async with plain:
        port = plain.sockets[0].getsockname()[1]
        with pytest.raises(TransportError, match=r"TLS handshake failed.*Is it https at all") as refused:
            await channel_of()(refresh(f"https://127.0.0.1:{port}"))
    assert not refused.value.sent


@pytest.mark.spec("REF-10")
async def test_a_refused_connection_is_certainly_not_sent(channel_of: Callable[..., Sender]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransportError, match=r"refused. Is it running") as refused:
        await channel_of()(refresh(f"http://127.0.0.1:{port}"))
    assert not refused.value.sent


@pytest.mark.spec("REF-10")
async def test_a_host_that_does_not_resolve_is_certainly_not_sent(channel_of: Callable[..., Sender]) -> None:
    with pytest.raises(TransportError, match="name cannot be resolved") as refused:
        await channel_of()(refresh("http://idp.invalid"))
    assert not refused.value.sent


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "data:,{}", "http://a\n/", "token", ""])
@pytest.mark.spec("JOS-07")
async def test_only_http_urls_are_requested(channel_of: Callable[..., Sender], url: str) -> None:
    with pytest.raises(TransportError, match="no URL that can be requested") as refused:
        await channel_of()(Request("GET", url))
    assert not refused.value.sent


async def _reset(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _hang_up(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _half_an_answer(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"access_')
    writer.close()


async def _half_a_head(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 O")
    writer.close()


async def _no_http(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    await writer.drain()


async def _broken_gzip(_request: bytes, writer: asyncio.StreamWriter) -> None:
    await answering(b"\x1f\x8b broken", headers=("content-encoding: gzip",))(_request, writer)


@pytest.mark.parametrize("answer", [_reset, _hang_up, _half_an_answer, _half_a_head, _no_http, _broken_gzip])
@pytest.mark.spec("REF-10")
async def test_once_the_request_was_received_a_broken_answer_leaves_it_in_doubt(
    channel_of: Callable[..., Sender], answer: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
) -> None:
    async with serving(answer) as server:
        with pytest.raises(TransportError) as broken:
            await channel_of()(refresh(server.origin))
    assert broken.value.sent
    assert len(server.requests) == 1, "a POST is never repeated"


@pytest.mark.spec("REF-10", "HTC-02")
async def test_no_answer_within_the_deadline_leaves_the_request_in_doubt(channel_of: Callable[..., Sender]) -> None:
    async with serving(never) as server:
        with pytest.raises(TransportError, match="did not answer in") as late:
            await channel_of(deadline=SHORT)(refresh(server.origin))
    assert late.value.sent


@pytest.mark.spec("HTC-02")
async def test_a_slow_drip_cannot_stretch_the_deadline(channel_of: Callable[..., Sender]) -> None:
    async def drip(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:  # each wait is far shorter than any time-out of a single read
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(drip) as server:
        started_at = asyncio.get_running_loop().time()
        with pytest.raises(TransportError, match=r"did not answer in full within 0\.2 s") as late:
            await channel_of(deadline=SHORT)(refresh(server.origin))
        assert asyncio.get_running_loop().time() - started_at < 5
    assert late.value.sent


@pytest.mark.spec("HTC-02")
async def test_a_slow_drip_of_headers_cannot_stretch_the_deadline_either() -> None:
    async def drip(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(drip) as server:
        with pytest.raises(TransportError, match="did not answer in full") as late:
            await _send(BackChannel(deadline=SHORT), refresh(server.origin))
    assert late.value.sent


@pytest.mark.spec("HTC-02")
async def test_the_deadline_holds_for_a_given_client_without_time_outs() -> None:
    async with serving(never) as server, httpx2.AsyncClient(timeout=None) as patient:
        with pytest.raises(TransportError, match="did not answer in full") as late:
            await BackChannel(patient, deadline=SHORT).send(refresh(server.origin))
    assert late.value.sent


@pytest.mark.spec("HTC-02")
async def test_an_endless_body_is_cut_off(channel_of: Callable[..., Sender]) -> None:
    written = 0

    async def flood(_request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x" * 100_000)
            written += 100_000
            await writer.drain()

    async with serving(flood) as server:
        with pytest.raises(TransportError, match="more than 1000000 bytes") as refused:
            await channel_of()(refresh(server.origin))
    assert refused.value.sent
    assert written < 50_000_000, "the rest was not pulled"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip"])
@pytest.mark.spec("HTC-02")
async def test_a_compression_bomb_is_cut_off_before_it_unfolds(
    channel_of: Callable[..., Sender], encoding: str
) -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, compresslevel=6)
    if encoding == "gzip, gzip":
        bomb = gzip.compress(bomb)
    if encoding == "deflate":
        bomb = bomb[10:-8]
    async with serving(answering(bomb, headers=(f"content-encoding: {encoding}",))) as server:
        tracemalloc.start()
        try:
            with pytest.raises(TransportError, match="more than 1000000 bytes"):
                await channel_of()(refresh(server.origin))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 20_000_000


async def test_a_compressed_answer_within_the_cap_is_read(channel_of: Callable[..., Sender]) -> None:
    async with serving(answering(gzip.compress(b'{"a":1}'), headers=("content-encoding: gzip",))) as server:
        assert (await channel_of()(refresh(server.origin))).body == b'{"a":1}'


@pytest.mark.spec("HTC-02")
async def test_a_body_of_exactly_the_cap_is_read(channel_of: Callable[..., Sender]) -> None:
    async with serving(answering(b"x" * 1000)) as server:
        assert len((await channel_of(max_body=1000)(refresh(server.origin))).body) == 1000
        with pytest.raises(TransportError, match="more than 999 bytes"):
            await channel_of(max_body=999)(refresh(server.origin))


class RaisingTransport(httpx2.AsyncBaseTransport):
    """A transport of the application's own that fails in one way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise self.error


UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
IN_DOUBT = (
    httpx2.ReadError,
    httpx2.ReadTimeout,
    httpx2.WriteError,
    httpx2.WriteTimeout,
    httpx2.CloseError,
    httpx2.RemoteProtocolError,
    httpx2.LocalProtocolError,
    httpx2.ProxyError,
    httpx2.DecodingError,
    httpx2.TooManyRedirects,
    httpx2.TransportError,
    httpx2.RequestError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    OSError,
    ConnectionResetError,
    TimeoutError,
)


@pytest.mark.parametrize("kind", [*UNSENT, *IN_DOUBT])
@pytest.mark.spec("REF-10")
async def test_only_failures_before_the_first_byte_count_as_unsent(kind: type[Exception]) -> None:
    async with httpx2.AsyncClient(transport=RaisingTransport(kind("it failed"))) as given:
        with pytest.raises(TransportError) as failed:
            await BackChannel(given).send(refresh("https://idp.example.com"))
    assert failed.value.sent is (kind not in UNSENT)
    assert failed.value.__cause__ is not None


@pytest.mark.spec("HTC-02", "REF-10")
async def test_a_request_that_got_no_connection_of_a_busy_client_is_certainly_not_sent() -> None:
    limits = httpx2.Limits(max_connections=1)
    async with serving(never) as server, httpx2.AsyncClient(limits=limits, timeout=httpx2.Timeout(5, pool=0.1)) as busy:
        channel = BackChannel(busy, deadline=timedelta(seconds=2))
        hanging = asyncio.create_task(channel.send(refresh(server.origin)))
        while not server.requests:
            await asyncio.sleep(0)
        with pytest.raises(TransportError, match="every connection") as refused:
            await channel.send(refresh(server.origin))
        hanging.cancel()
        await asyncio.wait([hanging])
    assert not refused.value.sent
    assert len(server.requests) == 1


@pytest.mark.spec("LOG-01")
async def test_neither_messages_nor_logs_repeat_what_was_sent(
    channel_of: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    for answer in (_reset, _half_an_answer, _no_http, never, _broken_gzip):
        async with serving(answer) as server:
            with pytest.raises(TransportError) as failed:
                await channel_of(deadline=SHORT)(refresh(server.origin))
            shown += [str(failed.value), repr(failed.value)]
            assert f"{server.origin}/token " in str(failed.value)
    async with serving(answering(b'{"access_token":"%b"}' % CANARY.encode())) as server:
        shown.append(repr(await channel_of()(refresh(server.origin))))
        shown.append(repr(refresh(server.origin)))
    assert all(CANARY not in text for text in shown)
    assert all("secret-tenant" not in text for text in shown[:-1])
    assert CANARY not in caplog.text


async def test_a_given_client_keeps_its_transport_and_headers_and_stays_open() -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={"ok": True})

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), headers={"x-gateway": "7"}) as given:
        channel = BackChannel(given)
        await channel.send(refresh("https://idp.example.com"))
        await channel.aclose()
        assert not given.is_closed
        assert (await channel.send(refresh("https://idp.example.com"))).body == b'{"ok":true}'
    assert [request.headers["x-gateway"] for request in seen] == ["7", "7"]


def test_every_event_loop_gets_a_client_of_its_own_and_closes_it() -> None:
    channel = BackChannel()

    async def two_requests() -> int:
        async with serving(answering()) as server:
            await channel.send(refresh(server.origin))
            await channel.send(refresh(server.origin))
            await channel.aclose()
            await channel.aclose()
            assert server.connections == 1, "a connection serves the requests that follow at once"
            return (await channel.send(refresh(server.origin))).status

    async def with_closing() -> int:
        try:
            return await two_requests()
        finally:
            await channel.aclose()

    assert [asyncio.run(with_closing()) for _ in range(2)] == [200, 200]


def test_a_closed_synchronous_channel_opens_again_on_use_and_leaves_a_given_client_open() -> None:
    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={})

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as given:
        with SyncBackChannel(given) as channel:
            assert channel.send(refresh("https://idp.example.com")).status == 200
        assert not given.is_closed
        assert channel.send(refresh("https://idp.example.com")).status == 200


async def test_a_given_client_that_was_closed_too_early_is_named() -> None:
    """The application closes it in its own lifespan, perhaps before the last renewal has ended."""
    given = httpx2.AsyncClient()
    await given.aclose()
    with pytest.raises(
        TransportError, match="was not asked: the HTTP client that was given for it is closed"
    ) as failed:
        await BackChannel(given).send(refresh("https://idp.example.com"))
    assert not failed.value.sent


def test_a_given_synchronous_client_that_was_closed_too_early_is_named() -> None:
    given = httpx2.Client()
    given.close()
    with pytest.raises(TransportError, match="is closed") as failed:
        SyncBackChannel(given).send(refresh("https://idp.example.com"))
    assert not failed.value.sent


@pytest.mark.spec("REF-07")
async def test_a_cancelled_request_lets_its_connection_go() -> None:
    async with serving(never) as server:
        channel = BackChannel()
        task = asyncio.create_task(channel.send(refresh(server.origin)))
        while not server.requests:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await channel.aclose()


class Conversation:
    """An exchange of two round trips that notices how it ends."""

    def __init__(self) -> None:
        self.closed = False

    def __call__(self) -> Generator[Request, Response, int]:
        try:
            first = yield Request("GET", "https://idp.example.com/1")
            second = yield Request("GET", "https://idp.example.com/2")
            return first.status + second.status
        finally:
            self.closed = True


async def test_an_exchange_is_driven_to_its_result() -> None:
    asked: list[str] = []

    def send(request: Request) -> Response:
        asked.append(request.url)
        return Response(len(asked))

    async def send_later(request: Request) -> Response:
        return send(request)

    assert run(Conversation()(), send) == 3
    assert await arun(Conversation()(), send_later) == 7
    assert asked == ["https://idp.example.com/1", "https://idp.example.com/2"] * 2


async def test_an_exchange_ends_when_sending_fails() -> None:
    def fail(_request: Request) -> Response:
        raise TransportError("down", sent=False)

    async def fail_later(request: Request) -> Response:
        return fail(request)

    conversation, other = Conversation(), Conversation()
    with pytest.raises(TransportError, match="down"):
        run(conversation(), fail)
    with pytest.raises(TransportError, match="down"):
        await arun(other(), fail_later)
    assert conversation.closed
    assert other.closed


def _self_signed(folder: Path, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context, and the file of the certificate that it shows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = (
        [x509.IPAddress(ipaddress.ip_address(host))] if host[0].isdigit() else [x509.DNSName(host)]
    )
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate_file, key_file = folder / f"{host}.crt", folder / f"{host}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(*plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context, certificate_file
