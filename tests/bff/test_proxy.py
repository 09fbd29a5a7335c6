"""A remote API as a page meets it: what is sent on, what comes back, and what never crosses the counter."""

from __future__ import annotations

import asyncio
import logging

import pytest

from coatcheck.audit import AUDIT_LOGGER
from coatcheck.tokens.results import (
    AccessTokenResult,
    BearerTokenResult,
    NoAccessTokenResult,
)
from tests.bff.proxy_rig import OURS, Browser, FixedRetriever, Line, route
from tests.bff.raw_upstream import Seen, raw_upstream

ANYTHING = "/api/orders/1?a=b"


# What goes out


@pytest.mark.spec("PRX-02", "PRX-35", "OAU-31")
async def test_a_call_goes_on_with_the_token_and_the_same_path_and_query() -> None:
    async with raw_upstream() as upstream, route(upstream.url + "/base/") as rig:
        answer = await rig.call("GET", "/api/orders/a%20b;v=1/caf%C3%A9/?q=%zz&q=a+b%2F")
        assert (answer.status, answer.answer, answer.whole) == (200, b"{}", True)
        [seen] = upstream.requests
        assert seen.request_line == b"GET /base/a%20b;v=1/caf%C3%A9/?q=%zz&q=a+b%2F HTTP/1.1"
        assert seen.all(b"authorization") == [b"Bearer the-users-token"]
        assert seen.head.count(b"the-users-token") == 1


@pytest.mark.parametrize(
    ("path", "base", "target", "seen"),
    [
        ("/api/orders", "", "/api/orders", b"/"),
        ("/api/orders", "", "/api/orders/", b"/"),
        ("/api/orders", "/v1", "/api/orders", b"/v1"),
        ("/api/orders", "/v1/", "/api/orders/", b"/v1/"),
        ("/api/orders", "/", "/api/orders?x=1", b"/?x=1"),
        ("/", "", "/anything/at/all", b"/anything/at/all"),
        ("/", "/v1", "/", b"/v1/"),
    ],
)
async def test_the_path_of_the_route_is_replaced_by_the_path_of_the_url(
    path: str, base: str, target: str, seen: bytes
) -> None:
    async with raw_upstream() as upstream, route(upstream.url + base, path=path) as rig:
        await rig.call("GET", target)
        assert upstream.requests[0].target == seen


FORGED: tuple[Line, ...] = (
    (b"authorization", b"Bearer forged"),
    (b"Authorization", b"Bearer forged"),
    (b"proxy-authorization", b"Basic forged"),
    (b"dpop", b"forged"),
    (b"cookie", b"other=forged"),
    (b"host", b"forged.example"),
    (b"forwarded", b"for=forged"),
    (b"x-forwarded-for", b"forged"),
    (b"x-forwarded-host", b"forged"),
    (b"x-forwarded-proto", b"forged"),
    (b"x-forwarded-user", b"forged"),
    (b"x_forwarded_user", b"forged"),
    (b"X.Auth.User", b"forged"),
    (b"x-real-ip", b"forged"),
    (b"x-http-method-override", b"forged"),
    (b"connection", b"authorization, x-forwarded-for, x-forwarded-host, x-forwarded-proto, dpop"),
)


@pytest.mark.spec("PRX-09", "PRX-10", "PRX-11", "PRX-12", "PRX-32", "CSR-06", "CSR-11")
async def test_forged_headers_neither_pass_nor_remove_ours() -> None:
    """`Connection: authorization` must not strip the token either (CVE-2024-45410)."""
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        await rig.call("GET", ANYTHING, headers=(*OURS, *FORGED, (b"accept", b"text/plain")))
        [seen] = upstream.requests
        assert b"forged" not in seen.head
        assert dict(seen.lines) == {
            b"host": upstream.url.removeprefix("http://").encode(),
            b"accept": b"text/plain",
            b"user-agent": b"coatcheck",
            b"authorization": b"Bearer the-users-token",
            b"x-forwarded-for": b"203.0.113.7",
            b"x-forwarded-host": b"shop.example",
            b"x-forwarded-proto": b"https",
        }
        assert len(seen.lines) == 7


@pytest.mark.spec("PRX-09")
async def test_no_cookie_of_the_browser_reaches_the_remote_api() -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        await rig.call("GET", ANYTHING, headers=(*OURS, (b"cookie", b"theme=dark; other=1")))
        assert upstream.requests[0].all(b"cookie") == []
        assert rig.cookie[1] not in upstream.requests[0].head


