"""Giving tokens back: at a logout, and after a session was deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from coatcheck.audit import AUDIT_LOGGER
from coatcheck.errors import StoreUnavailable, TransportError
from coatcheck.oauth.client import Client
from coatcheck.oauth.messages import Request, Response
from coatcheck.sessions.seal import new_key
from coatcheck.sessions.store import SessionRow
from coatcheck.stores import MemoryStore
from coatcheck.tokens import SharedUserTokenStore, User, UserToken, UserTokenRequestParameters, coordinator
from tests.testing.clocks import HandClock
from tests.tokens.scene import CLIENT, LIFETIME, Browser, Scene, TableUserTokenStore
from tests.tokens.token_service import ISSUER, error

Give = Callable[[Scene, Browser], Awaitable[None]]


async def by_logout(scene: Scene, browser: Browser) -> None:
    await scene.tokens.revoke(await browser.request())


async def after_the_end(scene: Scene, browser: Browser) -> None:
    user = await browser.request()
    await browser.log_out()
    await scene.tokens.revoke_ended(user)


both_ways = pytest.mark.parametrize("give", [by_logout, after_the_end])


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["audit"] for record in caplog.records if record.name == AUDIT_LOGGER]


# What is given back


@both_ways
async def test_the_refresh_token_and_the_access_token_are_revoked(give: Give) -> None:
    scene = Scene()
    browser = await scene.log_in()
    token = await browser.stored()
    await give(scene, browser)
    assert scene.service.revoked == [token.refresh_token]
    assert scene.service.revoked_access_tokens == [token.access_token]


@both_ways
@pytest.mark.parametrize(
    ("refresh", "access", "revoked"),
    [(True, False, (1, 0)), (False, True, (0, 0)), (False, False, (0, 0))],
)
async def test_the_options_say_which(give: Give, refresh: bool, access: bool, revoked: tuple[int, int]) -> None:
    """A provider may end the grant with an access token, so a refresh token that stays keeps those that it has."""
    scene = Scene(revoke_refresh_token=refresh, revoke_access_token=access)
    await give(scene, await scene.log_in())
    assert (len(scene.service.revoked), len(scene.service.revoked_access_tokens)) == revoked


@pytest.mark.parametrize("access", [True, False])
async def test_an_access_token_alone_goes_by_its_own_option(access: bool) -> None:
    scene = Scene(revoke_refresh_token=False, revoke_access_token=access, store=(store := TableUserTokenStore()))
    user = await (await scene.log_in()).request()
    for row, token in store.rows.items():
        store.rows[row] = replace(token, refresh_token=None)
    await scene.tokens.revoke(user)
    assert (len(scene.service.revoked), len(scene.service.revoked_access_tokens)) == (0, access)


@both_ways
async def test_every_access_token_that_still_works_is_revoked(give: Give) -> None:
    """Not the newest only: one for another API works there as long."""
    scene = Scene()
    browser = await scene.log_in()
    login = await browser.stored()
    scene.service.expires_in = 3600
    others = [
        await scene.tokens.user_token(await browser.request(), UserTokenRequestParameters(resource=(resource,)))
        for resource in ("https://orders.example", "https://billing.example")
    ]
    scene.clock.forward(LIFETIME)  # that of the login is over
    await give(scene, browser)
    assert sorted(scene.service.revoked_access_tokens) == sorted(token.access_token for token in others)
    assert login.access_token not in scene.service.revoked_access_tokens


async def test_every_access_token_of_a_shared_grant_is_revoked_too() -> None:
    clock = HandClock()
    scene = Scene(clock=clock, store=SharedUserTokenStore(MemoryStore(clock), [new_key()], clock=clock))
    browser = await scene.log_in()
    parameters = UserTokenRequestParameters(resource=("https://orders.example",))
    other = await scene.tokens.user_token(await browser.request(), parameters)
    await scene.tokens.revoke(await browser.request())
    assert other.access_token in scene.service.revoked_access_tokens
    assert len(scene.service.revoked_access_tokens) == 2


async def test_all_of_them_are_under_way_at_the_same_time() -> None:
    """Both kinds, of all registrations: a person waits."""
    scene = Scene(client={"default": CLIENT, "other": replace(CLIENT)}, store=(store := TableUserTokenStore()))
    user = User(ISSUER, "alice")
    for client in ("default", "other"):
        token = UserToken(access_token=f"access of {client}", issued_at=0, refresh_token=f"refresh of {client}")
        await store.store_token(user, token, UserTokenRequestParameters(client=client), replaces=None)
    together = asyncio.Barrier(4)

    async def meeting(request: Request) -> Response:
        if request.url.endswith("/revoke"):
            await together.wait()
        return await scene.service(request)

    async with asyncio.timeout(10):
        await scene.other_process(send=meeting).revoke(user)
    assert len(scene.service.revoked) == len(scene.service.revoked_access_tokens) == 2


@both_ways
async def test_an_authorization_server_that_revokes_no_access_tokens_says_so_once(
    give: Give, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene()
    scene.service.revokes_access_tokens = False
    for times in range(3):
        caplog.clear()
        await give(scene, await scene.log_in())
        assert len(scene.service.revoked) == times + 1
        assert len(scene.service.revoked_access_tokens) == 1
        failed = [line for line in audited(caplog) if line["event"] == "token_revocation_failed"]
        assert [line["reason"] for line in failed] == (["unsupported_token_type"] if times == 0 else [])
        assert [record.name for record in caplog.records if record.levelno > logging.INFO] == []


@both_ways
async def test_an_access_token_that_ended_with_the_grant_is_no_failure(
    give: Give, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 7009 2.2 wants 200; some answer 400 `invalid_token`."""
    caplog.set_level(logging.INFO)
    scene = Scene()
    scene.service.revocation_answer = error("invalid_token")
    await give(scene, await scene.log_in())
    assert [line["event"] for line in audited(caplog)] == ["token_revoked"] * 2


