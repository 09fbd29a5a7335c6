"""
`/bff/callback`: the browser brings back the answer of the authorization server, and a session begins.

Nothing is sent anywhere before the answer has been tied to this browser (the cookie of the login), to the login (its
`state`) and to the server that was asked (`iss`), and before the login has been used up.
"""

from __future__ import annotations

from dataclasses import replace

from coatcheck.audit import audit
from coatcheck.bff.answers import Answer, redirect
from coatcheck.bff.arrival import Arrival
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import Diagnosis, Stage, diagnose_login, diagnose_lost_login
from coatcheck.bff.login_loop import LoginLoop
from coatcheck.bff.login_parameters import AGAIN, HOPPED
from coatcheck.bff.pages import hop
from coatcheck.bff.problems import ERROR_HEADER
from coatcheck.bff.refusals import log_refusal, refuse
from coatcheck.bff.return_url import checked_return_url
from coatcheck.bff.settings import Settings
from coatcheck.bff.silent_login import silent_answer
from coatcheck.bff.transactions import LoginAttempt, LoginAttempts, LostLogin, is_silent
from coatcheck.errors import CoatcheckError, OAuthError, StoreUnavailable
from coatcheck.oauth.authorize import read_authorization_response
from coatcheck.provider import AuthorizationServer

_SILENT = frozenset({"login_required", "interaction_required", "consent_required", "account_selection_required"})
"""What prompt=none is answered with when nobody is logged in there: an answer, not a failure."""


_EVERYDAY = frozenset({"no_cookie", "consumed"})
"""What the back button and bookmarks do. Where it is a fault, the restart is lost as well, and that is a WARNING."""


