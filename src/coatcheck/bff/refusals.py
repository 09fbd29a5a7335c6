"""Refusing a request at one of our own endpoints: one log line, and a page or problem+json with the same trace id."""

from __future__ import annotations

from dataclasses import replace

from coatcheck.bff.answers import Answer, problem_answer
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import Diagnosis
from coatcheck.bff.own_headers import Headers
from coatcheck.bff.pages import problem_page
from coatcheck.bff.problems import log_problem, problem, sentence

_HINTS = {
    "login_lost": "Please start again. If this keeps happening, allow cookies for this site.",
    "login_refused": "You were not logged in.",
    "login_unavailable": "Please try again in a moment.",
    "store_unavailable": "Please try again in a moment.",
    "logout_sid_invalid": "You are still logged in.",
}


class Refused(Exception):
    """Raised inside an endpoint that finds a reason to go no further; the endpoint answers with `refuse`."""

    def __init__(self, code: str, cause: str, remedy: str) -> None:
        super().__init__(code)
        self.diagnosis = Diagnosis(code, cause, remedy)


def log_refusal(current: CurrentRequest, diagnosis: Diagnosis, *, expected: bool = False) -> None:
    """Write the one log line of *diagnosis*, where the answer itself is not the usual one."""
    log_problem(
        problem(diagnosis.code),
        cause=diagnosis.cause,
        remedy=diagnosis.remedy,
        trace_id=current.trace_id,
        expected=expected,
    )


def login_needed(current: CurrentRequest, code: str) -> Answer:
    """Answer the script of a page whose user has no session: it learns where to log in."""
    refusal = problem(code, login_url=current.settings.login_path)
    cause = f"{current.path} was asked by somebody who is not logged in."
    log_problem(refusal, cause=cause, remedy="The page offers a login.", trace_id=current.trace_id)
    return problem_answer(refusal, trace_id=current.trace_id)


def refuse(
    current: CurrentRequest, diagnosis: Diagnosis, *, headers: Headers = (), retry_for: str | None = None
) -> Answer:
    """
    Log *diagnosis* and answer with its code: a page where a person waits, problem+json where a script does.

    The cause and the remedy stand on the page in development mode only. *retry_for* offers a link to a new login that
    leads there.
    """
    settings = current.settings
    login_url = None if retry_for is None else settings.login_path_for(retry_for)
    refusal = problem(diagnosis.code, headers=headers)
    log_refusal(current, diagnosis)
    if current.wants_page:
        return problem_page(
            refusal,
            trace_id=current.trace_id,
            hint=_HINTS.get(refusal.code, ""),
            link=(login_url, "Log in") if login_url else (settings.home, "Go to the start page"),
            reason=(sentence(diagnosis.cause), diagnosis.remedy) if settings.development else None,
        )
    return problem_answer(replace(refusal, login_url=login_url), trace_id=current.trace_id)
