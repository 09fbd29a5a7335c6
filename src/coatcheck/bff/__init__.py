"""What the browser meets: login and logout, the user, and remote APIs."""

from coatcheck.errors import missing_extra

try:
    from coatcheck.bff.app import BFF
    from coatcheck.bff.claims import ClaimsEnricher, ClaimsEnricherContext, UserClaim
    from coatcheck.bff.events import BFFEvents, TokensReceived
    from coatcheck.bff.login_options import LoginOptions
    from coatcheck.bff.logout_options import LogoutOptions
    from coatcheck.bff.who import api_access_token, api_session, api_user, page_user
except ModuleNotFoundError as error:
    if error.name != "pyreqwest":
        raise
    raise missing_extra(error, "bff") from error

__all__ = [
    "BFF",
    "BFFEvents",
    "ClaimsEnricher",
    "ClaimsEnricherContext",
    "LoginOptions",
    "LogoutOptions",
    "TokensReceived",
    "UserClaim",
    "api_access_token",
    "api_session",
    "api_user",
    "page_user",
]
