"""
Which header lines cross the counter, in both directions, and why the others do not.

Everything is decided by name, once per name: a request costs one dictionary look-up for each of its lines. What the
proxy itself says (`Authorization`, `X-Forwarded-*`) is added after this, so that nothing a browser sends can remove it
or stand beside it.

RFC 9110, section 7.6; RFC 9111, section 3.5; RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HOP_BY_HOP = frozenset(
    {
        "connection",  # and whatever it names, see below
        "keep-alive",
        "proxy-connection",  # never standardised, still sent
        "te",  # no trailers travel through here
        "trailer",
        "transfer-encoding",  # each side of the proxy frames its own messages
        "upgrade",  # with http2-settings: the way to smuggle h2c
        "http2-settings",
    }
)
"""RFC 9110 section 7.6.1: these speak about one connection, and each of ours ends here."""

FRAMING = frozenset({"content-length"})
"""Made anew for the next connection from the body that is really sent (RFC 9112 section 6)."""

OURS = frozenset(
    {
        "host",  # the remote API has a name of its own
        "cookie",  # the session's ticket, and the cookies of everything else on this origin
        "authorization",  # the access token we choose, or none
        "proxy-authorization",
        "dpop",  # the proof for that token
        "forwarded",  # RFC 7239: who called, in our words only
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-cluster-client-ip",
    }
)
"""What only the proxy may tell a remote API: its name, the caller's credentials and the caller's address."""

IDENTITY = frozenset({"remote-user", "x-user", "x-email", "x-username", "x-webauth-user", "x-authenticated-user"})
"""Read as "already authenticated" by servers that expect a proxy in front of them. A browser may not say so."""

SPOOFABLE_PREFIXES = (
    "x-forwarded-",  # also x-forwarded-user, -groups, -client-cert
    "x-auth-request-",  # oauth2-proxy, nginx
    "x-remote-",
    "x-ssl-",
    "ssl-client-",
    "x-client-cert",
    "x-ms-client-principal",  # Azure
    "x-amzn-oidc-",  # AWS
    "x-goog-authenticated-user-",  # Google
    "cf-access-",  # Cloudflare
    "oidc-claim-",  # mod_auth_openidc
)
"""The same as `IDENTITY`, for families of names."""

OVERRIDES = frozenset(
    {
        "x-http-method-override",  # the method that was checked is the method that is meant
        "x-http-method",
        "x-method-override",
        "x-original-method",
        "x-original-url",  # the path that was matched is the path that is meant
        "x-original-uri",
        "x-rewrite-url",
        "x-original-host",
        "x-host",
    }
)
"""Make a framework behind us see another request than the one that was checked here."""

ANSWERED_HERE = frozenset(
    {
        "expect",  # the server in front of us sends its own 100 (Continue) before the body is read
        "via",  # it names machines in front of us, and some servers stop compressing for a request that carries one
    }
)
"""End at the proxy, and none is made anew."""

REQUEST_DROPPED = HOP_BY_HOP | FRAMING | OURS | IDENTITY | OVERRIDES | ANSWERED_HERE

ORIGIN_WIDE = frozenset(
    {
        "set-cookie",  # a remote API must not write into this origin's cookies
        "set-cookie2",
        "clear-site-data",
        "strict-transport-security",
        "service-worker-allowed",
        "alt-svc",
        "nel",
        "report-to",
        "expect-ct",
        "public-key-pins",
        "set-login",
    }
)
"""Change what a browser holds for the whole origin, which belongs to the application and not to one remote API."""

STEERING = frozenset(
    {
        "coatcheck-error",  # marks refusals that are ours
        "refresh",  # a redirect in disguise
        "x-sendfile",  # a server in front of us would send a file of its own
        "x-lighttpd-send-file",
        "x-reproxy-url",
        "cdn-cache-control",  # would overrule the Cache-Control that we decide on (RFC 9213)
        "cloudflare-cdn-cache-control",
        "surrogate-control",
        "edge-control",
    }
)
"""Give orders to machines in front of us."""

CHATTER = frozenset(
    {
        "server",  # the server in front of us names itself, and sets the date
        "date",
    }
)

RESPONSE_DROPPED = HOP_BY_HOP | ORIGIN_WIDE | STEERING | CHATTER

RESPONSE_DROPPED_PREFIXES = (
    "access-control-",  # who may read this origin is the application's decision
    "x-accel-",  # nginx in front of us would obey
    "proxy-",
)

RELAYED_CHALLENGES = ("bearer", "dpop")
"""The only challenges a page can act on (RFC 9470). `Basic` and its kin would open a password dialogue of ours."""

_NAME = re.compile(rb"[a-z0-9-]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_MAX_REMEMBERED = 1024
_LONGEST_REMEMBERED = 64
"""
Names whose fate is remembered, and how long they may be. Enough for every honest one; a flood of invented ones is
decided each time anew. Servers let names of 64 KB pass: remembered, a thousand of them would be 64 MB for each route.
"""

CHUNKED = -1
"""Stands for a body whose length nobody knows yet."""

RequestHeaders = list[tuple[str, str]]
ResponseHeaders = list[tuple[bytes, bytes]]


class HeaderRefused(Exception):
    """The request cannot be forwarded as it is: 400. The message names the header, never its value."""


class RequestHeaderFilter:
    """
    Take from a request what a remote API may see.

    *csrf_header* is for us alone. Names with anything but letters, digits and `-` are dropped: `x_forwarded_user` and
    `X.Auth.User` become `X-Forwarded-User` and `X-Auth-User` in many servers (CVE-2025-64484).
    """

    def __init__(self, *, csrf_header: bytes) -> None:
        self._csrf_header = csrf_header.lower().decode("ascii")
        self._fate: dict[bytes, str | None] = {}

    def __call__(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[RequestHeaders, int | None]:
        """
        Return the lines to forward and the length of the body: None for no body, `CHUNKED` for an unknown length.

        Raises:
            HeaderRefused: a value is not UTF-8 text, or the framing has two readings.
        """
        fate = self._fate
        kept: RequestHeaders = []
        aside: ResponseHeaders = []
        for line in headers:
            name = line[0]
            try:
                text = fate[name]
            except KeyError:
                text = self._decide(name)
            if text is None:
                aside.append(line)
            else:
                try:
                    kept.append((text, line[1].decode()))
                except UnicodeDecodeError:
                    raise HeaderRefused(f"the value of the header {text!r} is not UTF-8 text") from None
        connection, lengths, encodings = _control_data(aside)
        if connection:
            kept = [line for line in kept if line[0] not in connection]
        return kept, _body_length(lengths, encodings)

    def _decide(self, name: bytes) -> str | None:
        lower = name.lower()
        text = lower.decode("latin-1")
        dropped = (
            _NAME.fullmatch(lower) is None
            or text in REQUEST_DROPPED
            or text == self._csrf_header
            or text.startswith(SPOOFABLE_PREFIXES)
        )
        fate = None if dropped else text
        if len(self._fate) < _MAX_REMEMBERED and len(name) <= _LONGEST_REMEMBERED:
            self._fate[name] = fate
        return fate


def _control_data(aside: ResponseHeaders) -> tuple[set[str], list[bytes], list[bytes]]:
    """Read, from the lines that are not forwarded, those that govern this message: Connection, length, encoding."""
    named: set[str] = set()
    lengths: list[bytes] = []
    encodings: list[bytes] = []
    for name, value in aside:
        lower = name.lower()
        if lower == b"connection":
            named.update(option.strip().lower() for option in value.decode("latin-1").split(","))
        elif lower == b"content-length":
            lengths.append(value)
        elif lower == b"transfer-encoding":
            encodings.append(value)
    return named, lengths, encodings


def _body_length(lengths: list[bytes], encodings: list[bytes]) -> int | None:
    """Decide on one framing, or none. What has two readings is how requests are smuggled (RFC 9112 section 6.1)."""
    if encodings:
        if lengths or len(encodings) > 1 or encodings[0].strip().lower() != b"chunked":
            raise HeaderRefused("'transfer-encoding' must be 'chunked', once and without 'content-length'")
        return CHUNKED
    if not lengths:
        return None
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise HeaderRefused("'content-length' must be one number")
    return int(lengths[0])


_response_fate: dict[str, bytes | None] = {}


def response_headers(
    headers: Iterable[tuple[str, str]], *, status: int, personal: bool
) -> tuple[ResponseHeaders, int | None]:
    """
    Take from an answer what the browser may see, and return it with the length of the body, if that is known.

    *personal*: the request carried a session, so no shared cache may keep the answer, whatever the remote API says. Its
    own `private` or `no-store` stands; anything else becomes `no-store`. Either way the answer varies by cookie.

    RFC 9111, section 3.5.
    """
    kept: ResponseHeaders = []
    caching: list[str] = []
    connection = ""
    length: int | None = None
    for name, value in headers:
        try:
            fate = _response_fate[name]
        except KeyError:
            fate = _decide_response(name)
        if fate is not None:
            kept.append((fate, value.encode("latin-1")))
        elif name == "cache-control":
            caching.append(value)
        elif name == "www-authenticate":
            if value.lower().startswith(RELAYED_CHALLENGES):
                kept.append((b"www-authenticate", value.encode("latin-1")))
        elif name == "content-length":
            # Neither has a body, and servers disagree on what a length would mean (RFC 9110 section 8.6).
            if status != 204 and status != 304:
                # "2, 2" is valid and means 2; the HTTP client has refused what differs (RFC 9110 section 8.6).
                length = int(value.rpartition(",")[2])
                kept.append((b"content-length", b"%d" % length))
        elif name == "connection":
            connection = f"{connection},{value}"
    if connection:
        kept = _without(kept, connection)
    cache_control = _cache_control(caching, personal=personal)
    if cache_control is not None:
        kept.append((b"cache-control", cache_control))
    kept.append((b"vary", b"Cookie"))
    return kept, length


def _decide_response(name: str) -> bytes | None:
    special = name in ("cache-control", "www-authenticate", "content-length")
    dropped = special or name in RESPONSE_DROPPED or name.startswith(RESPONSE_DROPPED_PREFIXES)
    fate = None if dropped else name.encode("latin-1")
    if len(_response_fate) < _MAX_REMEMBERED and len(name) <= _LONGEST_REMEMBERED:
        _response_fate[name] = fate
    return fate


def _without(kept: ResponseHeaders, connection: str) -> ResponseHeaders:
    named = {option.strip().lower().encode("latin-1") for option in connection.split(",")}
    return [line for line in kept if line[0] not in named]


_PRIVATE = re.compile(r"(?:^|,)\s*(?:private|no-store)\s*(?:,|$)", re.IGNORECASE)
_PUBLIC = re.compile(r"(?:^|,)\s*(?:public|s-maxage)\b", re.IGNORECASE)


def _cache_control(values: list[str], *, personal: bool) -> bytes | None:
    if not values:
        return b"no-store" if personal else None
    text = ", ".join(values)
    if personal and (_PRIVATE.search(text) is None or _PUBLIC.search(text) is not None):
        return b"no-store"
    return text.encode("latin-1")
