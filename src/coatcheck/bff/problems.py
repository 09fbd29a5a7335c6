"""What a browser is told when something fails: one table of codes, problem+json, and exactly one log line."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil

from coatcheck import codec
from coatcheck.bff.own_headers import OURS, Headers, Send
from coatcheck.errors import (
    CoatcheckError,
    LoginRequired,
    SessionGone,
    StoreUnavailable,
    TokenUnavailable,
    TransportError,
    UnknownSealKey,
)

logger = logging.getLogger("coatcheck")

ERROR_HEADER = b"coatcheck-error"
"""Names the code of a refusal that is ours. An answer relayed from a remote API never carries it."""

ENDS_THE_SESSION = frozenset({"session_ended", "renewal_lost"})
"""What the session stands on is over, or lost: the session goes, too."""

CODES: Mapping[str, tuple[int, str]] = {
    # the caller needs a login
    "session_missing": (401, "A login is required"),
    "session_expired": (401, "The session has expired"),
    "session_ended": (401, "The session has ended"),
    "renewal_lost": (401, "The session could not be continued"),
    "login_required": (401, "The authorization server asks for a new login"),
    "token_expired_no_refresh_token": (401, "The access token has expired and cannot be renewed"),
    "step_up_required": (401, "A stronger login is required"),
    # the caller is not our page
    "csrf_header_missing": (403, "The anti-forgery header is missing"),
    "cross_site": (403, "The request does not come from this site"),
    "not_on_loopback": (403, "Development mode answers on loopback addresses only"),
    # the request is wrong
    "path_refused": (400, "The path or query is ambiguous"),
    "header_refused": (400, "A header of the request is ambiguous"),
    "token_in_query": (400, "Tokens do not belong in a query"),
    "body_incomplete": (400, "The request body did not arrive as announced"),
    "host_refused": (400, "The request does not name exactly one host"),
    "body_too_large": (413, "The request body is too large"),
    "method_not_allowed": (405, "The method is not allowed here"),
    "not_found": (404, "There is nothing here"),
    "return_url_invalid": (400, "The return URL is not a path on this site"),
    "prompt_invalid": (400, "The prompt value is not supported"),
    "login_parameter_refused": (400, "A parameter of the login is not allowed"),
    "third_party_login_refused": (400, "A login from there is not accepted"),
    "form_refused": (400, "The request does not carry the form that was expected"),
    "logout_sid_invalid": (400, "The logout link does not belong to the current session"),
    "too_many_streams": (429, "There are too many event streams"),
    "navigation_required": (400, "This address is for the browser's address bar, not for fetch or frames"),
    # a login that did not finish
    "login_lost": (400, "This login was started elsewhere, or too long ago"),
    "login_response_invalid": (400, "The answer of the authorization server does not fit this login"),
    "login_refused": (400, "The authorization server refused the login"),
    "login_ended": (400, "The user was logged out while logging in"),
    "login_loop": (400, "Logging in does not seem to help"),
    "step_up_failed": (403, "The login was not as strong as required"),
    "login_failed": (502, "The login could not be finished"),
    "login_misconfigured": (503, "Logging in is not possible because of a wrong setting"),
    "login_unavailable": (503, "Logging in is not possible at the moment"),
    "session_too_large": (503, "The session does not fit into cookies"),
    # a logout that the authorization server asked for
    "logout_token_refused": (400, "The logout token was not accepted"),
    "logout_failed": (400, "The logout could not be carried out"),
    # something behind us fails
    "token_unavailable": (503, "No access token can be had at the moment"),
    "store_unavailable": (503, "The session store does not answer"),
    "claims_unavailable": (503, "What is known of the user cannot be had at the moment"),
    "upstream_unreachable": (502, "The remote API cannot be reached"),
    "upstream_timeout": (504, "The remote API did not answer in time"),
    "internal_error": (500, "Something went wrong"),
}
"""Every code a browser can meet, with its status and the one sentence that goes with it."""

EXPECTED = frozenset({"session_missing", "session_expired", "session_ended", "not_found", "method_not_allowed"})
"""Codes of everyday life, logged at INFO: an anonymous visitor is nobody's mistake."""


_RETRY_AFTER = dict.fromkeys(
    ("token_unavailable", "store_unavailable", "claims_unavailable", "login_unavailable"), timedelta(seconds=5)
)
"""When nobody knows better."""


