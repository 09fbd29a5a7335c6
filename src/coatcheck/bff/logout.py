"""`/bff/logout`: end the session here, then at the authorization server."""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress
from dataclasses import replace

from coatcheck import base64url
from coatcheck.audit import audit
from coatcheck.bff.answers import Answer, redirect
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import Diagnosis
from coatcheck.bff.ending import SessionEnding
from coatcheck.bff.logged_out import LoggedOut
from coatcheck.bff.login_loop import LoginLoop
from coatcheck.bff.pages import message_page
from coatcheck.bff.problems import logger
from coatcheck.bff.public_url import path_with_query
from coatcheck.bff.refusals import Refused, refuse
from coatcheck.bff.return_url import checked_return_url
from coatcheck.bff.settings import Settings
from coatcheck.errors import CoatcheckError, ConfigurationError, StoreUnavailable, TransportError, UnknownSealKey
from coatcheck.oauth.logout import end_session_url
from coatcheck.oauth.metadata import Metadata
from coatcheck.sessions.seal import KeyRing
from coatcheck.sessions.session import SessionFilter
from coatcheck.sessions.sessions import SessionHandle, Sessions
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.values import DEFAULT_PARAMETERS, User

PROVIDER_DEADLINE = 5.0
"""Seconds that the authorization server may take for everything, while a person waits to be logged out."""

MAX_URL = 4000
"""Characters of a logout URL. Longer ones meet proxies that refuse them (414)."""


class LogoutLink:
    """
    Makes and checks the `sid` of logout links: a keyed hash of the session's id, which nobody can forge.

    The first key of the ring makes it, any of them is good for checking: a link stays good while keys are rotated.
    """

    def __init__(self, settings: Settings, ring: KeyRing) -> None:
        self._settings = settings
        bound = ring.bound_to(settings.cookies.application_id)
        self._key = bound.derive("logout sid")
        self._keys = bound.derive_all("logout sid")

    def sid(self, handle: SessionHandle) -> str:
        """Return the `sid` for the session of *handle*."""
        return _sid(self._key, handle)

    def url(self, handle: SessionHandle) -> str:
        """Return the path that logs the session of *handle* out."""
        return path_with_query(self._settings.logout_path, {"sid": self.sid(handle)})

    def fits(self, sid: str | None, handle: SessionHandle) -> bool:
        """Whether *sid* belongs to the session of *handle*."""
        if sid is None:
            return False
        fitting = [hmac.compare_digest(sid.encode(), _sid(key, handle).encode()) for key in self._keys]
        return any(fitting)  # all were compared, whichever fits: the time that it takes says nothing


def _sid(key: bytes, handle: SessionHandle) -> str:
    return base64url.encode(hmac.digest(key, handle.session.id.encode(), "sha256")[:18])


