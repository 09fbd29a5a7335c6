"""No step of a call begins before the one above has passed; and whose token goes along."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Sequence
from datetime import timedelta

import pytest

from coatcheck.bff.forwarder import Body, PyreqwestForwarder, UpstreamResponse
from coatcheck.errors import (
    CoatcheckError,
    LoginRequired,
    SessionGone,
    StoreUnavailable,
    TokenUnavailable,
    UnknownSealKey,
)
from coatcheck.oauth.dpop import DPoPKey
from coatcheck.oauth.messages import Request, Response
from coatcheck.tokens.results import (
    AccessTokenResult,
    AccessTokenRetrievalError,
    BearerTokenResult,
    DPoPTokenResult,
)
from coatcheck.tokens.values import TokenType
from coatcheck.transport import Send as BackChannel
from tests.bff.proxy_rig import OURS, FixedRetriever, route
from tests.bff.raw_upstream import raw_upstream

ANYTHING = "/api/orders/1?a=b"


# The order: nothing after the step that refuses is touched


class CountingForwarder(PyreqwestForwarder):
    """Counts the calls to the remote API and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    async def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: Body, *, timeout: timedelta
    ) -> UpstreamResponse:
        self.sent += 1
        return await super().send(method, url, headers, body, timeout=timeout)


@pytest.mark.spec("PRX-08", "CSR-01")
@pytest.mark.parametrize(
    ("step", "status", "touched"),
    [
        ("route", 405, (0, 0, 0, 0)),
        ("query", 400, (0, 0, 0, 0)),
        ("header", 400, (0, 0, 0, 0)),
        ("csrf", 403, (0, 0, 0, 0)),
        ("session", 401, (1, 0, 0, 0)),
        ("token", 503, (1, 1, 0, 0)),
        ("body", 400, (1, 1, 1, 0)),
        ("none", 200, (1, 1, 1, 1)),
    ],
)
async def test_a_refused_call_has_touched_nothing_behind_the_step_that_refused_it(
    step: str, status: int, touched: tuple[int, int, int, int]
) -> None:
    """Look-ups in the session store, calls of the retriever, pieces of the body read, calls of the remote API."""
    retriever = FixedRetriever(AccessTokenRetrievalError("token_unavailable", status=503) if step == "token" else None)
    async with raw_upstream() as upstream, route(upstream.url, retriever=retriever, forwarder=CountingForwarder) as rig:
        headers = [*OURS, (b"content-length", b"5")]
        if step == "csrf":
            headers.remove(OURS[0])
        elif step == "header":
            headers.append((b"x-own", b"\xff"))
        elif step == "session":
            await rig.store.delete(next(iter(rig.store._rows)))
        browser = await rig.call(
            "TRACE" if step == "route" else "POST",
            "/api/orders?access_token=x" if step == "query" else "/api/orders",
            headers=tuple(headers),
            body=(b"1234",) if step == "body" else (b"12345",),
        )
        forwarder = rig.forwarder
        assert isinstance(forwarder, CountingForwarder)
        assert browser.status == status
        assert (rig.store.loads, len(retriever.asked), browser.pieces_taken, forwarder.sent) == touched
        assert len(upstream.requests) == touched[3]
        assert (browser.code is None) == (status == 200)


@pytest.mark.spec("CSR-01")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_without_the_anti_forgery_header_no_method_reaches_the_remote_api(method: str) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser = await rig.call(method, ANYTHING, headers=())
        assert (browser.status, browser.code) == (403, "csrf_header_missing")
        assert (rig.store.loads, upstream.connections) == (0, 0)


@pytest.mark.spec("CSR-06")
async def test_the_anti_forgery_header_does_not_travel_in_a_query() -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", "/api/orders?X-CSRF=1", headers=((b"x_csrf", b"1"),))
        assert (browser.code, upstream.connections) == ("csrf_header_missing", 0)


@pytest.mark.spec("CSR-06")
async def test_the_anti_forgery_header_does_not_travel_in_a_form() -> None:
    form = b"X-CSRF=1&x-csrf=1&_method=GET"
    kind = (b"content-type", b"application/x-www-form-urlencoded")
    lines = (kind, (b"content-length", b"%d" % len(form)), (b"x-http-method-override", b"GET"))
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser = await rig.call("POST", "/api/orders", headers=lines, body=(form,))
        assert (browser.code, browser.pieces_taken, upstream.connections) == ("csrf_header_missing", 0, 0)


