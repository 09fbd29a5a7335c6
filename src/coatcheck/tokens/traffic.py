"""
Every token request goes through here: refused while its destination is to be left alone, and never too many at once.

A slow or broken authorization server costs its own users a 503, and nobody else a connection, a worker or a pool.
"""

from __future__ import annotations

import asyncio
import logging
import random as system_random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, OAuthError, TokenUnavailable
from coatcheck.telemetry import circuit_changes
from coatcheck.tokens.circuit import FAILURES_TO_OPEN, Circuit, Passage
from coatcheck.tokens.verdicts import Reach, Verdict, judge

_log = logging.getLogger("coatcheck")

AT_ONCE = 40
"""Token requests to one issuer at the same time. The pool of the back channel has a few more places than that."""

_PATIENCE = 10.0
"""Seconds for which a request waits for its turn."""

_MAX_DESTINATIONS = 1000
_LOOKS = 8
_FROM_WIDE_TO_NARROW = (Reach.ISSUER, Reach.CLIENT, Reach.GRANT_TYPE)


@dataclass(frozen=True, slots=True)
class Errand:
    """
    Where a token request goes, and for *whom*: whatever names the grant or the token that it is about.

    *again*: it is the second try of one whose connection broke.
    """

    issuer: str
    registration: str
    grant_type: str
    who: Hashable = field(default=None, repr=False)
    again: bool = False


