"""The gateway's file: what it means, and one clear line for whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from coatcheck.config import ConfigurationProblems, GatewayConfig, load_config
from coatcheck.errors import ConfigurationError
from coatcheck.oauth.client_assertion import PrivateKeyJWT
from coatcheck.oauth.jwt import generate_private_key
from coatcheck.sessions.seal import new_key

KEY = new_key()

WHOLE = """
public_url = "https://app.example.com/shop"
keys = [{ env = "COATCHECK_KEY" }, { file = "old.key" }]

[server]
listen = "0.0.0.0:8080"
workers = 2
trusted_proxies = ["10.0.0.0/8", "192.0.2.1"]

[client]
issuer = "https://idp.example.com"
client_id = "shop"
client_secret = { env = "CLIENT_SECRET" }
scope = "openid offline_access orders.read"
resource = ["https://orders.internal"]
client_auth = "client_secret_post"
authorization_params = { audience = "https://orders" }
endpoints = { end_session_endpoint = "https://idp.example.com/bye" }
basic_encoding = "raw"

[clients.billing]
issuer = "https://other.example.com"
client_id = "billing"
private_key = { file = "client.pem", audience = "https://other.example.com/token" }

[sessions]
store = "sqlite:///var/lib/coatcheck/sessions.db"
lifetime = "12h"
idle_timeout = "90m"

[user]
claims = ["sub", "name"]
enricher = "my_claims:with_roles"

[[api]]
path = "/api/orders"
url = "https://orders.internal/v1"

[[api]]
path = "/api/billing"
url = "http://billing.internal"
insecure = true
client = "billing"
exchange = { audience = "https://billing.internal" }
timeout = "1.5s"
csrf = false

[[api]]
path = "/api/rates"
url = "https://rates.internal"
token = "client"
anonymous = true
scope = "rates"

[frontend]
static = "dist"
"""

SMALL = """
public_url = "http://localhost:8000"