@pytest.mark.spec("CSR-05")
@pytest.mark.parametrize("login", [False, True], ids=["as browsers send it", "with the cookie"])
@pytest.mark.parametrize("csrf", [True, False])
@pytest.mark.parametrize(
    ("origin", "site"),
    [
        (b"https://evil.example", b"cross-site"),
        (b"https://sibling.shop.example", b"same-site"),
        (b"null", b"cross-site"),
        (b"https://evil.example", None),
    ],
)
async def test_a_preflight_reaches_no_remote_api_and_allows_nothing(
    origin: bytes, site: bytes | None, csrf: bool, login: bool
) -> None:
    """Not even where anybody may call: the page that asks is another site's."""
    retriever = FixedRetriever()
    lines = [
        (b"origin", origin),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"x-csrf"),
        (b"sec-fetch-mode", b"cors"),
        *([(b"sec-fetch-site", site)] if site else []),
    ]
    answer = b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-length: 0\r\n\r\n"
    async with (
        raw_upstream(answer) as upstream,
        route(upstream.url, token="client", anonymous=True, csrf=csrf, retriever=retriever) as rig,
    ):
        browser = await rig.call("OPTIONS", ANYTHING, headers=tuple(lines), login=login)
        assert (browser.status, browser.code) == (403, "cross_site")
        assert [name for name, _ in browser.headers if name.startswith(b"access-control-")] == []
        assert (rig.store.loads, retriever.asked, upstream.connections) == (0, [], 0)


@pytest.mark.spec("CSR-09")
@pytest.mark.parametrize(
    ("site", "status"), [(b"same-origin", 200), (b"cross-site", 403), (b"same-site", 403), (b"", 403)]
)
async def test_a_route_without_the_header_still_wants_its_own_site(site: bytes, status: int) -> None:
    async with raw_upstream() as upstream, route(upstream.url, csrf=False) as rig:
        browser = await rig.call("GET", ANYTHING, headers=((b"sec-fetch-site", site),))
        assert (browser.status, len(upstream.requests)) == (status, int(status == 200))


@pytest.mark.spec("PRX-25")
@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "foo", "get", "M-SEARCH\n", ""])
async def test_methods_that_are_no_calls_to_an_api_are_refused(method: str) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser = await rig.call(method, ANYTHING)
        assert (browser.status, browser.code, upstream.connections) == (405, "method_not_allowed", 0)


@pytest.mark.spec("PRX-35", "OAU-31")
@pytest.mark.parametrize("query", ["access_token=stolen", "x=1&id_token=stolen", "access%5ftoken=stolen"])
async def test_a_token_in_the_query_is_refused_and_not_logged(query: str, caplog: pytest.LogCaptureFixture) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", f"/api/orders?{query}")
        assert (browser.status, browser.code, upstream.connections) == (400, "token_in_query", 0)
    assert "stolen" not in caplog.text


@pytest.mark.spec("PRX-35")
@pytest.mark.parametrize("query", ["a=b c", 'a="', "a='", "a=<", "a=\xe9", "a=#b"])
async def test_a_query_that_would_be_rewritten_is_refused(query: str) -> None:
    async with raw_upstream() as upstream, route(upstream.url) as rig:
        browser = await rig.call("GET", f"/api/orders?{query}")
        assert (browser.status, browser.code, upstream.connections) == (400, "path_refused", 0)


# Whose token


def client_credentials(expires_in: int = 600) -> tuple[list[Request], BackChannel]:
    """An authorization server of two endpoints, and the requests that it got."""
    seen: list[Request] = []

    async def send(request: Request) -> Response:
        seen.append(request)
        if "well-known" in request.url:
            body: dict[str, object] = {
                "issuer": "https://idp.example",
                "authorization_endpoint": "https://idp.example/authorize",
                "token_endpoint": "https://idp.example/token",
                "jwks_uri": "https://idp.example/jwks",
            }
        else:
            body = {"access_token": "the-clients-token", "token_type": "Bearer", "expires_in": expires_in}
        return Response(200, {"content-type": "application/json"}, json.dumps(body).encode())

    return seen, send


@pytest.mark.spec("PRX-07", "PRX-10")
@pytest.mark.parametrize(
    ("token", "anonymous", "login", "outcome"),
    [
        ("user", False, True, b"Bearer alices-token"),
        ("user", False, False, "session_missing"),
        ("client", False, True, b"Bearer the-clients-token"),
        ("client", False, False, "session_missing"),
        ("client", True, False, b"Bearer the-clients-token"),
        ("client", True, True, b"Bearer the-clients-token"),
        ("user_or_client", False, True, b"Bearer alices-token"),
        ("user_or_client", False, False, "session_missing"),
        ("user_or_client", True, True, b"Bearer alices-token"),
        ("user_or_client", True, False, b"Bearer the-clients-token"),
        ("user_or_none", False, True, b"Bearer alices-token"),
        ("user_or_none", False, False, "session_missing"),
        ("user_or_none", True, True, b"Bearer alices-token"),
        ("user_or_none", True, False, None),
        ("none", False, True, None),
        ("none", False, False, None),
    ],
)
async def test_whose_token_goes_along(token: str, anonymous: bool, login: bool, outcome: bytes | str | None) -> None:
    _, send = client_credentials()
    async with (
        raw_upstream() as upstream,
        route(upstream.url, token=token, anonymous=anonymous, default_retriever=True, back_channel=send) as rig,
    ):
        forged = (b"authorization", b"Bearer forged")
        browser = await rig.call("GET", ANYTHING, headers=(*OURS, forged), login=login)
        if isinstance(outcome, str):
            assert (browser.status, browser.code, upstream.connections) == (401, outcome, 0)
            assert b'"login_url":"/bff/login"' in browser.answer
        else:
            assert browser.status == 200
            assert upstream.requests[0].all(b"authorization") == ([outcome] if outcome else [])


