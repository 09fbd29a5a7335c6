"""
A small browser without scripts: cookies as Chromium treats them, `Sec-Fetch-*` headers, redirects, refreshes and forms.

    agent = UserAgent(base_url)
    agent.login("/bff/login", username="alice")
    assert agent.fetch("/api/me").status_code == 200

It exists because the jars of HTTP client libraries do not send `Secure` cookies back over http on loopback, and because
a test wants to see every hop. Several threads may `fetch` with one agent.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import httpx2

from tests.rig.cookie_jar import CookieJar, same_origin, same_site
from tests.rig.pages import Form, forms, refresh_target

MOST_HOPS = 20
REDIRECTS = (301, 302, 303, 307, 308)
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html,*/*;q=0.8"}
API_CALL = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Accept": "*/*"}
CSRF = {"X-CSRF": "1"}


class UserAgent:
    """
    One browser profile with one tab. `page` is the document that is open.

    *base_url* is what relative URLs are relative to, and the application that `login` leads home to. *transport* takes
    the place of the network.
    """

    def __init__(
        self,
        base_url: str = "",
        *,
        timeout: float = 30,
        verify: Any = True,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.base_url = httpx2.URL(base_url)
        self.cookies = CookieJar()
        self.page: httpx2.URL | None = None
        self.history: list[httpx2.Response] = []
        """Every answer of the last navigation, redirects included."""
        self._timeout = timeout
        self._transport = transport or httpx2.HTTPTransport(verify=verify, trust_env=False)

    def navigate(
        self, url: str, *, stop_at: str | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """
        Type *url* into the address bar, and follow it to the page where it ends.

        With *stop_at*, a redirect to a URL that starts so is not followed but returned: `location` says where to.
        """
        return self._go(self._absolute(url), initiator=None, stop_at=stop_at, headers=headers)

    def click(self, url: str, *, stop_at: str | None = None) -> httpx2.Response:
        """Follow a link on the open page: like `navigate`, but started by that page."""
        return self._go(self._absolute(url), initiator=self.page, stop_at=stop_at)

    def submit(self, form: Form, *, stop_at: str | None = None) -> httpx2.Response:
        """Send a form of the open page."""
        url = (self.page or self.base_url).join(form.action)
        if form.method == "GET":
            return self._go(url.copy_merge_params(form.fields), initiator=self.page, stop_at=stop_at)
        return self._go(url, initiator=self.page, stop_at=stop_at, form=form.fields)

    def login(self, url: str = "/bff/login", *, username: str = "alice", stop_at: str | None = None) -> httpx2.Response:
        """Navigate to *url* and sign in on whatever pages another origin shows; the page where that ends."""
        return self.through_foreign_pages(self.navigate(url, stop_at=stop_at), username=username, stop_at=stop_at)

    def logout(self, url: str, *, stop_at: str | None = None) -> httpx2.Response:
        """Navigate to *url* and confirm on whatever pages another origin shows."""
        return self.login(url, stop_at=stop_at)

    def through_foreign_pages(
        self, response: httpx2.Response, *, username: str = "alice", stop_at: str | None = None
    ) -> httpx2.Response:
        """Fill in and send the forms of pages that are not the application's own."""
        for _ in range(MOST_HOPS):
            shown = forms(response)
            if same_origin(response.url, self.base_url) or response.status_code != 200 or not shown:
                return response
            form = shown[0]
            form.fill(username)
            response = self.submit(form, stop_at=stop_at)
        raise AssertionError(f"still asked to fill in forms after {MOST_HOPS} pages, now at {response.url}")

    def fetch(
        self,
        url: str,
        method: str = "GET",
        *,
        csrf: bool = True,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        data: Mapping[str, str] | None = None,
        content: bytes | str | None = None,
        target: str | None = None,
        initiator: str | None = None,
    ) -> httpx2.Response:
        """
        What `fetch(url)` in a script sends, with `X-CSRF: 1` unless *csrf* is false; redirects are not followed.

        The script belongs to the open page, else to *url*'s own origin; *initiator* is the URL of another (an
        attacker's) page. *target* is the request target as it stands on the wire, where *url* would be normalised.
        """
        request = self._api_request(url, method, csrf, headers, initiator, json=json, data=data, content=content)
        if target is not None:
            request.extensions["target"] = target.encode()
        return self._send(request)

    @contextmanager
    def stream(
        self,
        url: str,
        method: str = "GET",
        *,
        csrf: bool = True,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Iterator[httpx2.Response]:
        """Like `fetch`, but the body is still to be read; leaving the block closes the connection."""
        response = self._transport.handle_request(self._api_request(url, method, csrf, headers, None, content=content))
        try:
            yield response
        finally:
            response.close()

    def open(self, url: str, method: str = "GET", *, headers: Mapping[str, str] | None = None) -> socket.socket:
        """Send an API call over a connection of its own and leave the answer unread: for tests that hang up early."""
        request = self._api_request(url, method, True, headers, None)
        lines = [f"{method} {request.url.raw_path.decode()} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        connection = socket.create_connection((request.url.host, request.url.port or 80), timeout=self._timeout)
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return connection

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _absolute(self, url: str) -> httpx2.URL:
        return self.base_url.join(url)

    def _go(
        self,
        url: httpx2.URL,
        *,
        initiator: httpx2.URL | None,
        stop_at: str | None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        self.history = []
        chain = [url]
        for _ in range(MOST_HOPS):
            response = self._send(self._navigation_request(chain, initiator, form, headers))
            self.history.append(response)
            if response.status_code in REDIRECTS and "location" in response.headers:
                if response.status_code not in (307, 308):
                    form = None
                next_url = response.url.join(response.headers["location"])
                chain.append(next_url)
            elif (refresh := refresh_target(response)) is not None:
                # A new navigation, and the page that shows the refresh is the one that starts it.
                initiator, form = response.url, None
                next_url = response.url.join(refresh)
                chain = [next_url]
            else:
                self.page = response.url
                return response
            if stop_at is not None and str(next_url).startswith(stop_at):
                return response
        raise AssertionError(f"more than {MOST_HOPS} hops: {[str(answer.url) for answer in self.history]}")

    def _navigation_request(
        self,
        chain: list[httpx2.URL],
        initiator: httpx2.URL | None,
        form: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> httpx2.Request:
        method = "GET" if form is None else "POST"
        sent = {
            **NAVIGATION,
            "Sec-Fetch-User": "?1",
            "Sec-Fetch-Site": _fetch_site(initiator, chain),
            **(headers or {}),
        }
        if form is not None and initiator is not None:
            sent["Origin"] = origin(initiator)
        cookie = self.cookies.header(chain[-1], initiator=initiator, method=method)
        if cookie:
            sent["Cookie"] = cookie
        content = None if form is None else urlencode(form).encode()
        if content is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        return httpx2.Request(method, chain[-1], headers=sent, content=content)

    def _api_request(
        self,
        url: str,
        method: str,
        csrf: bool,
        headers: Mapping[str, str] | None,
        initiator: str | None,
        **body: Any,
    ) -> httpx2.Request:
        absolute = self._absolute(url)
        started_by = httpx2.URL(initiator) if initiator else self.page or absolute
        sent = {**API_CALL, "Sec-Fetch-Site": _fetch_site(started_by, [absolute]), **(CSRF if csrf else {})}
        if method not in ("GET", "HEAD") or not same_origin(started_by, absolute):
            sent["Origin"] = origin(started_by)
        cookie = self.cookies.header(absolute, initiator=started_by, navigation=False, method=method)
        if cookie:
            sent["Cookie"] = cookie
        extensions = {"timeout": httpx2.Timeout(self._timeout).as_dict()}
        return httpx2.Request(method, absolute, headers={**sent, **(headers or {})}, extensions=extensions, **body)

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        request.extensions.setdefault("timeout", httpx2.Timeout(self._timeout).as_dict())
        response = self._transport.handle_request(request)
        try:
            response.read()
        finally:
            response.close()
        response.request = request
        self.cookies.store(request.url, response.headers.get_list("set-cookie"))
        return response


def origin(url: httpx2.URL) -> str:
    """`scheme://host[:port]`, as in the `Origin` header."""
    return f"{url.scheme}://{url.netloc.decode()}"


def _fetch_site(initiator: httpx2.URL | None, chain: list[httpx2.URL]) -> str:
    """The worst relation between the page that started a request and any URL that the request went through."""
    if initiator is None:
        return "none"
    if all(same_origin(initiator, url) for url in chain):
        return "same-origin"
    return "same-site" if all(same_site(initiator, url) for url in chain) else "cross-site"
