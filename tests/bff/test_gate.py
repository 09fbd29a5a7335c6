"""The door: what development mode keeps out, and requests that two servers would read in two ways."""

from __future__ import annotations

import pytest

from coatcheck.bff.gate import keep_to_loopback, refuse_two_readings
from coatcheck.bff.refusals import Refused
from tests.bff.raw_upstream import raw_upstream
from tests.bff.served_bff import SERVERS, ServerName, served
from tests.bff.world import LOCAL, PUBLIC, world

PATHS = (b"/bff/user", b"/bff/login", b"/bff/diagnostics", b"/api/orders", b"/page")


def asked_for(*hosts: bytes) -> dict[str, object]:
    return {"server": ("127.0.0.1", 8000), "headers": [(b"host", host) for host in hosts]}


@pytest.mark.spec("DEV-01")
@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:8000",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example:8000",
        b"127.0.0.1@evil.example",
        b"localhost:8000:1",
        b"0.0.0.0:8000",
        b"10.0.0.7",
        b"[::ffff:10.0.0.7]:80",
        b"[::1].evil.example",
        b"/run/app.sock",
        b"localhost\xff",
        b"",
        b":8000",
    ],
)
def test_dns_rebinding_a_host_that_is_not_this_machine_is_refused(host: bytes) -> None:
    with pytest.raises(Refused) as caught:
        keep_to_loopback(asked_for(host), origin=LOCAL)
    diagnosis = caught.value.diagnosis
    assert diagnosis.code == "not_on_loopback" and LOCAL in diagnosis.remedy
    with pytest.raises(Refused):
        keep_to_loopback(asked_for(b"localhost", host), origin=LOCAL)


@pytest.mark.parametrize(
    "hosts", [(b"localhost",), (b"LOCALHOST:5173",), (b"127.0.0.1:8000",), (b"[::1]:8000",), (b"shop.localhost",), ()]
)
def test_every_name_of_this_machine_is_served(hosts: tuple[bytes, ...]) -> None:
    keep_to_loopback(asked_for(*hosts), origin=LOCAL)


@pytest.mark.spec("DEV-01")
@pytest.mark.parametrize("server", SERVERS)
async def test_dns_rebinding_gets_nothing_from_a_development_server(server: ServerName) -> None:
    # The name of the attacker's site points to 127.0.0.1 by now: for the browser, page and server are one origin.
    async with raw_upstream() as upstream, served(server, upstream.url, public_url="http://localhost:8000") as bff:
        for path in PATHS:
            for host in (b"host: evil.example:8000", b"host: 127.0.0.1.evil.example"):
                answer = await bff.ask(b"GET " + path + b" HTTP/1.1", b"sec-fetch-site: same-origin", host=host)
                assert (answer.status, answer.all(b"coatcheck-error")) == (403, [b"not_on_loopback"])
        assert not upstream.requests
        assert (await bff.ask(b"GET /api/orders HTTP/1.1", host=b"host: localhost:8000")).status == 200


def test_outside_development_the_host_means_nothing() -> None:
    # A proxy in front may have rewritten it.
    with world(public_url=PUBLIC) as w:
        browser = w.logged_in()
        w.serve(w.transport.apps["shop.example"], at="10.0.0.7")
        assert browser.fetch("http://10.0.0.7/").text == '"for anybody"'


@pytest.mark.spec("PRX-13")
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("path", [b"/bff/user", b"/page", b"/api/orders"])
async def test_smuggling_behind_a_request_with_two_lengths_gets_nowhere(server: ServerName, path: bytes) -> None:
    async with raw_upstream() as upstream, served(server, upstream.url) as bff:
        hidden = bff.head(b"GET /api/orders/smuggled HTTP/1.1")
        framing = (b"content-length: %d" % (5 + len(hidden)), b"transfer-encoding: chunked")
        answer = await bff.send(bff.head(b"POST " + path + b" HTTP/1.1", *framing) + b"0\r\n\r\n" + hidden)
        if server == "uvicorn":  # granian takes the content-length away before anybody sees it
            assert (answer.status, answer.all(b"coatcheck-error")) == (400, [b"header_refused"])
        assert answer.closed
        assert b"HTTP/1.1" not in answer.body
        assert not [seen for seen in upstream.requests if b"smuggled" in seen.target]


@pytest.mark.spec("PRX-13")
def test_a_request_for_two_hosts_is_refused() -> None:
    with pytest.raises(Refused, match="host_refused"):
        refuse_two_readings([(b"host", b"shop.example"), (b"accept", b"*/*"), (b"host", b"evil.example")])
    with pytest.raises(Refused, match="header_refused"):
        refuse_two_readings([(b"transfer-encoding", b"chunked"), (b"content-length", b"5")])
    refuse_two_readings([(b"host", b"shop.example"), (b"content-length", b"5")])
    refuse_two_readings([(b"host", b"shop.example"), (b"transfer-encoding", b"chunked")])
    refuse_two_readings([])