[client]
issuer = "http://127.0.0.1:9000"
client_id = "app"
client_secret = "known-to-everybody"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what `WHOLE` refers to."""
    monkeypatch.setenv("COATCHECK_KEY", KEY)
    monkeypatch.setenv("CLIENT_SECRET", "hush")
    (tmp_path / "old.key").write_text(new_key() + "\n")
    (tmp_path / "client.pem").write_text(generate_private_key("ES256"))
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("<!doctype html>")
    return tmp_path


def load(folder: Path, text: str) -> GatewayConfig:
    file = folder / "coatcheck.toml"
    file.write_text(text)
    return load_config(file)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationProblems) as caught:
        load(folder, text)
    return [str(problem) for problem in caught.value.problems]


def test_every_word_of_a_file_arrives(folder: Path) -> None:
    config = load(folder, WHOLE)
    assert (config.public_url.origin, config.public_url.path) == ("https://app.example.com", "/shop")
    assert config.keys is not None
    assert config.keys[0] == KEY
    assert len(config.keys) == 2
    assert (config.server.listen.host, config.server.listen.port, config.server.workers) == ("0.0.0.0", 8080, 2)
    assert [str(network) for network in config.server.trusted_proxies] == ["10.0.0.0/8", "192.0.2.1/32"]
    shop, billing = config.clients["default"], config.clients["billing"]
    assert (shop.issuer, shop.client_id, shop.client_secret) == ("https://idp.example.com", "shop", "hush")
    assert (shop.client_auth, shop.basic_encoding) == ("client_secret_post", "raw")
    assert shop.resource == ("https://orders.internal",)
    assert dict(shop.authorization_params) == {"audience": "https://orders"}
    assert dict(shop.endpoints) == {"end_session_endpoint": "https://idp.example.com/bye"}
    assert isinstance(billing.client_auth, PrivateKeyJWT)
    assert billing.client_auth.audience == "https://other.example.com/token"
    assert (config.sessions.lifetime, config.sessions.idle_timeout) == (timedelta(hours=12), timedelta(minutes=90))
    assert (config.user.claims, config.user.enricher) == (("sub", "name"), "my_claims:with_roles")
    orders, invoices, rates = config.apis
    assert (orders.url, orders.timeout, orders.csrf) == ("https://orders.internal/v1", timedelta(seconds=30), True)
    assert (invoices.client, invoices.timeout, invoices.csrf) == ("billing", timedelta(seconds=1.5), False)
    assert invoices.exchange is not None
    assert invoices.exchange.audience == "https://billing.internal"
    assert (rates.token, rates.anonymous, rates.scope) == ("client", True, "rates")
    assert config.frontend is not None
    assert config.frontend.fallback == "index.html"
    assert not config.development


@pytest.mark.spec("BCL-05")
def test_logout_tokens_without_exp_are_let_in_where_a_client_says_so(folder: Path) -> None:
    assert load(folder, SMALL).clients["default"].logout_token_without_exp is False
    excused = SMALL.replace("[client]", "[client]\nlogout_token_without_exp = true")
    assert load(folder, excused).clients["default"].logout_token_without_exp is True


@pytest.mark.spec("PRX-07")
def test_an_api_asks_for_the_users_token_unless_it_says_otherwise(folder: Path) -> None:
    orders = load(folder, WHOLE).apis[0]
    assert (orders.token, orders.anonymous) == ("user", False)


def test_development_needs_little_and_takes_the_defaults_of_python(folder: Path) -> None:
    config = load(folder, SMALL)
    assert config.development
    assert config.keys is None
    assert config.sessions.store is None
    assert config.clients["default"].scope == "openid profile offline_access"
    assert (config.user.claims, config.user.enricher) == (None, None)


def test_the_command_line_speaks_before_the_file(folder: Path) -> None:
    (folder / "coatcheck.toml").write_text(SMALL)
    config = load_config(folder / "coatcheck.toml", listen="127.0.0.1:9999", workers=2)
    assert (config.server.listen.port, config.server.workers) == (9999, 2)


@pytest.mark.spec("HDR-06")
@pytest.mark.parametrize(
    ("line", "policy"),
    [
        ("", timedelta(days=30)),
        ('hsts = "7d"', timedelta(days=7)),
        ('hsts = "off"', None),
        ('hsts = "max-age=0"', "max-age=0"),
        ('hsts = "max-age=63072000; includeSubDomains"', "max-age=63072000; includeSubDomains"),
    ],
)
def test_how_long_browsers_shall_use_https_only(folder: Path, line: str, policy: object) -> None:
    assert load(folder, WHOLE.replace("workers = 2", line)).server.hsts.policy == policy


def test_the_url_of_a_store_comes_from_where_secrets_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://shop:hush@db.internal:5432/shop?sslmode=require")
    (folder / "redis.url").write_text("rediss://:hush@cache.internal/0\n")
    places = 'store = { env = "DATABASE_URL" }\ncoordination = { file = "redis.url" }'
    config = load(folder, WHOLE.replace('store = "sqlite:///var/lib/coatcheck/sessions.db"', places))
    store, coordination = config.sessions.store, config.sessions.coordination
    assert store is not None and store.url is not None and coordination is not None and coordination.url is not None
    assert (store.url.kind, store.url.url) == (
        "postgresql",
        "postgresql://shop:hush@db.internal:5432/shop?sslmode=require",
    )
    assert (coordination.url.kind, coordination.url.url) == ("redis", "rediss://:hush@cache.internal/0")
    assert (str(store), str(coordination)) == ("postgresql://db.internal:5432/shop", "rediss://cache.internal/0")
    assert "hush" not in repr(config)


def test_development_may_have_the_password_of_a_store_in_the_file(folder: Path) -> None:
    config = load(folder, SMALL + '[sessions]\nstore = "postgresql://me:me@127.0.0.1/test"\n')
    assert str(config.sessions.store) == "postgresql://127.0.0.1/test"


def test_cookie_sessions_have_several_workers_when_these_share_a_place(folder: Path) -> None:
    places = 'store = "cookie"\ncoordination = "sqlite://meet.db"'
    config = load(folder, WHOLE.replace('store = "sqlite:///var/lib/coatcheck/sessions.db"', places))
    assert (str(config.sessions.store), str(config.sessions.coordination)) == ("cookie", "sqlite://meet.db")
    assert config.server.workers == 2


@pytest.mark.parametrize("rotation", ["learn", "none", "strict", "grace:10s"])
def test_the_rotation_of_each_registration(folder: Path, rotation: str) -> None:
    clients = load(
        folder, WHOLE.replace('client_id = "billing"', f'client_id = "billing"\nrotation = "{rotation}"')
    ).clients
    assert (clients["default"].rotation, clients["billing"].rotation) == ("learn", rotation)


def test_secrets_stay_out_of_reprs(folder: Path) -> None:
    shown = repr(load(folder, WHOLE))
    assert "hush" not in shown
    assert KEY not in shown
    assert "PRIVATE KEY" not in shown


def changed(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


API = '\n[[api]]\npath = "/api/orders"\nurl = "https://orders.internal"\n'

WRONG: dict[str, tuple[str, str, str]] = {
    # what is wrong: (the file, the path that the line begins with, what else the line says)
    "no TOML": ("public_url = https://x", "", "is not TOML"),
    "typo in a table": (WHOLE.replace("[sessions]", "[session]"), "session: ", 'did you mean "sessions"?'),
    "typo in a key": (
        WHOLE.replace('timeout = "1.5s"', 'tiemout = "1.5s"'),
        "api[1].tiemout: ",
        'unknown key; did you mean "timeout"?',
    ),
    "typo in a nested key": (
        WHOLE.replace('exchange = { audience = "https://billing.internal" }', 'exchange = { audiense = "x" }'),
        "api[1].exchange.audiense: ",
        'did you mean "audience"?',
    ),
    "typo in a named registration": (
        WHOLE.replace('client_id = "billing"', 'clientid = "billing"'),
        "clients.billing.clientid: ",
        'did you mean "client_id"?',
    ),
    "word of a later version": (SMALL + "dpop = true\n", "client.dpop: ", "this version has no DPoP"),
    "table of a later version": (SMALL + "[forward_auth]\n", "forward_auth: ", "remove the key"),
    "no public_url": (SMALL.replace("public_url", "# "), "public_url: ", 'add public_url = "https://'),
    "no client": ('public_url = "http://localhost:8000"', "client: ", "add a table [client]"),
    "no issuer": (SMALL.replace('issuer = "http://127.0.0.1:9000"', ""), "client.issuer: ", "is missing: add issuer ="),
    "no secret": (
        SMALL.replace('client_secret = "known-to-everybody"', ""),
        "client.client_secret: ",
        'add client_secret = { env = "CLIENT_SECRET" }',
    ),
    "secret in the file": (
        WHOLE.replace('client_secret = { env = "CLIENT_SECRET" }', 'client_secret = "hush"'),
        "client.client_secret: ",
        'write { env = "NAME" } or { file = "path" }',
    ),
    "variable not set": (
        WHOLE.replace('"CLIENT_SECRET"', '"NOT_SET_ANYWHERE"'),
        "client.client_secret: ",
        "the environment variable NOT_SET_ANYWHERE is not set",
    ),
    "no secret file": (
        WHOLE.replace('{ env = "CLIENT_SECRET" }', '{ file = "nowhere.txt" }'),
        "client.client_secret: ",
        "there is no file",
    ),
    "secret from two places": (
        WHOLE.replace('{ env = "CLIENT_SECRET" }', '{ env = "A", file = "b" }'),
        "client.client_secret: ",
        'write { env = "NAME" } or { file = "path" }',
    ),
    "a secret that is a certificate": (
        WHOLE.replace('file = "client.pem"', 'file = "dist/index.html"'),
        "clients.billing.private_key: ",
        "private key",
    ),
    "public client": (
        SMALL.replace('client_secret = "known-to-everybody"', 'client_auth = "none"'),
        "client.client_auth: ",
        'expected one of "client_secret_basic", "client_secret_post", "private_key_jwt"',
    ),
    "issuer in clear": (
        SMALL.replace("http://127.0.0.1:9000", "http://idp.example.com"),
        "client.issuer: ",
        "must be https",
    ),
    "protected parameter": (
        SMALL + 'authorization_params = { redirect_uri = "https://evil.example" }\n',
        "client.authorization_params: ",
        "'redirect_uri' cannot be set here",
    ),
    "parameter that is no text": (
        SMALL + "token_params = { n = 1 }\n",
        "client.token_params: ",
        "expected text in quotes",
    ),
    "endpoint in clear": (
        SMALL + 'endpoints = { token_endpoint = "http://idp.example.com/token" }\n',
        "client.endpoints.token_endpoint: ",
        "must be https",
    ),
    "public_url with a query": (
        SMALL.replace("http://localhost:8000", "http://localhost:8000/?x=1"),
        "public_url: ",
        "must not have a query",
    ),
    "public_url in clear": (
        SMALL.replace("http://localhost:8000", "http://app.example.com"),
        "public_url: ",
        "must be https",
    ),
    "public_url with a fragment": (
        WHOLE.replace("/shop", "/shop#top"),
        "public_url: ",
        "a fragment",
    ),
    "no key outside development": (
        WHOLE.replace('keys = [{ env = "COATCHECK_KEY" }, { file = "old.key" }]', ""),
        "keys: ",
        "run `coatcheck new-key`",
    ),
    "key that is none": (
        WHOLE.replace('{ file = "old.key" }', '{ env = "CLIENT_SECRET" }'),
        "keys[1]: ",
        "`coatcheck new-key`",
    ),
    "keys in no list": (
        WHOLE.replace('[{ env = "COATCHECK_KEY" }, { file = "old.key" }]', '{ env = "COATCHECK_KEY" }'),
        "keys: ",
        "expected a list",
    ),
    "bad duration": (
        WHOLE.replace('"90m"', '"90 minutes"'),
        "sessions.idle_timeout: ",
        'expected a duration such as "30s", "5m" or "8h", not \'90 minutes\'',
    ),
    "hsts": (WHOLE.replace("workers = 2", "hsts = false"), "server.hsts: ", 'expected "off", a duration such as "30d"'),
    "duration without a unit": (WHOLE.replace('"1.5s"', "30"), "api[1].timeout: ", "expected a duration"),
    "idle time beyond the lifetime": (
        WHOLE.replace('"90m"', '"13h"'),
        "sessions.idle_timeout: ",
        "longer than lifetime",
    ),
    "no store outside development": (
        WHOLE.replace('store = "sqlite:///var/lib/coatcheck/sessions.db"', ""),
        "sessions.store: ",
        "add store =",
    ),
    "a password in the file": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "postgresql://shop:hush@db/shop"),
        "sessions.store: ",
        'postgresql://db/shop does not stand in the file itself: for the whole URL write { env = "NAME" }',
    ),
    "a password in an option": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "postgresql://db/shop?password=hush"),
        "sessions.store: ",
        "the password in postgresql://db/shop does not stand in the file itself",
    ),
    "a password that ends too early": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "redis://:hu/sh@db/0"),
        "sessions.store: ",
        "%2F for a slash",
    ),
    "a server without a name": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "redis://"),
        "sessions.store: ",
        "names no host",
    ),
    "a store from a variable that is not set": (
        WHOLE.replace('"sqlite:///var/lib/coatcheck/sessions.db"', '{ env = "NOT_SET_ANYWHERE" }'),
        "sessions.store: ",
        "the environment variable NOT_SET_ANYWHERE is not set",
    ),
    "a secret in place of a store": (
        WHOLE.replace('"sqlite:///var/lib/coatcheck/sessions.db"', '{ env = "CLIENT_SECRET" }'),
        "sessions.store: ",
        "is not a kind of store",
    ),
    "no kind of store": (
        WHOLE.replace('"sqlite:///var/lib/coatcheck/sessions.db"', "7"),
        "sessions.store: ",
        'write { env = "NAME" } or { file = "path" }',
    ),
    "coordination in cookies": (
        WHOLE.replace("[sessions]", '[sessions]\ncoordination = "cookie"'),
        "sessions.coordination: ",
        "cannot meet in the browsers' cookies",
    ),
    "coordination of an unknown kind": (
        WHOLE.replace("[sessions]", '[sessions]\ncoordination = "etcd://db"'),
        "sessions.coordination: ",
        "etcd://db is not a kind of store",
    ),
    "unknown rotation": (
        WHOLE.replace('client_auth = "client_secret_post"', 'client_auth = "client_secret_post"\nrotation = "lax"'),
        "client.rotation: ",
        "'lax' is no rotation profile: use learn, none, strict, or grace:10s",
    ),
    "rotation of a named registration": (
        WHOLE.replace('client_id = "billing"', 'client_id = "billing"\nrotation = "grace:0s"'),
        "clients.billing.rotation: ",
        "grace:10s",
    ),
    "a file in the root of the file system": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "sqlite:///sessions.db"),
        "sessions.store: ",
        "write sqlite://sessions.db for a relative path",
    ),
    "unknown store": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "sqlight:///x"),
        "sessions.store: ",
        'use "sqlite:///path/to/sessions.db"',
    ),
    "a misspelt word for a store": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "Cookies"),
        "sessions.store: ",
        'did you mean "cookie"?',
    ),
    "a kind of store without a place": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "redis"),
        "sessions.store: ",
        'did you mean "redis://HOST"?',
    ),
    "memory and two workers": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "memory"),
        "server.workers: ",
        "share no memory",
    ),
    "cookies and two workers": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "cookie"),
        "server.workers: ",
        'add coordination = "redis://HOST"',
    ),
    "coordination in memory and two workers": (
        WHOLE.replace("[sessions]", '[sessions]\ncoordination = "memory"'),
        "server.workers: ",
        "remove it, or name a store",
    ),
    "no workers": (WHOLE.replace("workers = 2", "workers = 0"), "server.workers: ", "from 1 to 256"),
    "workers as text": (
        WHOLE.replace("workers = 2", 'workers = "2"'),
        "server.workers: ",
        "expected a whole number, not text",
    ),
    "development on every address": (
        SMALL + '[server]\nlisten = "0.0.0.0:8000"\n',
        "server.listen: ",
        "can be reached from other machines",
    ),
    "development behind a proxy": (
        SMALL + '[server]\ntrusted_proxies = ["10.0.0.1"]\n',
        "server.trusted_proxies: ",
        "behind a proxy there is no development mode",
    ),
    "listening on a name": (WHOLE.replace("0.0.0.0:8080", "app:8080"), "server.listen: ", "an address and a port"),
    "proxy that is no network": (
        WHOLE.replace("10.0.0.0/8", "10.0.0.1/8"),
        "server.trusted_proxies[0]: ",
        "expected an address or a network",
    ),
    "one [api] in place of [[api]]": (SMALL + '[api]\npath = "/api"\n', "api: ", "double brackets"),
    "api path that does not start": (
        WHOLE.replace('"/api/orders"', '"api/orders"'),
        "api[0].path: ",
        "such as /api/orders",
    ),
    "overlapping routes": (WHOLE.replace('"/api/billing"', '"/api/Orders"'), "api[1].path: ", "overlaps '/api/orders'"),
    "route over our own": (WHOLE.replace('"/api/billing"', '"/bff/user"'), "api[1].path: ", "the gateway itself"),
    "url without a scheme": (
        WHOLE.replace("https://orders.internal/v1", "orders.internal"),
        "api[0].url: ",
        "expected https://HOST/",
    ),
    "token in clear": (
        WHOLE.replace("insecure = true", ""),
        "api[1].url: ",
        "use https, or add insecure = true",
    ),
    "unknown token type": (
        WHOLE.replace('token = "client"', 'token = "usr"'),
        "api[2].token: ",
        'expected one of "user", "client", "user_or_client", "user_or_none", "none", not \'usr\'',
    ),
    "unknown registration": (WHOLE.replace('client = "billing"', 'client = "biling"'), "api[1].client: ", "known are"),
    "users' tokens of another registration": (
        WHOLE.replace('exchange = { audience = "https://billing.internal" }', ""),
        "api[1].client: ",
        'nobody has a token of "billing": use token = "client", or let',
    ),
    "exchange of no user's token": (
        WHOLE.replace('token = "client"\nanonymous = true', 'token = "client"\nexchange = { audience = "x" }'),
        "api[2].exchange: ",
        'use token = "user"',
    ),
    "exchange for nobody": (
        WHOLE.replace('exchange = { audience = "https://billing.internal" }', "exchange = {}"),
        "api[1].exchange: ",
        "say for whom",
    ),
    "anonymous users' tokens": (
        WHOLE.replace('token = "client"', ""),
        "api[2].anonymous: ",
        'has no meaning with token = "user"',
    ),
    "one claim": (SMALL + '[user]\nclaims = "name"\n', "user.claims: ", "expected a list"),
    "a claim about the token": (
        WHOLE.replace('["sub", "name"]', '["sub", "nonce"]'),
        "user.claims: ",
        "'nonce' is about the token",
    ),
    "no frontend folder": (WHOLE.replace('"dist"', '"dits"'), "frontend.static: ", "there is no folder"),
    "frontend beside this file": (
        WHOLE.replace('"dist"', '"."'),
        "frontend.static: ",
        "all that is in there is public",
    ),
    "frontend above this file": (
        WHOLE.replace('"dist"', '".."'),
        "frontend.static: ",
        "all that is in there is public",
    ),
    "sessions among the frontend's files": (
        WHOLE.replace("sqlite:///var/lib/coatcheck/sessions.db", "sqlite://dist/sessions.db"),
        "frontend.static: ",
        "all that is in there is public",
    ),
    "coordination among the frontend's files": (
        WHOLE.replace("[sessions]", '[sessions]\ncoordination = "sqlite://dist/meet.db"'),
        "frontend.static: ",
        "all that is in there is public",
    ),
    "no fallback page": (WHOLE + 'fallback = "home.html"\n', "frontend.fallback: ", "there is no file"),
}


@pytest.mark.spec("STO-13", "OAU-19", "MET-02", "PRX-23")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line_that_names_the_setting(folder: Path, name: str) -> None:
    text, path, remedy = WRONG[name]
    if name == "no TOML":
        with pytest.raises(ConfigurationError, match=remedy):
            load(folder, text)
        return
    (problem,) = problems(folder, text)
    assert problem.startswith(path), problem
    assert remedy in problem
    assert "\n" not in problem
    assert "hush" not in problem
    assert KEY not in problem


@pytest.mark.spec("LOG-05", "LOG-02")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sqlite:///var/lib/coatcheck/sessions.db", "mysql://user:hunter2@db/x"),
        ("sqlite:///var/lib/coatcheck/sessions.db", "postgresql+asyncpg://user:hunt/er2?hunter2@db/x"),
        ("sqlite:///var/lib/coatcheck/sessions.db", "redis-cluster://db?password=hunter2"),
        ("sqlite:///var/lib/coatcheck/sessions.db", "postgresql://user:hunter2@db/x"),
        ("sqlite:///var/lib/coatcheck/sessions.db", "postgres://user:hunt/er2@db/x"),
        ("sqlite:///var/lib/coatcheck/sessions.db", "rediss://:hunt?hunter2@db"),
        ("sqlite:///var/lib/coatcheck/sessions.db", "redis://:hunt#hunter2@db"),
        ("sqlite:///var/lib/coatcheck/sessions.db", "hunter2"),
        ("https://orders.internal/v1", "https://user:hunter2@orders.internal"),
        ("https://orders.internal/v1", "http://user:hunter2@orders.internal"),
        ("https://orders.internal/v1", "https://user:hunter2@orders.internal:port"),
        ("https://orders.internal/v1", "https://user:hünter2@orders.internal"),
        ("https://orders.internal/v1", "orders.internal?key=hunter2"),
        ("https://orders.internal/v1", "https://orders.internal/?key=hunter2"),
        ("https://idp.example.com", "http://user:hunter2@idp.example.com"),
    ],
)
def test_a_password_in_a_url_is_not_repeated(folder: Path, right: str, wrong: str) -> None:
    assert right in WHOLE
    (problem,) = problems(folder, WHOLE.replace(right, wrong, 1))
    assert not any(secret in problem for secret in ("hunter2", "hünter2", "er2"))


def test_all_problems_are_told_at_once(folder: Path) -> None:
    text = changed(
        WHOLE,
        {
            "https://app.example.com/shop": "ftp://app.example.com",
            'client_id = "shop"': "client_id = 7",
            '"12h"': '"12 hours"',
            'url = "https://orders.internal/v1"': 'uri = "https://orders.internal/v1"',
        },
    )
    assert [problem.partition(": ")[0] for problem in problems(folder, text)] == [
        "public_url",
        "client.client_id",
        "sessions.lifetime",
        "api[0].uri",
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        load_config(tmp_path / "coatcheck.toml")


@pytest.mark.spec("MET-04")
def test_no_word_turns_the_verification_of_certificates_off(folder: Path) -> None:
    for word in ("verify", "tls_verify", "insecure_skip_verify", "ssl_verify", "verify_tls"):
        assert problems(folder, f"{word} = false\n" + SMALL)[0].startswith(f"{word}: unknown key")
        assert problems(folder, f"{SMALL}{word} = false\n")[0].startswith(f"client.{word}: unknown key")
        assert problems(folder, f"{SMALL}{API}{word} = false\n")[0].startswith(f"api[0].{word}: unknown key")
