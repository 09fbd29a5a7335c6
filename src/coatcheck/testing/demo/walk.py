"""The main job, step by step, by a client that knows cookies, redirects and forms: what a browser would do."""

from __future__ import annotations

import http.client
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from coatcheck.codec import decode_object, decoder

PARALLEL_CALLS = 20
MAX_HOPS = 10
CSRF = {"X-CSRF": "1"}

_user_claims = decoder(list[dict[str, Any]])


class WentWrong(Exception):
    """A step did not end as it should."""


@dataclass(frozen=True, slots=True)
class Page:
    """What came back, and from where."""

    url: str
    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


class SmallBrowser:
    """Keeps cookies per host, follows redirects and pages that send it on, submits a form."""

    def __init__(self) -> None:
        self.cookies: dict[tuple[str, str], str] = {}

    def fetch(self, url: str, *, method: str = "GET", form: str = "", headers: dict[str, str] | None = None) -> Page:
        """One request, without following anything."""
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=30)
        try:
            sent = {"Cookie": self._cookies_for(parts.hostname), **(headers or {})}
            sent |= {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body=form or None, headers=sent)
            answer = connection.getresponse()
            for line in answer.headers.get_all("Set-Cookie") or ():
                self._keep(parts.hostname, line)
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Page(url, answer.status, found, answer.read())
        finally:
            connection.close()

    def open(self, url: str, *, method: str = "GET", form: str = "") -> Page:
        """Navigate: follow redirects, and pages that only pass the browser on."""
        page = self.fetch(url, method=method, form=form, headers={"Accept": "text/html", "Sec-Fetch-Mode": "navigate"})
        for _ in range(MAX_HOPS):
            target = _onward(page)
            if target is None:
                return page
            page = self.fetch(target, headers={"Accept": "text/html", "Sec-Fetch-Mode": "navigate"})
        raise WentWrong("the browser is sent round in circles")

    def submit(self, page: Page, **fields: str) -> Page:
        """Fill in the one form of a page and send it."""
        action = re.search(rb'<form method="post" action="([^"]+)"', page.body)
        if action is None:
            raise WentWrong(f"{page.url} shows no form")
        written = re.findall(rb'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page.body)
        values = {name.decode(): unescape(value.decode()) for name, value in written} | fields
        return self.open(urljoin(page.url, unescape(action[1].decode())), method="POST", form=urlencode(values))

    def _cookies_for(self, host: str | None) -> str:
        return "; ".join(f"{name}={value}" for (owner, name), value in self.cookies.items() if owner == host)

    def _keep(self, host: str | None, line: str) -> None:
        pair, *attributes = [part.strip() for part in line.split(";")]
        name, _, value = pair.partition("=")
        self.cookies.pop((host or "", name), None)
        if value and "max-age=0" not in [attribute.lower() for attribute in attributes]:
            self.cookies[host or "", name] = value


def walk(address: str, token_lifetime: timedelta) -> bool:
    """Go through the demo at *address*, telling each step; False when one of them went wrong."""
    try:
        _walk(address, SmallBrowser(), token_lifetime)
    except WentWrong as error:
        print(f"  FAILED  {error}", flush=True)
        return False
    return True


def _walk(address: str, browser: SmallBrowser, token_lifetime: timedelta) -> None:
    api = urljoin(address, "/api/hello")
    _expect(browser.fetch(api, headers=CSRF), 401, "session_missing")
    _tell("nobody is logged in: the API cannot be called")

    login = browser.open(urljoin(address, "/bff/login?returnUrl=/"))
    home = browser.submit(login, username="demo", decision="allow")
    if (home.status, home.url) != (200, address):
        raise WentWrong(f"after the login the browser is at {home.url} with status {home.status}")
    claims = {entry["type"]: entry["value"] for entry in _user_claims.decode(_user(browser, address).body)}
    ours = [name for host, name in browser.cookies if host == urlsplit(address).hostname]
    _tell(f"logged in as {claims['sub']}; all that the browser got is {' and '.join(ours)}")

    first = _call(browser, api)
    _tell(f"the API was called with a token of {first['sub']}, fingerprint {first['token']}")

    time.sleep(token_lifetime.total_seconds())
    with ThreadPoolExecutor(PARALLEL_CALLS) as pool:
        calls = list(pool.map(lambda _: _call(browser, api), range(PARALLEL_CALLS)))
    tokens = {call["token"] for call in calls}
    renewals = max(call["refreshes"] for call in calls) - first["refreshes"]
    if len(tokens) != 1 or first["token"] in tokens or renewals != 1:
        raise WentWrong(f"{PARALLEL_CALLS} calls after expiry made {renewals} renewals and saw {len(tokens)} tokens")
    _tell(f"the token expired; {PARALLEL_CALLS} calls at once made one renewal, fingerprint {tokens.pop()}")

    gone = browser.open(urljoin(address, claims["bff:logout_url"]))
    if gone.status != 200:
        raise WentWrong(f"the logout ended at {gone.url} with status {gone.status}")
    _expect(browser.fetch(api, headers=CSRF), 401, "session_missing")
    _tell("logged out: the API cannot be called any more")


def _user(browser: SmallBrowser, address: str) -> Page:
    page = browser.fetch(urljoin(address, "/bff/user"), headers=CSRF)
    if page.status != 200:
        raise WentWrong(f"/bff/user answers {page.status} after the login")
    return page


def _call(browser: SmallBrowser, api: str) -> dict[str, Any]:
    page = browser.fetch(api, headers=CSRF)
    if page.status != 200:
        raise WentWrong(f"the API call was answered with {page.status} {page.headers.get('coatcheck-error', '')}")
    return decode_object(page.body)


def _expect(page: Page, status: int, code: str) -> None:
    if (page.status, page.headers.get("coatcheck-error")) != (status, code):
        found = f"{page.status} {page.headers.get('coatcheck-error', '')}"
        raise WentWrong(f"{page.url}: expected {status} {code}, got {found}")


def _onward(page: Page) -> str | None:
    """Where a redirect, or a page with a no-script refresh, sends the browser."""
    if page.status in (301, 302, 303, 307, 308):
        return urljoin(page.url, page.headers["location"])
    hop = re.search(rb'<meta http-equiv="refresh" content="0;url=([^"]+)"', page.body)
    return urljoin(page.url, unescape(hop[1].decode())) if hop else None


def _tell(step: str) -> None:
    print(f"  ok      {step}", flush=True)