@dataclass(frozen=True, slots=True)
class Problem:
    """
    A refusal as a browser sees it (RFC 9457). It holds fixed words only: nothing from an exception or a provider.

    *login_url* is where a page sends the user when a login helps; *retry_after* becomes the header `Retry-After`.
    """

    status: int
    code: str
    title: str
    headers: Headers = field(default=(), kw_only=True)
    login_url: str | None = field(default=None, kw_only=True)
    retry_after: timedelta | None = field(default=None, kw_only=True)


def problem(
    code: str,
    *,
    status: int | None = None,
    headers: Headers = (),
    login_url: str | None = None,
    retry_after: timedelta | None = None,
) -> Problem:
    """Make the problem for *code* from the table; *status* only where an application chose another one."""
    usual_status, title = CODES[code]
    retry_after = retry_after or _RETRY_AFTER.get(code)
    return Problem(status or usual_status, code, title, headers=headers, login_url=login_url, retry_after=retry_after)


def problem_for(error: CoatcheckError, *, login_url: str | None = None) -> Problem:
    """Say which problem an error of ours is to a browser. A login is offered only where it helps."""
    match error:
        case LoginRequired(code=code):
            return problem(code if code in CODES else "login_required", login_url=login_url)
        case SessionGone():
            return problem("session_ended", login_url=login_url)
        case StoreUnavailable() | UnknownSealKey():
            return problem("store_unavailable")
        case TokenUnavailable(retry_after=retry_after) | TransportError(retry_after=retry_after):
            return problem("token_unavailable", retry_after=retry_after)
        case _:
            return problem("token_unavailable")


def problem_body(problem: Problem, *, trace_id: str) -> bytes:
    """Write the problem+json document."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "trace_id": trace_id,
    }
    if problem.login_url is not None:
        document["login_url"] = problem.login_url
    return codec.encode(document)


def problem_headers(problem: Problem, *, content_type: bytes, length: int) -> list[tuple[bytes, bytes]]:
    """The header lines of a refusal that is no page: those of every answer of ours, and its marks."""
    return [*OURS, (b"content-type", content_type), (b"content-length", b"%d" % length), *marks(problem)]


def marks(problem: Problem) -> Headers:
    """The header lines by which a refusal is recognised as ours, and those that it brings itself."""
    lines = ((ERROR_HEADER, problem.code.encode("ascii")), *problem.headers)
    if problem.retry_after is None:
        return lines
    return (*lines, (b"retry-after", b"%d" % max(1, ceil(problem.retry_after.total_seconds()))))


async def send_problem(send: Send, problem: Problem, *, trace_id: str, set_cookies: list[bytes] | None = None) -> None:
    """Answer a request with *problem*. *set_cookies* are `Set-Cookie` values that must not be lost."""
    body = problem_body(problem, trace_id=trace_id)
    headers = problem_headers(problem, content_type=b"application/problem+json", length=len(body))
    headers += [(b"set-cookie", value) for value in set_cookies or ()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def log_problem(problem: Problem, *, cause: str, remedy: str, trace_id: str, expected: bool = False) -> None:
    """
    Write the one log line of a refusal: what happened, and what to do about it.

    WARNING, except for the codes of everyday life and whatever the caller says was *expected*, which are INFO. *cause*
    and *remedy* may name issuers, hosts, paths and settings, never a token or a code; what came from outside is cut and
    made printable here.
    """
    logger.log(
        logging.INFO if expected or problem.code in EXPECTED else logging.WARNING,
        "%s (%d): %s %s [trace_id=%s]",
        problem.code,
        problem.status,
        sentence(printable(cause)),
        printable(remedy),
        trace_id,
        extra={"code": problem.code, "cause": cause, "remedy": remedy, "trace_id": trace_id},
    )


def sentence(text: str) -> str:
    """End *text* with a full stop unless it has an end already; messages of errors have none."""
    return text if text.endswith((".", "?", "!")) else text + "."


def printable(text: str, *, limit: int = 600) -> str:
    """Cut *text* and replace what could forge a log line or steer a terminal: controls and line separators."""
    shortened = text if len(text) <= limit else text[:limit] + "..."
    return _UNPRINTABLE.sub("?", shortened)


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