class Logout:
    """Ends sessions: revokes, deletes, then sends the browser to the authorization server."""

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        sessions: Sessions,
        link: LogoutLink,
        returns: LoggedOut,
        loop: LoginLoop,
        ending: SessionEnding,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._sessions = sessions
        self._link = link
        self._returns = returns
        self._loop = loop
        self._ending = ending

    async def __call__(self, current: CurrentRequest) -> Answer:
        """GET with the `sid` of the live session, or POST with the CSRF header. Without a session it succeeds too."""
        try:
            self._check_caller(current)
            return_url, sid = self._asked(current)
            handle = await current.session(slide=False)
            if handle is None:
                return self._logged_out_already(current, return_url)
            if current.method != "POST":
                self._check_sid(sid, handle)
            return await self._end(current, handle, return_url)
        except Refused as refused:
            return refuse(current, refused.diagnosis)
        except (StoreUnavailable, UnknownSealKey) as error:
            return refuse(current, Diagnosis("store_unavailable", f"Nobody can be logged out: {error}", _SEE_STORE))

    def _check_caller(self, current: CurrentRequest) -> None:
        """A POST brings the CSRF header. A GET brings the sid, and is a person's: no browser that looks ahead."""
        if current.method == "POST":
            refusal = current.check_api()
            if refusal is not None:
                audit("logout_refused", reason=refusal.code)
                raise Refused(refusal.code, "POST /logout without proof of origin.", _SEND_HEADER)
            return
        if current.is_prefetch:
            raise Refused("navigation_required", "A browser tried /logout in advance.", "It asks again in earnest.")
        current.exempt()

    def _check_sid(self, sid: str | None, handle: SessionHandle) -> None:
        if self._link.fits(sid, handle):
            return
        code = "logout_sid_invalid"
        audit("logout_refused", reason=code, **handle.session.references)
        raise Refused(code, "/logout without the sid of the session.", _USE_URL)

    def _asked(self, current: CurrentRequest) -> tuple[str | None, str | None]:
        """Read where to go afterwards, and the sid."""
        try:
            asked, sid = current.parameter("returnUrl"), current.parameter("sid")
        except ValueError as error:
            raise Refused("return_url_invalid", f"/logout: {error}.", _PASS_A_PATH) from error
        if not asked:
            return None, sid
        checked = checked_return_url(asked, public_url=self._settings.public_url, endpoints=self._settings.endpoints)
        if checked is None:
            raise Refused("return_url_invalid", f"/logout: returnUrl was {asked[:200]!r}.", _PASS_A_PATH)
        return checked, sid

    async def _end(self, current: CurrentRequest, handle: SessionHandle, return_url: str | None) -> Answer:
        """Delete, then revoke, and only then send the browser away: whatever the provider does, it is over here."""
        deadline = asyncio.get_running_loop().time() + PROVIDER_DEADLINE
        id_token = await self._id_token(handle, deadline)
        ended = await self._ending.end(handle, reason="logout")
        if not ended:
            await self._end_successor(handle)
        try:
            async with asyncio.timeout_at(deadline):
                await self._tokens.revoke_ended(User.of(handle))
        except TimeoutError:
            logger.warning(
                "the tokens of a session could not be revoked at %s within %g s. Nobody here can use them any more; "
                "see why the authorization server is slow.",
                self._settings.issuer,
                PROVIDER_DEADLINE,
            )
        answer = await self._leave(current, handle, id_token, return_url, deadline=deadline)
        set_cookies = [*current.set_cookies(), *self._loop.forget(current.cookies)]
        return (self._clearing(answer) if ended else answer).with_cookies(set_cookies)

    async def _end_successor(self, handle: SessionHandle) -> None:
        """
        Somebody else ended the session at this very moment: most often a login that replaced it, and the user is logged
        in. A silent login is no wish of theirs, and the logout is: what this browser's session at the authorization
        server led to by now ends, too.
        """
        session = handle.session
        if session.sid is None:
            return
        with suppress(ConfigurationError):  # sessions of a kind that cannot be found
            await self._ending.end_about(SessionFilter(session.iss, session.sub, session.sid), reason="logout")

    async def _leave(
        self,
        current: CurrentRequest,
        handle: SessionHandle,
        id_token: str | None,
        return_url: str | None,
        *,
        deadline: float,
    ) -> Answer:
        """Go on to the authorization server's logout; where that cannot be, go where we were asked to, or say so."""
        status = 303 if current.method == "POST" else 302
        try:
            metadata = await self._metadata(deadline)
        except CoatcheckError as error:
            logger.warning(
                "logged_out_locally: %s cannot be reached, so its own session goes on: %s. See that this machine "
                "reaches the issuer; until then a new login there may need no password.",
                self._settings.issuer,
                error,
            )
            return _logged_out_here(return_url or self._settings.home)
        url = self._provider_url(metadata, handle, id_token, return_url)
        if url is not None:
            return redirect(url, status=status)
        if return_url is not None:
            return redirect(return_url, status=status)
        return _logged_out_here(self._settings.home)

    def _clearing(self, answer: Answer) -> Answer:
        """
        Have the browser clear what the settings say. Only the answer that ended a session says so: whoever could cause
        another one would log users out by it.

        W3C Clear Site Data, section 3.1.
        """
        kinds = self._settings.logout.clear_site_data
        if not kinds:
            return answer
        value = ", ".join(f'"{kind}"' for kind in kinds).encode("ascii")
        return replace(answer, headers=(*answer.headers, (b"clear-site-data", value)))

    def _logged_out_already(self, current: CurrentRequest, return_url: str | None) -> Answer:
        """Succeed without a redirect to the provider: anybody could have sent this browser here."""
        cookies = self._sessions.expire_cookies(current.cookies)
        target = return_url or self._settings.home
        return message_page("You are logged out", "", link=(target, "Continue")).with_cookies(cookies)

    async def _id_token(self, handle: SessionHandle, deadline: float) -> str | None:
        """Find the id_token that says who leaves; whatever goes wrong, the logout goes on without."""
        if not self._settings.logout.id_token_hint:
            return None
        try:
            async with asyncio.timeout_at(deadline):
                token = await self._tokens.store.get_token(User.of(handle), DEFAULT_PARAMETERS)
        except Exception:  # a store of the application may raise anything
            return None
        return token.id_token if token else None

    async def _metadata(self, deadline: float) -> Metadata:
        """Return the metadata, which are known already nearly always."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self._tokens.authorization_server().metadata()
        except TimeoutError:
            raise TransportError("its metadata did not come in time", sent=True) from None

    def _provider_url(
        self, metadata: Metadata, handle: SessionHandle, id_token: str | None, return_url: str | None
    ) -> str | None:
        """Make the URL of the authorization server's logout. Without an id_token, a hint says who leaves."""
        hint = handle.session.claims.get("login_hint")

        def url(id_token_hint: str | None) -> str | None:
            return end_session_url(
                self._tokens.authorization_server().client,
                metadata,
                id_token_hint=id_token_hint,
                post_logout_redirect_uri=self._settings.logged_out_uri,
                state=None if return_url is None else self._returns.state(return_url),
                logout_hint=hint if isinstance(hint, str) else handle.session.sub,
            )

        whole = url(id_token)
        return url(None) if whole is not None and len(whole) > MAX_URL else whole


def _logged_out_here(onward: str) -> Answer:
    return message_page("You are logged out here", _STILL_ALIVE, link=(onward, "Continue"))


_SEND_HEADER = "Send the CSRF header from a page of our own; or navigate to bff:logout_url of /bff/user."
_PASS_A_PATH = "Pass a path of your own such as /goodbye: one leading slash, no host."
_SEE_STORE = "See that the session store runs; nothing was deleted."
_USE_URL = "Navigate to bff:logout_url, as /bff/user returns it: it carries the sid of the current session."
_STILL_ALIVE = "Your account provider offers no logout, or could not be reached: you may still be logged in there."
