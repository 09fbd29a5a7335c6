"""
The canary, where everything rests in PostgreSQL or Valkey: what a thief of the database finds, and what the logs say.

One browser profile goes through a login, renewals, a database that goes away, a logout, and an answer that is lost;
sessions are in the database, then in cookies. What was secret is read off the wire (`canaries.py`) and looked for in
every row or key, in the files on the disk (which hold what was replaced and deleted, too), in all that the application
prints with every logger at DEBUG, and in all that the browser received.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coatcheck.sessions.seal import new_key
from coatcheck.stores import open_store
from tests.rig.control_plane import RegisteredClient
from tests.rig.dumps import dump_postgresql, dump_valkey
from tests.rig.postgresql import PASSWORD, PostgreSQL
from tests.rig.programs import Program
from tests.rig.tcp_fault import TCPFault
from tests.rig.user_agent import UserAgent
from tests.rig.valkey import Valkey
from tests.scenarios.canaries import leaks, overheard
from tests.scenarios.canary_line import (
    EAVESDROPPER,
    KINDS,
    Line,
    Seen,
    assert_the_audit_log_names_nobody,
    found_in_answers,
    tapped_line,
)
from tests.scenarios.waiting import until_expired

VALKEY_PASSWORD = "the-password-of-valkey-4711"
TTL = 2
SERVICE_SECRET = "the-secret-of-the-service-4711"


@dataclass
class Database:
    """*url* leads through *fault*; *passwords* are what it takes to get in, as they might be written."""

    url: str
    direct_url: str
    fault: TCPFault
    passwords: set[str]
    dump: Callable[[], dict[str, bytes]]

    def keep(self, value: bytes) -> None:
        """Do what coatcheck never does: keep *value* as it is."""

        async def add() -> None:
            store = open_store(self.direct_url)
            assert await store.add(bytes(32), value, until=4e9)
            await store.aclose()

        asyncio.run(add())


@pytest.fixture(params=["postgresql", "valkey"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with _postgresql(request) if request.param == "postgresql" else _valkey() as database:
        yield database


@contextmanager
def _postgresql(request: pytest.FixtureRequest) -> Iterator[Database]:
    server: PostgreSQL = request.getfixturevalue("postgresql")
    direct = server.fresh_database()
    with TCPFault.before(server.port) as fault:
        url = direct.replace(f":{server.port}/", f":{fault.port}/")
        passwords = {PASSWORD, direct.split(":")[2].split("@")[0]}
        yield Database(url, direct, fault, passwords, lambda: dump_postgresql(server, direct))


@contextmanager
def _valkey() -> Iterator[Database]:
    with Valkey.start(durable=True, password=VALKEY_PASSWORD) as server, TCPFault.before(server.port) as fault:
        yield Database(
            server.url_at(fault.port), server.url, fault, {VALKEY_PASSWORD}, lambda: dump_valkey(server, server.url)
        )


@pytest.fixture
def line() -> Iterator[Line]:
    with tapped_line() as tapped:
        yield tapped


@contextmanager
def application(
    line: Line, client: RegisteredClient, database: Database, key: str, folder: Path, *, sessions: str
) -> Iterator[Program]:
    """`canary_databases_app.py` on uvicorn, as chatty as it can be."""
    service = line.provider.add_client("svc", client_secret=SERVICE_SECRET)
    env = {
        **EAVESDROPPER,
        "ISSUER": line.provider.issuer,
        "CLIENT_ID": client.client_id,
        "CLIENT_SECRET": client.client_secret or "",
        "SERVICE_ID": service.client_id,
        "SERVICE_SECRET": SERVICE_SECRET,
        "PUBLIC_URL": line.application.url,
        "COATCHECK_KEY": key,
        "ORDERS_URL": line.api.url,
        "STORE": database.url,
        "SESSIONS": sessions,
    }
    command = [sys.executable, "-m", "uvicorn", "--app-dir", Path(__file__).parent, "canary_databases_app:app"]
    command += ["--port", str(line.application.port), "--log-level", "debug", "--access-log"]
    with Program(command, env=env, cwd=folder) as program:
        program.wait_for("running on")
        yield program


def tour(
    agent: UserAgent, line: Line, database: Database, client: RegisteredClient, *, in_cookies: bool = False
) -> dict[str, bytes]:
    """
    Log in, call, renew, lose the database for a moment, be logged out by the provider, log in, log out, log in again.
    Returns what the database held.
    """
    agent.login("/bff/login?returnUrl=/")
    for path in ("/api/orders/bytes?size=10", "/api/service", "/api/lend", "/api/renew", "/bff/user"):
        assert status(agent, path) == 200, path
    held = database.dump()
    database.fault.cut()
    assert status(agent, "/api/renew") == 503
    database.fault.restore()
    assert status(agent, "/api/renew") == 200
    with agent.stream("/bff/events", csrf=False) as page:
        line.tell(client, front_channel=not in_cookies)
        assert any("ended" in said for said in page.iter_lines())
    assert status(agent, "/api/renew") == 401
    agent.login("/bff/login?returnUrl=/")
    claims = {claim["type"]: claim["value"] for claim in agent.fetch("/bff/user").json()}
    agent.logout(claims["bff:logout_url"])
    assert status(agent, "/api/renew") == 401
    agent.login("/bff/login?returnUrl=/")
    assert status(agent, "/api/renew") == 200
    line.provider.fault("after", grant_type="refresh_token")
    return held


def status(agent: UserAgent, path: str) -> int:
    return agent.fetch(path).status_code


def look(line: Line, program: Program, database: Database, dump: bytes, *, key: str, secret: str) -> Seen:
    canaries = overheard(line.to_provider, line.to_application)
    canaries |= {
        "client secret": {secret, SERVICE_SECRET},
        "sealing key": {key, key.split(".")[2]},
        "database password": database.passwords,
    }
    return Seen(canaries, program.output.encode(), line.to_application.answers, dump)


def assert_nothing_leaked(seen: Seen, database: Database) -> None:
    assert {kind for kind, values in seen.canaries.items() if values} == KINDS | {"database password"}
    assert_the_audit_log_names_nobody(seen.output)
    assert len(seen.canaries["access token"]) >= 5 and len(seen.canaries["refresh token"]) >= 2
    # From Python 3.13 on asyncio itself tells, at DEBUG, of each connection that was reset; some were, on purpose.
    ours = [line for line in seen.output.splitlines() if not line.startswith(b"HEARD asyncio DEBUG ")]
    assert not [line for line in ours if b"Traceback" in line]
    assert leaks(seen.canaries, seen.output) == []
    assert found_in_answers(seen) == set()
    assert leaks(seen.canaries, seen.files) == []
    database.keep(max(seen.canaries["access token"]).encode())
    dump = database.dump()
    assert leaks(seen.canaries, dump.pop("disk")) == ["access token"], "the control: the disk is looked at"
    assert leaks(seen.canaries, b"".join(dump.values())) == ["access token"], "and so is every value"


def kinds(dump: dict[str, bytes]) -> set[str]:
    """What there is something of: the tables of PostgreSQL and the keys of Valkey have the same names, but for an s."""
    return {name.removeprefix("coatcheck_").removesuffix("s") for name, data in dump.items() if data.strip()}


@pytest.mark.spec("LOG-01", "LOG-03", "LOG-07", "OAU-32")
def test_a_thief_of_the_database_finds_no_secret(line: Line, database: Database, tmp_path: Path) -> None:
    """Sessions, leases and marks, tokens of the client, grants that agents share."""
    key, client = new_key(), line.register(x_access_token_ttl=TTL)
    with (
        application(line, client, database, key, tmp_path, sessions="store") as program,
        UserAgent(line.application.url) as agent,
    ):
        held = tour(agent, line, database, client)
        assert status(agent, "/api/renew") == 503, "the answer was lost"
        in_doubt = database.dump()
        until_expired(seconds=TTL)
        assert agent.fetch("/api/orders/bytes?size=10").headers["coatcheck-error"] == "renewal_lost"
        after = database.dump()
        dump = b"".join([*held.values(), *in_doubt.values(), *after.values()])
        seen = look(line, program, database, dump, key=key, secret=client.client_secret or "")
    assert kinds(held) >= {"session", "value", "disk"} and "lease" not in kinds(held)
    assert "lease" in kinds(in_doubt), "with its mark"
    assert_nothing_leaked(seen, database)


@pytest.mark.spec("LOG-01", "LOG-03", "LOG-07", "OAU-32")
def test_a_thief_of_the_coordination_store_finds_no_secret(line: Line, database: Database, tmp_path: Path) -> None:
    """Generations that wait for a browser, tombstones, and what was learned of a provider that keeps refresh tokens."""
    key, client = new_key(), line.register(x_rotate=False)
    with (
        application(line, client, database, key, tmp_path, sessions="cookie") as program,
        UserAgent(line.application.url) as agent,
    ):
        held = tour(agent, line, database, client, in_cookies=True)
        assert status(agent, "/api/renew") == 200, "the answer was lost, and the provider may be asked again"
        dump = b"".join([*held.values(), *database.dump().values()])
        seen = look(line, program, database, dump, key=key, secret=client.client_secret or "")
    assert kinds(held) >= {"value", "disk"} and "session" not in kinds(held)
    assert_nothing_leaked(seen, database)