class Callback:
    """Ends logins."""

    def __init__(
        self,
        settings: Settings,
        server: AuthorizationServer,
        attempts: LoginAttempts,
        arrival: Arrival,
        loop: LoginLoop,
    ) -> None:
        self._settings = settings
        self._server = server
        self._attempts = attempts
        self._arrival = arrival
        self._loop = loop

    async def __call__(self, current: CurrentRequest) -> Answer:
        """Answer with a hop to the return URL, and the cookie of the new session; or say why not."""
        state = _only(current, "state")
        if not self._is_wanted(current, state):
            return refuse(current, _NOT_WANTED)
        if _may_have_a_fragment(current, state):
            away = redirect(f"{self._settings.callback_path}?state={WITHOUT_FRAGMENT}", status=303)
            return away.with_cookies(self._attempts.forget(state or "", current.cookies))
        if not state:
            return refuse(current, _NO_STATE, retry_for=self._settings.home)
        found = self._attempts.recall(state, current.cookies, now=self._settings.clock.time())
        if isinstance(found, LostLogin):
            answer = self._lost(current, found, state)
        else:
            try:
                answer = await self._answer(current, found)
            except StoreUnavailable as error:
                # The login was not used up: its cookie stays, and a reload of this very page may finish it.
                return self._failed(current, found, error, "session")
        return answer.with_cookies(self._attempts.forget(state, current.cookies))

    def _is_wanted(self, current: CurrentRequest, state: str | None) -> bool:
        """A navigation of the whole window, or of our own frame for a silent login; nothing that only looks ahead."""
        return current.is_navigation and (not current.is_in_frame or is_silent(state or ""))

    async def _answer(self, current: CurrentRequest, attempt: LoginAttempt) -> Answer:
        """
        Check the answer to *attempt*, use the attempt up, redeem the code.

        Raises:
            StoreUnavailable: nobody can say whether the attempt was used before.
        """
        stage: Stage = "metadata"
        try:
            metadata = await self._server.metadata()
            stage = "authorization_response"
            code = read_authorization_response(
                current.parameters,
                attempt.transaction,
                metadata,
                arrived_by="form_post" if current.is_all_form else "query",
                unadvertised_iss=self._server.client.unadvertised_iss,
            )
        except OAuthError as error:
            if attempt.prompt == "none" and error.error in _SILENT:
                return self._home(attempt, logged_in=False)
            return self._failed(current, attempt, error, stage)
        except CoatcheckError as error:
            return self._failed(current, attempt, error, stage)
        used = await self._attempts.consume(attempt, current.cookies, now=self._settings.clock.time())
        if used is not None:
            return self._lost(current, used, attempt.transaction.state)
        try:
            set_cookies = await self._arrival.complete(current, attempt, code)
        except Exception as error:  # an event handler or a token store of the application may raise anything
            return self._failed(current, attempt, error, "token_request")
        if not attempt.is_silent:
            set_cookies.append(self._loop.count(current.cookies, now=self._settings.clock.time()))
        return self._home(attempt, logged_in=True).with_cookies(set_cookies)

    def _home(self, attempt: LoginAttempt, *, logged_in: bool) -> Answer:
        """Lead the browser to where it wanted; a silent login's frame to its message."""
        if attempt.is_silent:
            return silent_answer(self._settings, logged_in=logged_in)
        return hop(self._return_url(attempt))

    def _failed(self, current: CurrentRequest, attempt: LoginAttempt, error: Exception, stage: Stage) -> Answer:
        diagnosis = diagnose_login(error, stage=stage, settings=self._settings)
        audit("login_failed", reason=diagnosis.code, iss=self._settings.issuer)
        if attempt.is_silent:
            log_refusal(current, diagnosis)
            return silent_answer(self._settings, logged_in=False, error=diagnosis.code)
        return refuse(current, diagnosis, retry_for=self._return_url(attempt))

    def _lost(self, current: CurrentRequest, lost: LostLogin, state: str) -> Answer:
        """
        Forgive once: lead the browser home when it has a session, else start over; then name the likely cause.

        Whether a session lives is not decided here: behind another site's page the Strict cookie is withheld. After the
        hop `/login` sees it. The status stays 400, so that nobody takes this for a login.
        """
        diagnosis = diagnose_lost_login(lost, settings=self._settings)
        if is_silent(state) and self._settings.login.silent:
            log_refusal(current, diagnosis, expected=True)
            return silent_answer(self._settings, logged_in=False, error=diagnosis.code)
        if lost.second or not current.wants_page:
            return refuse(current, diagnosis, retry_for=self._settings.home)
        log_refusal(current, diagnosis, expected=lost.why in _EVERYDAY)
        way = hop(f"{self._settings.login_path}?{AGAIN}=1&{HOPPED}=1", status=400)
        return replace(way, headers=(*way.headers, (ERROR_HEADER, diagnosis.code.encode("ascii"))))

    def _return_url(self, attempt: LoginAttempt) -> str:
        """Check the return URL again: what was stored is not trusted more than what was sent."""
        checked = checked_return_url(
            attempt.transaction.return_url,
            public_url=self._settings.public_url,
            endpoints=self._settings.endpoints,
        )
        return checked or self._settings.home


WITHOUT_FRAGMENT = "#none"
"""
What takes the place of a fragment that the browser would otherwise carry on: a code that an authorization server was
made to put there, instead of the query, must not stay in the address (FAPI 2.0 Security Profile 6.5).
"""


def _may_have_a_fragment(current: CurrentRequest, state: str | None) -> bool:
    """Whether the answer, or its better half, is not where it belongs; not so at the place that this leads to."""
    names = {name for name, _ in current.parameters}
    return current.method == "GET" and state != "" and names.isdisjoint({"code", "error"})


def _only(current: CurrentRequest, name: str) -> str | None:
    try:
        return current.parameter(name)
    except ValueError:
        return None


_NO_STATE = Diagnosis(
    "login_response_invalid",
    "The callback was called without exactly one `state`.",
    "No authorization server answers like that; somebody typed the address, or tries something.",
)
_NOT_WANTED = Diagnosis(
    "navigation_required",
    "The callback was called by fetch, inside a frame, or in advance.",
    "The answer of an authorization server comes as a navigation of the whole window; nothing was used up.",
)
