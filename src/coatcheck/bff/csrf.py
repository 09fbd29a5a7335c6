"""Which requests may act in the user's name: the checks that stand between a cookie and its session."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

Verdict = Literal["csrf_header_missing", "cross_site"]
"""The code of a refusal: its own page forgot the header, or another site asks."""


class Protection(Enum):
    """
    Why another site gets nothing done by sending a browser to an endpoint of ours. Each method of each has one.

    `tests/bff/test_inventory.py` tries them all, and holds each to what it says here.
    """

    HEADER = "only a script of our own page gets through, by the CSRF header"
    NAVIGATION = "only somebody who opens it here does, or a script of our own page"
    SID = "it does nothing without the keyed `sid` of the session that would end"
    LOGIN = "it begins a login and nothing else; the session is looked at, and stays as it is"
    TRANSACTION = "it does nothing without the sealed cookie of a login under way and the `state` that fits"
    SAME_ORIGIN = "only a page of our own gets through, by what the browser says of it (`Sec-Fetch-Site`)"
    LOGOUT_TOKEN = "it does nothing without a logout token of the authorization server, and sees no cookie"
    FRONT_CHANNEL = "it ends the session whose `iss` and `sid` it is told, and sees no cookie"
    NO_SESSION = "it never asks who the user is"

    @property
    def exempts(self) -> bool:
        """Whether the endpoint may see the session without a check of ours, because it brings its own proof."""
        return self in (Protection.SID, Protection.LOGIN)


@dataclass(frozen=True, slots=True)
class CSRFRules:
    """
    *origin* is our own (`https://app.example.com`); the header's name and value prove that a script of ours asks.

    *written* is the name as the application writes it, for those who read it.
    """

    origin: bytes
    header_name: bytes = b"x-csrf"
    header_value: bytes = b"1"
    written: str = "X-CSRF"
    judged: frozenset[bytes] = field(init=False, repr=False)
    """The names of the header lines that are looked at."""

    def __post_init__(self) -> None:
        judged = frozenset({self.header_name, b"origin", b"sec-fetch-site", b"sec-fetch-mode"})
        object.__setattr__(self, "judged", judged)


class Claims(NamedTuple):
    """What a request says about where it comes from. Each is the list of all lines: two lines prove nothing."""

    header: tuple[bytes, ...]
    origin: tuple[bytes, ...]
    site: tuple[bytes, ...]
    mode: tuple[bytes, ...]

    @property
    def may_be_navigation(self) -> bool:
        """Whether nothing says that a script fetches this. A browser without Fetch Metadata says nothing."""
        return self.mode in ((), (b"navigate",))

    @property
    def may_be_own_page(self) -> bool:
        """Whether nothing says that anybody but a page of our own origin asks."""
        return self.site in ((), (b"same-origin",))

    @property
    def may_be_own_page_or_person(self) -> bool:
        """The same, or a person who opens it here: the address bar, a bookmark."""
        return self.may_be_own_page or self.site == (b"none",)


def read_claims(headers: Iterable[tuple[bytes, bytes]], rules: CSRFRules) -> Claims:
    """Collect the header lines that `check_api` and the others judge."""
    lines: dict[bytes, tuple[bytes, ...]] = {}
    judged = rules.judged
    for name, value in headers:
        if name in judged:
            lines[name] = (*lines.get(name, ()), value)
    get = lines.get
    return Claims(
        get(rules.header_name, ()), get(b"origin", ()), get(b"sec-fetch-site", ()), get(b"sec-fetch-mode", ())
    )


def check_api(claims: Claims, rules: CSRFRules) -> Verdict | None:
    """
    Judge a call made by a script of our own page: the header, and no sign of another origin.

    `Sec-Fetch-Site` must be `same-origin` when it is there: a sibling sub-domain (`same-site`) may be taken over, and
    `none` is a person at the address bar, not a script.

    RFC 10017 6.1.3.3.2; W3C Fetch Metadata.
    """
    if not claims.may_be_own_page or not _own_origin(claims, rules):
        return "cross_site"
    if claims.header != (rules.header_value,):
        return "csrf_header_missing"
    return None


def check_without_header(claims: Claims, rules: CSRFRules, *, method: str) -> Verdict | None:
    """
    Judge a call on a route that does without the header (`csrf=False`): an image, a download, an event stream, a form.

    Something must speak for it all the same: `Sec-Fetch-Site`, which no page can forge, or our own `Origin`; or else
    the header. Silence is no proof: the Strict cookie alone would let a sibling host in, which is the same site. A
    person at the address bar (`none`) is let in for GET and HEAD only.
    """
    allowed = claims.may_be_own_page_or_person if method in ("GET", "HEAD") else claims.may_be_own_page
    if not allowed or not _own_origin(claims, rules):
        return "cross_site"
    if claims.site or claims.origin or claims.header == (rules.header_value,):
        return None
    return "csrf_header_missing"


def check_same_origin(claims: Claims, rules: CSRFRules) -> Verdict | None:
    """
    Judge a request that only a page of ours makes, and without the header: `Sec-Fetch-Site` says so, or the header.

    No browser with an `EventSource` is too old for Fetch Metadata, so silence is no proof here.
    """
    if claims.site != (b"same-origin",) or not _own_origin(claims, rules):
        return check_api(claims, rules) and "cross_site"
    return None


def check_websocket(claims: Claims, rules: CSRFRules) -> Verdict | None:
    """Judge a WebSocket handshake, where browsers send no header of ours but always an `Origin` (RFC 6455 10.2)."""
    return None if claims.origin == (rules.origin,) and claims.may_be_own_page else "cross_site"


def navigation(claims: Claims, *, method: str) -> Literal["own", "foreign", "none"]:
    """
    Judge a request for a page: *own* (same-origin, or started by the user), *foreign* (another site's link), *none*.

    A browser without Fetch Metadata says nothing and counts as *own*: there the Strict cookie alone must do, unless the
    request carries our header, which only a script can send.
    """
    if method not in ("GET", "HEAD") or not claims.may_be_navigation or (claims.header and not claims.mode):
        return "none"
    return "own" if claims.may_be_own_page_or_person else "foreign"


def _own_origin(claims: Claims, rules: CSRFRules) -> bool:
    return not claims.origin or claims.origin == (rules.origin,)
