"""Redis and Valkey that refuse: each refusal says what is wrong and what to do, and never the password."""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from coatcheck.errors import StoreUnavailable
from coatcheck.stores import RedisStore
from tests.rig.programs import free_port
from tests.rig.valkey import Valkey
from tests.stores.redis_samples import KEY, behind_its_back, impatient, row, use_everything


async def refusal(url: str, use: Callable[[RedisStore], Awaitable[object]] = lambda store: store.create(row())) -> str:
    async with impatient(url, patience=timedelta(seconds=2)) as store:
        with pytest.raises(StoreUnavailable) as refused:
            await use(store)
        return str(refused.value)


@pytest.mark.spec("LOG-02")
async def test_a_password_that_is_missing_or_wrong_is_named_and_never_quoted() -> None:
    with Valkey.start(password="swordfish") as server:
        where = f"127.0.0.1:{server.port}"
        missing = await refusal(f"redis://{where}/0")
        assert missing.endswith("put the password into the URL, redis://:PASSWORD@HOST")
        wrong = await refusal(f"redis://:sw0rdfish@{where}/0")
        assert wrong.endswith("check user name and password")
        for said in (missing, wrong):
            assert said.startswith(f"the Redis server {where} does not let us in (")
            assert "fish" not in said
        async with impatient(server.url) as store:
            assert await store.load(KEY) is None


@pytest.mark.spec("STO-12")
async def test_a_user_without_the_right_is_told_which_rights_are_needed_and_they_suffice() -> None:
    with Valkey.start() as server:
        async with behind_its_back(server.url) as client:
            await client.execute_command(
                "ACL", "SETUSER", "weak", "on", ">pw", "~coatcheck:*", "+@read", "+@connection"
            )
            url = f"redis://weak:pw@127.0.0.1:{server.port}/0"
            said = await refusal(url)
            needed = "~coatcheck:* &coatcheck:* +@read +@write +@scripting +@pubsub +@connection +time +info"
            assert "refuses (" in said
            assert said.endswith(needed)
            await client.execute_command("ACL", "SETUSER", "weak", *needed.split())
        async with impatient(url, patience=timedelta(seconds=2)) as store:
            await use_everything(store)
            async with store.subscribe("news"):
                pass


async def test_a_replica_a_full_server_and_a_broken_disk_are_told_apart(valkey: Valkey) -> None:
    with Valkey.start(settings=("--replicaof", "127.0.0.1", str(valkey.port))) as replica:
        assert "give the address of the primary" in await refusal(replica.url)
    with Valkey.start(settings=("--maxmemory", "100kb")) as full:
        assert "its memory is full" in await refusal(full.url)
    bus = ("--cluster-port", str(free_port()))  # by default 10,000 above the other one, and there may be none such
    with Valkey.start(settings=("--cluster-enabled", "yes", "--databases", "1", *bus)) as node:
        assert "node of a cluster" in await refusal(node.url)


async def test_a_database_number_that_the_server_lacks_is_named(valkey: Valkey) -> None:
    assert "out of range" in await refusal(valkey.url_at(valkey.port, database=10_000_000))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"$-7\r\n", b"*3\r\n?"])
async def test_another_kind_of_server_is_a_fault(answer: bytes) -> None:
    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        async with impatient(url) as store:
            with pytest.raises(StoreUnavailable):
                await store.load(KEY)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_nobody_listens_at_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    said = await refusal(f"redis://127.0.0.1:{port}/0")
    assert said.startswith(f"the Redis server 127.0.0.1:{port} does not answer (")
    assert said.endswith("check that it runs, and that this machine may reach it")
