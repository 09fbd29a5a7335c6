"""
Who is here: sessions, where they are kept, and the cookie that claims them.

Start at `sessions.py` (the protocols), then `server_side.py` (the default) or `cookie_sessions.py`.
"""

from coatcheck.sessions.cookie import (
    CookiePolicy,
    Cookies,
    SameSite,
    application_id,
    delete_cookie,
    parse_cookies,
    set_cookie,
)
from coatcheck.sessions.cookie_sessions import CookieSessions
from coatcheck.sessions.key_file import key_from_file
from coatcheck.sessions.seal import KeyRing, new_key
from coatcheck.sessions.server_side import ServerSideSessions
from coatcheck.sessions.session import Claims, EndReason, Session, SessionFilter
from coatcheck.sessions.sessions import SessionHandle, Sessions
from coatcheck.sessions.store import Change, Part, ReplacePart, SessionIndex, SessionRow, SessionStore, Touch

__all__ = [
    "Change",
    "Claims",
    "CookiePolicy",
    "CookieSessions",
    "Cookies",
    "EndReason",
    "KeyRing",
    "Part",
    "ReplacePart",
    "SameSite",
    "ServerSideSessions",
    "Session",
    "SessionFilter",
    "SessionHandle",
    "SessionIndex",
    "SessionRow",
    "SessionStore",
    "Sessions",
    "Touch",
    "application_id",
    "delete_cookie",
    "key_from_file",
    "new_key",
    "parse_cookies",
    "set_cookie",
]
