"""What is noticed of a store that went back to an older state, and what is not held for one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from coatcheck.coordination import ExpiringValue, SentMark
from coatcheck.errors import LoginRequired, StaleVersion, StoreUnavailable
from coatcheck.sessions import KeyRing, new_key
from coatcheck.stores import MemoryStore
from coatcheck.tokens import Tokens, User, UserToken, UserTokenRequestParameters
from coatcheck.tokens.rollback import StoreHistory
from coatcheck.tokens.shared_store import SharedUserTokenStore
from tests.testing.clocks import HandClock
from tests.tokens.scene import CLIENT, LIFETIME, STALE, Scene
from tests.tokens.token_service import ISSUER, LOST

RING = KeyRing([new_key()])
NAMES = (bytes(32),)
GRANT = bytes(31) + b"\x01"
MINUTES = timedelta(minutes=5)


class Store(MemoryStore):
    """A store of which backups are made. *unwritable*: it answers, and cannot be written."""

    unwritable = False
    reads = writes = 0

    def backup(self) -> Callable[[], None]:
        kept = copy.copy(self._values)

        def restore() -> None:
            self._values.clear()
            self._values.update(kept)

        return restore

    async def get(self, key: bytes) -> ExpiringValue | None:
        self.reads += 1
        return await super().get(key)

    async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
        self._write()
        return await super().add(key, value, until=until)

    async def replace(self, key: bytes, value: bytes, *, version: int, until: float) -> None:
        self._write()
        await super().replace(key, value, version=version, until=until)

    def _write(self) -> None:
        self.writes += 1
        if self.unwritable:
            raise StoreUnavailable("the disk is full")


class Machine:
    """Processes over one store, with one clock."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = Store(self.clock)

    def process(self, ring: KeyRing = RING, names: tuple[bytes, ...] = NAMES) -> StoreHistory:
        return StoreHistory(self.store, names, ring, clock=self.clock)

    def token(self) -> UserToken:
        """One that has just been received."""
        return UserToken(access_token="a", issued_at=self.clock.time(), refresh_token="r")


@pytest.mark.spec("REF-28")
async def test_what_came_before_is_in_doubt_and_what_comes_afterwards_is_not() -> None:
    machine = Machine()
    first, second, new = machine.process(), machine.process(), machine.process()
    old = machine.token()
    assert await first.forgotten_mark(GRANT, old) is None
    since = machine.clock.time()
    restore = machine.store.backup()
    machine.clock.forward(MINUTES)
    assert await first.forgotten_mark(GRANT, old) is None
    restore()
    assert await second.forgotten_mark(GRANT, old) is None, "nobody has told it"
    restore()
    machine.clock.forward(MINUTES)
    for process in (first, second, new):
        assert await process.forgotten_mark(GRANT, old) == SentMark(since)
    machine.clock.forward(timedelta(seconds=1))
    assert await second.forgotten_mark(GRANT, machine.token()) is None


@pytest.mark.spec("REF-28")
async def test_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    processes = [machine.process() for _ in range(3)]
    for process in processes:
        await process.forgotten_mark(GRANT, machine.token())
    restore = machine.store.backup()
    machine.clock.forward(MINUTES)
    for process in processes:
        await process.forgotten_mark(GRANT, machine.token())
    restore()
    machine.clock.forward(MINUTES)
    for process in processes * 2:
        await process.forgotten_mark(GRANT, machine.token())
        machine.clock.forward(MINUTES)
    told = [(record.name, record.levelname) for record in caplog.records]
    assert told == [("coatcheck", "WARNING"), ("coatcheck.audit", "WARNING")]


@pytest.mark.spec("REF-28")
@pytest.mark.parametrize("quiet", [False, True], ids=["busy", "nobody renews for a night"])
async def test_whoever_moves_the_watermark_first_hides_nothing(quiet: bool) -> None:
    """A process that has seen nothing takes the gap for a quiet time; it stays on record."""
    machine = Machine()
    survivor, new = machine.process(), machine.process()
    old = machine.token()
    await survivor.forgotten_mark(GRANT, old)
    restore = machine.store.backup()
    machine.clock.forward(MINUTES)
    await survivor.forgotten_mark(GRANT, old)
    restore()
    machine.clock.forward(timedelta(hours=9) if quiet else MINUTES)
    for _ in range(20):
        assert await new.forgotten_mark(GRANT, old) is None
        machine.clock.forward(timedelta(seconds=20))
    assert await survivor.forgotten_mark(GRANT, old) is not None
    assert await new.forgotten_mark(GRANT, old) is not None, "and now it knows, too"


@pytest.mark.spec("REF-28")
async def test_a_store_that_lost_everything_went_back_as_well() -> None:
    machine = Machine()
    process = machine.process()
    old = machine.token()
    await process.forgotten_mark(GRANT, old)
    machine.clock.forward(MINUTES)
    machine.store._values.clear()
    assert await process.forgotten_mark(GRANT, old) is not None


