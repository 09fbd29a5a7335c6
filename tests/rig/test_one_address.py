"""The address in front of several servers: who gets which request."""

from __future__ import annotations

from contextlib import ExitStack

import httpx2
import pytest

from tests.rig.echo_api import EchoAPI
from tests.rig.one_address import OneAddress


def test_requests_go_by_turns_or_where_they_are_sent_although_the_client_would_keep_its_connection() -> None:
    with ExitStack() as stack:
        apis = [stack.enter_context(EchoAPI.serve()) for _ in range(2)]
        address = stack.enter_context(OneAddress.before(*(int(api.url.rpartition(":")[2]) for api in apis)))
        client = stack.enter_context(httpx2.Client(base_url=f"http://127.0.0.1:{address.port}", trust_env=False))
        for number in range(4):
            answer = client.post(f"/orders/{number}?x=1", content=b"x" * 100_000)
            assert (answer.status_code, answer.json()["length"]) == (200, 100_000)
        address.choose(1)
        for _ in range(2):
            client.get("/chosen")
        assert address.served == [
            *((number % 2, f"/orders/{number}") for number in range(4)),
            (1, "/chosen"),
            (1, "/chosen"),
        ]
        assert [len(api.requests) for api in apis] == [2, 4]


def test_an_answer_that_streams_passes_piece_by_piece_and_a_server_that_is_away_is_seen() -> None:
    with EchoAPI.serve() as api, OneAddress.before(int(api.url.rpartition(":")[2]), 1) as address:
        address.choose(0)
        url = f"http://127.0.0.1:{address.port}"
        with httpx2.stream("GET", f"{url}/stream?count=2", trust_env=False) as answer:
            pieces = answer.iter_lines()
            assert next(pieces) == "0"
            api.next_chunk()
            assert next(pieces) == "1"
        address.choose(1)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(url, trust_env=False)
