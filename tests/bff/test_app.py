"""`BFF`: what stops the start, and how it stands in front of an application."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from coatcheck import BFF, Client, ConfigurationError, LoginRequired, StoreUnavailable, TokenUnavailable
from coatcheck.bff.answers import Answer
from coatcheck.oauth import PrivateKeyJWT
from coatcheck.stores.memory import MemoryStore
from tests.bff.world import KEY, LOCAL, PUBLIC, session_cookie, warnings, world

CLIENT = Client(issuer="https://idp.example", client_id="shop", client_secret="secret")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


def build(**options: Any) -> BFF:
    given = {"client": CLIENT, "public_url": PUBLIC, "keys": [KEY], "sessions": "memory", **options}
    return BFF(given.pop("client"), **given)


# What stops the start


def refused(**options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        build(**options)
    return str(caught.value)


class Anything:
    """What somebody may give for an extension: of the right kind or not, as a class or as an object."""

    async def get_access_token(self, context: object) -> None: ...


@pytest.mark.parametrize("name", ["sessions", "user_token_store", "client_assertions", "events"])
def test_a_class_in_place_of_an_object_stops_the_start(name: str) -> None:
    assert refused(**{name: Anything}) == f"{name}: Anything is a class: give an object of it, Anything(...)"


def test_a_retriever_is_an_object_too() -> None:
    with pytest.raises(ConfigurationError, match=r"^retriever: Anything is a class: give an object"):
        build().remote_api("/api", "https://orders.example", retriever=Anything)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"^retriever: str has no method get_access_token$"):
        build().remote_api("/api", "https://orders.example", retriever="Anything")  # type: ignore[arg-type]
    build().remote_api("/api", "https://orders.example", retriever=Anything())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "method"),
    [("user_token_store", "get_token"), ("client_assertions", "get_client_assertion"), ("events", "tokens_received")],
)
def test_an_object_of_another_kind_stops_the_start(name: str, method: str) -> None:
    assert refused(**{name: Anything()}) == f"{name}: Anything has no method {method}"


@pytest.mark.spec("OAU-03")
@pytest.mark.parametrize(
    "registration",
    [{"client_auth": "none"}, {"client_auth": "private_key_jwt"}],
)
def test_a_client_that_cannot_prove_who_it_is_stops_the_start(registration: dict[str, Any]) -> None:
    for public_url in (PUBLIC, LOCAL):
        message = refused(
            client=Client(issuer="https://idp.example", client_id="shop", **registration), public_url=public_url
        )
        assert message.startswith("client.client_auth: ") and "client_secret" in message


@pytest.mark.spec("OAU-03")
def test_a_service_for_client_assertions_is_proof_enough() -> None:
    class Signer:
        async def get_client_assertion(self, client: str, **_: Any) -> None: ...

    client = Client(issuer="https://idp.example", client_id="shop", client_auth="private_key_jwt")
    assert build(client=client, client_assertions=Signer()).application_id


@pytest.mark.spec("OAU-01")
@pytest.mark.parametrize("response_type", ["token", "id_token token", "code token", "code"])
def test_no_other_flow_can_be_configured(response_type: str) -> None:
    with pytest.raises(ConfigurationError, match="authorization_params"):
        Client(
            issuer="https://idp.example",
            client_id="shop",
            client_secret="secret",
            authorization_params={"response_type": response_type},
        )


@pytest.mark.spec("OAU-19")
@pytest.mark.parametrize("public_url", ["http://shop.example", "https://shop.example/#a", "shop.example", ""])
def test_a_public_url_that_cannot_carry_redirect_uris_stops_the_start(public_url: str) -> None:
    assert refused(public_url=public_url).startswith("public_url: ")


@pytest.mark.parametrize(
    ("options", "path", "help_"),
    [
        ({"keys": None}, "keys", "coatcheck new-key"),
        ({"keys": []}, "keys", "coatcheck new-key"),
        ({"keys": ["hunter2"]}, "keys[0]", "coatcheck new-key"),
        ({"sessions": None}, "sessions", "sqlite:///"),
        ({"sessions": "redis"}, "sessions", "sqlite:///"),
        ({"sessions": "sqlite://"}, "sessions", "sqlite:///"),
        ({"sessions": object()}, "sessions", "SessionStore"),
        ({"coordination": "cookie"}, "coordination", "redis://HOST"),
        ({"coordination": MemoryStore}, "coordination", "is a class"),
        ({"coordination": object()}, "coordination", "object lacks acquire, mark_sent, extend, release, add, get"),
        ({"save_tokens": False}, "save_tokens", "events"),
        ({"path_prefix": "bff"}, "path_prefix", "/bff"),
        ({"path_prefix": "/"}, "path_prefix", "/bff"),
        ({"public_url": PUBLIC + "/bff"}, "public_url", "choose another"),
        ({"public_url": PUBLIC + "/shop", "path_prefix": "/shop/bff"}, "public_url", "without it"),
        ({"csrf_header": ("X CSRF", "1")}, "csrf_header", "header"),
        ({"csrf_header": ("X-CSRF", "")}, "csrf_header", "plain"),
        ({"anonymous_user_status": 204}, "anonymous_user_status", "401"),
        ({"clients": {"default": CLIENT}}, "clients", "default"),
        ({"development": True}, "public_url", "localhost"),
        ({"public_url": LOCAL, "development": False}, "public_url", "https"),
        ({"lifetime": timedelta(0)}, "lifetime", ""),
        ({"same_site": "None"}, "", "Strict or Lax"),
    ],
)
def test_a_setting_that_cannot_work_stops_the_start_with_its_name(
    options: dict[str, Any], path: str, help_: str
) -> None:
    message = refused(**options)
    assert message.startswith(path) and help_ in message and "\n" not in message
    assert "hunter2" not in message


def test_a_login_without_openid_says_nobody_logs_in() -> None:
    client = Client(issuer="https://idp.example", client_id="shop", client_secret="secret", scope="orders.read")
    assert refused(client=client).startswith("client.scope: ")


def test_a_connection_url_with_a_password_is_not_repeated() -> None:
    for name in ("sessions", "coordination"):
        message = refused(**{name: "mysql://shop:hunter2@db/shop"})
        assert message.startswith(f"{name}: mysql://db/shop is not a kind of store")
        assert "hunter2" not in message


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/bff", {}),
        ("/bff/api", {}),
        ("api", {}),
        ("/api/", {}),
        ("/api", {"token": "usr"}),
        ("/api", {"client": "unknown"}),
        ("/api", {"url": "http://orders.example"}),
        ("/api", {"url": "orders.example"}),
    ],
)
def test_a_route_that_cannot_work_stops_the_start(path: str, options: dict[str, Any]) -> None:
    given = {"url": "https://orders.example", **options}
    with pytest.raises(ConfigurationError):
        build().remote_api(path, given.pop("url"), **given)


@pytest.mark.spec("PRX-02")
@pytest.mark.parametrize("path", ["/shop", "/shop/api"])
def test_a_route_that_a_proxy_would_uncover_for_another_stops_the_start(path: str) -> None:
    # Behind a proxy that takes /shop off, /shop/shop/api would arrive as /shop/api, and be looked up as /api.
    with pytest.raises(ConfigurationError, match=r"^path: .* begins with the path of public_url"):
        build(public_url=PUBLIC + "/shop").remote_api(path, "https://orders.example")
    build(public_url=PUBLIC + "/shop").remote_api("/shopping", "https://orders.example")


def test_a_route_is_given_once() -> None:
    bff = build()
    bff.remote_api("/api", "https://orders.example")
    with pytest.raises(ConfigurationError, match="overlaps"):
        bff.remote_api("/api", "https://billing.example")


def test_one_bff_serves_one_application() -> None:
    bff = build()
    bff.install(Starlette())
    with pytest.raises(ConfigurationError, match="installed already"):
        bff.install(Starlette())


@pytest.mark.parametrize("sessions", ["memory", "cookie", "sqlite:///{tmp}/sessions.db", MemoryStore()])
def test_sessions_are_chosen_by_a_word_a_url_or_an_object(sessions: Any, tmp_path: Path) -> None:
    choice = sessions.format(tmp=tmp_path) if isinstance(sessions, str) else sessions
    with world(sessions=choice) as w:
        browser = w.logged_in()
        assert browser.fetch("/api/me").status_code == 200
    assert (tmp_path / "sessions.db").exists() == (isinstance(sessions, str) and sessions.startswith("sqlite"))


# In front of an application


async def me(request: Request) -> Response:
    from coatcheck.bff import api_user

    return PlainTextResponse((await api_user(request.scope)).name)


async def anybody(request: Request) -> Response:
    return PlainTextResponse(f"{request.scope['root_path']} {request.url_for('anybody')}")


def raising(error: Exception) -> Any:
    async def endpoint(request: Request) -> Response:
        raise error

    return endpoint


def starlette(**routes: Any) -> Starlette:
    return Starlette(
        routes=[
            Route("/me", me),
            Route("/", anybody, name="anybody"),
            Mount("/deep", routes=[Route("/me", me)]),
            *(Route(f"/{name}", endpoint) for name, endpoint in routes.items()),
        ]
    )


def test_install_puts_it_in_front_of_starlette() -> None:
    with world() as w:
        app = starlette()
        bff = w.start()
        bff.install(app)
        w.serve(app)
        browser = w.logged_in()
        assert (browser.fetch("/me").text, browser.fetch("/deep/me").text) == ("alice", "alice")
        assert w.browser().fetch("/me").json()["code"] == "session_missing"


@pytest.mark.parametrize("way", ["install", "wrap"])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (LoginRequired("x"), 401, "session_missing"),
        (LoginRequired("x", code="token_expired_no_refresh_token"), 401, "token_expired_no_refresh_token"),
        (TokenUnavailable("x", retry_after=timedelta(seconds=7)), 503, "token_unavailable"),
        (StoreUnavailable("x"), 503, "store_unavailable"),
    ],
)
def test_errors_that_escape_from_a_handler_have_their_answers(
    way: str, error: Exception, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="coatcheck")
    with world() as w:
        app = starlette(fail=raising(error))
        if way == "install":
            w.start().install(app)
            w.serve(app)
        else:
            w.start(app)
        caplog.clear()
        response = w.browser().fetch("/fail")
        document = response.json()
        assert (response.status_code, document["code"]) == (status, code)
        assert response.headers["coatcheck-error"] == code
        assert ("login_url" in document) == (status == 401)
        if isinstance(error, TokenUnavailable):
            assert response.headers["retry-after"] == "7"
        (line,) = [record for record in caplog.records if record.name == "coatcheck"]
        assert document["trace_id"] in line.getMessage() and code in line.getMessage()
        assert line.levelname == ("INFO" if code == "session_missing" else "WARNING")


def test_other_errors_are_the_applications_own_business() -> None:
    with world() as w:
        w.start(starlette(fail=raising(ZeroDivisionError())))
        with pytest.raises(ZeroDivisionError):
            w.browser().fetch("/fail")


def test_a_handler_that_asks_for_nobody_cannot_learn_who_it_is() -> None:
    async def nosy(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(RuntimeError, match="CSRF check"):
            await scope["coatcheck"].session()
        with pytest.raises(RuntimeError, match="CSRF check"):
            await scope["coatcheck"].user()
        await Answer(204)(scope, receive, send)

    with world(app=nosy) as w:
        browser = w.browser()
        assert browser.login().status_code == 204
        assert browser.fetch("/").status_code == 204


def test_a_handler_without_a_bff_is_told_so() -> None:
    app = Starlette(routes=[Route("/me", me)])

    async def call() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=LOCAL) as http:
            return await http.get("/me")

    import asyncio

    with pytest.raises(RuntimeError, match=r"bff\.install"):
        asyncio.run(call())


# A public_url with a path


@pytest.mark.parametrize("stripped", [False, True])
def test_a_path_in_the_public_url(stripped: bool) -> None:
    with world(public_url=PUBLIC + "/store") as w:
        app = starlette()
        w.start(app)
        inner = w.transport.apps["shop.example"]

        async def proxy(scope: Any, receive: Any, send: Any) -> None:
            if stripped and scope["path"].startswith("/store"):
                scope = {**scope, "path": scope["path"][6:] or "/", "raw_path": scope["raw_path"][6:] or b"/"}
            await inner(scope, receive, send)

        w.serve(proxy)
        browser = w.logged_in()
        assert str(browser.page) == f"{PUBLIC}/store/"
        assert browser.fetch("/store/me").text == "alice"
        assert browser.fetch("/store/deep/me").text == "alice"
        assert browser.fetch("/store/").text == f"/store {PUBLIC.replace('https', 'http')}/store/"
        user = {claim["type"]: claim["value"] for claim in browser.fetch("/store/bff/user").json()}
        assert user["bff:logout_url"].startswith("/store/bff/logout?sid=")
        asked = next(entry for entry in w.provider.log if entry.endpoint == "authorization")
        assert asked.values("redirect_uri") == [f"{PUBLIC}/store/bff/callback"]
        page = browser.logout(user["bff:logout_url"] + "&returnUrl=/store/me")
        assert page.url.path == "/store/me"
        assert browser.fetch("/store/me").json()["login_url"] == "/store/bff/login"
        assert session_cookie(browser) is None


# Paths


@pytest.mark.parametrize(
    "path", ["//bff/user", "/bff/../bff/user", "/bff/%2e/user", "/b%66f/user", "/x/..%2fbff/user", "/\\bff"]
)
def test_path_confusion_a_path_with_two_readings_goes_nowhere(path: str, caplog: pytest.LogCaptureFixture) -> None:
    reached: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        await Answer(200)(scope, receive, send)

    with world(app=application) as w:
        response = w.browser().fetch("/", target=path)
        assert (response.status_code, response.json()["code"]) == (400, "path_refused")
        assert reached == []
        assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("path", ["/bff/nothing", "/bff/", "/bff/user/", "/bff/login/x", "/bff/diagnostics"])
def test_our_folder_belongs_to_us(path: str) -> None:
    with world(public_url=PUBLIC) as w:
        response = w.browser().fetch(path)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_a_neighbour_of_our_folder_belongs_to_the_application() -> None:
    with world() as w:
        for path in ("/bffs/user", "/bff", "/BFF/user"):
            assert w.browser().fetch(path).text == '"for anybody"'


# Lifespan


@pytest.mark.parametrize("has_lifespan", [True, False])
async def test_it_is_closed_with_the_application(has_lifespan: bool) -> None:
    events: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if not has_lifespan:
            raise ValueError("what is a lifespan?")
        while True:
            message = await receive()
            events.append(message["type"])
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    class Forwarder:
        def target(self, url: str) -> str:
            return url

        async def send(self, *_: Any, **__: Any) -> Any: ...

        async def aclose(self) -> None:
            events.append("closed")

    wrapped = build(forwarder=Forwarder()).wrap(application)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> dict[str, str]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        events.append(message["type"])

    await wrapped({"type": "lifespan"}, receive, send)
    theirs = [
        "lifespan.startup",
        "lifespan.startup.complete",
        "lifespan.shutdown",
        "closed",
        "lifespan.shutdown.complete",
    ]
    ours = [event for event in theirs if event not in ("lifespan.startup", "lifespan.shutdown")]
    assert events == (theirs if has_lifespan else ours)


async def test_an_application_that_fails_to_start_fails() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ValueError("no database")

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        raise AssertionError(f"the start was reported as {message}")

    with pytest.raises(ValueError, match="no database"):
        await build().wrap(application)({"type": "lifespan"}, receive, send)


def test_the_repr_tells_no_secret() -> None:
    text = repr(build(public_url=LOCAL))
    assert "shop" in text and "secret" not in text and KEY not in text


def test_private_key_jwt_needs_no_secret(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    client = Client(issuer="https://idp.example", client_id="shop", client_auth=PrivateKeyJWT(pem.decode()))
    assert build(client=client).redirect_uri == f"{PUBLIC}/bff/callback"
