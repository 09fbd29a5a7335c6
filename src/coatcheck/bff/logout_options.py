"""What ends sessions besides their time, and what is told to whom then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coatcheck.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutOptions:
    """
    Options of logouts; `BFF(logout=LogoutOptions(...))`.

    *backchannel* is `/bff/backchannel`, where the authorization server itself ends sessions (OpenID Connect
    Back-Channel Logout 1.0). None has it wherever the stores can do it; True refuses to start where they cannot.
    *backchannel_all_sessions* ends all sessions of the user, even if the authorization server names one.

    *frontchannel* adds `/bff/frontchannel` for authorization servers that know only that (OpenID Connect Front-Channel
    Logout 1.0). Whoever knows `iss` and `sid` can end that session by it. It needs sessions in a store with an index.

    *revoke_refresh_token* and *revoke_access_token* give the tokens of a session that ends back (RFC 7009). A refresh
    token that stays keeps its access tokens, whatever the second says: providers may end the grant with any of them.

    *id_token_hint* False keeps id_tokens out of logout URLs, and so out of histories and logs; then the user may be
    asked whether to log out. *clear_site_data* has a logout clear what the browser keeps, for instance
    `("cookies", "storage")`: of the whole registrable domain, where cookies are concerned.

    Raises:
        ConfigurationError: a value that is none of those allowed.
    """

    backchannel: bool | None = None
    backchannel_all_sessions: bool = False
    frontchannel: bool = False
    revoke_refresh_token: bool = True
    revoke_access_token: bool = True
    id_token_hint: bool = True
    clear_site_data: Sequence[str] = ()

    def __post_init__(self) -> None:
        kinds: object = self.clear_site_data
        if isinstance(kinds, str) or not isinstance(kinds, Sequence):
            raise ConfigurationError("expected a list", path="clear_site_data")
        for kind in kinds:
            if kind not in CLEARED:
                expected = ", ".join(sorted(CLEARED))
                raise ConfigurationError(f"{kind!r} is none of {expected}", path="clear_site_data")
        object.__setattr__(self, "clear_site_data", tuple(kinds))


CLEARED = frozenset({"cache", "cookies", "storage", "clientHints", "executionContexts", "*"})
"""What `Clear-Site-Data` can clear (W3C Clear Site Data 3.1, and its successors)."""
