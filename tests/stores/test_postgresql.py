"""PostgreSQL: the rules of every store, what it makes in the database, and for how long."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from datetime import timedelta

import pytest

from coatcheck.coordination import SentMark
from coatcheck.errors import ConfigurationError, StaleVersion, StoreUnavailable
from coatcheck.sessions import ReplacePart, Touch
from coatcheck.stores import PostgreSQLStore
from coatcheck.stores.postgresql import schema
from coatcheck.testing.expiring_stores import EXPIRING_STORE_CHECKS, ExpiringStoreCheck
from coatcheck.testing.lease_stores import LEASE_STORE_CHECKS, LeaseStoreCheck
from coatcheck.testing.notifiers import NOTIFIER_CHECKS, NotifierCheck
from coatcheck.testing.session_indexes import SESSION_INDEX_CHECKS, SessionIndexCheck
from coatcheck.testing.stores import SESSION_STORE_CHECKS, StoreCheck
from tests.rig.postgresql import PASSWORD, PostgreSQL
from tests.stores import conformance
from tests.stores.postgresql_samples import opened, row
from tests.test_extras import python_without
from tests.testing.clocks import HandClock

each = pytest.mark.parametrize


def named(check: object) -> str:
    return getattr(check, "__name__", "")


@pytest.mark.spec("SES-05", "SES-06", "SES-07", "SES-08", "STO-12")
@each("check", SESSION_STORE_CHECKS, ids=named)
def test_it_keeps_the_rule_of_a_session_store(check: StoreCheck, postgresql: PostgreSQL) -> None:
    dsn = postgresql.fresh_database()
    conformance.run(check, lambda: PostgreSQLStore(dsn))


@pytest.mark.spec("SES-05", "SES-09", "SES-10")
@each("check", SESSION_INDEX_CHECKS, ids=named)
def test_it_keeps_the_rule_of_a_session_index(check: SessionIndexCheck, postgresql: PostgreSQL) -> None:
    dsn = postgresql.fresh_database()
    conformance.run(check, lambda: PostgreSQLStore(dsn))


@each("check", LEASE_STORE_CHECKS, ids=named)
def test_it_keeps_the_rule_of_a_lease_store(check: LeaseStoreCheck, postgresql: PostgreSQL) -> None:
    dsn = postgresql.fresh_database()
    conformance.run(check, lambda: PostgreSQLStore(dsn))


@each("check", EXPIRING_STORE_CHECKS, ids=named)
def test_it_keeps_the_rule_of_an_expiring_store(check: ExpiringStoreCheck, postgresql: PostgreSQL) -> None:
    dsn = postgresql.fresh_database()
    conformance.run(check, lambda: PostgreSQLStore(dsn))


@each("check", NOTIFIER_CHECKS, ids=named)
def test_it_keeps_the_rule_of_a_notifier(check: NotifierCheck, postgresql: PostgreSQL) -> None:
    dsn = postgresql.fresh_database()
    conformance.run(check, lambda: PostgreSQLStore(dsn))


# Whose time it is


async def test_a_value_ends_by_our_clock_and_a_lease_by_the_servers(postgresql: PostgreSQL) -> None:
    clock, key, holder = HandClock(), secrets.token_bytes(32), secrets.token_bytes(16)
    async with opened(postgresql.fresh_database(), clock) as store:
        assert await store.add(key, b"value", until=clock.time() + 10)
        assert await store.acquire(key, holder, seconds=60) is not None
        clock.forward(timedelta(seconds=9))
        assert await store.get(key) is not None
        clock.forward(timedelta(hours=1))
        assert await store.get(key) is None
        assert await store.acquire(key, secrets.token_bytes(16), seconds=60) is None


async def test_a_mark_is_forgotten_when_it_may_be(postgresql: PostgreSQL) -> None:
    clock, key = HandClock(), secrets.token_bytes(32)
    mark, (first, second, third) = SentMark(clock.time(), 2), (secrets.token_bytes(16) for _ in range(3))
    async with opened(postgresql.fresh_database(), clock) as store:
        await store.acquire(key, first, seconds=60)
        await store.mark_sent(key, first, mark, seconds=60, until=clock.time() + 100)
        await store.release(key, first, mark=mark)
        clock.forward(timedelta(seconds=99))
        lease = await store.acquire(key, second, seconds=60)
        assert lease is not None and lease.mark == mark
        await store.release(key, second, mark=mark)
        clock.forward(timedelta(seconds=2))
        lease = await store.acquire(key, third, seconds=60)
        assert lease is not None and lease.mark is None


# What is on the server


async def test_a_touch_a_renewal_and_a_heartbeat_leave_the_indexes_alone(postgresql: PostgreSQL) -> None:
    dsn, key, holder = postgresql.fresh_database(), secrets.token_bytes(32), secrets.token_bytes(16)
    async with opened(dsn) as store:
        session = row(tokens=secrets.token_bytes(3000))
        await store.create(session)
        await store.acquire(key, holder, seconds=60)
        for step in range(20):
            await store.update(session.key, Touch(session.seen_at + 1 + step))
            await store.update(session.key, ReplacePart("tokens", secrets.token_bytes(3000), 1 + step))
            await store.extend(key, holder, seconds=60)
    # The counts arrive when the connection that made them has ended.
    wanted = "leases|20|20\nsessions|40|40"
    query = (
        "SELECT substr(relname, 11), n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE n_tup_upd > 0 ORDER BY 1"
    )
    async with asyncio.timeout(20):
        while (found := postgresql.sql(query, database=dsn.rpartition("/")[2])) != wanted and found.count("|") < 4:
            await asyncio.sleep(0.05)
    assert found == wanted


async def test_a_touch_that_moves_nothing_writes_nothing(postgresql: PostgreSQL) -> None:
    dsn, session = postgresql.fresh_database(), row()
    query = "SELECT xmin FROM coatcheck_sessions"
    async with opened(dsn) as store:
        await store.create(session)
        before = postgresql.sql(query, database=dsn.rpartition("/")[2])
        await store.update(session.key, Touch(session.seen_at))
        await store.update(session.key, Touch(session.seen_at - 1))
        assert postgresql.sql(query, database=dsn.rpartition("/")[2]) == before
        await store.update(session.key, Touch(session.seen_at + 1))
        assert postgresql.sql(query, database=dsn.rpartition("/")[2]) != before


async def test_who_asks_for_a_lease_in_vain_only_reads(postgresql: PostgreSQL) -> None:
    """A request that waits asks every few milliseconds: it must not cost the disk a write each time."""
    dsn, key = postgresql.fresh_database(), secrets.token_bytes(32)
    query = "SELECT xmin, xmax FROM coatcheck_leases"
    async with opened(dsn) as store:
        assert await store.acquire(key, secrets.token_bytes(16), seconds=60) is not None
        before = postgresql.sql(query, database=dsn.rpartition("/")[2])
        for _ in range(10):
            assert await store.acquire(key, secrets.token_bytes(16), seconds=60) is None
        assert postgresql.sql(query, database=dsn.rpartition("/")[2]) == before


@each(("default", "here"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")])
async def test_commits_are_durable_whatever_the_role_has_as_its_default(
    default: str, here: str, postgresql: PostgreSQL
) -> None:
    """With `synchronous_commit = off` a crash forgets the sent mark, and the refresh token is sent again."""
    dsn = postgresql.fresh_database()
    database = dsn.rpartition("/")[2]
    postgresql.sql(f"ALTER DATABASE {database} SET synchronous_commit = {default}")
    postgresql.sql(f"ALTER DATABASE {database} SET default_transaction_isolation = serializable")
    async with opened(dsn) as store:
        settings = await store._database.ask(
            "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
        )
    assert [tuple(setting) for setting in settings] == [(here, "read committed")]


async def test_tables_of_the_release_before_are_brought_forward_with_what_is_in_them(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Today's release is the one before: the next one has one more step."""
    dsn, key = postgresql.fresh_database(), secrets.token_bytes(32)
    database = dsn.rpartition("/")[2]
    async with opened(dsn) as store:
        assert await store.add(key, b"kept", until=4e9)
        assert len(await store.migrate()) == 3
        assert await store.migrate() == []
    step = "ALTER TABLE coatcheck_values ADD COLUMN IF NOT EXISTS purpose text NOT NULL DEFAULT '';\n"
    monkeypatch.setitem(schema.STEPS, "values", (*schema.STEPS["values"], step))
    async with opened(dsn) as store:
        assert await store.migrate() == ["brought the values from schema 1 to 2"]
        value = await store.get(key)
        assert value is not None and value.value == b"kept"
    assert postgresql.sql("SELECT DISTINCT purpose FROM coatcheck_values", database=database) == ""
    versions = "SELECT part, version FROM coatcheck_schema ORDER BY part"
    assert postgresql.sql(versions, database=database) == "leases|1\nsessions|1\nvalues|2"
    for _ in range(2):  # by hand, on a database that has it all, and on one that has the first version only
        postgresql.sql(schema.script(), database=database)
        assert postgresql.sql(versions, database=database) == "leases|1\nsessions|1\nvalues|2"
        postgresql.sql(
            "UPDATE coatcheck_schema SET version = 1; ALTER TABLE coatcheck_values DROP purpose", database=database
        )
    monkeypatch.undo()
    async with opened(dsn) as store:
        assert await store.migrate() == []
        postgresql.sql("UPDATE coatcheck_schema SET version = 2 WHERE part = 'values'", database=database)
    async with opened(dsn) as store:
        with pytest.raises(StoreUnavailable, match=r"newer coatcheck \(schema 2, this one knows 1"):
            await store.migrate()


