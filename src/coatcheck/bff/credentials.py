"""What a call to a remote API carries in place of the browser's cookie, or why it cannot be made."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING

from coatcheck.bff.headers import RequestHeaders
from coatcheck.bff.problems import CODES, Problem, problem, problem_for
from coatcheck.errors import CoatcheckError, LoginRequired, StoreUnavailable
from coatcheck.oauth.dpop import DPoPKey
from coatcheck.tokens.results import (
    AccessTokenResult,
    AccessTokenRetrievalError,
    BearerTokenResult,
    DPoPTokenResult,
    NoAccessTokenResult,
)
from coatcheck.tokens.retrievers import AccessTokenRetrievalContext, AccessTokenRetriever

if TYPE_CHECKING:
    from coatcheck.bff.forwarder import Forwarder
    from coatcheck.bff.settings import Settings

_CODE = re.compile(r"[a-z0-9_]{1,64}")
_VISIBLE = bytes(range(0x21, 0x7F))
"""What an access token may be made of (RFC 6749, appendix A.12: VSCHAR without the blank)."""


class CallRefused(Exception):
    """The call goes no further. *problem* is for the browser, *cause* and *remedy* are for the log."""

    def __init__(self, problem: Problem, cause: str, remedy: str) -> None:
        super().__init__(problem.code)
        self.problem = problem
        self.cause = cause
        self.remedy = remedy


class Credentials:
    """Asks the retriever of one route and turns its result into header lines."""

    def __init__(self, api: str, retriever: AccessTokenRetriever, *, forwarder: Forwarder, settings: Settings) -> None:
        self._api = api
        self._retriever = retriever
        self._forwarder = forwarder
        self._settings = settings

    async def retrieve(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        """
        Ask the retriever. Whatever it raises, the call is refused: never does it go out without its token instead.

        Raises:
            CallRefused: no answer was to be had.
        """
        try:
            return await self._retriever.get_access_token(context)
        except CoatcheckError as error:
            away = isinstance(error, StoreUnavailable)
            remedy = (
                "Look after that store; nobody was logged out." if away else "See what the authorization server says."
            )
            raise self.failed(error, remedy) from None
        except Exception as error:
            raise self._retriever_failed(f"raised {type(error).__name__} at {_place(error)}") from None

    def header_lines(self, result: AccessTokenResult, *, method: str, url: str) -> RequestHeaders:
        """
        Return the lines that carry *result* in a request of *method* to *url*.

        A proof is made for the URL that is really sent, and is never used twice.

        Raises:
            CallRefused: the result is a refusal, or cannot be carried.

        RFC 6750, section 2.1; RFC 9449, sections 4.2 and 7.1.
        """
        match result:
            case BearerTokenResult(access_token=access_token):
                return [("authorization", f"Bearer {self._sendable(access_token)}")]
            case DPoPTokenResult(access_token=access_token, dpop_key=dpop_key):
                token = self._sendable(access_token)
                return [("authorization", f"DPoP {token}"), ("dpop", self._proof(dpop_key, method, url, token))]
            case NoAccessTokenResult():
                return []
            case AccessTokenRetrievalError():
                raise self._no_token(result)
            case _:
                raise self._retriever_failed(f"returned {type(result).__name__}, which is no AccessTokenResult")

    def failed(self, error: CoatcheckError, remedy: str) -> CallRefused:
        """Say what an error of ours means for a call to this route."""
        login_url = self._settings.login_path if isinstance(error, LoginRequired) else None
        return CallRefused(problem_for(error, login_url=login_url), f"A call to {self._api}: {error}.", remedy)

    def _sendable(self, access_token: str) -> str:
        """A token with a blank or a line break in it would arrive as something else."""
        if not access_token or not access_token.isascii() or access_token.encode().translate(None, _VISIBLE):
            raise self._retriever_failed("returned an access token that cannot stand in a header")
        return access_token

    def _proof(self, dpop_key: str, method: str, url: str, access_token: str) -> str:
        try:
            key = DPoPKey.from_jwk(dpop_key)
        except ValueError:
            raise self._retriever_failed("returned a DPoP key that is no private EC P-256 JWK") from None
        now = self._settings.clock.time()
        return key.proof(method, self._forwarder.target(url), now=now, access_token=access_token)

    def _no_token(self, error: AccessTokenRetrievalError) -> CallRefused:
        """The retriever's own refusal: its code and status are for the browser, its description is for the log."""
        code = error.error if _CODE.fullmatch(error.error) else "token_unavailable"
        status = error.status if 400 <= error.status <= 599 else 503
        _, title = CODES.get(code, (0, "There is no access token for this call"))
        login_url = self._settings.login_path if status == 401 else None
        usual = problem("token_unavailable").retry_after if status == 503 else None
        return CallRefused(
            Problem(status, code, title, login_url=login_url, retry_after=error.retry_after or usual),
            f"There is no access token for a call to {self._api}: {error.error_description or error.error}.",
            _WHAT_NOW.get(status, "The remote API was not called."),
        )

    def _retriever_failed(self, what: str) -> CallRefused:
        return CallRefused(
            problem("token_unavailable"),
            f"The retriever of {self._api}, {type(self._retriever).__name__}, {what}.",
            "Correct the retriever. The remote API was not called.",
        )


_WHAT_NOW = {
    401: "The page sends its user to login_url.",
    503: "Nobody is logged out, and the next call tries again.",
}


def _place(error: Exception) -> str:
    """Where an error was raised: enough to find it, and nothing of its text, which may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
