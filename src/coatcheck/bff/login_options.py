"""What logins may be like: the parameters that a page may choose, and who may start them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from coatcheck.errors import ConfigurationError
from coatcheck.oauth.authorize import ResponseMode


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOptions:
    """
    Options of logins; `BFF(login=LoginOptions(...))`. Everything is off until it is asked for.

    *acr_values* and *max_age* (seconds) are the values that `/bff/login?acr_values=...&max_age=...` may ask for, and so
    what a step-up can ask for (RFC 9470). The id_token must then prove it, or the login fails.

    *response_mode* `"form_post"` has the authorization server send its answer in a form, so that no code stands in a
    URL. The cookie of a login under way is `SameSite=None` then, since such a form is another site's.

    *silent* adds `/bff/silent-login`, for a hidden frame of your page: it tells the page by a message whether the user
    is logged in at the authorization server, and logs them in here if so. Browsers that keep the cookies of other
    sites out of frames make it answer no.

    *third_party* lets other sites start a login without asking the user first, also in the way of OpenID Connect Core
    section 4 (`iss`, `target_link_uri`, `login_hint`), as portals do.

    Raises:
        ConfigurationError: a value that cannot be sent, or that is none of those allowed.
    """

    acr_values: Sequence[str] = ()
    max_age: Sequence[int] = ()
    response_mode: ResponseMode = "query"
    silent: bool = False
    third_party: bool = False

    def __post_init__(self) -> None:
        for acr in self._freeze("acr_values"):
            if not isinstance(acr, str) or _ACR.fullmatch(acr) is None:
                raise ConfigurationError(f"{acr!r} is not one acr value without blanks", path="acr_values")
        for age in self._freeze("max_age"):
            if isinstance(age, bool) or not isinstance(age, int) or age < 0:
                raise ConfigurationError(f"{age!r} is not a whole number of seconds", path="max_age")
        if self.response_mode not in get_args(ResponseMode):
            raise ConfigurationError(
                f"expected {' or '.join(get_args(ResponseMode))}, not {self.response_mode!r}",
                path="response_mode",
            )

    def _freeze(self, name: str) -> tuple[object, ...]:
        values: object = getattr(self, name)
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ConfigurationError("expected a list", path=name)
        object.__setattr__(self, name, tuple(values))
        return tuple(values)

    def max_age_for(self, wanted: int) -> int | None:
        """Return the greatest age that a login may ask for and that is not above *wanted* (seconds), or None."""
        return max((age for age in self.max_age if age <= wanted), default=None)


_ACR = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
