"""The tap hides nothing and adds nothing."""

from __future__ import annotations

import httpx2

from tests.rig.echo_api import EchoAPI
from tests.rig.programs import free_port
from tests.rig.wiretap import Wiretap


def test_a_tap_keeps_both_directions_of_a_connection():
    with EchoAPI.serve() as api, Wiretap.between(free_port(), httpx2.URL(api.url).port or 0) as tap:
        with httpx2.Client(base_url=f"http://127.0.0.1:{tap.port}", trust_env=False) as client:
            assert client.post("/a?b=1", content=b"posted").json()["body"] == "posted"
            assert client.get("/stream?count=3&free=1").text == "0\n1\n2\n"
            assert client.get("/bytes?size=100000").text == "x" * 100_000
        posted, streamed, long = tap.requests
        assert (posted.lines[0], posted.body) == (b"POST /a?b=1 HTTP/1.1", b"posted")
        assert b"GET /stream" in streamed.head and b"GET /bytes" in long.head
        assert [len(answer.body) for answer in tap.answers][1:] == [6, 100_000]
        assert b'"body": "posted"' in bytes(tap.answers[0])


def test_a_tap_before_a_server_that_is_away_closes_the_connection():
    with Wiretap.between(free_port(), free_port()) as tap:
        try:
            httpx2.get(f"http://127.0.0.1:{tap.port}/", trust_env=False)
        except httpx2.TransportError:
            return
    raise AssertionError("an answer came from nowhere")
