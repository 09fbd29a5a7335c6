"""What the browser meets: login and logout, the user, and remote APIs."""

from coatcheck.bff.app import BFF
from coatcheck.bff.events import BFFEvents, TokensReceived
from coatcheck.bff.who import api_user, page_user

__all__ = ["BFF", "BFFEvents", "TokensReceived", "api_user", "page_user"]