@pytest.mark.spec("PRX-07")
@pytest.mark.parametrize("token", list(TokenType))
@pytest.mark.parametrize("anonymous", [False, True])
@pytest.mark.parametrize("cookie", ["unknown", "forged", "empty", "twice"])
async def test_a_cookie_that_leads_nowhere_is_401_on_every_token_type(
    token: TokenType, anonymous: bool, cookie: str
) -> None:
    if anonymous and token in (TokenType.USER, TokenType.NONE):
        anonymous = False
    retriever = FixedRetriever()
    async with (
        raw_upstream() as upstream,
        route(upstream.url, token=token, anonymous=anonymous, retriever=retriever) as rig,
    ):
        name, _, value = rig.cookie[1].partition(b"=")
        presented = {"unknown": value[::-1], "forged": b"x", "empty": b"", "twice": value + b"; " + name + b"=" + value}
        lines = (*OURS, (b"cookie", name + b"=" + presented[cookie]))
        browser = await rig.call("GET", ANYTHING, headers=lines, login=False)
        assert (browser.status, browser.code) == (401, "session_expired")
        assert (retriever.asked, upstream.connections) == ([], 0)


async def test_the_retriever_learns_everything_about_the_call() -> None:
    retriever = FixedRetriever()
    async with raw_upstream() as upstream, route(upstream.url, retriever=retriever) as rig:
        await rig.call("GET", "/api/orders/1/lines?x=1")
        await rig.call("GET", "/api/orders")
        first, second = retriever.asked
        assert (first.api, first.path, second.path) == ("/api/orders", "/1/lines", "")
        assert first.user is not None and first.user.sub == "alice" and first.user.session is not None
        assert first.session_id == first.user.session.session.id
        assert (first.token, first.anonymous, first.asgi["method"]) == (TokenType.USER, False, "GET")


@pytest.mark.spec("PRX-08")
@pytest.mark.parametrize(
    ("result", "status", "code"),
    [
        (AccessTokenRetrievalError("session_missing"), 401, "session_missing"),
        (AccessTokenRetrievalError("token_unavailable", "x", status=503), 503, "token_unavailable"),
        (AccessTokenRetrievalError("not_for_you", status=403), 403, "not_for_you"),
        (AccessTokenRetrievalError("Bad\r\nName", status=403), 403, "token_unavailable"),
        (AccessTokenRetrievalError("odd", status=200), 503, "odd"),
        (LoginRequired("x", code="token_expired_no_refresh_token"), 401, "token_expired_no_refresh_token"),
        (SessionGone("x"), 401, "session_ended"),
        (TokenUnavailable("x"), 503, "token_unavailable"),
        (StoreUnavailable("x"), 503, "store_unavailable"),
        (UnknownSealKey("k1"), 503, "store_unavailable"),
        (CoatcheckError("x"), 503, "token_unavailable"),
        (RuntimeError("secret-in-a-message"), 503, "token_unavailable"),
        ("a string", 503, "token_unavailable"),
        (BearerTokenResult(""), 503, "token_unavailable"),
        (BearerTokenResult("a b"), 503, "token_unavailable"),
        (BearerTokenResult("a\r\nx-admin: 1"), 503, "token_unavailable"),
        (BearerTokenResult("t\xf6ken"), 503, "token_unavailable"),
        (DPoPTokenResult("token", "no key"), 503, "token_unavailable"),
    ],
)
async def test_without_its_token_a_call_is_never_made(
    result: AccessTokenResult | Exception, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "coatcheck")
    async with raw_upstream() as upstream, route(upstream.url, retriever=FixedRetriever(result)) as rig:
        browser = await rig.call("POST", "/api/orders", headers=(*OURS, (b"content-length", b"1")), body=(b"x",))
        assert (browser.status, browser.code) == (status, code)
        assert (upstream.connections, browser.pieces_taken) == (0, 0)
        assert b"secret-in-a-message" not in browser.answer
    [line] = [record for record in caplog.records if record.name == "coatcheck"]
    assert "secret-in-a-message" not in line.getMessage()
    assert "/api/orders" in line.getMessage()


