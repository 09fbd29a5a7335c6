from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from coatcheck.errors import InvalidIDToken, InvalidLogoutToken, InvalidMetadata, TransportError, UnknownKey
from coatcheck.oauth.client import Client
from coatcheck.oauth.jwt import sign_jwt
from coatcheck.oauth.messages import Request, Response
from coatcheck.provider import AuthorizationServer
from tests.oauth.issuer import CLIENT_ID, ISSUER, NONCE, NOW, claims, id_token, jwk, private_key
from tests.oauth.logout_tokens import Mint
from tests.testing.clocks import HandClock

METADATA_URL = f"{ISSUER}/.well-known/openid-configuration"
JWKS_URL = f"{ISSUER}/jwks"
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class Provider:
    """An authorization server at the other end of a `Send`: it can change its keys, break, and take its time."""

    def __init__(self, issuer: str = ISSUER, **metadata: Any) -> None:
        self.metadata: dict[str, Any] = {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "jwks_uri": f"{issuer}/jwks",
            **metadata,
        }
        self.keys = [jwk()]
        self.down: Exception | Response | None = None
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    async def send(self, request: Request) -> Response:
        self.asked.append(request.url)
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.down, Exception):
            raise self.down
        if self.down is not None:
            return self.down
        if request.url.endswith("/jwks"):
            return Response(200, {}, json.dumps({"keys": self.keys}).encode())
        if request.url.endswith("/.well-known/openid-configuration"):
            return Response(200, {}, json.dumps(self.metadata).encode())
        return Response(404, {}, b"")

    def count(self, url: str) -> int:
        return self.asked.count(url)


def server(provider: Provider, clock: HandClock | None = None, **client: Any) -> AuthorizationServer:
    registration = Client(**{"issuer": ISSUER, "client_id": CLIENT_ID, "client_secret": "secret"} | client)
    return AuthorizationServer(registration, provider.send, clock or HandClock(NOW))


def login(server: AuthorizationServer, token: str) -> Awaitable[dict[str, Any]]:
    return server.verify_id_token(token, nonce=NONCE, at_login=True)


async def _let_others_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


DOWN = TransportError("the authorization server is down", sent=False)


async def test_metadata_is_fetched_once_for_all_who_ask_and_kept() -> None:
    provider, clock = Provider(), HandClock(NOW)
    idp = server(provider, clock)
    answers = await asyncio.gather(*(idp.metadata() for _ in range(50)))
    assert {answer.token_endpoint for answer in answers} == {f"{ISSUER}/token"}
    clock.forward(HOUR - SECOND)
    assert await idp.metadata() is answers[0]
    assert provider.asked == [METADATA_URL]
    provider.metadata["token_endpoint"] = f"{ISSUER}/token2"
    clock.forward(SECOND)
    assert (await idp.metadata()).token_endpoint == f"{ISSUER}/token2"
    assert provider.asked == [METADATA_URL] * 2


@pytest.mark.spec("REF-07")
async def test_the_first_callers_cancellation_harms_nobody() -> None:
    provider = Provider()
    provider.gate = asyncio.Event()
    idp = server(provider)
    callers = [asyncio.create_task(idp.metadata()) for _ in range(3)]
    await _let_others_run()
    callers[0].cancel()
    await _let_others_run()
    provider.gate.set()
    assert (await callers[1]).issuer == (await callers[2]).issuer == ISSUER
    assert callers[0].cancelled()
    assert provider.asked == [METADATA_URL]


