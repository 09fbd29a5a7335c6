"""`/bff/login`: begin a login, and send the browser to the authorization server."""

from __future__ import annotations

from urllib.parse import urlsplit

from coatcheck.bff.answers import Answer, redirect
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import diagnose_login
from coatcheck.bff.login_loop import MAX_LOGINS, WINDOW, LoginLoop
from coatcheck.bff.login_parameters import LoginParameters, bad_return_url, read_login_parameters
from coatcheck.bff.pages import hop, message_page
from coatcheck.bff.problems import logger, printable
from coatcheck.bff.refusals import Refused, refuse
from coatcheck.bff.registration_check import RegistrationCheck
from coatcheck.bff.settings import Settings
from coatcheck.bff.transactions import CLOCK_SKEW, LIFETIME, LoginAttempt, LoginAttempts, StepUp
from coatcheck.errors import CoatcheckError, CookieTooLarge, StoreUnavailable
from coatcheck.oauth.authorize import authorization_url, new_transaction
from coatcheck.provider import AuthorizationServer
from coatcheck.sessions.sessions import SessionHandle

_MAX_KNOWN_HOSTS = 16

_SAY_AGAIN_AFTER = 60.0
"""Seconds between two lines about logins that never came back."""


class LoginStart:
    """Turns a checked wish into a transaction, a cookie, and the way to the authorization server."""

    def __init__(self, settings: Settings, server: AuthorizationServer, attempts: LoginAttempts) -> None:
        self._settings = settings
        self._server = server
        self._attempts = attempts
        self._check_registration = RegistrationCheck(settings, server)

    async def attempt(
        self, current: CurrentRequest, wanted: LoginParameters, replaces: SessionHandle | None
    ) -> LoginAttempt:
        """
        Begin a login; *replaces* is the session that this browser has now and that the new one will replace.

        Raises:
            StoreUnavailable: the session cannot be found again when the browser comes back, and this login is bound to
                it: nobody could say then whether it has ended.
        """
        bound = wanted.is_step_up or wanted.silent
        if replaces is not None:
            await self._hold(current, replaces, needed=bound)
        transaction = new_transaction(
            self._server.client,
            name="default",
            redirect_uri=self._settings.redirect_uri,
            return_url=wanted.return_url,
            now=self._settings.clock.time(),
            max_age=wanted.max_age,
            acr_values=wanted.acr_values,
            response_mode=self._settings.login.response_mode,
            ticket_hash=replaces.session.id if replaces else None,
        )
        return LoginAttempt(transaction, wanted.prompt, _step_up(replaces) if replaces and bound else None)

    async def _hold(self, current: CurrentRequest, old: SessionHandle, *, needed: bool) -> None:
        """Have the callback find the session without its cookie. Only a login that is bound to it fails for that."""
        try:
            await current.sessions.hold(old, until=self._settings.clock.time() + LIFETIME + CLOCK_SKEW)
        except Exception as error:  # a store of the application may raise anything
            if needed and isinstance(error, CoatcheckError):
                raise
            if needed:
                raise StoreUnavailable(f"the store raised {type(error).__name__}") from error
            logger.debug(
                "the session before a login could not be noted; if its cookie does not come back with the answer, it "
                "runs out by itself: %s",
                type(error).__name__,
            )

    async def begin(self, current: CurrentRequest, attempt: LoginAttempt, wanted: LoginParameters) -> Answer:
        """
        Send the browser to the authorization server, with *attempt* in a cookie.

        Raises:
            TransportError, InvalidMetadata: the authorization server cannot be asked.
            Refused: the return URL is too long for a cookie.
        """
        metadata = await self._server.metadata()
        await self._check_registration(metadata)
        url = authorization_url(
            self._server.client,
            metadata,
            attempt.transaction,
            prompt=attempt.prompt,
            login_hint=wanted.login_hint,
            ui_locales=wanted.ui_locales,
        )
        try:
            return redirect(url).with_cookies(self._attempts.remember(attempt, current.cookies))
        except CookieTooLarge:
            raise bad_return_url(attempt.transaction.return_url) from None


