"""The gateway's file: `load_config` reads `coatcheck.toml`."""

from coatcheck.config.load import ConfigurationProblems, load_config
from coatcheck.config.rules import GatewayConfig
from coatcheck.config.words import APIWords, FrontendWords, ServerWords, SessionsWords, UserWords

__all__ = [
    "APIWords",
    "ConfigurationProblems",
    "FrontendWords",
    "GatewayConfig",
    "ServerWords",
    "SessionsWords",
    "UserWords",
    "load_config",
]
