"""For tests: an OpenID provider that runs inside them, and conformance suites for stores of your own."""

from coatcheck.testing.authorization_server import (
    DEFAULT_CLIENT,
    AuthorizationServerApp,
    running_authorization_server,
)
from coatcheck.testing.registered_clients import RegisteredClient
from coatcheck.testing.scripting import Behaviour, Gate, LoggedRequest

__all__ = [
    "DEFAULT_CLIENT",
    "AuthorizationServerApp",
    "Behaviour",
    "Gate",
    "LoggedRequest",
    "RegisteredClient",
    "running_authorization_server",
]