# What is told


@pytest.mark.spec("LOG-01")
@both_ways
async def test_the_audit_log_has_a_line_for_each_and_no_token(give: Give, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene()
    browser = await scene.log_in()
    token = await browser.stored()
    await give(scene, browser)
    lines = audited(caplog)
    assert [line["event"] for line in lines] == ["token_revoked"] * 2
    assert {line["kind"] for line in lines} == {"refresh_token", "access_token"}
    assert {(line["iss"], line["client"]) for line in lines} == {(ISSUER, "default")}
    assert len({line["session"] for line in lines}) == len({line["user"] for line in lines}) == 1
    for secret in (token.access_token, token.refresh_token, "alice"):
        assert secret is not None and secret not in caplog.text


@both_ways
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Response(503), "TransportError"),
        (error("invalid_client", status=401), "invalid_client"),
        (TransportError("x", sent=True), "TransportError"),
        (RuntimeError("secret"), "RuntimeError"),
    ],
    ids=str,
)
async def test_what_could_not_be_revoked_is_told_once_and_never_raised(
    give: Give, answer: Response | Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene()
    browser = await scene.log_in()
    token = await browser.stored()
    scene.service.revocation_answer = answer
    await give(scene, browser)
    assert {(line["event"], line["reason"]) for line in audited(caplog)} == {("token_revocation_failed", reason)}
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "a refresh token could not be revoked at https://issuer.example" in warning
    assert str(token.refresh_token) not in caplog.text and "secret" not in caplog.text


async def test_a_logout_that_waits_no_longer_clears_and_tells_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene(store=(store := TableUserTokenStore()))
    browser = await scene.log_in()
    arrived = asyncio.Event()

    async def hang(request: Request) -> Response:
        if request.url.endswith("/revoke"):
            arrived.set()
            await asyncio.Event().wait()
        return await scene.service(request)

    logout = asyncio.create_task(scene.other_process(send=hang).revoke(await browser.request()))
    await arrived.wait()
    assert store.rows
    logout.cancel()
    with pytest.raises(asyncio.CancelledError):
        await logout
    assert store.rows == {}
    assert [(line["event"], line["reason"]) for line in audited(caplog)] == [
        ("token_revocation_failed", "too_slow")
    ] * 2


# After a session was deleted


@pytest.mark.parametrize("table", [False, True], ids=["in the session", "in a table"])
async def test_after_the_end_no_renewal_is_waited_for(table: bool) -> None:
    """What the renewal brings finds its session gone, and is revoked by whoever renewed."""
    scene = Scene(store=TableUserTokenStore() if table else None)
    browser = await scene.log_in()
    before = await browser.stored()
    user = await browser.request()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.other_process().user_token(await browser.request()))
        await gate.arrived.wait()
        await browser.log_out()
        await scene.tokens.revoke_ended(user)
        assert scene.service.revoked == [before.refresh_token]
        gate.released.set()
        await asyncio.wait([renewal])
    assert renewal.exception() is not None
    assert len(scene.service.revoked) == 2


