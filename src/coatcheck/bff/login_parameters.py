"""What a browser may decide about a login: the parameters of `/bff/login`, checked one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from coatcheck.bff.current import CurrentRequest
from coatcheck.bff.public_url import path_with_query
from coatcheck.bff.refusals import Refused
from coatcheck.bff.return_url import MAX_LENGTH, checked_return_url
from coatcheck.bff.settings import Settings

PROMPTS = frozenset({"none", "login", "consent", "select_account", "create"})
"""What a page may ask of the authorization server (OpenID Connect Core 3.1.2.1, Initiating User Registration)."""

HOPPED = "hop"
"""The parameter that says: this browser was already sent to the right address once. It prevents loops, nothing else."""

AGAIN = "again"
"""The parameter that says: an answer of the authorization server found no login. Lead home, or start over once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginParameters:
    """A checked wish. Everything else in the query is ignored: nothing more gets into the authorization request."""

    return_url: str
    prompt: str | None = None
    login_hint: str | None = None
    ui_locales: str | None = None
    acr_values: str | None = None
    max_age: int | None = None
    silent: bool = False
    """Nobody sees this login. No query says so; `/bff/silent-login` does."""
    again: bool = False
    hopped: bool = False

    @property
    def is_step_up(self) -> bool:
        """Whether this login is to prove more than who the user is."""
        return self.acr_values is not None or self.max_age is not None

    def path(self, login_path: str) -> str:
        """The address of `/bff/login` at *login_path* with the same wish, marked as the one after a hop."""
        members: Mapping[str, object] = {
            "returnUrl": self.return_url,
            "prompt": self.prompt,
            "login_hint": self.login_hint,
            "ui_locales": self.ui_locales,
            "acr_values": self.acr_values,
            "max_age": self.max_age,
            AGAIN: 1 if self.again else None,
            HOPPED: 1,
        }
        return path_with_query(login_path, members)


def read_login_parameters(current: CurrentRequest, settings: Settings) -> LoginParameters:
    """
    Read the query of `/bff/login`.

    Raises:
        Refused: a parameter that is not allowed, has a value that is not, or is there twice.

    OpenID Connect Core 1.0, sections 3.1.2.1 and 4.
    """
    once = _Once(current)
    return_url, login_hint = _return_url(once, settings), once("login_hint")
    if login_hint is not None and _LOGIN_HINT.fullmatch(login_hint) is None:
        raise _not_allowed("login_hint", login_hint, "It is text of at most 256 characters, without controls.")
    ui_locales = once("ui_locales")
    if ui_locales is not None and _UI_LOCALES.fullmatch(ui_locales) is None:
        raise _not_allowed("ui_locales", ui_locales, "It is a list of language tags such as 'de-CH de', by preference.")
    return LoginParameters(
        return_url=return_url,
        prompt=_prompt(once("prompt")),
        login_hint=login_hint,
        ui_locales=ui_locales,
        acr_values=_acr_values(once("acr_values"), settings),
        max_age=_max_age(once("max_age"), settings),
        again=_has(current, AGAIN),
        hopped=_has(current, HOPPED),
    )


class _Once:
    """Reads parameters; an empty one is as good as none (RFC 6749 3.1), and one that is there twice is none at all."""

    def __init__(self, current: CurrentRequest) -> None:
        self._current = current

    def __call__(self, name: str) -> str | None:
        try:
            return self._current.parameter(name) or None
        except ValueError as error:
            if name == "returnUrl":
                raise bad_return_url(str(error)) from error
            raise Refused("login_parameter_refused", f"/login: {error}.", "Send it once.") from error


def _return_url(once: _Once, settings: Settings) -> str:
    iss = once("iss")
    if iss is None:
        asked = once("returnUrl")
    else:
        _check_initiation(iss, settings)
        asked = once("target_link_uri")
        origin = settings.public_url.origin
        if asked is not None and asked.startswith(origin + "/"):
            asked = asked.removeprefix(origin)
    if asked is None:
        return settings.home
    checked = checked_return_url(asked, public_url=settings.public_url, endpoints=settings.endpoints)
    if checked is None:
        raise bad_return_url(asked)
    return checked


def _check_initiation(iss: str, settings: Settings) -> None:
    """A login that a third party starts (OpenID Connect Core 4) is for the configured authorization server only."""
    if not settings.login.third_party:
        raise Refused(
            "third_party_login_refused",
            f"Another site began a login for {iss[:200]!r}, and such logins are not switched on.",
            "If a portal of yours does that, set third_party of the login options.",
        )
    if iss != settings.issuer:
        raise Refused(
            "third_party_login_refused",
            f"Another site began a login for {iss[:200]!r}, but users of this application log in at {settings.issuer}.",
            "Correct the portal, or find out who sends users here.",
        )


def _prompt(prompt: str | None) -> str | None:
    values = (prompt or "").split(" ")
    if prompt is not None and not (PROMPTS.issuperset(values) and ("none" not in values or len(values) == 1)):
        raise Refused(
            "prompt_invalid",
            f"/login was called with prompt={prompt[:40]!r}.",
            f"Use one of {', '.join(sorted(PROMPTS))}.",
        )
    return prompt


def _acr_values(asked: str | None, settings: Settings) -> str | None:
    allowed = settings.login.acr_values
    if asked is not None and not set(asked.split(" ")).issubset(allowed):
        raise _not_allowed("acr_values", asked, _allow("acr_values", ", ".join(allowed)))
    return asked


def _max_age(asked: str | None, settings: Settings) -> int | None:
    if asked is None:
        return None
    allowed = [str(age) for age in settings.login.max_age]
    if asked not in allowed:
        raise _not_allowed("max_age", asked, _allow("max_age", ", ".join(allowed)))
    return int(asked)


def _allow(name: str, allowed: str) -> str:
    return f"Allowed by {name} of the login options: {allowed or 'none'}."


def _not_allowed(name: str, value: str, remedy: str) -> Refused:
    return Refused("login_parameter_refused", f"/login was called with {name}={value[:200]!r}.", remedy)


def bad_return_url(text: str) -> Refused:
    """The refusal of a return URL, wherever it was found wanting."""
    return Refused(
        "return_url_invalid",
        f"returnUrl was {text[:200]!r}.",
        f"Pass a path of your own such as /orders?page=2: one leading slash, no host, at most {MAX_LENGTH} characters.",
    )


def _has(current: CurrentRequest, name: str) -> bool:
    return any(parameter == name for parameter, _ in current.parameters)


_LOGIN_HINT = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,256}")
_UI_LOCALES = re.compile(r"[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8}){0,5}( [A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8}){0,5}){0,9}")
