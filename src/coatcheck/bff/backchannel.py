"""
`/bff/backchannel`: the authorization server itself ends sessions here, by a signed logout token.

No browser comes here, so there is no cookie, no CSRF header and no origin: the token is the whole proof. Nothing is
asked of the session store or of the authorization server before everything in it is right that needs no key.

OpenID Connect Back-Channel Logout 1.0.
"""

from __future__ import annotations

from coatcheck import telemetry
from coatcheck.audit import audit, user_reference
from coatcheck.bff.answers import Answer
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import Diagnosis
from coatcheck.bff.ending import SessionEnding
from coatcheck.bff.once import UsedOnceByAll
from coatcheck.bff.own_headers import OURS
from coatcheck.bff.problems import logger, marks, problem
from coatcheck.bff.refusals import log_refusal
from coatcheck.bff.settings import Settings
from coatcheck.bff.sparing import Sparing
from coatcheck.bff.storage import Storage
from coatcheck.bff.transactions import CLOCK_SKEW
from coatcheck.coordination import ExpiringStore
from coatcheck.errors import CoatcheckError, ConfigurationError, InvalidLogoutToken, StoreUnavailable
from coatcheck.oauth.logout_token import LogoutToken
from coatcheck.provider import AuthorizationServer
from coatcheck.sessions.seal import KeyRing
from coatcheck.sessions.session import SessionFilter


def serves_backchannel(wanted: bool | None, storage: Storage) -> bool:
    """
    Say whether there is an endpoint: *wanted* is `LogoutOptions.backchannel`, and None has it wherever it can work.

    Raises:
        ConfigurationError: it is wanted, but sessions would live on, or nodes would not hear that they have ended.
    """
    works = (storage.searchable is not None or storage.asks_tombstones) and storage.sees_every_process
    if wanted and not works:
        raise ConfigurationError(
            "nobody could tell all processes which sessions have ended: keep sessions in a store with an index, or in "
            "cookies with `coordination` in a store that all processes share",
            path="logout.backchannel",
        )
    return works if wanted is None else wanted


class BackChannelLogout:
    """Ends the sessions that a logout token names, on every node; each token once."""

    def __init__(
        self,
        settings: Settings,
        server: AuthorizationServer,
        ending: SessionEnding,
        ring: KeyRing,
        shared: ExpiringStore,
    ) -> None:
        self._settings = settings
        self._server = server
        self._ending = ending
        self._used = UsedOnceByAll(shared, ring.bound_to(settings.cookies.application_id), purpose="used logout tokens")
        self._lines = Sparing()

    async def __call__(self, current: CurrentRequest) -> Answer:
        """
        Answer 200 when no session lives on that the token names, whether or not there was one; otherwise 400.

        A token is used up *after* it has done its work: a logout that failed may be tried again with it, and of two
        nodes that got it at the same time neither relies on the other. Both do the same then: what it ends was issued
        before it, so a login in between is not touched.

        OpenID Connect Back-Channel Logout 1.0, sections 2.7 and 2.8.
        """
        try:
            token = await self._server.verify_logout_token(_logout_token(current))
            if await self._was_used(token):
                raise InvalidLogoutToken("this very token has ended sessions before", reason="replayed")
        except InvalidLogoutToken as error:
            return self._refused(current, error)
        except CoatcheckError as error:
            return self._failed_without_keys(current, error)
        try:
            ended = await self._ending.end_about(
                self._whose(token), reason="backchannel_logout", issued_until=token.iat
            )
        except Exception as error:  # a store of the application may raise anything, and a failed logout is never a 200
            return self._failed_in_the_store(current, error, token)
        await self._remember(token)
        telemetry.logout_tokens.add(1, {"outcome": "accepted"})
        audit("logout_token_accepted", ended=ended, iss=token.iss, user=_user(token))
        return _DONE

    def _whose(self, token: LogoutToken) -> SessionFilter:
        """With `backchannel_all_sessions`, all of the user's; a token that names no user ends the session it names."""
        everywhere = self._settings.logout.backchannel_all_sessions and token.sub is not None
        return SessionFilter(token.iss, token.sub, None if everywhere else token.sid)

    async def _was_used(self, token: LogoutToken) -> bool:
        """
        Ask the replay memory. Where it does not answer, the logout goes on: ending a session is the safe direction, and
        an old token still ends none that began after it.
        """
        try:
            return await self._used.was_used(_name(token))
        except StoreUnavailable as error:
            self._replay_unchecked(error)
            return False

    async def _remember(self, token: LogoutToken) -> None:
        until = token.refused_from + CLOCK_SKEW
        try:
            await self._used.use(_name(token), now=self._settings.clock.time(), until=until)
        except StoreUnavailable as error:
            self._replay_unchecked(error)

    def _replay_unchecked(self, error: StoreUnavailable) -> None:
        telemetry.unchecked_replays.add(1)
        unwritten = self._lines.lets_through("replay memory", now=self._settings.clock.monotonic())
        if unwritten is not None:
            logger.warning(
                "logout_replay_unchecked: nobody can tell whether a logout token was used before, so it counts: %s.%s "
                "See that the coordination store runs.",
                error,
                _more(unwritten),
            )

    def _refused(self, current: CurrentRequest, error: InvalidLogoutToken) -> Answer:
        telemetry.logout_tokens.add(1, {"outcome": "refused"})
        unwritten = self._lines.lets_through(error.reason, now=self._settings.clock.monotonic())
        if unwritten is not None:
            cause = f"A logout token was refused ({error.reason}): {error}.{_more(unwritten)}"
            log_refusal(current, Diagnosis("logout_token_refused", cause, _REMEDIES.get(error.reason, _STRANGER)))
            issuer = self._settings.issuer
            audit("logout_token_refused", reason=error.reason, iss=issuer, unwritten=unwritten or None)
        return _no("logout_token_refused")

    def _failed_without_keys(self, current: CurrentRequest, error: CoatcheckError) -> Answer:
        """Nobody knows yet who sent the token, so this is written sparingly, too."""
        telemetry.logout_tokens.add(1, {"outcome": "failed"})
        unwritten = self._lines.lets_through("keys", now=self._settings.clock.monotonic())
        if unwritten is not None:
            cause = f"A logout token could not be verified: {error}.{_more(unwritten)}"
            log_refusal(current, Diagnosis("logout_failed", cause, _SEE_PROVIDER))
            audit("logout_token_failed", reason="keys", iss=self._settings.issuer)
        return _no("logout_failed")

    def _failed_in_the_store(self, current: CurrentRequest, error: Exception, token: LogoutToken) -> Answer:
        telemetry.logout_tokens.add(1, {"outcome": "failed"})
        said = f"{error}" if isinstance(error, CoatcheckError) else f"{type(error).__name__} was raised"
        log_refusal(current, Diagnosis("logout_failed", f"A back-channel logout failed: {said}.", _SEE_STORE))
        audit("logout_token_failed", reason="store", iss=token.iss, user=_user(token))
        return _no("logout_failed")


