"""`/bff/user`: what the page may know about who is logged in."""

from __future__ import annotations

from coatcheck import codec
from coatcheck.bff.answers import Answer, json_answer
from coatcheck.bff.claims import ClaimsUnavailable, ShownClaims, UserClaim
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import Diagnosis
from coatcheck.bff.lifetime import SessionLifetime
from coatcheck.bff.logout import LogoutLink
from coatcheck.bff.middleware import answer_for
from coatcheck.bff.problems import logger
from coatcheck.bff.refusals import login_needed, refuse
from coatcheck.bff.settings import Settings
from coatcheck.bff.who import ANSWERED_ERRORS
from coatcheck.errors import LoginRequired, StoreUnavailable, UnknownSealKey
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.tokens.coordinator import TokensState
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.values import User
from coatcheck.tokens.verdicts import told


class UserEndpoint:
    """
    Answers with the claims of the session, as a JSON array of `{type, value}`.

    `bff:tokens` says how it stands with the user's tokens, so that a page can ask for a login before a call fails.
    Without *tokens* (nobody keeps any) there is no such claim.
    """

    def __init__(
        self,
        settings: Settings,
        link: LogoutLink,
        claims: ShownClaims,
        lifetime: SessionLifetime,
        tokens: Tokens | None,
    ) -> None:
        self._settings = settings
        self._link = link
        self._claims = claims
        self._lifetime = lifetime
        self._tokens = tokens

    async def __call__(self, current: CurrentRequest) -> Answer:
        """401 when nobody is logged in (or 200 with `null`, by option). `slide=false` does not count as a use."""
        refusal = current.check_api()
        if refusal is not None:
            name, value = self._settings.csrf.header_name.decode(), self._settings.csrf.header_value.decode()
            return refuse(
                current,
                Diagnosis(
                    refusal.code,
                    f"{current.path} was asked without proof that a page of ours asks.",
                    f"Fetch it from {self._settings.public_url.origin} with the header {name}: {value}.",
                ),
            )
        try:
            handle = await current.session(slide=("slide", "false") not in current.parameters)
        except (StoreUnavailable, UnknownSealKey) as error:
            remedy = "See that the session store runs; nobody was logged out."
            return refuse(current, Diagnosis("store_unavailable", f"A session cannot be read: {error}.", remedy))
        answer = self._anonymous(current) if handle is None else await self._logged_in(current, handle)
        return answer.with_cookies(current.set_cookies())

    async def _logged_in(self, current: CurrentRequest, handle: SessionHandle) -> Answer:
        user = User.of(handle)
        try:
            claims = [*await self._claims.of(user), *await self._ours(handle, user)]
        except ClaimsUnavailable as error:
            remedy = "Correct the enricher, or what it calls. Nobody was logged out."
            return refuse(current, Diagnosis("claims_unavailable", f"The claims enricher {error}.", remedy))
        except ANSWERED_ERRORS as error:
            return await answer_for(error, current)
        return json_answer(codec.encode([{"type": name, "value": value} for name, value in claims]))

    async def _ours(self, handle: SessionHandle, user: User) -> list[UserClaim]:
        """Find the claims that only we make; after the others, for an enricher may have renewed tokens."""
        session = handle.session
        left = await self._lifetime.left(handle, now=self._settings.clock.time())
        if not left:
            raise LoginRequired("the refresh token of the session has reached its announced end", code="session_ended")
        claims = [UserClaim("bff:logout_url", self._link.url(handle)), UserClaim("bff:session_expires_in", round(left))]
        if self._tokens is not None:
            claims.append(UserClaim("bff:tokens", await self._state_of(self._tokens, user)))
        session_state = session.claims.get("session_state")
        if isinstance(session_state, str):
            claims.append(UserClaim("bff:session_state", session_state))
        return claims

    async def _state_of(self, tokens: Tokens, user: User) -> TokensState:
        try:
            return await tokens.state_of(user)
        except Exception as error:  # a store of the application may raise anything; that the user is here is known
            logger.warning("the user token store cannot say how it stands with a user's tokens: %s", told(error))
            return "unavailable"

    def _anonymous(self, current: CurrentRequest) -> Answer:
        if self._settings.anonymous_user_status == 200:
            return json_answer(b"null")
        return login_needed(current, current.no_session)
