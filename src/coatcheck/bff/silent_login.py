"""
Silent login: a hidden frame of our own page asks the authorization server whether the user is logged in there.

`/bff/silent-login` begins it with `prompt=none`; the callback logs the user in if it can, and leads to
`/bff/silent-login-callback`, which tells the page what this very answer was:
`{source: "bff-silent-login", isLoggedIn: true|false, error: code|null}`.
"""

from __future__ import annotations

from coatcheck.bff.answers import Answer, redirect
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import diagnose_login
from coatcheck.bff.login import LoginStart
from coatcheck.bff.login_parameters import LoginParameters
from coatcheck.bff.pages import framed_page
from coatcheck.bff.public_url import path_with_query
from coatcheck.bff.refusals import Refused, log_refusal, refuse
from coatcheck.bff.settings import Settings
from coatcheck.errors import CoatcheckError

_SCRIPT = (
    "const answer = new URLSearchParams(location.search);"
    "parent.postMessage({source: 'bff-silent-login', isLoggedIn: answer.get('isLoggedIn') === 'true',"
    " error: answer.get('error')}, location.origin);"
)
"""The message reaches our own origin only: no other page may frame this one, and none would be told."""


class SilentLogin:
    """Begins silent logins, in frames of our own pages."""

    def __init__(self, settings: Settings, start: LoginStart) -> None:
        self._settings = settings
        self._start = start

    async def __call__(self, current: CurrentRequest) -> Answer:
        """Answer 302 to the authorization server; where that cannot be, to the message that says so."""
        if not current.is_navigation or not current.claims.may_be_own_page:
            refused = Refused("navigation_required", "/silent-login is for a frame of a page of ours.", _IN_A_FRAME)
            return refuse(current, refused.diagnosis)
        wanted = LoginParameters(return_url=self._settings.home, prompt="none", silent=True)
        try:
            current.exempt()  # the session only tells which one the new login replaces
            attempt = await self._start.attempt(current, wanted, await current.session(slide=False))
            return await self._start.begin(current, attempt.as_silent(), wanted)
        except CoatcheckError as error:
            diagnosis = diagnose_login(error, stage="metadata", settings=self._settings)
            log_refusal(current, diagnosis)
            return silent_answer(self._settings, logged_in=False, error=diagnosis.code)


class SilentLoginCallback:
    """The page inside the frame. It says what its address says, to pages of ours only, which could make that up."""

    async def __call__(self, current: CurrentRequest) -> Answer:
        """A page with one script, known by its hash."""
        return framed_page("<!doctype html><title>&hellip;</title>", script=_SCRIPT)


def silent_answer(settings: Settings, *, logged_in: bool, error: str | None = None) -> Answer:
    """Lead the frame to its message. *error* is a code of ours where neither yes nor no was found out."""
    members = {"isLoggedIn": "true" if logged_in else "false", "error": error}
    return redirect(path_with_query(settings.silent_login_callback_path, members), status=303)


_IN_A_FRAME = "Let a page of ours open it in a hidden iframe, and listen for the message."
