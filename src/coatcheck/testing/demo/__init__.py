"""`coatcheck demo`: an OpenID provider, a sample API, the gateway and a page, all in one process on loopback."""

from coatcheck.testing.demo.show import demo

__all__ = ["demo"]
