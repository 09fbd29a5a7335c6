"""Two applications on one host, each behind a BFF of its own: to a browser they have one cookie jar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin

from playwright.sync_api import BrowserContext, Page

from coatcheck import BFF, Client
from coatcheck.sessions.seal import new_key
from tests.rig.control_plane import RegisteredClient
from tests.rig.oidc_provider import OIDCProvider
from tests.rig.servers import ASGIApp, Receive, Scope, Send, free_port, serve

Layout = Literal["two ports", "two paths", "one registration"]
LAYOUTS: tuple[Layout, ...] = ("two ports", "two paths", "one registration")
"""The last is two ports whose applications have one `client_id`."""

FLOOD = 200

USER = (
    "url => fetch(url, {headers: {'X-CSRF': '1'}}).then(async r => r.status !== 200 ? r.status :"
    " Object.fromEntries((await r.json()).map(claim => [claim.type, claim.value])))"
)
CALL = "url => fetch(url, {headers: {'X-CSRF': '1'}}).then(r => r.status)"


@dataclass(frozen=True)
class Neighbour:
    """One of the applications, as a browser meets it."""

    url: str
    bff: BFF
    client: RegisteredClient

    @property
    def session_cookie(self) -> str:
        return f"__Host-Http-coatcheck-{self.bff.application_id}"

    def begin_login(self, page: Page) -> None:
        """As far as the provider's first page."""
        page.goto(f"{self.url}/bff/login")
        page.wait_for_selector("button[type=submit]")

    def finish_login(self, page: Page, username: str = "alice") -> None:
        """Through the provider's pages, and home."""
        through_the_provider(page, username)
        page.wait_for_url(f"{self.url}/")

    def log_in(self, page: Page, username: str = "alice") -> None:
        self.begin_login(page)
        self.finish_login(page, username)

    def log_out(self, page: Page) -> None:
        """By the link of its page, and through the provider's."""
        claims = self.user(page)
        assert isinstance(claims, dict)
        page.goto(urljoin(self.url, claims["bff:logout_url"]))
        page.click("button[value=yes]")
        page.wait_for_url(f"{self.url}/**")

    def user(self, page: Page) -> dict[str, Any] | int:
        """What its page learns of who is logged in, or the status that says nobody is."""
        page.goto(f"{self.url}/")
        found: dict[str, Any] | int = page.evaluate(USER, f"{self.url}/bff/user")
        return found

    def logins_under_way(self, context: BrowserContext) -> set[str]:
        """The names of its correlation cookies."""
        return {name for name in cookies(context) if name.startswith(f"{self.session_cookie}-login-")}


@dataclass
class Host:
    """`localhost` with two neighbours on it, who have the same keys and the same store: nothing but names divides."""

    shop: Neighbour
    billing: Neighbour
    folder: Path = field(repr=False)


@contextmanager
def two_on_one_host(
    provider: OIDCProvider, folder: Path, layout: Layout, *, sessions: str = "sqlite"
) -> Iterator[Host]:
    """Serve both. *sessions* is `sqlite`, which is one file for both, or `cookie`."""
    ports = [free_port()] * 2 if layout == "two paths" else [free_port(), free_port()]
    paths = ["/shop", "/billing"] if layout == "two paths" else ["", ""]
    urls = [f"http://localhost:{port}{path}" for port, path in zip(ports, paths, strict=True)]
    clients = [_registered(provider, [url]) for url in urls]
    if layout == "one registration":
        clients = [_registered(provider, urls)] * 2
    keys = [new_key()]
    shop, billing = (
        Neighbour(
            url,
            _bff(provider, client, url, keys, f"sqlite://{folder}/s.db" if sessions == "sqlite" else sessions),
            client,
        )
        for url, client in zip(urls, clients, strict=True)
    )
    if layout == "two paths":
        with serve(_by_path({"/shop": shop.bff, "/billing": billing.bff}), port=ports[0]):
            yield Host(shop, billing, folder)
    else:
        with serve(shop.bff.wrap(_page), port=ports[0]), serve(billing.bff.wrap(_page), port=ports[1]):
            yield Host(shop, billing, folder)


class Sibling:
    """
    A third site on `localhost`, at a port of its own: nobody keeps it from setting cookies for all.

    `served()` gives it; whoever opens its page gets the `Set-Cookie` lines in `sets`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.sets: list[str] = []

    @classmethod
    @contextmanager
    def served(cls) -> Iterator[Sibling]:
        port = free_port()
        sibling = cls(f"http://localhost:{port}/")
        with serve(sibling, port=port, lifespan="off"):
            yield sibling

    def plant(self, page: Page, cookies: Mapping[str, str]) -> None:
        """Set *cookies*, with the attributes that ours have."""
        self.sets = [f"{name}={value}; Path=/; Secure; HttpOnly; SameSite=Strict" for name, value in cookies.items()]
        page.goto(self.url)

    def flood(self, page: Page) -> None:
        """Push out all others: Chromium keeps 180 cookies of a host, and drops those that were used longest ago."""
        self.plant(page, {f"flood-{number}": "x" for number in range(FLOOD)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/html"), *((b"set-cookie", line.encode()) for line in self.sets)]
        await _answer(send, headers)


def cookies(context: BrowserContext) -> dict[str, str]:
    """The cookies of the host, those of the provider on 127.0.0.1 left out."""
    return {
        cookie.get("name", ""): cookie.get("value", "")
        for cookie in context.cookies()
        if cookie.get("domain") == "localhost"
    }


def through_the_provider(page: Page, username: str = "alice") -> None:
    """Whatever the provider asks: who it is (unless it knows), and consent."""
    if page.query_selector("input[name=login]"):
        page.fill("input[name=login]", username)
        page.fill("input[name=password]", "x")
        page.click("button[type=submit]")
        page.wait_for_selector("input[name=prompt][value=consent]", state="attached")
    page.click("button[type=submit]")


def _registered(provider: OIDCProvider, urls: list[str]) -> RegisteredClient:
    return provider.add_client(
        "basic",
        redirect_uris=[f"{url}/bff/callback" for url in urls],
        post_logout_redirect_uris=[f"{url}/bff/logged-out" for url in urls],
    )


def _bff(provider: OIDCProvider, client: RegisteredClient, url: str, keys: list[str], sessions: str) -> BFF:
    return BFF(
        Client(
            issuer=provider.issuer,
            client_id=client.client_id,
            client_secret=client.client_secret,
            authorization_params={"prompt": "consent"},
        ),
        public_url=url,
        keys=keys,
        sessions=sessions,
    )


def _by_path(bffs: dict[str, BFF]) -> ASGIApp:
    """What a server in front of two applications does."""
    apps = {path: bff.wrap(_page) for path, bff in bffs.items()}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            for bff in bffs.values():
                await bff.aclose()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await apps["/" + scope["path"].split("/")[1]](scope, receive, send)

    return app


async def _page(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await _answer(send, [(b"content-type", b"text/html")])


async def _answer(send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"<!doctype html><title>a page</title>"})