@pytest.mark.spec("PRX-01", "PRX-34")
async def test_the_host_is_the_remote_apis_own_whatever_the_browser_says() -> None:
    async with raw_upstream() as other, raw_upstream() as upstream, route(upstream.url) as rig:
        host = other.url.removeprefix("http://").encode()
        await rig.call("GET", ANYTHING, headers=(*OURS, (b"host", host), (b"x-forwarded-host", host)))
        await rig.call("GET", f"/api/orders/@{host.decode()}/x")
        assert other.requests == []
        assert [seen.target for seen in upstream.requests] == [b"/1?a=b", b"/@" + host + b"/x"]
        assert upstream.requests[0].all(b"host") == [upstream.url.removeprefix("http://").encode()]


async def test_a_caller_without_an_address_gets_no_forwarded_for() -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        await rig.call("GET", ANYTHING, scope={"client": None})
        assert upstream.requests[0].all(b"x-forwarded-for") == []


@pytest.mark.spec("PRX-18")
async def test_two_users_share_a_connection_and_nothing_else() -> None:
    async def sets_a_cookie(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: who=alice\r\ncontent-length: 0\r\n\r\n")
        return True

    retriever = FixedRetriever(BearerTokenResult("alices"))
    async with raw_upstream(sets_a_cookie) as upstream, route(upstream.url, retriever=retriever) as rig:
        await rig.call("GET", ANYTHING, headers=(*OURS, (b"x-own", b"alice")))
        retriever.result = BearerTokenResult("bobs")
        await rig.call("GET", ANYTHING)
        assert upstream.connections == 1
        assert b"alice" not in upstream.requests[1].head
        assert upstream.requests[1].all(b"authorization") == [b"Bearer bobs"]


# What comes back


async def test_an_answer_comes_back_as_it_is() -> None:
    head = b"HTTP/1.1 201 Made\r\nlocation: /orders/1\r\netag: x\r\ncontent-length: 4\r\nx-two: 1\r\nx-two: 2\r\n\r\n"
    async with raw_upstream(head + b"\x00\xff\r\n") as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", ANYTHING)
        assert (browser.status, browser.answer, browser.whole) == (201, b"\x00\xff\r\n", True)
        assert browser.headers == [
            (b"location", b"/orders/1"),
            (b"etag", b"x"),
            (b"content-length", b"4"),
            (b"x-two", b"1"),
            (b"x-two", b"2"),
            (b"cache-control", b"no-store"),
            (b"vary", b"Cookie"),
        ]


@pytest.mark.spec("PRX-20", "PRX-21", "PRX-12")
async def test_what_a_remote_api_may_not_say_is_dropped() -> None:
    lines = (
        b"set-cookie: a=1",
        b"coatcheck-error: session_missing",
        b"access-control-allow-origin: *",
        b"x-accel-redirect: /etc",
        b"clear-site-data: *",
        b"connection: x-hop",
        b"x-hop: 1",
        b"www-authenticate: Basic",
        b"server: apache",
        b"date: x",
    )
    answer = b"HTTP/1.1 401 No\r\n" + b"\r\n".join(lines) + b"\r\ncontent-length: 0\r\n\r\n"
    async with raw_upstream(answer) as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", ANYTHING)
        assert browser.status == 401
        assert {name for name, _ in browser.headers} == {b"content-length", b"cache-control", b"vary"}


NO = b"HTTP/1.1 401 No\r\ncontent-length: 4\r\n\r\nno: "
STEP_UP = NO.replace(b"\r\n", b'\r\nwww-authenticate: Bearer error="insufficient_user_authentication"\r\n', 1)


@pytest.mark.spec("LOG-07")
@pytest.mark.parametrize(
    ("answer", "result", "login", "told"),
    [
        (NO, BearerTokenResult("the-users-token"), True, True),
        (NO, BearerTokenResult("the-clients-token"), False, True),
        (NO, NoAccessTokenResult(), True, False),
        (STEP_UP, BearerTokenResult("the-users-token"), True, False),
        (NO.replace(b"401", b"403"), BearerTokenResult("the-users-token"), True, False),
    ],
    ids=["user", "client", "without a token", "a stronger login is wanted", "forbidden"],
)
async def test_a_token_that_is_refused_is_a_line_of_the_audit_log(
    answer: bytes, result: AccessTokenResult, login: bool, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=AUDIT_LOGGER)
    retriever, token = FixedRetriever(result), "user" if login else "client"
    async with (
        raw_upstream(answer) as upstream,
        route(upstream.url, retriever=retriever, token=token, anonymous=not login) as rig,
    ):
        await rig.call("GET", ANYTHING, login=login)
    lines = [vars(record)["audit"] for record in caplog.records if record.name == AUDIT_LOGGER]
    assert [(line["event"], line["api"], "session" in line) for line in lines] == (
        [("token_refused", "/api/orders", login)] if told else []
    )
    assert "-token" not in caplog.text


@pytest.mark.spec("PRX-22")
@pytest.mark.parametrize("path", ["/api/orders/me", "/api/orders/me/x.css", "/api/orders/me.js", "/api/orders/a;.png"])
async def test_cache_deception_a_file_name_changes_nothing(path: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncache-control: public, max-age=600\r\ncontent-length: 0\r\n\r\n"
    async with raw_upstream(answer) as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", path)
        assert browser.all(b"cache-control") == [b"no-store"]
        assert browser.all(b"vary") == [b"Cookie"]


@pytest.mark.spec("PRX-22")
@pytest.mark.parametrize(("login", "leaves"), [(True, b"no-store"), (False, b"public, max-age=600")])
async def test_only_an_answer_that_nobody_logged_in_got_may_be_shared(login: bool, leaves: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncache-control: public, max-age=600\r\ncontent-length: 0\r\n\r\n"
    retriever = FixedRetriever(NoAccessTokenResult())
    async with (
        raw_upstream(answer) as upstream,
        route(upstream.url, token="user_or_none", anonymous=True, retriever=retriever) as rig,
    ):
        browser = await rig.call("GET", ANYTHING, login=login)
        assert browser.all(b"cache-control") == [leaves]
        assert browser.all(b"vary") == [b"Cookie"]


async def test_a_renewed_session_cookie_goes_out_with_the_answer() -> None:
    """What cookie sessions do: the new cookie is known by the time the answer begins."""
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        retriever = FixedRetriever()

        class Renewing:
            async def get_access_token(self, context: object) -> AccessTokenResult:
                current.add_cookie(b"__Host-new=1; Secure")
                return await retriever.get_access_token(context)  # type: ignore[arg-type]

        rig.api._credentials._retriever = Renewing()
        scope = {
            "type": "http",
            "method": "GET",
            "query_string": b"",
            "headers": [rig.cookie, *OURS],
            "client": None,
        }
        current = rig.current(scope, "/api/orders")
        browser = Browser()
        await rig.api.handle(scope, browser.receive, browser.send, current)
        assert browser.all(b"set-cookie") == [b"__Host-new=1; Secure"]
        assert browser.all(b"cache-control") == [b"no-store"]


@pytest.mark.parametrize(
    ("method", "head", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", [b"1000"]),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", []),
        ("GET", b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", []),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n", []),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", [b"0"]),
    ],
)
async def test_an_answer_without_a_body_ends_at_once_and_keeps_the_connection(
    method: str, head: bytes, length: list[bytes]
) -> None:
    async def answer(_: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(head)
        return True

    async with raw_upstream(answer) as upstream, route(upstream.url) as rig:
        for _ in range(2):
            browser = await rig.call(method, ANYTHING)
            assert (browser.answer, browser.whole) == (b"", True)
            assert browser.all(b"content-length") == length
        assert upstream.connections == 1


async def test_a_range_comes_back_as_a_range() -> None:
    answer = b"HTTP/1.1 206 Partial\r\ncontent-range: bytes 0-3/10\r\ncontent-length: 4\r\n\r\nabcd"
    async with raw_upstream(answer) as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", ANYTHING, headers=(*OURS, (b"range", b"bytes=0-3")))
        assert upstream.requests[0].all(b"range") == [b"bytes=0-3"]
        assert (browser.status, browser.answer) == (206, b"abcd")
        assert browser.all(b"content-range") == [b"bytes 0-3/10"]


@pytest.mark.spec("PRX-36")
async def test_trailers_end_here() -> None:
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n2\r\nab\r\n0\r\nx-t: 1\r\n\r\n"
    async with raw_upstream(answer) as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", ANYTHING, headers=(*OURS, (b"te", b"trailers"), (b"trailer", b"x-q")))
        assert (browser.answer, browser.whole) == (b"ab", True)
        assert all(b"trailer" not in name + value for name, value in browser.headers)
        assert not upstream.requests[0].all(b"te") and not upstream.requests[0].all(b"trailer")


@pytest.mark.spec("PRX-36")
async def test_expect_is_answered_in_front_of_us() -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        lines = (*OURS, (b"expect", b"100-continue"), (b"content-length", b"2"))
        assert (await rig.call("POST", ANYTHING, headers=lines, body=(b"ab",))).status == 200
        assert upstream.requests[0].all(b"expect") == []
        assert upstream.requests[0].body == b"ab"


@pytest.mark.spec("PRX-17")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_passed_on_and_not_followed(status: int) -> None:
    async with raw_upstream() as other:
        answer = b"HTTP/1.1 %d Go\r\nlocation: %s/\r\nrefresh: 0\r\ncontent-length: 0\r\n\r\n" % (
            status,
            other.url.encode(),
        )
        async with raw_upstream(answer) as upstream, route(upstream.url) as rig:
            browser = await rig.call("GET", ANYTHING)
            assert browser.status == status
            assert browser.all(b"location") == [other.url.encode() + b"/"]
            assert browser.all(b"refresh") == []
        assert other.requests == []