async def test_after_the_end_nothing_is_read_again() -> None:
    class Counting(MemoryStore):
        loads = 0

        async def load(self, key: bytes) -> SessionRow | None:
            self.loads += 1
            return await super().load(key)

    scene = Scene()
    scene.replace_session_store(store := Counting(scene.clock))
    browser = await scene.log_in()
    user = await browser.request()
    await browser.log_out()
    before = store.loads
    await scene.tokens.revoke_ended(user)
    assert len(scene.service.revoked) == 1
    assert store.loads == before


async def test_after_the_end_a_store_of_the_application_forgets_the_tokens() -> None:
    scene = Scene(store=(store := TableUserTokenStore()))
    browser = await scene.log_in()
    token = await browser.stored()
    await after_the_end(scene, browser)
    assert store.rows == {}
    assert scene.service.revoked == [token.refresh_token]


async def test_after_the_end_an_answer_that_is_not_written_yet_is_what_counts() -> None:
    """The row has the refresh token that rotation has replaced."""

    class Failing(MemoryStore):
        broken = False

        async def update(self, key: bytes, change: Any) -> None:
            if self.broken:
                raise StoreUnavailable("it cannot be written")
            await super().update(key, change)

    scene = Scene()
    scene.replace_session_store(store := Failing(scene.clock))
    browser = await scene.log_in()
    spent = await browser.stored()
    scene.clock.forward(LIFETIME)
    store.broken = True
    renewed = await scene.tokens.user_token(user := await browser.request())
    await browser.log_out()
    await scene.tokens.revoke_ended(user)
    assert renewed.refresh_token in scene.service.revoked
    assert spent.refresh_token not in scene.service.revoked
    store.broken = False
    await scene.tokens.aclose()


# Logouts that meet trouble


async def test_logout_revokes_the_refresh_tokens_of_every_registration() -> None:
    other = Client(issuer=ISSUER, client_id="other", client_secret="another secret")
    scene = Scene(client={"default": CLIENT, "other": other}, store=(store := TableUserTokenStore()))
    user = User(ISSUER, "alice")
    for client in ("default", "other"):
        token = UserToken(access_token="access", issued_at=0, refresh_token=f"refresh of {client}")
        await store.store_token(user, token, UserTokenRequestParameters(client=client), replaces=None)
    await scene.tokens.revoke(user)
    assert scene.service.revoked == ["refresh of default", "refresh of other"]


