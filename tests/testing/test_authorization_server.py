"""The in-process authorization server, spoken to as a client would: without our own client code in between."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import re
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from coatcheck.codec import decode_object
from coatcheck.errors import InvalidIDToken, TransportError
from coatcheck.oauth.client_assertion import PrivateKeyJWT
from coatcheck.oauth.jwks import parse_jwks
from coatcheck.oauth.jws import parse_jws, read_json
from coatcheck.oauth.jwt import generate_private_key, verify_jws
from coatcheck.oauth.messages import Request, Response, form_request
from coatcheck.testing import AuthorizationServerApp, Behaviour, RegisteredClient, running_authorization_server
from coatcheck.testing.serving import loopback_socket, serving_in_thread, socket_origin
from coatcheck.transport import BackChannel
from tests.testing.clocks import HandClock

ISSUER = "https://idp.example"
REDIRECT_URI = "https://app.example/callback"
VERIFIER = "verifier-" + "v" * 40
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
BASIC = {"authorization": "Basic " + base64.b64encode(b"app:app-secret").decode()}


async def token(server: AuthorizationServerApp, headers: dict[str, str] | None = None, **form: str) -> dict[str, Any]:
    answer = await server.send(
        form_request(f"{ISSUER}/token", list(form.items()), BASIC if headers is None else headers)
    )
    return {"status": answer.status, **decode_object(answer.body)}


async def refresh(server: AuthorizationServerApp, refresh_token: str) -> dict[str, Any]:
    return await token(server, grant_type="refresh_token", refresh_token=refresh_token)


async def authorize(server: AuthorizationServerApp, cookie: str = "", **changes: str) -> Response:
    parameters = {
        "response_type": "code",
        "client_id": "app",
        "redirect_uri": REDIRECT_URI,
        "scope": "openid profile offline_access",
        "state": "s1",
        "nonce": "n1",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    } | changes
    return await server.send(Request("GET", f"{ISSUER}/authorize?{urlencode(parameters)}", {"cookie": cookie}))


async def click(server: AuthorizationServerApp, page: Response, **fields: str) -> Response:
    found = re.search(rb'name="transaction" value="([^"]+)"', page.body)
    assert found, page.body
    form = {"transaction": found[1].decode(), "username": "somebody", "decision": "allow"} | fields
    return await server.send(form_request(f"{ISSUER}/login", list(form.items())))


def answer_of(response: Response) -> dict[str, str]:
    assert response.status == 303, response.body
    return dict(parse_qsl(urlsplit(response.headers["location"]).query))


async def redeem(server: AuthorizationServerApp, code: str, **changes: str) -> dict[str, Any]:
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT_URI, "code_verifier": VERIFIER}
    return await token(server, None, **form | changes)


async def claims_of(server: AuthorizationServerApp, id_token: str) -> dict[str, Any]:
    keys = parse_jwks(await server.send(Request("GET", f"{ISSUER}/jwks")))
    return read_json(verify_jws(id_token, keys, algorithms=("RS256",)).payload, "payload")


async def test_a_login_by_the_page_brings_a_code_and_the_code_brings_tokens() -> None:
    server = AuthorizationServerApp(ISSUER)
    page = await authorize(server)
    assert b'value="demo"' in page.body
    answer = answer_of(await click(server, page))
    assert answer["state"] == "s1"
    assert answer["iss"] == ISSUER
    tokens = await redeem(server, answer["code"])
    assert (tokens["status"], tokens["token_type"], tokens["expires_in"]) == (200, "Bearer", 300)
    claims = await claims_of(server, tokens["id_token"])
    assert (claims["iss"], claims["aud"], claims["nonce"], claims["sub"]) == (ISSUER, "app", "n1", "somebody")
    digest = hashlib.sha256(tokens["access_token"].encode()).digest()[:16]
    assert claims["at_hash"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert server.introspect(tokens["access_token"])["sub"] == "somebody"


async def test_cancel_is_access_denied() -> None:
    server = AuthorizationServerApp(ISSUER)
    answer = answer_of(await click(server, await authorize(server), decision="deny"))
    assert (answer["error"], answer["state"]) == ("access_denied", "s1")


async def test_auto_login_redirects_at_once() -> None:
    server = AuthorizationServerApp(ISSUER, behaviour=Behaviour(auto_login=True, username="robot"))
    tokens = await redeem(server, answer_of(await authorize(server))["code"])
    assert (await claims_of(server, tokens["id_token"]))["sub"] == "robot"


async def test_who_is_logged_in_sees_no_page_until_logout() -> None:
    server = AuthorizationServerApp(ISSUER)
    cookie = (await click(server, await authorize(server))).headers["set-cookie"].split(";")[0]
    assert "code" in answer_of(await authorize(server, cookie))
    assert "code" in answer_of(await authorize(server, cookie, prompt="none"))
    assert (await authorize(server, cookie, prompt="login")).status == 200
    target = urlencode({"post_logout_redirect_uri": "https://app.example/out", "client_id": "app", "state": "x"})
    gone = await server.send(Request("GET", f"{ISSUER}/logout?{target}", {"cookie": cookie}))
    assert gone.headers["location"] == "https://app.example/out?state=x"
    assert answer_of(await authorize(server, cookie, prompt="none"))["error"] == "login_required"


async def test_max_age_asks_again() -> None:
    clock = HandClock()
    server = AuthorizationServerApp(ISSUER, clock=clock)
    cookie = (await click(server, await authorize(server))).headers["set-cookie"].split(";")[0]
    clock.forward(timedelta(minutes=5))
    assert (await authorize(server, cookie, max_age="600")).status == 303
    assert (await authorize(server, cookie, max_age="60")).status == 200


async def test_an_unregistered_redirect_uri_is_answered_with_a_page_and_never_redirected_to() -> None:
    client = RegisteredClient(client_id="app", client_secret="app-secret", redirect_uris=(REDIRECT_URI,))
    server = AuthorizationServerApp(ISSUER, clients=[client])
    refused = await authorize(server, redirect_uri="https://evil.example/")
    assert (refused.status, "location" in refused.headers) == (400, False)
    assert (await authorize(server)).status == 200


@pytest.mark.parametrize("change", [{"code_challenge_method": "plain"}, {"code_challenge": "short"}])
async def test_pkce_with_s256_is_required(change: dict[str, str]) -> None:
    server = AuthorizationServerApp(ISSUER)
    assert answer_of(await authorize(server, **change))["error"] == "invalid_request"


@pytest.mark.parametrize(
    "change", [{"code_verifier": "w" * 43}, {"redirect_uri": REDIRECT_URI + "/"}, {"code": "unknown"}]
)
async def test_a_code_is_bound_to_its_request(change: dict[str, str]) -> None:
    server = AuthorizationServerApp(ISSUER, behaviour=Behaviour(auto_login=True))
    code = answer_of(await authorize(server))["code"]
    assert (await redeem(server, **{"code": code, **change}))["error"] == "invalid_grant"


async def test_a_code_used_twice_ends_its_tokens() -> None:
    server = AuthorizationServerApp(ISSUER, behaviour=Behaviour(auto_login=True))
    code = answer_of(await authorize(server))["code"]
    tokens = await redeem(server, code)
    assert (await redeem(server, code))["error"] == "invalid_grant"
    assert server.introspect(tokens["access_token"]) == {"active": False}
    assert (await refresh(server, tokens["refresh_token"]))["error"] == "invalid_grant"


async def test_rotation_replaces_the_refresh_token_and_a_second_use_ends_the_grant() -> None:
    server = AuthorizationServerApp(ISSUER)
    first = server.log_in()
    second = await refresh(server, first["refresh_token"])
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    assert (await refresh(server, first["refresh_token"]))["error"] == "invalid_grant"
    assert (await refresh(server, second["refresh_token"]))["error"] == "invalid_grant"
    assert server.introspect(second["access_token"]) == {"active": False}


async def test_within_the_grace_a_replaced_refresh_token_brings_the_same_tokens() -> None:
    clock = HandClock()
    server = AuthorizationServerApp(ISSUER, clock=clock, behaviour=Behaviour(refresh_token_grace=timedelta(seconds=10)))
    first = server.log_in()
    second = await refresh(server, first["refresh_token"])
    clock.forward(timedelta(seconds=9))
    again = await refresh(server, first["refresh_token"])
    assert again["access_token"] == second["access_token"]
    assert again["refresh_token"] == second["refresh_token"]
    clock.forward(timedelta(seconds=2))
    assert (await refresh(server, first["refresh_token"]))["error"] == "invalid_grant"


async def test_without_rotation_the_refresh_token_stays() -> None:
    server = AuthorizationServerApp(ISSUER, behaviour=Behaviour(refresh_token_rotation=False))
    refresh_token = server.log_in()["refresh_token"]
    for _ in range(3):
        assert "refresh_token" not in await refresh(server, refresh_token)
    assert server.count("token", grant_type="refresh_token") == 3


async def test_access_tokens_expire() -> None:
    clock = HandClock()
    server = AuthorizationServerApp(
        ISSUER, clock=clock, behaviour=Behaviour(access_token_lifetime=timedelta(seconds=5))
    )
    tokens = server.log_in()
    assert tokens["expires_in"] == 5
    clock.forward(timedelta(seconds=4))
    assert server.introspect(tokens["access_token"])["active"]
    clock.forward(timedelta(seconds=1))
    assert server.introspect(tokens["access_token"]) == {"active": False}


async def test_no_refresh_token_without_offline_access() -> None:
    assert "refresh_token" not in AuthorizationServerApp(ISSUER).log_in(scope="openid")
    always = AuthorizationServerApp(ISSUER, behaviour=Behaviour(refresh_tokens="always"))
    assert "refresh_token" in always.log_in(scope="openid")


async def test_client_authentication_by_post_and_wrong_secrets() -> None:
    server = AuthorizationServerApp(ISSUER)
    by_post = await token(server, {}, grant_type="client_credentials", client_id="app", client_secret="app-secret")
    assert by_post["status"] == 200
    wrong = await token(server, {}, grant_type="client_credentials", client_id="app", client_secret="guess")
    assert (wrong["status"], wrong["error"]) == (401, "invalid_client")
    both = await token(server, grant_type="client_credentials", client_id="app", client_secret="app-secret")
    assert both["error"] == "invalid_request"
    none = await token(server, {}, grant_type="client_credentials", client_id="app")
    assert none["error"] == "invalid_client"


async def test_a_secret_with_odd_characters_comes_form_encoded() -> None:
    client = RegisteredClient(client_id="a:b", client_secret="p%3A& +")
    server = AuthorizationServerApp(ISSUER, clients=[client])
    encoded = base64.b64encode(b"a%3Ab:p%253A%26+%2B").decode()
    answer = await token(server, {"authorization": f"Basic {encoded}"}, grant_type="client_credentials")
    assert answer["status"] == 200


async def test_private_key_jwt_once() -> None:
    private_pem = generate_private_key("ES256")
    clock = HandClock()
    server = AuthorizationServerApp(
        ISSUER, clock=clock, clients=[RegisteredClient.with_private_key("keyed", private_pem)]
    )
    signed = PrivateKeyJWT(private_pem).assertion(client_id="keyed", issuer=ISSUER, now=clock.time())
    form = {
        "grant_type": "client_credentials",
        "client_assertion": signed.client_assertion,
        "client_assertion_type": signed.client_assertion_type,
    }
    assert (await token(server, {}, **form))["status"] == 200
    assert (await token(server, {}, **form))["error"] == "invalid_client"
    assert [entry.client_id for entry in server.log] == ["keyed", "keyed"]


async def test_private_key_jwt_of_another_key_is_refused() -> None:
    clock = HandClock()
    registered = RegisteredClient.with_private_key("keyed", generate_private_key("ES256"))
    server = AuthorizationServerApp(ISSUER, clock=clock, clients=[registered])
    forged = PrivateKeyJWT(generate_private_key("ES256")).assertion(client_id="keyed", issuer=ISSUER, now=clock.time())
    form = {"client_assertion": forged.client_assertion, "client_assertion_type": forged.client_assertion_type}
    assert (await token(server, {}, grant_type="client_credentials", **form))["error"] == "invalid_client"


async def test_token_exchange_narrows_and_names_the_actor() -> None:
    server = AuthorizationServerApp(ISSUER)
    user = server.log_in("somebody", scope="openid orders.read")["access_token"]
    service = (await token(server, grant_type="client_credentials"))["access_token"]
    kind = "urn:ietf:params:oauth:token-type:access_token"
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": user,
        "subject_token_type": kind,
        "audience": "https://billing.example",
        "scope": "orders.read",
    }
    impersonated = await token(server, **form)
    assert impersonated["issued_token_type"] == kind
    known = server.introspect(impersonated["access_token"])
    assert (known["sub"], known["aud"], known["scope"]) == ("somebody", ["https://billing.example"], "orders.read")
    delegated = await token(server, **form, actor_token=service, actor_token_type=kind)
    assert server.introspect(delegated["access_token"])["act"] == {"sub": "app"}
    assert (await token(server, **form | {"scope": "orders.write"}))["error"] == "invalid_scope"
    assert (await token(server, **form | {"subject_token": "guess"}))["error"] == "invalid_request"


async def test_revocation_ends_the_grant_of_a_refresh_token() -> None:
    server = AuthorizationServerApp(ISSUER)
    tokens = server.log_in()
    revoked = await server.send(form_request(f"{ISSUER}/revoke", [("token", tokens["refresh_token"])], BASIC))
    assert (revoked.status, revoked.body) == (200, b"")
    assert server.introspect(tokens["access_token"]) == {"active": False}
    assert (await refresh(server, tokens["refresh_token"]))["error"] == "invalid_grant"


async def test_userinfo_wants_a_bearer_token() -> None:
    server = AuthorizationServerApp(ISSUER, behaviour=Behaviour(claims={"email": "somebody@example.com"}))
    access_token = server.log_in("somebody")["access_token"]
    known = await server.send(Request("GET", f"{ISSUER}/userinfo", {"authorization": f"Bearer {access_token}"}))
    assert decode_object(known.body)["email"] == "somebody@example.com"
    assert (await server.send(Request("GET", f"{ISSUER}/userinfo"))).status == 401


async def test_introspection_wants_a_client() -> None:
    server = AuthorizationServerApp(ISSUER)
    form = [("token", server.log_in()["access_token"])]
    known = await server.send(form_request(f"{ISSUER}/introspect", form, BASIC))
    assert decode_object(known.body)["active"] is True
    assert (await server.send(form_request(f"{ISSUER}/introspect", form))).status == 401


async def test_a_repeated_parameter_is_refused() -> None:
    server = AuthorizationServerApp(ISSUER)
    form = [("grant_type", "client_credentials"), ("scope", "a"), ("scope", "b")]
    answer = await server.send(form_request(f"{ISSUER}/token", form, BASIC))
    assert decode_object(answer.body)["error"] == "invalid_request"
    form = [("grant_type", "client_credentials"), ("resource", "https://a.example"), ("resource", "https://b.example")]
    answer = await server.send(form_request(f"{ISSUER}/token", form, BASIC))
    access_token = decode_object(answer.body)["access_token"]
    assert server.introspect(access_token)["aud"] == ["https://a.example", "https://b.example"]


async def test_rotated_keys_are_published_with_those_before() -> None:
    server = AuthorizationServerApp(ISSUER)
    before = server.log_in()["id_token"]
    server.keys.rotate()
    after = server.log_in()["id_token"]
    assert (await claims_of(server, before))["sub"] == (await claims_of(server, after))["sub"]
    server.keys.rotate(keep=False)
    with pytest.raises(InvalidIDToken):
        await claims_of(server, after)


async def test_a_fault_meets_its_requests_and_is_over() -> None:
    server = AuthorizationServerApp(ISSUER)
    refresh_token = server.log_in()["refresh_token"]
    server.fail("token", status=429, error="slow_down", headers={"retry-after": "7"}, grant_type="refresh_token")
    assert (await token(server, grant_type="client_credentials"))["status"] == 200
    assert (await refresh(server, refresh_token))["status"] == 429
    assert (await refresh(server, refresh_token))["status"] == 200
    assert [(entry.status, entry.error) for entry in server.log if entry.grant_type == "refresh_token"] == [
        (429, "slow_down"),
        (200, None),
    ]


async def test_an_answer_lost_on_its_way_back_was_acted_upon() -> None:
    server = AuthorizationServerApp(ISSUER)
    refresh_token = server.log_in()["refresh_token"]
    server.drop("token", after=True)
    with pytest.raises(TransportError):
        await refresh(server, refresh_token)
    assert server.log[-1].status is None
    assert (await refresh(server, refresh_token))["error"] == "invalid_grant"


async def test_a_dropped_request_was_not_acted_upon() -> None:
    server = AuthorizationServerApp(ISSUER)
    refresh_token = server.log_in()["refresh_token"]
    server.drop("token")
    with pytest.raises(TransportError):
        await refresh(server, refresh_token)
    assert (await refresh(server, refresh_token))["status"] == 200


async def test_a_gate_holds_a_request_until_it_is_opened() -> None:
    server = AuthorizationServerApp(ISSUER)
    gate = server.hold("token")
    waiting = asyncio.create_task(token(server, grant_type="client_credentials"))
    await gate.wait_reached()
    assert not waiting.done()
    assert server.count() == 0
    gate.open()
    assert (await waiting)["status"] == 200


async def test_tampering_changes_what_is_sent_and_signs_it() -> None:
    server = AuthorizationServerApp(ISSUER)
    server.tamper("id_token", lambda claims: claims | {"aud": "another"})
    server.tamper("token", lambda members: members | {"expires_in": "soon"})
    tokens = server.log_in()
    assert tokens["expires_in"] == "soon"
    assert (await claims_of(server, tokens["id_token"]))["aud"] == "another"
    server.untamper()
    assert server.log_in()["expires_in"] == 300


async def test_secrets_stay_out_of_the_reprs_of_the_log() -> None:
    server = AuthorizationServerApp(ISSUER)
    tokens = server.log_in()
    await refresh(server, tokens["refresh_token"])
    assert server.log[-1].values("refresh_token") == [tokens["refresh_token"]]
    assert tokens["refresh_token"] not in repr(server.log)
    assert BASIC["authorization"] not in repr(server.log)


def test_on_a_port_from_a_blocking_test() -> None:
    with running_authorization_server(behaviour=Behaviour(username="somebody")) as server:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.issuer).port or 0, timeout=10)
        for _ in range(2):  # one connection, kept alive
            connection.request("GET", "/.well-known/openid-configuration")
            metadata = decode_object(connection.getresponse().read())
            assert metadata["issuer"] == server.issuer
        connection.request("POST", "/token", body="x=1", headers={"content-type": "text/plain"})
        assert (
            connection.getresponse().read()
            == b'{"error":"invalid_client","error_description":"this client has to authenticate"}'
        )
        server.drop("metadata")
        connection.request("GET", "/.well-known/openid-configuration")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            connection.getresponse()
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", urlsplit(server.issuer).port or 0, timeout=10).request("GET", "/")


async def test_without_a_port_as_an_asgi_application() -> None:
    server = AuthorizationServerApp(ISSUER)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=server)) as http_client:
        answer = await http_client.get(f"{ISSUER}/.well-known/openid-configuration")
        assert answer.json()["issuer"] == ISSUER
        answer = await http_client.post(
            f"{ISSUER}/token", data={"grant_type": "client_credentials"}, auth=("app", "app-secret")
        )
        assert answer.json()["token_type"] == "Bearer"
        assert (await http_client.get(f"{ISSUER}/nowhere")).status_code == 404
        assert (await http_client.get(f"{ISSUER}/token")).status_code == 405


async def test_a_logout_token_says_who_has_left_and_each_client_gets_its_own() -> None:
    taken: list[tuple[str, str]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        form = dict(parse_qsl((await receive())["body"].decode()))
        taken.append((scope["path"], form["logout_token"]))
        status = 200 if scope["path"] == "/one" else 400
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    clients = [
        RegisteredClient(client_id="one", client_secret="1", backchannel_logout_uri="https://app.example/one"),
        RegisteredClient(client_id="two", client_secret="2", backchannel_logout_uri="https://app.example/two"),
        RegisteredClient(client_id="deaf", client_secret="3"),
    ]
    clock = HandClock()
    server = AuthorizationServerApp(ISSUER, clients=clients, clock=clock)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=application)) as client:
        assert await server.log_out(sub="somebody", send=BackChannel(client).send) == {"one": 200, "two": 400}
    with pytest.raises(ValueError, match="sub"):
        await server.log_out()
    assert [path for path, _ in taken] == ["/one", "/two"]
    one, two = [await claims_of(server, logout_token) for _, logout_token in taken]
    assert (one["iss"], one["aud"], one["sub"], "sid" in one) == (ISSUER, "one", "somebody", False)
    assert (one["iat"], one["exp"]) == (int(clock.time()), int(clock.time()) + 120)
    assert one["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert two["aud"] == "two" and one["jti"] != two["jti"]
    of_one_session = await claims_of(server, server.logout_token(sid="s1", client_id="one"))
    assert (of_one_session["sid"], "sub" in of_one_session) == ("s1", False)


async def test_whoever_is_logged_out_has_to_log_in_again_and_nobody_else() -> None:
    server = AuthorizationServerApp(ISSUER)

    async def login(username: str) -> str:
        return (await click(server, await authorize(server), username=username)).headers["set-cookie"].split(";")[0]

    async def known(cookie: str) -> bool:
        return "code" in answer_of(await authorize(server, cookie, prompt="none"))

    first, second, other = await login("alice"), await login("alice"), await login("bob")
    tokens = await redeem(server, answer_of(await authorize(server, first))["code"])
    sid = (await claims_of(server, tokens["id_token"]))["sid"]
    assert await server.log_out(sub="bob", sid=sid) == {}
    assert await known(first), "both have to fit"
    await server.log_out(sid=sid)
    assert [await known(cookie) for cookie in (first, second, other)] == [False, True, True]
    await server.log_out(sub="alice")
    assert [await known(cookie) for cookie in (first, second, other)] == [False, False, True]
    assert server.introspect(tokens["access_token"])["active"], "grants stay as they are"


async def test_logout_tokens_can_be_tampered_with() -> None:
    server = AuthorizationServerApp(ISSUER)
    server.tamper("logout_token", lambda claims: claims | {"nonce": "n"})
    server.tamper("logout_token_header", lambda header: header | {"typ": "JWT"})
    logout_token = server.logout_token(sub="somebody")
    assert (await claims_of(server, logout_token))["nonce"] == "n"
    assert parse_jws(logout_token).header["typ"] == "JWT"


async def test_logout_tokens_travel_over_http_to_whoever_listens() -> None:
    async def application(request: Request) -> Response:
        return Response(200 if request.body.startswith(b"logout_token=ey") else 400)

    listener = loopback_socket()
    uri = socket_origin(listener) + "/bff/backchannel"
    client = RegisteredClient(client_id="app", client_secret="s", backchannel_logout_uri=uri)
    with serving_in_thread(application, listener), running_authorization_server(clients=[client]) as server:
        assert await server.log_out(sub="somebody") == {"app": 200}
    with pytest.raises(TransportError):
        await server.log_out(sub="somebody")
