"""What an authorization server does to a refresh token that is used: the rotation profile of a registration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from coatcheck.errors import ConfigurationError


class RotationKind(Enum):
    """How an authorization server treats a second use of one refresh token."""

    LEARN = "learn"
    """Not known yet: treated as *strict* until a refresh has kept its refresh token."""
    NONE = "none"
    """Refresh tokens stay: one may be sent again at any time."""
    GRACE = "grace"
    """A used one answers for a while with the same new tokens: one may be sent once more within that time."""
    STRICT = "strict"
    """A used one ends the whole grant when it comes again (RFC 9700 4.14.2): it is never sent twice."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation profile; *grace* is in seconds, and above zero for `GRACE` only."""

    kind: RotationKind
    grace: float = 0.0


_GRACE = re.compile(r"grace:([0-9]{1,4})s")


def parse_rotation(text: str) -> Rotation:
    """
    Read `learn`, `none`, `strict` or `grace:10s`.

    Raises:
        ConfigurationError: anything else, or a grace of no time.
    """
    match = _GRACE.fullmatch(text)
    if match is not None and int(match[1]) > 0:
        return Rotation(RotationKind.GRACE, float(match[1]))
    if text in ("learn", "none", "strict"):
        return Rotation(RotationKind(text))
    raise ConfigurationError(
        f"{text!r} is no rotation profile: use learn, none, strict, or grace:10s with the whole seconds (up to 9999) "
        "for which the authorization server accepts a refresh token that was used already",
        path="rotation",
    )
