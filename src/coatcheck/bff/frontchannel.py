"""
`/bff/frontchannel`: a page of the authorization server has the browser load this in a frame, to end a session.

Off by default. There is no proof in such a request but that somebody knows the provider's `sid`; and whether it ever
comes is up to the browser. The session is found by that `sid`, never by a cookie, which browsers withhold in frames of
other sites anyway.

OpenID Connect Front-Channel Logout 1.0.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from coatcheck.bff.answers import Answer
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import Diagnosis
from coatcheck.bff.ending import SessionEnding
from coatcheck.bff.pages import empty_page
from coatcheck.bff.problems import logger, problem
from coatcheck.bff.refusals import log_refusal
from coatcheck.bff.settings import Settings
from coatcheck.bff.sparing import Sparing
from coatcheck.errors import CoatcheckError, ConfigurationError
from coatcheck.sessions.session import SessionFilter
from coatcheck.sessions.sessions import SearchableSessions


class FrontChannelLogout:
    """
    Ends the session that `iss` and `sid` name; never all of a user's, and nothing at the authorization server.

    Raises:
        ConfigurationError: *sessions* is None, they cannot be found. To end one all the same, its `sid` would have to
            be written down for hours: anybody could fill the store with invented ones.
    """

    def __init__(self, settings: Settings, ending: SessionEnding, sessions: SearchableSessions | None) -> None:
        if sessions is None:
            raise ConfigurationError(
                "anybody could fill the coordination store: keep sessions in a store with an index, not in cookies",
                path="logout.frontchannel",
            )
        self._sessions = sessions
        self._settings = settings
        self._ending = ending
        self._lines = Sparing()
        issuer = urlsplit(settings.issuer)
        self._framed_by = f"{issuer.scheme}://{issuer.netloc}"

    async def __call__(self, current: CurrentRequest) -> Answer:
        """Answer with an empty page, whether or not there was such a session: whoever asks learns nothing."""
        sid = self._named(current)
        if sid is not None:
            who = SessionFilter(self._settings.issuer, sid=sid)
            try:
                # A sid that leads nowhere leaves no trace: strangers may invent any number.
                if await self._sessions.find_all(who, now=self._settings.clock.time()):
                    # Nobody proved to be the authorization server, so a grant there is left alone.
                    await self._ending.end_about(who, reason="frontchannel_logout", revoke=False)
            except Exception as error:  # a store of the application may raise anything
                said = f"{error}" if isinstance(error, CoatcheckError) else f"{type(error).__name__} was raised"
                cause = f"A front-channel logout failed: {said}."
                log_refusal(current, Diagnosis("store_unavailable", cause, _SEE_STORE))
                return empty_page(framed_by=self._framed_by, problem=problem("store_unavailable"))
        elif (unwritten := self._lines.lets_through("ignored", now=self._settings.clock.monotonic())) is not None:
            logger.info(
                "frontchannel_ignored: a front-channel logout named no session of %s (%d more were not logged). If the "
                "authorization server sent it, register frontchannel_logout_session_required there.",
                self._settings.issuer,
                unwritten,
            )
        return empty_page(framed_by=self._framed_by)

    def _named(self, current: CurrentRequest) -> str | None:
        """Return the `sid`, unless one of the two is missing, there twice, or another issuer's (section 2)."""
        try:
            iss, sid = current.parameter("iss"), current.parameter("sid")
        except ValueError:
            return None
        return sid or None if iss == self._settings.issuer else None


_SEE_STORE = "See that the session store runs; the session lives on."
