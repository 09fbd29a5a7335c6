"""Answers that carry no result: what an authorization server says when it refuses, and when it cannot answer at all."""

from __future__ import annotations

import re
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from coatcheck import codec
from coatcheck.errors import InvalidGrant, InvalidTokenResponse, OAuthError, TransportError
from coatcheck.oauth.messages import Response

MAX_RETRY_AFTER = timedelta(seconds=60)

_TRANSIENT = frozenset({408, 425, 429})
_ERROR_CODE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,100}")
_LOOKS_SECRET = re.compile(
    r"[A-Za-z0-9_.~+/=-]{40,}"
    # Shorter ones, such as the 30 characters of django-oauth-toolkit: words have no digits, and the hyphenated ids that
    # providers give for a question to their support are no secrets.
    r"|(?<![A-Za-z0-9_.~+/=-])(?![0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![A-Za-z0-9_.~+/=-]))"
    r"(?=[A-Za-z_.~+/=-]{0,39}[0-9])(?=[0-9_.~+/=-]{0,39}[A-Za-z])[A-Za-z0-9_.~+/=-]{20,}"
)


def raise_for_error(response: Response, *, endpoint: str) -> None:
    """
    Return when *response* is a success (2xx); otherwise raise the error that says how to react.

    | answer                                          | raised               | a session         |
    |-------------------------------------------------|----------------------|-------------------|
    | 4xx, JSON with `error` = `invalid_grant`        | InvalidGrant         | may be over       |
    | 4xx, JSON with any other `error`                | OAuthError           | lives             |
    | 408, 425, 429, 5xx, whatever the body says      | TransportError       | lives             |
    | 4xx with HTML, broken JSON, JSON without `error`| TransportError       | lives             |
    | 1xx, 3xx: redirects are never followed          | InvalidTokenResponse | lives             |

    A 5xx that says `invalid_grant` is an outage, not a verdict.

    RFC 6749 section 5.2.
    """
    status = response.status
    if 200 <= status < 300:
        return
    refuse_unavailable(response, endpoint=endpoint)
    if not 400 <= status < 500:
        raise InvalidTokenResponse(
            f"the {endpoint} answered {status}: redirects are never followed there; check its URL in the metadata"
        )
    error, description = _error_members(response)
    if error is None:
        raise TransportError(
            f"the {endpoint} answered {status} without an OAuth error: is something in front of it answering instead?",
            sent=True,
            answered=True,
            retry_after=retry_after(response),
        )
    kind = InvalidGrant if error == "invalid_grant" else OAuthError
    raise kind(error, description, status=status, retry_after=retry_after(response))


def refuse_unavailable(response: Response, *, endpoint: str) -> None:
    """Raise TransportError when *response* says that the server cannot answer now (408, 425, 429, 5xx)."""
    if response.status in _TRANSIENT or response.status >= 500:
        raise TransportError(
            f"the {endpoint} answered {response.status}: try again later",
            sent=True,
            answered=True,
            retry_after=retry_after(response),
        )


def retry_after(response: Response) -> timedelta | None:
    """
    Read `Retry-After`, in seconds or as a date (counted from the answer's own `Date`), cut to 60 seconds.

    RFC 9110 section 10.2.3.
    """
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:6])), MAX_RETRY_AFTER)
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(response.headers.get("date", ""))
    except (ValueError, TypeError):
        return None
    return min(max(wait, timedelta(0)), MAX_RETRY_AFTER)


def readable(description: Any) -> str | None:
    """
    Make an `error_description` fit for a log line: one line, at most 500 characters, long opaque words blanked.

    Some servers repeat the refresh token in it.
    """
    if not isinstance(description, str) or not description:
        return None
    one_line = "".join(character if character.isprintable() else " " for character in description[:2000])
    return _LOOKS_SECRET.sub("[...]", one_line)[:500].strip() or None


def _error_members(response: Response) -> tuple[str | None, str | None]:
    try:
        members = codec.decode_object(response.body)
    except ValueError:
        return None, None
    error = members.get("error")
    if not isinstance(error, str) or not _ERROR_CODE.fullmatch(error):
        return None, None
    return error, readable(members.get("error_description"))
