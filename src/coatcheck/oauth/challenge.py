"""What an API says when it refuses an access token: the `WWW-Authenticate` header, as far as it concerns us."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class StepUpChallenge:
    """
    The API wants the user to be authenticated in one of these ways, at most *max_age* seconds ago; None and () mean
    that it did not say.
    """

    acr_values: tuple[str, ...] = ()
    max_age: int | None = None


def step_up_challenge(www_authenticate: str) -> StepUpChallenge | None:
    """
    Find the demand for a step-up in one `WWW-Authenticate` header, or return None.

    Malformed headers, and other challenges, are none: the answer of the API then stands as it is.

    RFC 9470 section 3, RFC 9110 section 11.6.1.
    """
    if len(www_authenticate) > _MAX_LENGTH:
        return None
    for challenge in _challenges(www_authenticate):
        if challenge.get("error") == INSUFFICIENT:
            max_age = challenge.get("max_age", "")
            return StepUpChallenge(
                tuple(challenge.get("acr_values", "").split()),
                int(max_age) if max_age.isascii() and max_age.isdigit() and len(max_age) < 10 else None,
            )
    return None


def _challenges(text: str) -> list[dict[str, str]]:
    """The parameters of each Bearer or DPoP challenge; none at all where a name is there twice."""
    found: list[dict[str, str]] = []
    scheme = ""
    at = 0
    while at < len(text):
        match = _PARAMETER.match(text, at) or _SCHEME.match(text, at) or _NOISE.match(text, at)
        if match is None:
            return []
        at = match.end()
        if match.re is _SCHEME:
            scheme = match["scheme"].lower()
            found.append({})
        elif match.re is _PARAMETER and scheme in ("bearer", "dpop"):
            name, quoted = match["name"].lower(), match["quoted"]
            value = match["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            if name in found[-1]:
                return []
            found[-1][name] = value
    return found


INSUFFICIENT: Final = "insufficient_user_authentication"

_MAX_LENGTH = 4096
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(
    rf'[ \t]*(?P<name>{_TOKEN})[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>{_TOKEN}))[ \t]*(?=,|$)'
)
_SCHEME = re.compile(rf"[ \t]*(?P<scheme>{_TOKEN})(?=[ \t]|,|$)(?:[ \t]+[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$)))?")
_NOISE = re.compile(r"[ \t]*,[ \t]*|[ \t]+")