@pytest.mark.spec("REF-28")
async def test_a_failover_that_forgets_a_moment_ends_no_session() -> None:
    """Nor when nobody renews for long afterwards, and the watermark leaps over what was forgotten."""
    machine = Machine()
    survivor, new = machine.process(), machine.process()
    old = machine.token()
    await survivor.forgotten_mark(GRANT, old)
    restore = machine.store.backup()
    machine.clock.forward(timedelta(seconds=50))
    await survivor.forgotten_mark(GRANT, old)
    another = copy.copy(survivor)
    another._seen = dict(survivor._seen)
    restore()
    assert await another.forgotten_mark(GRANT, old) is None
    restore()
    machine.clock.forward(MINUTES)
    assert await new.forgotten_mark(GRANT, old) is None
    assert await survivor.forgotten_mark(GRANT, old) is None


@pytest.mark.spec("REF-28", "REF-32")
async def test_quiet_nights_and_jumping_clocks_are_no_restores() -> None:
    machine = Machine()
    processes = [machine.process() for _ in range(3)]
    jumps = [7200, -3600, 600, -600, 30, 86400, 1, 0, 61, 59, -7200, 20]
    for number, seconds in enumerate(jumps * 10):
        machine.clock.forward(timedelta(seconds=seconds))
        assert await processes[number % 3].forgotten_mark(GRANT, machine.token()) is None


async def test_a_renewal_costs_one_read_and_seldom_a_write() -> None:
    machine = Machine()
    process = machine.process()
    for _ in range(60):
        await process.forgotten_mark(GRANT, machine.token())
        machine.clock.forward(timedelta(seconds=1))
    assert (machine.store.reads, machine.store.writes) == (60, 4)


@pytest.mark.spec("REF-28")
async def test_what_a_process_has_spent_itself_it_remembers_for_a_day() -> None:
    machine = Machine()
    process = machine.process()
    old = machine.token()
    machine.clock.forward(timedelta(seconds=1))
    process.spent(GRANT, sent_at=machine.clock.time())
    assert await process.forgotten_mark(GRANT, old) == SentMark(machine.clock.time())
    assert await process.forgotten_mark(GRANT, machine.token()) is None, "a login has brought it again"
    machine.clock.forward(timedelta(days=1))
    assert await process.forgotten_mark(GRANT, old) is None


@pytest.mark.spec("REF-28")
async def test_a_token_of_unknown_age_is_left_to_the_store_that_keeps_it() -> None:
    """A bare refresh token in a store of the application's own, which need not have been restored."""
    machine = Machine()
    process = machine.process()
    await process.note_restore()
    bare = UserToken.from_refresh_token("r")
    assert await process.forgotten_mark(GRANT, bare) is None
    process.spent(GRANT, sent_at=machine.clock.time())
    assert await process.forgotten_mark(GRANT, bare) is not None, "but what was spent here was spent"


async def test_that_memory_is_bounded() -> None:
    machine = Machine()
    process = machine.process()
    for number in range(20_500):
        process.spent(number.to_bytes(32, "big"), sent_at=machine.clock.time())
    assert len(process._spent) == 20_000


@pytest.mark.spec("REF-28")
async def test_the_command_is_believed_by_everybody() -> None:
    machine = Machine()
    process = machine.process()
    old = machine.token()
    assert await process.forgotten_mark(GRANT, old) is None
    machine.clock.forward(timedelta(seconds=5))
    await machine.process().note_restore()
    assert await process.forgotten_mark(GRANT, old) is not None
    machine.clock.forward(timedelta(seconds=1))
    assert await process.forgotten_mark(GRANT, machine.token()) is None
    machine.store.unwritable = True
    with pytest.raises(StoreUnavailable):
        await process.note_restore()


@pytest.mark.spec("REF-28")
async def test_of_two_restores_the_gaps_add_up() -> None:
    machine = Machine()
    process = machine.process()
    first = machine.clock.time()
    old = machine.token()
    for _ in range(2):
        await process.forgotten_mark(GRANT, old)
        machine.clock.forward(MINUTES)
        await process.note_restore()
    machine.clock.forward(timedelta(seconds=-1))
    assert await process.forgotten_mark(GRANT, machine.token()) == SentMark(first)


@pytest.mark.spec("REF-26")
async def test_where_the_watermark_cannot_be_written_renewals_go_on_and_a_restore_is_noticed_all_the_same() -> None:
    machine = Machine()
    process = machine.process()
    old = machine.token()
    restore = machine.store.backup()
    await process.forgotten_mark(GRANT, old)
    machine.clock.forward(MINUTES)
    machine.store.unwritable = True
    assert await process.forgotten_mark(GRANT, old) is None
    restore()
    for _ in range(2):
        assert await process.forgotten_mark(GRANT, old) is not None


async def test_of_two_that_move_it_together_one_looks_again() -> None:
    machine = Machine()
    process, other = machine.process(), machine.process()
    replace_, turns = machine.store.replace, iter([True])

    async def overtaken(key: bytes, value: bytes, *, version: int, until: float) -> None:
        if next(turns, False):
            await other.forgotten_mark(GRANT, machine.token())
        await replace_(key, value, version=version, until=until)

    await process.forgotten_mark(GRANT, machine.token())
    machine.clock.forward(MINUTES)
    machine.store.replace = overtaken  # type: ignore[method-assign]
    machine.store.writes = 0
    assert await process.forgotten_mark(GRANT, machine.token()) is None
    assert machine.store.writes == 2, "one moved it; the other one was too late, and found it moved"