@pytest.mark.parametrize("answer", [Response(503), error("invalid_client", status=401), TransportError("x", sent=True)])
async def test_a_logout_never_fails_because_revoking_fails(
    answer: Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    browser = await scene.log_in()
    scene.service.revocation_answer = answer
    await scene.tokens.revoke(await browser.request())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "could not be revoked at https://issuer.example" in caplog.text
    assert str((await browser.stored()).refresh_token) not in caplog.text


async def test_a_logout_without_a_token_or_without_a_store_revokes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Unreadable(TableUserTokenStore):
        async def get_token(self, user: User, parameters: UserTokenRequestParameters) -> UserToken | None:
            raise StoreUnavailable("the table is locked")

    user = User(ISSUER, "alice")
    await (scene := Scene(store=TableUserTokenStore())).tokens.revoke(user)
    assert caplog.records == []
    await Scene(store=Unreadable()).tokens.revoke(user)
    assert len(caplog.records) == 1
    assert scene.service.revoked == []


@pytest.mark.spec("REF-23")
async def test_a_logout_that_cannot_look_again_revokes_what_its_request_began_with() -> None:
    class AnswersOnce(MemoryStore):
        loads = 0

        async def load(self, key: bytes) -> SessionRow | None:
            self.loads += 1
            if self.loads > 1:
                raise StoreUnavailable("the store does not answer any more")
            return await super().load(key)

    scene = Scene()
    scene.replace_session_store(AnswersOnce(scene.clock))
    browser = await scene.log_in()
    await scene.tokens.revoke(await browser.request())
    assert scene.service.revoked == ["refresh-1"]


async def test_a_logout_during_a_renewal_revokes_what_comes_of_it() -> None:
    """The refresh token that the request began with is spent by then."""
    scene = Scene()
    browser = await scene.log_in()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        logout = asyncio.create_task(scene.tokens.revoke(await browser.request()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not logout.done()
        gate.released.set()
        renewed = await renewal
        await logout
    assert scene.service.revoked == [renewed.refresh_token]


async def test_a_logout_with_an_old_cookie_revokes_what_it_was_renewed_to() -> None:
    """The responses with the newer cookies never reached the browser."""
    scene = Scene(cookies=True)
    browser = await scene.log_in()
    renewed = []
    for _ in range(3):
        scene.clock.forward(LIFETIME)
        renewed.append(await scene.tokens.user_token(await browser.request()))
    await scene.tokens.revoke(await browser.request())
    assert scene.service.refreshes == 3
    assert scene.service.revoked == [renewed[-1].refresh_token]


async def test_a_logout_does_not_wait_long_for_a_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "_SETTLING_SECONDS", 0.0)
    scene = Scene()
    browser = await scene.log_in()
    before = await browser.stored()
    scene.clock.forward(LIFETIME)
    async with scene.service.held() as gate:
        renewal = asyncio.create_task(scene.tokens.user_token(await browser.request()))
        await gate.arrived.wait()
        await scene.tokens.revoke(await browser.request())
        assert scene.service.revoked == [before.refresh_token]
        gate.released.set()
        await renewal


async def test_a_logout_clears_what_a_store_of_the_application_holds() -> None:
    """Whether or not the provider can revoke: a refresh token that nobody may use is not kept."""
    scene = Scene(store=(store := TableUserTokenStore()))
    scene.service.metadata.pop("revocation_endpoint")
    await scene.tokens.revoke(await (await scene.log_in()).request())
    assert store.rows == {}


@pytest.mark.parametrize("broken", ["get_token", "clear_token"])
async def test_a_logout_goes_on_whatever_a_store_of_the_application_raises(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(user: User, parameters: UserTokenRequestParameters) -> None:
        raise RuntimeError("the row of refresh-1 is locked")

    scene = Scene(store=(store := TableUserTokenStore()))
    user = await (await scene.log_in()).request()
    setattr(store, broken, fail)
    await scene.tokens.revoke(user)
    (record,) = caplog.records
    assert "RuntimeError at " in record.getMessage()
    assert "refresh-1" not in caplog.text


async def test_a_logout_of_a_session_that_is_gone_already_is_quiet_about_it() -> None:
    scene = Scene()
    browser = await scene.log_in()
    user = await browser.request()
    await browser.log_out()
    await scene.tokens.revoke(user)


async def test_a_provider_without_a_revocation_endpoint_is_not_asked() -> None:
    scene = Scene()
    scene.service.metadata.pop("revocation_endpoint")
    await scene.tokens.revoke(await (await scene.log_in()).request())
    assert scene.service.revoked == []
