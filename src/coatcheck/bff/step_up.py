"""Step-up: a request that needs a stronger or a more recent login, and the way there (RFC 9470)."""

from __future__ import annotations

from collections.abc import Sequence

from coatcheck.bff.problems import logger, printable
from coatcheck.bff.public_url import path_with_query
from coatcheck.bff.settings import Settings


def step_up_path(
    settings: Settings, *, acr_values: Sequence[str], max_age: int | None, return_url: str | None = None
) -> str | None:
    """
    Return the path of a login that gives what is asked for, or None when logins may not ask for that.

    Of the *acr_values* those are asked for that are allowed; one of them will do. For *max_age* (seconds) the greatest
    allowed one that is not above it.
    """
    asked = [acr for acr in acr_values if acr in settings.login.acr_values]
    age = None if max_age is None else settings.login.max_age_for(max_age)
    if (acr_values and not asked) or (max_age is not None and age is None):
        logger.warning(
            "step_up_not_allowed: a stronger login is needed (acr_values %s, max_age %s), and no login may ask for it. "
            "List it in the login options.",
            printable(" ".join(acr_values) or "any", limit=200),
            "any" if max_age is None else max_age,
        )
        return None
    members = {
        "returnUrl": return_url,
        "acr_values": " ".join(asked) or None,
        "max_age": age,
    }
    return path_with_query(settings.login_path, members)