async def test_a_refusal_says_when_to_come_back() -> None:
    result = AccessTokenRetrievalError("token_unavailable", status=503, retry_after=timedelta(seconds=7))
    async with raw_upstream() as upstream, route(upstream.url, retriever=FixedRetriever(result)) as rig:
        browser = await rig.call("GET", ANYTHING)
        assert browser.all(b"retry-after") == [b"7"]


async def test_a_retriever_that_fails_is_found_by_its_line(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def get_access_token(self, context: object) -> AccessTokenResult:
            raise KeyError("secret")

    async with raw_upstream() as upstream, route(upstream.url, retriever=Broken()) as rig:
        assert (await rig.call("GET", ANYTHING)).status == 503
    assert "Broken, raised KeyError at " in caplog.text
    assert "test_proxy_order.py:" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("error", [StoreUnavailable("down"), UnknownSealKey("k9")])
async def test_a_store_that_does_not_answer_is_503_and_logs_nobody_out(error: Exception) -> None:
    retriever = FixedRetriever()
    async with raw_upstream() as upstream, route(upstream.url, retriever=retriever) as rig:
        rig.store.fails_with = error
        browser = await rig.call("GET", ANYTHING)
        assert (browser.status, browser.code) == (503, "store_unavailable")
        assert (browser.all(b"set-cookie"), retriever.asked, upstream.connections) == ([], [], 0)
        rig.store.fails_with = None
        assert (await rig.call("GET", ANYTHING)).status == 200


def claims_of(jwt: bytes, part: int) -> dict[str, object]:
    segment = jwt.split(b".")[part]
    claims: dict[str, object] = json.loads(base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4)))
    return claims


@pytest.mark.spec("PRX-10", "OAU-31")
async def test_a_bound_token_goes_with_a_new_proof_for_the_url_really_sent() -> None:
    key = DPoPKey.generate()
    retriever = FixedRetriever(DPoPTokenResult("bound-token", key.to_jwk()))
    async with raw_upstream() as upstream, route(upstream.url + "/v1", retriever=retriever) as rig:
        forged = (b"dpop", b"forged")
        await rig.call("GET", "/api/orders/1?q=2", headers=(*OURS, forged))
        await rig.call("POST", "/api/orders", headers=(*OURS, (b"content-length", b"0")))
        first, second = upstream.requests
        assert first.all(b"authorization") == second.all(b"authorization") == [b"DPoP bound-token"]
        [proof], [other] = first.all(b"dpop"), second.all(b"dpop")
        claims = claims_of(proof, 1)
        assert claims["htm"] == "GET"
        assert claims["htu"] == f"{upstream.url}{first.target.decode().partition('?')[0]}" == f"{upstream.url}/v1/1"
        digest = hashlib.sha256(b"bound-token").digest()
        assert claims["ath"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        assert claims["iat"] == int(rig.clock.time())
        assert claims_of(other, 1)["htu"] == f"{upstream.url}/v1"
        assert claims_of(other, 1)["htm"] == "POST"
        assert claims["jti"] != claims_of(other, 1)["jti"]
        assert claims_of(proof, 0)["typ"] == "dpop+jwt"


@pytest.mark.spec("REF-07")
@pytest.mark.parametrize("leaves", ["cancelled", "disconnected"])
async def test_the_first_caller_leaving_does_not_stop_the_renewal_it_began(leaves: str) -> None:
    asked: list[Request] = []
    answered = asyncio.Event()
    waiting = asyncio.Event()
    _, metadata = client_credentials()

    async def send(request: Request) -> Response:
        if "well-known" in request.url:
            return await metadata(request)
        asked.append(request)
        waiting.set()
        await answered.wait()
        body = b'{"access_token": "new-token", "token_type": "Bearer", "expires_in": 600, "refresh_token": "r2"}'
        return Response(200, {"content-type": "application/json"}, body)

    async with raw_upstream() as upstream, route(upstream.url, default_retriever=True, back_channel=send) as rig:
        rig.clock.forward(timedelta(seconds=700))  # the token has expired
        first, call = rig.begin("GET", ANYTHING)
        await asyncio.wait_for(waiting.wait(), 5)
        if leaves == "cancelled":
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            first.leave()
        others = [rig.begin("GET", ANYTHING) for _ in range(5)]
        answered.set()
        await asyncio.gather(*(task for _, task in others))
        assert [browser.status for browser, _ in others] == [200] * 5
        assert len(asked) == 1
        assert {seen.all(b"authorization")[0] for seen in upstream.requests} == {b"Bearer new-token"}
        if not call.done():
            await asyncio.wait_for(call, 5)
        assert (await rig.call("GET", ANYTHING)).status == 200
        assert len(asked) == 1