async def test_one_who_is_always_overtaken_says_so() -> None:
    class Busy(Store):
        async def add(self, key: bytes, value: bytes, *, until: float) -> bool:
            raise StaleVersion("somebody else")

    machine = Machine()
    machine.store = Busy(machine.clock)
    with pytest.raises(StoreUnavailable, match="watermark"):
        await machine.process().forgotten_mark(GRANT, machine.token())


async def test_what_is_damaged_or_sealed_by_others_is_as_good_as_none() -> None:
    machine = Machine()
    await machine.process(KeyRing([new_key()])).note_restore()
    old = machine.token()
    assert await machine.process().forgotten_mark(GRANT, old) is None


@pytest.mark.spec("REF-28")
async def test_during_a_key_rotation_processes_meet() -> None:
    machine = Machine()
    one, two = new_key(), new_key()
    names = {one: bytes(32), two: bytes(31) + b"\x02"}
    before = machine.process(KeyRing([one]), (names[one],))
    middle = machine.process(KeyRing([two, one]), (names[one], names[two]))
    after = machine.process(KeyRing([two]), (names[two],))
    old = machine.token()
    machine.clock.forward(timedelta(seconds=1))
    await before.note_restore()
    assert await middle.forgotten_mark(GRANT, old) is not None
    assert await after.forgotten_mark(GRANT, old) is None
    await middle.note_restore()
    assert await after.forgotten_mark(GRANT, old) is not None


@pytest.mark.spec("REF-10", "REF-28")
async def test_a_grace_is_asked_only_as_long_as_it_may_still_run() -> None:
    """A restore may have been long after the refresh token was used first."""
    scene = Scene()
    tokens = scene.other_process(client=replace(CLIENT, rotation="grace:60s"))
    alice = await scene.log_in()
    scene.clock.forward(LIFETIME)
    await tokens.store_restored()
    with pytest.raises(LoginRequired) as raised:
        await tokens.user_token(await alice.request())
    assert raised.value.code == "renewal_lost"
    assert scene.service.refreshes == 0


@pytest.mark.spec("REF-28")
async def test_another_api_of_a_later_login_gets_its_first_access_token() -> None:
    """There is none whose age could be asked; the refresh token's counts."""
    scene = Scene()
    await scene.tokens.store_restored()
    scene.clock.forward(timedelta(seconds=1))
    alice = await scene.log_in()
    parameters = UserTokenRequestParameters(scope="orders.read")
    assert (await scene.tokens.user_token(await alice.request(), parameters)).access_token


@pytest.mark.spec("REF-28")
async def test_a_bare_refresh_token_that_was_stored_before_is_in_doubt() -> None:
    """A command-line tool is logged in by a refresh token; its grant is in the store that was restored."""
    clock = HandClock()
    store, keys = MemoryStore(clock), [new_key()]
    user = User(ISSUER, "alice")
    scene = Scene(clock=clock)
    tokens = Tokens(
        CLIENT, store=SharedUserTokenStore(store, keys, clock=clock), coordination=store, keys=keys, clock=clock,
        send=scene.service, pause=scene._pause,
    )  # fmt: skip
    await tokens.store_login(user, UserToken.from_refresh_token(scene.service.login("alice")["refresh_token"]))
    clock.forward(timedelta(seconds=1))
    await tokens.store_restored()
    with pytest.raises(LoginRequired):
        await tokens.user_token(user)
    assert scene.service.refreshes == 0
    clock.forward(timedelta(seconds=1))
    await tokens.store_login(user, UserToken.from_refresh_token(scene.service.login("alice")["refresh_token"]))
    assert (await tokens.user_token(user)).access_token


@pytest.mark.spec("REF-10", "REF-28")
async def test_an_answer_that_was_lost_is_remembered_where_the_store_has_forgotten_the_mark() -> None:
    scene = Scene()
    alice = await scene.log_in()
    scene.clock.forward(STALE)
    scene.service.answers.append(LOST)
    await scene.tokens.user_token(await alice.request())
    await scene.tokens.aclose()
    scene.coordination._leases.clear()
    scene.clock.forward(LIFETIME - STALE)
    with pytest.raises(LoginRequired) as raised:
        await scene.tokens.user_token(await alice.request())
    assert raised.value.code == "renewal_lost"
    assert scene.service.refreshes == 1


@pytest.mark.spec("REF-28")
async def test_where_refresh_tokens_are_kept_nobody_looks() -> None:
    scene = Scene(coordination=Store, client=replace(CLIENT, rotation="none"))
    tokens, store = scene.tokens, scene.coordination
    assert isinstance(store, Store)
    alice = await scene.log_in()
    await tokens.store_restored()
    scene.clock.forward(LIFETIME)
    store.reads = 0
    assert (await tokens.user_token(await alice.request())).access_token
    assert store.reads == 0
