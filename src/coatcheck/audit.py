"""
The audit log: what became of logins, sessions and tokens, for whoever has to explain it a year later.

Each event is one line of the logger `coatcheck.audit`, and the same as a mapping in the record's attribute `audit`:

    session_ended reason=backchannel_logout iss=https://idp.example.com session=9f2c51aa04be user=51c3e0a7b9d2

Names are fixed (`EVENTS`); values are printable, cut, and never a token, a code, a cookie or a whole id. *session* and
*user* are references: the first half of a SHA-256, enough to find what belongs together, and nothing to log in with.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType

AUDIT_LOGGER = "coatcheck.audit"
"""The name of the logger. A handler of its own keeps the audit log apart."""

EVENTS: Mapping[str, str] = MappingProxyType(
    {
        "logged_in": "A login was completed, and a session began.",
        "login_failed": "A login was not completed; `reason` is the code that the browser was shown.",
        "session_ended": "A session was ended before its time; `reason` says by whom or by what.",
        "sessions_denied": "Sessions in cookies were ended by whom they are about; `reason` as in `session_ended`.",
        "logout_refused": "A logout was asked for without proof of where it comes from; `reason` is the code.",
        "logout_token_accepted": "A back-channel logout was carried out; `ended` counts the sessions.",
        "logout_token_refused": "A back-channel logout was refused; `reason` is the rule, `unwritten` counts others.",
        "logout_token_failed": "A back-channel logout was not carried out; `reason` is what failed: store or keys.",
        "token_renewed": "A user's tokens were renewed.",
        "token_renewal_failed": "A renewal failed; `verdict` says what that means, `reason` is the error code.",
        "refresh_token_reuse_suspected": "The newest refresh token was refused: ended there, or used by somebody else.",
        "token_refused": "A remote API answered 401 to an access token.",
        "token_revoked": "A token was given back to the authorization server; `kind` says which.",
        "token_revocation_failed": "A token could not be given back; nobody here can use it any more.",
        "store_rolled_back": "The store was restored from an older state; refresh tokens from before are not sent.",
    }
)
"""Every event, and what has happened when it is written."""

_WARNINGS = frozenset({"refresh_token_reuse_suspected", "logout_token_failed", "store_rolled_back"})
_REFERENCE = 12
"""Hexadecimal digits: 48 bits, which no two sessions of one log share by chance."""
_LONGEST = 200

_log = logging.getLogger(AUDIT_LOGGER)


def audit(event: str, **fields: str | int | float | None) -> None:
    """
    Write *event*, one of `EVENTS`, with *fields*; those that are None are left out.

    INFO, or WARNING where somebody had better look. What came from outside is made printable here.
    """
    level = logging.WARNING if event in _WARNINGS else logging.INFO
    if not _log.isEnabledFor(level):
        return
    written = {name: _shown(value) for name, value in fields.items() if value is not None}
    line = " ".join((event, *(f"{name}={value}" for name, value in written.items())))
    _log.log(level, "%s", line, extra={"audit": {"event": event, **written}})


def session_reference(session_id: str) -> str:
    """Return what the audit log calls a session."""
    return sha256(b"coatcheck session\0" + session_id.encode()).hexdigest()[:_REFERENCE]


def user_reference(iss: str, sub: str) -> str:
    """Return what the audit log calls a user: the same in every session, so that a log can be searched for them."""
    return sha256(b"coatcheck user\0" + iss.encode() + b"\0" + sub.encode()).hexdigest()[:_REFERENCE]


def _shown(value: str | int | float) -> str:
    text = str(value)
    shortened = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return "".join(sign if sign.isprintable() and sign != " " else "?" for sign in shortened)
