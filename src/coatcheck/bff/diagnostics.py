"""`/bff/diagnostics`: in development mode, what this BFF is set to and what the session holds. Never a token."""

from __future__ import annotations

from collections.abc import Callable

from coatcheck import codec
from coatcheck.bff.answers import Answer, json_answer
from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.diagnosis import Diagnosis
from coatcheck.bff.refusals import refuse
from coatcheck.bff.settings import Settings
from coatcheck.errors import CoatcheckError
from coatcheck.sessions.sessions import SessionHandle
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.values import DEFAULT_PARAMETERS, User


class Diagnostics:
    """Answers a developer's question "how is it set up, and am I logged in?"."""

    def __init__(self, settings: Settings, tokens: Tokens, routes: Callable[[], tuple[str, ...]]) -> None:
        self._settings = settings
        self._tokens = tokens
        self._routes = routes

    async def __call__(self, current: CurrentRequest) -> Answer:
        """200 with JSON for a person at the address bar, or for a page of ours."""
        if current.check_page() != "own" and current.check_api() is not None:
            return refuse(
                current,
                Diagnosis("cross_site", "Another site asked for diagnostics.", "Open the address by hand."),
            )
        document: dict[str, object] = {
            "public_url": self._settings.public_url.origin + self._settings.public_url.path,
            "register_at_the_authorization_server": {
                "redirect_uri": self._settings.redirect_uri,
                "post_logout_redirect_uri": self._settings.logged_out_uri,
            },
            "issuer": self._settings.issuer,
            "client_id": self._settings.client_id,
            "application_id": self._settings.cookies.application_id,
            "remote_apis": self._routes(),
        }
        try:
            handle = await current.session(slide=False)
            document["session"] = None if handle is None else await self._session(handle)
        except CoatcheckError as error:
            document["session"] = f"cannot be read: {error}"
        return json_answer(codec.encode(document))

    async def _session(self, handle: SessionHandle) -> dict[str, object]:
        session, now = handle.session, self._settings.clock.time()
        about: dict[str, object] = {
            "iss": session.iss,
            "sub": session.sub,
            "expires_in": round(session.dead_at - now),
        }
        token = await self._tokens.store.get_token(User.of(handle), DEFAULT_PARAMETERS)
        if token is not None:
            about["access_token"] = {
                "type": token.token_type,
                "scope": token.scope,
                "expires_in": None if token.expires_at is None else round(token.expires_at - now),
                "refresh_token": token.refresh_token is not None,
            }
        return about