class Traffic:
    """
    Lets token requests out, one `async with traffic.entered(errand)` around each. Use one per event loop.

    Three circuits stand in the way of each: the issuer's, the registration's and that of the registration with this
    grant type. What an error says about which of them is `Verdict.reach`.
    """

    def __init__(
        self, clock: Clock, *, random: Callable[[], float] = system_random.random, at_once: int = AT_ONCE
    ) -> None:
        self._clock = clock
        self._random = random
        self._at_once = at_once
        self._destinations: OrderedDict[tuple[str, ...], _Destination] = OrderedDict()

    def __len__(self) -> int:
        return len(self._destinations)

    def refusal(self, errand: Errand) -> TokenUnavailable | None:
        """Tell whether `entered` would refuse at once, and how: to be asked before a lease is taken for nothing."""
        now = self._clock.monotonic()
        for key in _keys(errand):
            destination = self._destinations.get(key)
            wait = destination.circuit.refusal(now, errand.who, again=errand.again) if destination is not None else None
            if destination is not None and wait is not None:
                return TokenUnavailable(
                    f"no token request is made to {errand.issuer} for another {wait:.1f} s, after this: "
                    f"{destination.failure}",
                    retry_after=timedelta(seconds=wait),
                )
        return None

    @asynccontextmanager
    async def entered(self, errand: Errand) -> AsyncIterator[None]:
        """
        Send one token request in this block, and nothing else: what it raises is taken for the answer to it.

        Waits for a place among the requests that are under way. An error that came from somewhere else (a store, a
        lease, a cancellation) shows nothing and changes nothing.

        Raises:
            TokenUnavailable: the destination is to be left alone, or no place was free for long. Nothing was sent.
        """
        self._check(errand)
        destinations = [self._destination(key) for key in _keys(errand)]
        issuer = destinations[0]
        for destination in destinations:
            destination.users += 1
        try:
            await self._turn(issuer, errand)
            try:
                self._check(errand)  # while this one waited, others may have found out
                async with self._passed(errand, destinations):
                    yield
            finally:
                issuer.places.release()
        finally:
            for destination in destinations:
                destination.users -= 1

    def _check(self, errand: Errand) -> None:
        refusal = self.refusal(errand)
        if refusal is not None:
            raise refusal

    async def _turn(self, issuer: _Destination, errand: Errand) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await issuer.places.acquire()
        except TimeoutError:
            raise TokenUnavailable(
                f"{self._at_once} token requests to {errand.issuer} were under way for {_PATIENCE:g} s: it is slow",
                retry_after=timedelta(seconds=1),
            ) from None

    @asynccontextmanager
    async def _passed(self, errand: Errand, destinations: list[_Destination]) -> AsyncIterator[None]:
        passages = [destination.circuit.enter(errand.who) for destination in destinations]
        seen: BaseException | None = None
        try:
            yield
        except BaseException as error:
            seen = error
            raise
        finally:
            for reach, destination, passage in zip(_FROM_WIDE_TO_NARROW, destinations, passages, strict=True):
                self._note(errand, reach, destination, passage, seen)

    def _note(
        self,
        errand: Errand,
        reach: Reach,
        destination: _Destination,
        passage: Passage,
        error: BaseException | None,
    ) -> None:
        """Tell one circuit what came of a request."""
        circuit = destination.circuit
        was_well, was_open = circuit.well, circuit.open
        if error is None:
            circuit.succeeded(passage)
        elif not isinstance(error, CoatcheckError):
            circuit.abandoned(passage)
        else:
            verdict = judge(error, issuer=errand.issuer)
            if verdict.reach is reach:
                destination.failure = verdict.message
                circuit.failed(passage, self._clock.monotonic(), retry_after=_seconds(verdict))
            elif isinstance(error, OAuthError) and _is_wider(reach, verdict.reach):
                circuit.succeeded(passage)  # it works: it said in its own words that something else does not
            else:
                circuit.abandoned(passage)
        # An outage may be over before anybody has to know; a registration that is refused needs somebody to act.
        if reach is Reach.ISSUER:
            self._tell(errand, reach, destination, before=was_open, after=circuit.open)
        else:
            self._tell(errand, reach, destination, before=not was_well, after=not circuit.well)

    def _tell(self, errand: Errand, reach: Reach, destination: _Destination, *, before: bool, after: bool) -> None:
        if before == after:
            return
        state = "open" if after else "closed"
        circuit_changes.add(1, {"state": state, "reach": reach.value, "issuer": errand.issuer})
        what = {
            Reach.ISSUER: f"token requests to {errand.issuer}",
            Reach.CLIENT: f"token requests of the registration {errand.registration!r} to {errand.issuer}",
        }.get(reach, f"{errand.grant_type} requests of the registration {errand.registration!r} to {errand.issuer}")
        if not after:
            _log.info("token_requests_resumed: %s succeed again", what)
        elif reach is Reach.ISSUER:
            _log.warning(
                "token_requests_suspended: %s failed %d times in a row, and one at a time tries whether they succeed "
                "again; tokens that are valid are used meanwhile: %s",
                what,
                FAILURES_TO_OPEN,
                destination.failure,
            )
        else:
            _log.error("token_requests_refused: %s are refused until somebody acts: %s", what, destination.failure)

    def _destination(self, key: tuple[str, ...]) -> _Destination:
        destination = self._destinations.get(key)
        if destination is None:
            self._make_room()
            destination = _Destination(Circuit(self._random), asyncio.Semaphore(self._at_once))
            self._destinations[key] = destination
        self._destinations.move_to_end(key)
        return destination

    def _make_room(self) -> None:
        """Forget destinations that nobody has used for long and of which nothing bad is known."""
        if len(self._destinations) >= _MAX_DESTINATIONS:
            oldest = list(islice(self._destinations.items(), _LOOKS))
            idle = [key for key, destination in oldest if destination.circuit.well and not destination.users]
            for key in idle or [key for key, destination in oldest if not destination.users]:
                del self._destinations[key]


@dataclass(slots=True, eq=False)
class _Destination:
    """A circuit, the places of those that are under way, and who uses it now."""

    circuit: Circuit
    places: asyncio.Semaphore
    users: int = 0
    failure: str = ""


def _keys(errand: Errand) -> tuple[tuple[str, ...], ...]:
    """Name the three circuits, from wide to narrow."""
    names = (errand.issuer, errand.registration, errand.grant_type)
    return names[:1], names[:2], names


def _is_wider(reach: Reach, other: Reach) -> bool:
    """A refusal of one request alone leaves open whether the registration's own proof was looked at."""
    if other is Reach.REQUEST:
        return reach is Reach.ISSUER
    return _FROM_WIDE_TO_NARROW.index(reach) < _FROM_WIDE_TO_NARROW.index(other)


def _seconds(verdict: Verdict) -> float | None:
    return None if verdict.retry_after is None else verdict.retry_after.total_seconds()
