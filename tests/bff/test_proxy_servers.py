"""The whole way on real servers and bare sockets: what leaves is what was matched, and what is hostile gets nowhere."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.bff.raw_upstream import Seen, raw_upstream
from tests.bff.served_bff import SERVERS, ServerName, served

pytestmark = pytest.mark.parametrize("server", SERVERS)

# One path


@pytest.mark.spec("PRX-02", "PRX-35")
async def test_what_is_forwarded_is_byte_for_byte_what_was_matched(server: ServerName) -> None:
    """A differential between the wire in front of us and the wire behind us, over made-up targets."""
    pieces = [
        b"/",
        b".",
        b"..",
        b"%2e",
        b"%2F",
        b"%5c",
        b"%41",
        b"%20",
        b"%c3%a9",
        b"%ff",
        b"%00",
        b";",
        b"a",
        b"~",
        b"\\",
    ]
    pieces += [
        b"|",
        b"^",
        b"'",
        b"[",
        b"@",
        b":",
        b"//",
        b"%",
        b"%4",
        b"?",
        b"?a=b",
        b"&",
        b"=",
        b'"',
        b"<",
        b"{",
        b"%252e",
    ]
    chance = random.Random(20)
    targets = [b"".join(chance.choices(pieces, k=chance.randint(0, 6))) for _ in range(250)]
    accepted = 0
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        for tail in targets:
            before = len(upstream.requests)
            answer = await bff.ask(b"GET /api/orders/x" + tail + b" HTTP/1.1")
            seen = upstream.requests[before:]
            assert answer.status in (200, 400), tail
            assert len(seen) == (1 if answer.status == 200 else 0), tail
            if seen:
                accepted += 1
                path, _, query = tail.partition(b"?")
                assert seen[0].target == b"/x" + path + (b"?" + query if query else b""), tail
    assert 20 < accepted < 230


@pytest.mark.spec("PRX-03", "PRX-04", "PRX-06")
@pytest.mark.parametrize(
    "tail",
    [
        b"/..",
        b"/../admin",
        b"/%2e%2e/admin",
        b"/.%2e/admin",
        b"/..;/admin",
        b"/%252e%252e/admin",
        b"/..%5cadmin",
        b"/..%2fadmin",
        b"/.//admin",
        b"//admin",
        b"/a%2fb",
        b"/a%5Cb",
        b"/a\\b",
        b"/a%00",
        b"/a%0d%0ax:%20y",
        b"/a%zz",
        b"/a%",
        b"/%c0%af",
        b"/%ff",
        b"/%61dmin",
        b"/a\x01b",
        b"/caf\xc3\xa9",
    ],
)
async def test_traversal_and_ambiguity_are_400_and_reach_nothing(server: ServerName, tail: bytes) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url + "/base") as bff:
        answer = await bff.ask(b"GET /api/orders" + tail + b" HTTP/1.1")
        assert (answer.status, upstream.connections) == (400, 0)


@pytest.mark.spec("PRX-02")
@pytest.mark.parametrize(
    "path", [b"/api/ordersx", b"/API/orders", b"/api/Orders/1", b"/api", b"/api/orders;x", b"/x/api/orders"]
)
async def test_a_neighbour_of_the_route_is_not_the_route(server: ServerName, path: bytes) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        assert (await bff.ask(b"GET " + path + b" HTTP/1.1")).status == 404
        assert upstream.connections == 0


@pytest.mark.spec("PRX-01", "PRX-05")
async def test_nothing_in_a_request_chooses_the_destination(server: ServerName) -> None:
    async with raw_upstream() as evil, raw_upstream() as upstream, served(server, upstream.url) as bff:
        there = evil.url.removeprefix("http://").encode()
        for line in (
            b"GET http://%s/api/orders HTTP/1.1" % there,
            b"GET http://%s/ HTTP/1.1" % there,
            b"GET @%s/api/orders HTTP/1.1" % there,
            b"GET //%s/api/orders HTTP/1.1" % there,
            b"GET /\\%s/api/orders HTTP/1.1" % there,
            b"GET /api/orders@%s/ HTTP/1.1" % there,
            b"GET /api/orders/@%s/ HTTP/1.1" % there,
            b"GET /api/orders//%s/ HTTP/1.1" % there,
            b"GET %s HTTP/1.1" % there,
            b"CONNECT %s HTTP/1.1" % there,
            b"OPTIONS * HTTP/1.1",
        ):
            await bff.ask(line)
        for host in (there, b"a/../public?", b"shop.example@" + there, b"shop.example:80#", b"", b"[::1"):
            answer = await bff.ask(b"GET /api/orders/h HTTP/1.1", host=b"host: " + host)
            assert answer.status in (200, 400), host
        await bff.ask(b"GET /api/orders/f HTTP/1.1", b"x-forwarded-host: " + there, b"forwarded: host=" + there)
        assert evil.connections == 0
        own = upstream.url.removeprefix("http://").encode()
        for seen in upstream.requests:
            assert seen.all(b"host") == [own]
            assert seen.all(b"x-forwarded-host") == [b"shop.example"]
            assert seen.target in (b"/", b"/h", b"/f", b"/@" + there + b"/"), seen.target


@pytest.mark.spec("PRX-07")
async def test_a_stricter_route_cannot_be_passed_by(server: ServerName) -> None:
    """Neither a query, nor a fragment, nor another spelling moves a call to the anonymous route above."""
    async with raw_upstream() as upstream:

        def add(bff: object) -> None:
            from coatcheck.bff.app import BFF

            assert isinstance(bff, BFF)
            bff.remote_api("/api", upstream.url + "/open", token="none")

        async with served(server, upstream.url + "/closed", add=add) as bff:
            for path in (b"/api/orders?x=/api/open", b"/api/orders", b"/api/orders/", b"/api/orders/%23/open"):
                answer = await bff.ask(b"GET " + path + b" HTTP/1.1", cookie=False)
                assert (answer.status, answer.all(b"coatcheck-error")) == (401, [b"session_missing"])
            for path in (
                b"/api/%6frders",
                b"/api//orders",
                b"/api/./orders",
                b"/api/x/../orders",
                b"/api/%252e/orders",
            ):
                assert (await bff.ask(b"GET " + path + b" HTTP/1.1", cookie=False)).status == 400
            assert upstream.requests == []
            assert (await bff.ask(b"GET /api/ordersx HTTP/1.1", cookie=False)).status == 200
            assert (
                await bff.ask(b"GET /api/open HTTP/1.1", b"authorization: Bearer forged", cookie=False)
            ).status == 200
            assert [seen.target for seen in upstream.requests] == [b"/open/ordersx", b"/open/open"]
            assert all(seen.all(b"authorization") == [] for seen in upstream.requests)


@pytest.mark.spec("PRX-07")
async def test_a_route_wants_a_user_unless_it_says_otherwise(server: ServerName) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        assert (await bff.ask(b"GET /api/orders HTTP/1.1", cookie=False)).status == 401
        assert upstream.connections == 0
        assert (await bff.ask(b"GET /api/orders HTTP/1.1")).status == 200
        assert upstream.requests[0].all(b"authorization") == [b"Bearer alices-token"]


# Headers


@pytest.mark.spec("PRX-09", "PRX-10", "PRX-11", "PRX-12", "PRX-29")
async def test_forged_headers_do_not_get_through_in_any_spelling(server: ServerName) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        answer = await bff.ask(
            b"GET /api/orders HTTP/1.1",
            b"Authorization: Bearer forged",
            b"AUTHORIZATION: Bearer forged",
            b"Proxy-Authorization: Basic forged",
            b"DPoP: forged",
            # uvicorn itself believes X-Forwarded-For from 127.0.0.1 unless told not to: then it is no forgery there.
            b"X-Forwarded-For: " + (b"forged" if server == "granian" else b"127.0.0.1"),
            b"X-FORWARDED-USER: forged",
            b"x_forwarded_user: forged",
            b"X_Forwarded-For: forged",
            b"X-Forwarded-Host: forged",
            b"X-Forwarded-Proto: forged",
            b"Remote-User: forged",
            b"Cookie: other=forged",
            b"Forwarded: for=forged",
            b"Upgrade: h2c",
            b"HTTP2-Settings: forged",
            b"TE: trailers",
            b"X-Secret: forged",
            b"Connection: x-secret, authorization, x-forwarded-for, http2-settings, upgrade",
            b"Accept: text/plain",
        )
        assert answer.status == 200
        [seen] = upstream.requests
        assert b"forged" not in seen.head and b"coatcheck-" not in seen.head
        assert {name for name, _ in seen.lines} == {
            b"host",
            b"accept",
            b"user-agent",
            b"authorization",
            b"x-forwarded-for",
            b"x-forwarded-host",
            b"x-forwarded-proto",
        }
        assert seen.all(b"authorization") == [b"Bearer alices-token"]
        assert seen.all(b"x-forwarded-for") == [b"127.0.0.1"]
        assert seen.all(b"x-forwarded-proto") == [b"https"]


@pytest.mark.spec("PRX-11")
@pytest.mark.parametrize("name", [b"X.Auth.User", b"x_auth", b"x!a", b"x'a"])
async def test_an_odd_header_name_is_dropped_or_refused(server: ServerName, name: bytes) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        answer = await bff.ask(b"GET /api/orders HTTP/1.1", name + b": forged")
        assert answer.status in (200, 400)
        assert all(b"forged" not in seen.head for seen in upstream.requests)


@pytest.mark.spec("PRX-25")
@pytest.mark.parametrize("method", [b"TRACE", b"TRACK", b"CONNECT", b"foo"])
async def test_a_method_that_is_no_call_reaches_nothing(server: ServerName, method: bytes) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        answer = await bff.ask(method + b" /api/orders HTTP/1.1")
        assert (answer.status in (400, 405), upstream.connections) == (True, 0)


@pytest.mark.spec("CSR-01", "PRX-08")
async def test_a_call_without_the_anti_forgery_header_reaches_nothing(server: ServerName) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        head = b"POST /api/orders HTTP/1.1\r\nhost: shop.example\r\ncookie: " + bff.cookie
        answer = await bff.send(head + b"\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab")
        assert (answer.status, answer.all(b"coatcheck-error")) == (403, [b"csrf_header_missing"])
        assert upstream.connections == 0


@pytest.mark.spec("OAU-32", "OAU-31")
async def test_no_answer_of_the_proxy_shows_a_token(server: ServerName) -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        status = seen.target.removeprefix(b"/").partition(b"/")[0] or b"200"
        writer.write(b"HTTP/1.1 %s X\r\ncontent-length: 0\r\nx-own: 1\r\n\r\n" % status)
        return True

    async with raw_upstream(answer) as upstream, served(server, upstream.url) as bff:
        for line in (
            b"/200",
            b"/401",
            b"/403",
            b"/404",
            b"/500",
            b"/302",
            b"/204",
            b"/../x",
            b"?access_token=x",
            b"?a='",
        ):
            got = await bff.ask(b"GET /api/orders" + line + b" HTTP/1.1")
            assert b"alices" not in got.head + got.body
        seen = upstream.requests[0]
        assert seen.head.count(b"alices-token") == 1 and b"alices-refresh" not in seen.head
        assert b"alices" not in seen.target