async def test_a_role_that_may_not_change_older_tables_is_told_what_to_do(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = postgresql.fresh_database()
    database = dsn.rpartition("/")[2]
    async with opened(dsn) as store:
        await store.load(bytes(32))
    reader = _reader(postgresql, database)
    postgresql.sql(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader_{database}", database=database
    )
    step = "ALTER TABLE coatcheck_values ADD COLUMN IF NOT EXISTS purpose text;\n"
    monkeypatch.setitem(schema.STEPS, "values", (*schema.STEPS["values"], step))
    async with opened(reader) as store:
        with pytest.raises(
            StoreUnavailable, match=r"or has older ones, and this role may not create them .*must be owner"
        ):
            await store.migrate()
        postgresql.sql(schema.script(), database=database)
        assert await store.migrate() == []


async def test_a_database_of_a_newer_release_is_refused(postgresql: PostgreSQL) -> None:
    dsn = postgresql.fresh_database()
    async with opened(dsn) as store:
        await store.load(bytes(32))
    postgresql.sql("UPDATE coatcheck_schema SET version = 9 WHERE part = 'leases'", database=dsn.rpartition("/")[2])
    async with opened(dsn) as store:
        with pytest.raises(
            StoreUnavailable, match=r"the leases in .* by a newer coatcheck \(schema 9, this one knows 1"
        ):
            await store.load(bytes(32))


async def test_tables_that_are_gone_are_made_again(postgresql: PostgreSQL) -> None:
    """Somebody restored an empty database behind our back."""
    dsn, session = postgresql.fresh_database(), row()
    async with opened(dsn) as store:
        await store.create(session)
        tables = "coatcheck_sessions, coatcheck_leases, coatcheck_values, coatcheck_schema"
        postgresql.sql(f"DROP TABLE {tables}", database=dsn.rpartition("/")[2])
        assert await store.load(session.key) is None
        await store.create(session)
        assert await store.load(session.key) == session


def _reader(postgresql: PostgreSQL, database: str) -> str:
    name = f"reader_{database}"
    postgresql.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    return postgresql.dsn_at(postgresql.port, database=database, user=name, password="secret")


async def test_a_role_that_may_not_create_tables_is_told_what_to_do_and_then_works(postgresql: PostgreSQL) -> None:
    database = postgresql.fresh_database().rpartition("/")[2]
    dsn = _reader(postgresql, database)
    async with opened(dsn) as store:
        with pytest.raises(StoreUnavailable, match=r"may not create them .*python -m coatcheck\.stores\.postgresql"):
            await store.load(bytes(32))
        printed = subprocess.run(
            [sys.executable, "-m", "coatcheck.stores.postgresql"], capture_output=True, text=True, check=True
        )
        for _ in range(2):  # again: nothing happens
            postgresql.sql(printed.stdout, database=database)
        with pytest.raises(StoreUnavailable, match=r"permission denied .*: grant this role SELECT"):
            await store.load(bytes(32))
        grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader_{database}"
        postgresql.sql(grant, database=database)
        session = row()
        await store.create(session)
        assert await store.load(session.key) == session


async def test_two_schemas_of_one_database_are_two_stores(postgresql: PostgreSQL) -> None:
    dsn, session = postgresql.fresh_database(), row()
    postgresql.sql("CREATE SCHEMA one; CREATE SCHEMA other", database=dsn.rpartition("/")[2])
    async with opened(f"{dsn}?search_path=one") as one, opened(f"{dsn}?search_path=other") as other:
        await one.create(session)
        assert await other.load(session.key) is None
        async with one.subscribe("channel") as heard_by_one, other.subscribe("channel") as heard_by_other:
            await one.publish("channel", b"of one")
            await other.publish("channel", b"of other")
            assert [await anext(heard_by_one), await anext(heard_by_other)] == [b"of one", b"of other"]


async def test_it_works_without_prepared_statements(postgresql: PostgreSQL) -> None:
    """As behind a PgBouncer that does not know them."""
    session = row()
    store = PostgreSQLStore(postgresql.fresh_database(), statement_cache_size=0)
    await store.create(session)
    for version in range(1, 4):
        await store.update(session.key, ReplacePart("tokens", b"%d" % version, version))
    with pytest.raises(StaleVersion):
        await store.update(session.key, ReplacePart("tokens", b"late", 3))
    await store.aclose()


# What it says


@each(
    "dsn",
    [
        "",
        "secret",
        "mysql://user:secret@host/db",
        "postgresql://user:se#cret@host/db",
        "postgresql://user:[secret@host",
        "postgresql://user:se/cret@host/db",
        "postgresql://user:secr?et@host/db",
        "postgresql://user:secret/db",
    ],
)
def test_what_is_no_dsn_is_refused_and_not_repeated(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="no DSN of PostgreSQL") as refusal:
        PostgreSQLStore(dsn)
    assert not any(part in str(refusal.value) for part in ("secret", "cret@", "user:se", "et@"))


@each(
    ("dsn", "where"),
    [
        ("postgresql://user:secret@host:5433/db?sslmode=require", "postgresql://host:5433/db"),
        ("postgres://one:5432,other:5433/db?target_session_attrs=read-write", "postgresql://one:5432,other:5433/db"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql:///db?host=/run/postgresql&user=me&password=secret", "postgresql:///run/postgresql/db"),
        ("postgresql://%2Frun%2Fpostgresql/db", "postgresql://%2Frun%2Fpostgresql/db"),
        ("postgresql://", "postgresql://localhost/"),
    ],
)
def test_a_store_is_named_by_its_host_and_database(dsn: str, where: str) -> None:
    assert repr(PostgreSQLStore(dsn)) == f"PostgreSQLStore({where!r})"


def test_a_store_needs_a_connection(postgresql: PostgreSQL) -> None:
    with pytest.raises(ConfigurationError, match="max_connections is 0"):
        PostgreSQLStore(postgresql.dsn, max_connections=0)


@pytest.mark.spec("SES-12")
async def test_what_is_wrong_is_said_without_the_password(postgresql: PostgreSQL) -> None:
    port = postgresql.port
    for dsn, said in (
        (
            postgresql.dsn_at(port, password="wrong secret"),
            "password authentication failed .*: check user and password",
        ),
        (postgresql.dsn_at(port, database="nowhere"), '"nowhere" does not exist: create the database'),
        (postgresql.dsn_at(1), r"Connect.*: check that the server runs"),
        (f"{postgresql.dsn}?sslmode=sometimes", "ClientConfigurationError: check the DSN"),
        (f"{postgresql.dsn}?pool=3", '"pool": check the options of the DSN'),
        (f"{postgresql.dsn}?sslmode=require", "SSL.*: check"),
    ):
        async with opened(dsn) as store:
            with pytest.raises(StoreUnavailable, match=said) as unavailable:
                await store.load(bytes(32))
            place = dsn.rpartition("@")[2].partition("?")[0]
            assert f"the store postgresql://{place} is unavailable: " in str(unavailable.value)
            for text in (str(unavailable.value), repr(store)):
                assert "secret" not in text and PASSWORD not in text and "%61" not in text


def test_without_the_driver_it_says_what_to_install() -> None:
    for code in ("import coatcheck.stores.postgresql", "from coatcheck.stores import PostgreSQLStore"):
        done = python_without(("asyncpg",), code)
        assert done.returncode == 1
        assert "pip install 'coatcheck[postgres]'" in done.stderr.splitlines()[-1]
    assert python_without(("asyncpg",), "import coatcheck.stores").returncode == 0
