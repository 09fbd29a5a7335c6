"""Applications are served, programs run and end, and the echo API tells what it got."""

from __future__ import annotations

import sys

import httpx2
import pytest

from tests.rig.echo_api import EchoAPI
from tests.rig.programs import Program, ProgramFailed
from tests.rig.user_agent import UserAgent


def test_the_echo_api_shows_the_target_and_headers_as_sent(echo_api: EchoAPI) -> None:
    with UserAgent(echo_api.url) as agent:
        answer = agent.fetch(
            "/", "POST", target="/a//b/%2e%2e/c?x=%20y", headers={"X-One": "1"}, content=b"body"
        ).json()

    assert (answer["method"], answer["target"], answer["body"]) == ("POST", "/a//b/%2e%2e/c?x=%20y", "body")
    assert echo_api.last.header("X-One") == "1"
    assert echo_api.last.header("X-CSRF") == "1"
    assert echo_api.last.header("Cookie") is None


def test_a_stream_arrives_chunk_by_chunk(echo_api: EchoAPI) -> None:
    with UserAgent(echo_api.url) as agent, agent.stream("/events?count=2") as response:
        chunks = response.iter_raw()
        first = next(chunks)
        echo_api.wait_until(lambda api: api.pulled == 1)
        echo_api.next_chunk()
        second = next(chunks)

    assert (first, second) == (b"data: 0\n\n", b"data: 1\n\n")


def test_a_caller_that_leaves_is_noticed(echo_api: EchoAPI) -> None:
    with UserAgent(echo_api.url) as agent:
        connection = agent.open("/hang")
        echo_api.wait_until(lambda api: len(api.requests) == 1)
        assert echo_api.gone == 0
        connection.close()
        echo_api.wait_until(lambda api: api.gone == 1)


def test_a_caller_that_leaves_a_stream_is_noticed(echo_api: EchoAPI) -> None:
    with UserAgent(echo_api.url) as agent, agent.stream("/stream?count=1000") as response:
        next(response.iter_raw())
    echo_api.wait_until(lambda api: api.gone == 1)


def test_an_answer_can_be_cut_short(echo_api: EchoAPI) -> None:
    with UserAgent(echo_api.url) as agent, pytest.raises(httpx2.TransportError):
        agent.fetch("/cut")


def test_an_answer_can_come_before_the_body_is_read(echo_api: EchoAPI) -> None:
    with UserAgent(echo_api.url) as agent:
        assert agent.fetch("/early", "POST", content=b"x" * 1000).status_code == 413


def test_a_program_is_waited_for_and_ended() -> None:
    code = "import time; print('ready on 17', flush=True); time.sleep(60)"
    with Program([sys.executable, "-c", code]) as program:
        assert program.wait_for(r"ready on (\d+)").group(1) == "17"
        assert program.returncode is None
    assert program.returncode == -15


def test_a_program_that_ends_early_fails_with_what_it_printed() -> None:
    code = "print('no such file'); raise SystemExit(3)"
    with Program([sys.executable, "-c", code]) as program, pytest.raises(ProgramFailed, match="no such file"):
        program.wait_for("ready")
    assert program.returncode == 3
