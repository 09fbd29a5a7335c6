"""How a flight ends: with a token, or with a verdict about a failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from coatcheck.tokens.values import UserToken, UserTokenRequestParameters
from coatcheck.tokens.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Renewed:
    """
    A flight ended with *token*, the access token that *parameters* mean.

    *sent*: it is the answer to a request of this flight, and to be used; otherwise it was found, and may be old.
    """

    parameters: UserTokenRequestParameters
    token: UserToken
    sent: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """
    A flight for the access token that *parameters* mean ended with a *verdict*.

    *personal* says that it is about the session for which the flight started, not about the grant.
    """

    parameters: UserTokenRequestParameters
    verdict: Verdict
    personal: bool = False


Outcome: TypeAlias = Renewed | Refused