@pytest.mark.spec("MET-07")
async def test_while_the_server_is_down_the_last_good_metadata_serve_for_a_day(
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider, clock = Provider(), HandClock(NOW)
    idp = server(provider, clock)
    good = await idp.metadata()
    provider.down = DOWN
    clock.forward(2 * HOUR)
    with caplog.at_level(logging.WARNING, "coatcheck"):
        assert await idp.metadata() is good
        assert await idp.metadata() is good
        assert len(provider.asked) == 2, "not asked again at once"
        assert [record.getMessage() for record in caplog.records] == [
            f"metadata of {ISSUER} cannot be renewed, the last good one stays in use for up to a day: {DOWN}"
        ]
        clock.forward(MINUTE)
        assert await idp.metadata() is good
        assert len(provider.asked) == 3
    clock.forward(22 * HOUR)
    with pytest.raises(TransportError, match="down"):
        await idp.metadata()
    provider.down = None
    clock.forward(5 * SECOND)
    assert (await idp.metadata()).issuer == ISSUER


@pytest.mark.spec("MET-08", "MET-07")
async def test_a_server_that_is_down_from_the_start_is_an_error_and_meets_no_storm() -> None:
    provider, clock = Provider(), HandClock(NOW)
    provider.down = DOWN
    idp = server(provider, clock)
    for _ in range(3):
        outcomes = await asyncio.gather(*(login(idp, id_token()) for _ in range(50)), return_exceptions=True)
        assert all(isinstance(outcome, TransportError) for outcome in outcomes)
    assert provider.asked == [METADATA_URL]
    clock.forward(5 * SECOND)
    with pytest.raises(TransportError):
        await idp.metadata()
    assert provider.asked == [METADATA_URL] * 2
    provider.down = None
    clock.forward(5 * SECOND)
    assert (await login(idp, id_token()))["sub"] == "alice"


@pytest.mark.parametrize(
    "answer",
    [
        Response(200, {}, json.dumps(Provider("https://other.example").metadata).encode()),
        Response(200, {}, json.dumps(Provider(ISSUER + "/").metadata).encode()),
        Response(200, {}, b"<html>"),
        Response(200, {}, b""),
        Response(302, {"location": "https://evil.example/"}, b""),
        Response(403, {}, b"{}"),
    ],
)
@pytest.mark.spec("MET-01", "MET-05", "MET-07", "MET-08")
async def test_a_document_that_cannot_be_used_is_an_error_and_never_replaces_a_good_one(answer: Response) -> None:
    provider, clock = Provider(), HandClock(NOW)
    provider.down = answer
    idp = server(provider, clock)
    for _ in range(3):
        with pytest.raises(InvalidMetadata):
            await idp.metadata()
        with pytest.raises(InvalidMetadata):
            await login(idp, id_token())
    assert len(provider.asked) == 1
    provider.down = None
    clock.forward(5 * SECOND)
    good = await idp.metadata()
    provider.down = answer
    clock.forward(2 * HOUR)
    assert await idp.metadata() is good


@pytest.mark.spec("MET-03", "IDT-13", "JOS-01")
async def test_nothing_in_a_token_leads_to_a_request() -> None:
    provider = Provider()
    idp = server(provider)
    evil = "https://evil.example"
    header = {"jku": f"{evil}/jwks", "x5u": f"{evil}/cert", "jwk": jwk(name="attacker", jku=evil)}
    for token in (
        id_token(iss=evil, header=header),
        id_token(iss=evil, name="unknown", header=header),
        id_token(jwks_uri=f"{evil}/jwks", picture=f"{evil}/picture", _claim_sources={"x": {"endpoint": evil}}),
    ):
        with suppress(InvalidIDToken):
            await login(idp, token)
    assert set(provider.asked) == {METADATA_URL, JWKS_URL}


@pytest.mark.spec("JOS-01")
async def test_equal_kid_at_two_issuers_never_crosses() -> None:
    here, there = Provider(), Provider("https://there.example")
    here.keys, there.keys = [jwk(name="here", kid="1")], [jwk(name="there", kid="1")]
    idp, other = server(here), server(there, issuer="https://there.example")
    ours = sign_jwt({"alg": "ES256", "kid": "1"}, claims(), private_key(name="here"))
    theirs_in_our_name = sign_jwt({"alg": "ES256", "kid": "1"}, claims(), private_key(name="there"))
    theirs = sign_jwt({"alg": "ES256", "kid": "1"}, claims(iss="https://there.example"), private_key(name="there"))
    assert (await login(idp, ours))["iss"] == ISSUER
    assert (await login(other, theirs))["iss"] == "https://there.example"
    for verifier, token in ((idp, theirs_in_our_name), (idp, theirs), (other, ours), (other, theirs_in_our_name)):
        with pytest.raises(InvalidIDToken):
            await login(verifier, token)


@pytest.mark.spec("JOS-04")
async def test_a_token_signed_by_a_new_key_is_verified_after_one_refetch() -> None:
    provider = Provider()
    idp = server(provider)
    await login(idp, id_token())
    provider.keys = [jwk(name="second"), jwk()]
    assert (await login(idp, id_token(name="second")))["sub"] == "alice"
    assert (await login(idp, id_token()))["sub"] == "alice"
    assert provider.count(JWKS_URL) == 2


@pytest.mark.spec("JOS-04", "JOS-05")
async def test_the_rotation_of_a_key_without_a_name_is_noticed_too() -> None:
    provider = Provider()
    provider.keys = [jwk(kid=None)]
    idp = server(provider)
    assert await login(idp, sign_jwt({"alg": "ES256"}, claims(), private_key()))
    provider.keys = [jwk(name="second", kid=None)]
    assert await login(idp, sign_jwt({"alg": "ES256"}, claims(), private_key(name="second")))
    assert provider.count(JWKS_URL) == 2


@pytest.mark.spec("JOS-04")
async def test_a_withdrawn_key_stops_verifying() -> None:
    provider, clock = Provider(), HandClock(NOW)
    idp = server(provider, clock)
    await login(idp, id_token())
    provider.keys = [jwk(name="second")]
    await login(idp, id_token(name="second"))
    with pytest.raises(UnknownKey):
        await login(idp, id_token())
    provider.keys = [jwk(name="third")]  # and so it does without any token of a new key
    clock.forward(HOUR)
    with pytest.raises(UnknownKey):
        await login(idp, id_token(name="second", iat=clock.time(), exp=clock.time() + 60))


@pytest.mark.spec("JOS-02", "JOS-03")
async def test_a_flood_of_invented_key_ids_causes_one_fetch_per_interval() -> None:
    provider, clock = Provider(), HandClock(NOW)
    idp = server(provider, clock)
    await login(idp, id_token())
    tokens = [sign_jwt({"alg": "ES256", "kid": f"{n}"}, claims(), private_key()) for n in range(500)]
    for interval in range(3):
        before = provider.count(JWKS_URL)
        outcomes = await asyncio.gather(*(login(idp, token) for token in tokens), return_exceptions=True)
        for token in tokens:
            with pytest.raises(UnknownKey):
                await login(idp, token)
        assert all(isinstance(outcome, UnknownKey) for outcome in outcomes)
        assert provider.count(JWKS_URL) == before + 1, f"in interval {interval}"
        clock.forward(29 * SECOND)
        with pytest.raises(UnknownKey):
            await login(idp, tokens[0])
        assert provider.count(JWKS_URL) == before + 1, f"in interval {interval}"
        clock.forward(SECOND)


@pytest.mark.spec("JOS-02")
async def test_everybody_with_a_token_of_the_new_key_waits_for_the_one_refetch() -> None:
    provider = Provider()
    idp = server(provider)
    await login(idp, id_token())
    provider.keys = [jwk(name="second")]
    provider.gate = asyncio.Event()
    logins = [asyncio.ensure_future(login(idp, id_token(name="second"))) for _ in range(50)]
    await _let_others_run()
    assert provider.count(JWKS_URL) == 2
    logins[0].cancel()
    provider.gate.set()
    assert [(await verified)["sub"] for verified in logins[1:]] == ["alice"] * 49
    assert provider.count(JWKS_URL) == 2


@pytest.mark.spec("JOS-02")
async def test_who_still_holds_old_keys_gets_those_that_another_thread_has_just_fetched() -> None:
    provider = Provider()
    idp = server(provider)
    old = await idp.keys()
    provider.keys = [jwk(name="second")]
    await login(idp, id_token(name="second"))
    assert await idp._keys.newer_than(old) is await idp.keys() is not old
    assert provider.count(JWKS_URL) == 2


@pytest.mark.parametrize("down", [DOWN, Response(500, {}, b""), Response(200, {}, b"<html>")])
@pytest.mark.spec("JOS-03", "MET-08")
async def test_a_refetch_that_fails_lifts_nothing_and_keeps_the_keys(
    down: Exception | Response, caplog: pytest.LogCaptureFixture
) -> None:
    provider, clock = Provider(), HandClock(NOW)
    idp = server(provider, clock)
    await login(idp, id_token())
    provider.down = down
    with caplog.at_level(logging.WARNING, "coatcheck"):
        for _ in range(20):
            with pytest.raises(UnknownKey):
                await login(idp, id_token(name="second"))
    assert provider.count(JWKS_URL) == 2
    assert len(caplog.records) == 1
    assert await login(idp, id_token())
    provider.down, provider.keys = None, [jwk(name="second")]
    clock.forward(30 * SECOND)
    assert await login(idp, id_token(name="second"))


@pytest.mark.spec("JOS-08")
async def test_keys_serve_for_a_day_while_the_server_is_down_and_no_longer() -> None:
    provider, clock = Provider(), HandClock(NOW)
    idp = server(provider, clock)

    def token() -> str:
        return id_token(iat=clock.time(), exp=clock.time() + 60)

    await login(idp, token())
    provider.down = DOWN
    clock.forward(24 * HOUR - SECOND)
    assert await login(idp, token())
    clock.forward(SECOND)
    with pytest.raises(TransportError):
        await login(idp, token())


@pytest.mark.spec("MET-08", "JOS-07")
async def test_without_usable_keys_nothing_is_verified() -> None:
    for jwks_uri in ("file:///etc/passwd", "data:,{}", "http://idp.example.com/jwks", 7):
        with pytest.raises(InvalidMetadata, match="jwks_uri"):
            await login(server(Provider(jwks_uri=jwks_uri)), id_token())
    with pytest.raises(InvalidMetadata, match="no jwks_uri"):
        await login(server(Provider(jwks_uri=None)), id_token())
    empty = Provider()
    empty.keys = []
    with pytest.raises(UnknownKey):
        await login(server(empty), id_token())


@pytest.mark.spec("IDT-05", "IDT-01", "IDT-02")
async def test_issuer_client_and_algorithms_are_those_of_the_registration() -> None:
    provider = Provider()
    provider.keys = [jwk(), jwk("RS256", name="rsa")]
    only_rsa = server(provider, id_token_signed_response_alg=("RS256",))
    with pytest.raises(InvalidIDToken, match="alg"):
        await login(only_rsa, id_token())
    assert await login(only_rsa, id_token(alg="RS256", name="rsa"))
    with pytest.raises(InvalidIDToken, match="aud"):
        await login(server(provider, client_id="other"), id_token())


@pytest.mark.spec("IDT-09", "IDT-11", "IDT-15")
async def test_every_argument_of_the_check_is_passed_on() -> None:
    idp = server(Provider())
    for refused in (
        idp.verify_id_token(id_token(), nonce="other", at_login=True),
        idp.verify_id_token(id_token(at_hash="x"), nonce=NONCE, at_login=True, access_token="token"),
        idp.verify_id_token(id_token(auth_time=NOW - 600), nonce=NONCE, at_login=True, max_age=60),
        idp.verify_id_token(id_token(iat=NOW - 3600), nonce=NONCE, at_login=True),
    ):
        with pytest.raises(InvalidIDToken):
            await refused
    assert await idp.verify_id_token(id_token(iat=NOW - 3600, nonce=...), nonce=None, at_login=False)


def mint(name: str = "first") -> Mint:
    """Makes logout tokens with the provider's key called *name*."""
    return Mint(ISSUER, CLIENT_ID, NOW, private_key("RS256", name), name, {"sub": "alice"})


def logout_provider() -> Provider:
    provider = Provider()
    provider.keys = [jwk("RS256")]
    return provider


@pytest.mark.spec("JOS-09", "JOS-04")
async def test_a_logout_token_signed_by_a_new_key_is_verified_after_one_refetch() -> None:
    provider = logout_provider()
    idp = server(provider)
    assert (await idp.verify_logout_token(mint().token())).sub == "alice"
    provider.keys = [jwk("RS256", name="second")]
    assert (await idp.verify_logout_token(mint("second").token())).sub == "alice"
    with pytest.raises(InvalidLogoutToken) as refused:
        await idp.verify_logout_token(mint().token())
    assert refused.value.reason == "unknown_key"
    assert provider.count(JWKS_URL) == 2


@pytest.mark.spec("JOS-02", "JOS-03", "BCL-22")
async def test_a_flood_of_logout_tokens_with_invented_key_ids_causes_one_fetch_per_interval() -> None:
    provider, clock = logout_provider(), HandClock(NOW)
    idp = server(provider, clock)
    await idp.verify_logout_token(mint().token())
    tokens = [mint().token({"kid": f"{n}"}, exp=NOW + 3600) for n in range(500)]
    for interval in range(3):
        before = provider.count(JWKS_URL)
        outcomes = await asyncio.gather(*(idp.verify_logout_token(t) for t in tokens), return_exceptions=True)
        assert {getattr(outcome, "reason", outcome) for outcome in outcomes} == {"unknown_key"}
        assert provider.count(JWKS_URL) == before + 1, f"in interval {interval}"
        clock.forward(30 * SECOND)


@pytest.mark.spec("BCL-04", "BCL-22", "JOS-02")
async def test_a_logout_token_that_is_wrong_in_another_way_causes_no_request_at_all() -> None:
    provider = logout_provider()
    idp = server(provider)
    wrong: list[dict[str, Any]] = [{"iss": "https://evil.example"}, {"aud": "other"}, {"iat": 0}, {"nonce": ""}]
    for changes in (*wrong, {"events": {}}, {"jti": ""}):
        for header in ({}, {"kid": "invented"}):
            with pytest.raises(InvalidLogoutToken):
                await idp.verify_logout_token(mint().token(header, **changes))
    assert provider.asked == []


@pytest.mark.spec("BCL-04", "BCL-05")
async def test_a_logout_token_is_checked_by_the_registration() -> None:
    provider = logout_provider()
    for registration, token, reason in (
        ({}, mint().token(exp=...), "exp"),
        ({"client_id": "other"}, mint().token(), "audience"),
        ({"id_token_signed_response_alg": ("ES256",)}, mint().token(), "alg"),
    ):
        with pytest.raises(InvalidLogoutToken) as refused:
            await server(provider, **registration).verify_logout_token(token)
        assert refused.value.reason == reason
    lenient = server(provider, logout_token_without_exp=True)
    assert (await lenient.verify_logout_token(mint().token(exp=...))).sub == "alice"


@pytest.mark.spec("BCL-03", "MET-08")
async def test_without_usable_keys_no_logout_token_is_verified() -> None:
    provider = logout_provider()
    provider.down = DOWN
    with pytest.raises(TransportError):
        await server(provider).verify_logout_token(mint().token())
    provider.down, provider.keys = None, []
    with pytest.raises(InvalidLogoutToken):
        await server(provider).verify_logout_token(mint().token())


def test_one_server_serves_several_event_loops() -> None:
    provider = Provider()
    idp = server(provider)

    async def one_login() -> str:
        verified = await login(idp, id_token())
        await idp.aclose()
        return str(verified["sub"])

    assert [asyncio.run(one_login()) for _ in range(3)] == ["alice"] * 3
    assert provider.asked == [METADATA_URL, JWKS_URL]


async def test_closing_waits_for_the_fetch_that_callers_have_left() -> None:
    provider = Provider()
    provider.gate = asyncio.Event()
    idp = server(provider)
    caller = asyncio.create_task(idp.metadata())
    await _let_others_run()
    caller.cancel()
    closing = asyncio.create_task(idp.aclose())
    await _let_others_run()
    assert not closing.done()
    provider.gate.set()
    await closing
    assert (await idp.metadata()).issuer == ISSUER
    assert provider.asked == [METADATA_URL]
