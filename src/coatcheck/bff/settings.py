"""The settings of one BFF that every part of it reads: checked once while building, never changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from coatcheck.bff.csrf import CSRFRules
from coatcheck.bff.login_options import LoginOptions
from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.bff.own_headers import Headers
from coatcheck.bff.public_url import PublicURL, path_with_query
from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.sessions.cookie import CookiePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    *endpoints* is the path under which login, logout and the others stand (`/bff`), inside the path of *public_url*.

    *development*: `public_url` is on loopback; then reasons stand on error pages, `/bff/diagnostics` answers, and
    requests that did not arrive at a loopback address are refused. *issuer* and *client_id* are for messages. *hsts*
    is the header line that every answer carries, if any.
    """

    public_url: PublicURL
    issuer: str
    client_id: str
    csrf: CSRFRules
    cookies: CookiePolicy
    development: bool
    endpoints: str = "/bff"
    anonymous_user_status: int = 401
    login: LoginOptions = field(default_factory=LoginOptions)
    logout: LogoutOptions = field(default_factory=LogoutOptions)
    hsts: Headers = ()
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)

    @property
    def redirect_uri(self) -> str:
        """The one redirect URI of this application, as it must be registered at the authorization server."""
        return self.public_url.absolute(self.endpoints + "/callback")

    @property
    def logged_out_uri(self) -> str:
        """The one `post_logout_redirect_uri` of this application, as it must be registered."""
        return self.public_url.absolute(self.endpoints + "/logged-out")

    @property
    def callback_path(self) -> str:
        """The path of the redirect URI on the browser's origin."""
        return self.public_url.path + self.endpoints + "/callback"

    @property
    def silent_login_callback_path(self) -> str:
        """Where the frame of a silent login tells the page around it how it went."""
        return self.public_url.path + self.endpoints + "/silent-login-callback"

    @property
    def login_path(self) -> str:
        """Where a browser goes to log in, as a path on its own origin."""
        return self.public_url.path + self.endpoints + "/login"

    def login_path_for(self, return_url: str) -> str:
        """The same, to come back to *return_url*, which is a checked one."""
        return path_with_query(self.login_path, {"returnUrl": None if return_url == self.home else return_url})

    @property
    def logout_path(self) -> str:
        """Where a browser goes to log out, as a path on its own origin."""
        return self.public_url.path + self.endpoints + "/logout"

    @property
    def home(self) -> str:
        """Where a browser lands when nobody said where."""
        return self.public_url.path + "/"
