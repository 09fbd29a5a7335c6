"""`/bff/login`: begin a login, and send the browser to the authorization server."""

from __future__ import annotations

from urllib.parse import urlencode

from coatcheck.bff.answers import Answer, redirect
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import diagnose_login
from coatcheck.bff.pages import hop
from coatcheck.bff.problems import logger, printable
from coatcheck.bff.refusals import Refused, refuse
from coatcheck.bff.registration_check import RegistrationCheck
from coatcheck.bff.return_url import MAX_LENGTH, checked_return_url
from coatcheck.bff.settings import Settings
from coatcheck.bff.transactions import LoginAttempt, LoginAttempts
from coatcheck.errors import CoatcheckError, CookieTooLarge
from coatcheck.oauth.authorize import AuthorizationTransaction, authorization_url, new_transaction
from coatcheck.provider import AuthorizationServer

PROMPTS = frozenset({"none", "login", "consent", "select_account", "create"})
"""What a page may ask of the authorization server (OpenID Connect Core 3.1.2.1, Initiating User Registration)."""

HOPPED = "hop"
"""The parameter that says: this browser was already sent to the right address once. It prevents loops, nothing else."""

AGAIN = "again"
"""The parameter that says: an answer of the authorization server found no login. Lead home, or start over once."""

_MAX_KNOWN_HOSTS = 16

_SAY_AGAIN_AFTER = 60.0
"""Seconds between two lines about logins that never came back."""


class Login:
    """Begins logins. Nothing that the browser sends gets into the authorization request, but for `prompt`."""

    def __init__(self, settings: Settings, server: AuthorizationServer, attempts: LoginAttempts) -> None:
        self._settings = settings
        self._server = server
        self._attempts = attempts
        self._check_registration = RegistrationCheck(settings, server)
        self._wrong_hosts: set[str] = set()
        self._unanswered_said_at = float("-inf")

    async def __call__(self, current: CurrentRequest) -> Answer:
        """Answer 302 to the authorization server, or 400 and 503 with the reason."""
        again = _has(current, AGAIN)
        try:
            return_url, prompt = self._asked(current)
            detour = self._detour(current)
            if detour is not None:
                return detour
            current.exempt()  # the session only tells which one the new login replaces, and whether to lead home
            handle = await current.session(slide=False)
            if handle is not None and again:
                return redirect(self._settings.home)
            if handle is None and not again and not self._settings.development:
                self._warn_of_unanswered(current)
            ticket_hash = handle.session.id if handle else None
            attempt = LoginAttempt(self._transaction(return_url, ticket_hash), prompt)
            return await self._begin(current, attempt.as_second() if again else attempt)
        except Refused as refused:
            return refuse(current, refused.diagnosis)
        except CoatcheckError as error:
            return refuse(current, diagnose_login(error, stage="metadata", settings=self._settings), retry=True)

    def _transaction(self, return_url: str, ticket_hash: str | None) -> AuthorizationTransaction:
        return new_transaction(
            self._server.client,
            name="default",
            redirect_uri=self._settings.redirect_uri,
            return_url=return_url,
            now=self._settings.clock.time(),
            ticket_hash=ticket_hash,
        )

    async def _begin(self, current: CurrentRequest, attempt: LoginAttempt) -> Answer:
        """Send the browser to the authorization server, with the attempt in a cookie."""
        metadata = await self._server.metadata()
        await self._check_registration(metadata)
        url = authorization_url(self._server.client, metadata, attempt.transaction, prompt=attempt.prompt)
        try:
            return redirect(url).with_cookies(self._attempts.remember(attempt, current.cookies))
        except CookieTooLarge:
            raise _bad_return_url(attempt.transaction.return_url) from None

    def _asked(self, current: CurrentRequest) -> tuple[str, str | None]:
        """Read what the browser may decide: where to come back to, and the prompt."""
        if current.claims.mode not in ((), (b"navigate",)) or current.header(b"sec-fetch-dest") in _FRAMES:
            raise Refused("navigation_required", "/login was called by fetch or inside a frame.", _NAVIGATE)
        try:
            asked_url, prompt = current.parameter("returnUrl"), current.parameter("prompt")
        except ValueError as error:
            raise _bad_return_url(str(error)) from error
        return_url = self._settings.home
        if asked_url:
            checked = checked_return_url(
                asked_url, public_url=self._settings.public_url, endpoints=self._settings.endpoints
            )
            if checked is None:
                raise _bad_return_url(asked_url)
            return_url = checked
        if prompt and not _is_prompt(prompt):
            raise Refused(
                "prompt_invalid",
                f"/login was called with prompt={prompt[:40]!r}.",
                f"Use one of {', '.join(sorted(PROMPTS))}.",
            )
        return return_url, prompt or None

    def _detour(self, current: CurrentRequest) -> Answer | None:
        """
        Bring the browser to the same path at `public_url`, by a navigation of our own, before the login begins.

        Cookies set on another host would not come back to the callback; and after another site's link the browser
        withholds the Strict cookie of the session that this login replaces. Nothing is decided by `Host`: whatever it
        says, the way leads to `public_url`, once.
        """
        if _has(current, HOPPED):
            return None
        asked = [(name, value) for name, value in current.parameters if name in ("returnUrl", "prompt", AGAIN)]
        target = f"{self._settings.login_path}?{urlencode([*asked, (HOPPED, '1')])}"
        host = (current.header(b"host") or b"").decode("latin-1").lower()
        if host and host not in self._settings.public_url.authorities:
            self._warn_of(host)
            return redirect(self._settings.public_url.origin + target)
        if current.claims.site in ((b"cross-site",), (b"same-site",)):
            return hop(target)
        return None

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


def _has(current: CurrentRequest, name: str) -> bool:
    return any(parameter == name for parameter, _ in current.parameters)


def _is_prompt(prompt: str) -> bool:
    values = prompt.split(" ")
    return PROMPTS.issuperset(values) and ("none" not in values or len(values) == 1)


def _bad_return_url(text: str) -> Refused:
    return Refused(
        "return_url_invalid",
        f"returnUrl was {text[:200]!r}.",
        f"Pass a path of your own such as /orders?page=2: one leading slash, no host, at most {MAX_LENGTH} characters.",
    )


_FRAMES = (b"iframe", b"frame", b"embed", b"object", b"fencedframe")
_NAVIGATE = (
    "Navigate the whole window: location.href = '/bff/login?returnUrl=' + encodeURIComponent(location.pathname)."
)