class Login:
    """Begins the logins of people. Nothing that the browser sends gets into the authorization request unchecked."""

    def __init__(self, settings: Settings, start: LoginStart, attempts: LoginAttempts, loop: LoginLoop) -> None:
        self._settings = settings
        self._start = start
        self._attempts = attempts
        self._loop = loop
        self._wrong_hosts: set[str] = set()
        self._unanswered_said_at = float("-inf")

    async def __call__(self, current: CurrentRequest) -> Answer:
        """Answer 302 to the authorization server, or a page that asks the user, or 400 and 503 with the reason."""
        return_url = self._settings.home
        try:
            _check_navigation(current)
            wanted = read_login_parameters(current, self._settings)
            return_url = wanted.return_url
            detour = self._detour(current, wanted)
            if detour is not None:
                return detour
            current.exempt()  # the session only tells which one the new login replaces, and whether to lead home
            handle = await current.session(slide=False)
            if handle is not None and wanted.again:
                return redirect(self._settings.home)
            if handle is None or wanted.is_step_up:
                self._check_loop(current, wanted)
            if handle is None and not wanted.again and not self._settings.development:
                self._warn_of_unanswered(current)
            attempt = await self._start.attempt(current, wanted, handle)
            return await self._start.begin(current, attempt.as_second() if wanted.again else attempt, wanted)
        except LoopEnded as ended:
            answer = refuse(current, ended.diagnosis, retry_for=return_url)
            return answer.with_cookies(self._loop.forget(current.cookies))
        except Refused as refused:
            return refuse(current, refused.diagnosis)
        except CoatcheckError as error:
            diagnosis = diagnose_login(error, stage="metadata", settings=self._settings)
            return refuse(current, diagnosis, retry_for=return_url)

    def _detour(self, current: CurrentRequest, wanted: LoginParameters) -> Answer | None:
        """
        Bring the browser to the same path at `public_url`; and let nobody else's page start a login unseen.

        Cookies set on another host would not come back to the callback. Nothing is decided by `Host`: whatever it says,
        the way leads to `public_url`, once. After another site's link the user is asked: the link chose the parameters,
        and the browser withholds the Strict cookie of the session that this login replaces. A link on a page of ours
        has neither fault (FAPI 2.0 Security Profile 5.3.3.1).
        """
        target = wanted.path(self._settings.login_path)
        host = (current.header(b"host") or b"").decode("latin-1").lower()
        if host and host not in self._settings.public_url.authorities and not wanted.hopped:
            self._warn_of(host)
            return redirect(self._settings.public_url.origin + target, status=303 if current.method == "POST" else 302)
        if current.claims.may_be_own_page_or_person and current.method == "GET":
            return None
        if not self._settings.login.third_party:
            return self._ask(target)
        # After the hop it is our own navigation. One that says so and is not may be anybody's: the user is asked.
        return self._ask(target) if wanted.hopped else hop(target)

    def _ask(self, target: str) -> Answer:
        name = urlsplit(self._settings.public_url.origin).netloc
        return message_page(f"Log in to {name}?", "Another site sent you here.", link=(target, "Continue to the login"))

    def _check_loop(self, current: CurrentRequest, wanted: LoginParameters) -> None:
        """See whether earlier logins of this browser have not helped, for want of a cookie or of a stronger login."""
        if self._loop.is_on(current.cookies, now=self._settings.clock.time()):
            raise LoopEnded(
                "login_loop",
                f"A browser has logged in {MAX_LOGINS} times within {WINDOW:.0f} s, and was sent to the login again.",
                "See whether something removes its cookie (a full cookie jar, a proxy, a browser extension), whether "
                f"{wanted.return_url[:200]} asks for a login that its user has, and whether all nodes have one store.",
            )

    def _warn_of(self, host: str) -> None:
        """Say once per host that the application is reached by another address than the configured one."""
        if host in self._wrong_hosts or len(self._wrong_hosts) >= _MAX_KNOWN_HOSTS:
            return
        self._wrong_hosts.add(host)
        logger.warning(
            "wrong_host: a login began at %s, but public_url is %s; the browser was sent there. Open the application "
            "by its public_url, set public_url to the address in the browser's address bar, or let the proxy in front "
            "pass on the Host header.",
            printable(host, limit=100),
            self._settings.public_url.origin,
        )

    def _warn_of_unanswered(self, current: CurrentRequest) -> None:
        """
        Say that an earlier login of this browser never came back: the only trace of a wrong redirect URI on our side.

        The authorization server must not send the browser to an address that is not registered, and says so on a page
        of its own (RFC 6749 4.1.2.1). We hear of it when the user tries again. (In development mode we asked before.)
        """
        now = self._settings.clock.time()
        age = self._attempts.unanswered(current.cookies, now=now)
        if age is None or now - self._unanswered_said_at < _SAY_AGAIN_AFTER:
            return
        self._unanswered_said_at = now
        logger.warning(
            "login_unanswered: the login that began %.0f s ago in this browser never came back from %s. If that showed "
            "an error page, register exactly %s there as a redirect URI of client %r; if the user merely gave up, "
            "there is nothing to do.",
            age,
            self._settings.issuer,
            self._settings.redirect_uri,
            self._settings.client_id,
        )


class LoopEnded(Refused):
    """The browser has been around often enough: a person has to look."""


def _check_navigation(current: CurrentRequest) -> None:
    """A login is a person's: no script's, no frame's, and no browser's that looks ahead."""
    if not current.is_navigation or current.is_in_frame:
        raise Refused("navigation_required", "/login was called by fetch, inside a frame, or in advance.", _NAVIGATE)


def _step_up(handle: SessionHandle) -> StepUp:
    session = handle.session
    return StepUp(session.iss, session.sub, session.id)


_NAVIGATE = (
    "Navigate the whole window: location.href = '/bff/login?returnUrl=' + encodeURIComponent(location.pathname)."
)
