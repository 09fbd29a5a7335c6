"""
`/bff/callback`: the browser brings back the answer of the authorization server, and a session begins.

Nothing is sent anywhere before the answer has been tied to this browser (the cookie of the login), to the login (its
`state`) and to the server that was asked (`iss`), and before the login has been used up.
"""

from __future__ import annotations

from dataclasses import replace

from coatcheck.bff.answers import Answer
from coatcheck.bff.arrival import Arrival
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import Diagnosis, Stage, diagnose_login, diagnose_lost_login
from coatcheck.bff.login import AGAIN, HOPPED
from coatcheck.bff.pages import hop
from coatcheck.bff.problems import ERROR_HEADER, log_problem, problem
from coatcheck.bff.refusals import refuse
from coatcheck.bff.return_url import checked_return_url
from coatcheck.bff.settings import Settings
from coatcheck.bff.transactions import LoginAttempt, LoginAttempts, LostLogin
from coatcheck.errors import CoatcheckError, OAuthError
from coatcheck.oauth.authorize import read_authorization_response
from coatcheck.provider import AuthorizationServer

_SILENT = frozenset({"login_required", "interaction_required", "consent_required", "account_selection_required"})
"""What prompt=none is answered with when nobody is logged in there: an answer, not a failure."""


_EVERYDAY = frozenset({"no_cookie", "consumed"})
"""What the back button and bookmarks do. Where it is a fault, the restart is lost as well, and that is a WARNING."""


class Callback:
    """Ends logins."""

    def __init__(
        self, settings: Settings, server: AuthorizationServer, attempts: LoginAttempts, arrival: Arrival
    ) -> None:
        self._settings = settings
        self._server = server
        self._attempts = attempts
        self._arrival = arrival

    async def __call__(self, current: CurrentRequest) -> Answer:
        """Answer with a hop to the return URL, and the cookie of the new session; or say why not."""
        state = _only(current, "state")
        if not state:
            return refuse(current, _NO_STATE, retry=True)
        found = self._attempts.recall(state, current.cookies, now=self._settings.clock.time())
        if isinstance(found, LostLogin):
            answer = self._lost(current, found)
        else:
            answer = await self._answer(current, found)
        return answer.with_cookies(self._attempts.forget(state, current.cookies))

    async def _answer(self, current: CurrentRequest, attempt: LoginAttempt) -> Answer:
        """Check the answer to *attempt*, use the attempt up, redeem the code."""
        stage: Stage = "metadata"
        try:
            metadata = await self._server.metadata()
            stage = "authorization_response"
            code = read_authorization_response(
                current.parameters,
                attempt.transaction,
                metadata,
                unadvertised_iss=self._server.client.unadvertised_iss,
            )
            used = self._attempts.consume(attempt, current.cookies, now=self._settings.clock.time())
            if used is not None:
                return self._lost(current, used)
            stage = "token_request"
            set_cookies = await self._arrival.complete(current, attempt.transaction, code)
        except OAuthError as error:
            if stage == "authorization_response" and attempt.prompt == "none" and error.error in _SILENT:
                return hop(self._return_url(attempt))
            return refuse(current, diagnose_login(error, stage=stage, settings=self._settings), retry=True)
        except CoatcheckError as error:
            return refuse(current, diagnose_login(error, stage=stage, settings=self._settings), retry=True)
        except Exception as error:  # an event handler or a token store of the application
            return refuse(current, diagnose_login(error, stage=stage, settings=self._settings), retry=True)
        return hop(self._return_url(attempt)).with_cookies(set_cookies)

    def _lost(self, current: CurrentRequest, lost: LostLogin) -> Answer:
        """
        Forgive once: lead the browser home when it has a session, else start over; then name the likely cause.

        Whether a session lives is not decided here: behind another site's page the Strict cookie is withheld. After the
        hop `/login` sees it. The status stays 400, so that nobody takes this for a login.
        """
        diagnosis = diagnose_lost_login(lost, settings=self._settings)
        if lost.second or not current.wants_page:
            return refuse(current, diagnosis, retry=True)
        log_problem(
            problem(diagnosis.code),
            cause=diagnosis.cause,
            remedy=diagnosis.remedy,
            trace_id=current.trace_id,
            expected=lost.why in _EVERYDAY,
        )
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