def _logout_token(current: CurrentRequest) -> str:
    """Find the token in the form. One in the query stands in the logs of every server on the way."""
    given = [value for name, value in current.form if name == "logout_token"]
    if len(given) != 1:
        raise InvalidLogoutToken(f"the form has {len(given)} fields logout_token, expected one", reason="malformed")
    return given[0]


def _name(token: LogoutToken) -> str:
    return f"{token.iss} {token.jti}"  # no issuer has a space in it


def _user(token: LogoutToken) -> str | None:
    return None if token.sub is None else user_reference(token.iss, token.sub)


def _more(unwritten: int) -> str:
    return f" {unwritten} more of this kind were not logged." if unwritten else ""


def _no(code: str) -> Answer:
    """The caller learns that it was not done, not why: it may be anybody (section 2.8)."""
    headers = (
        *OURS,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(_INVALID_REQUEST)),
        *marks(problem(code)),
    )
    return Answer(400, headers, _INVALID_REQUEST)


_INVALID_REQUEST = b'{"error":"invalid_request"}'
_DONE = Answer(200, (*OURS, (b"content-length", b"0")))

_STRANGER = "Nothing to do if a stranger sent it. If it was the authorization server, report it there."
_CLOCKS = "Set this machine's clock, or that of the authorization server: they must agree within a minute."
_REGISTRATION = (
    "Nothing to do if a stranger sent it. Else compare `issuer` and `client_id` with the registration there."
)
_REMEDIES = {
    "iat": _CLOCKS,
    "nbf": _CLOCKS,
    "exp": "If it has no `exp` at all, and the authorization server cannot be taught: logout_token_without_exp = true.",
    "issuer": _REGISTRATION,
    "audience": _REGISTRATION,
    "alg": "If it was the authorization server, set id_token_signed_response_alg there or here.",
    "unknown_key": "If the authorization server has just rotated its keys this heals by itself; else a stranger tries.",
    "replayed": "Nothing to do if an answer of ours got lost on its way; else somebody has got hold of logout tokens.",
}
_SEE_PROVIDER = "See that this machine reaches the authorization server; sessions live on until it tries again."
_SEE_STORE = "See that the session store runs; the sessions live on until the authorization server tries again."
