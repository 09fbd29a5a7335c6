"""
Sending a refresh token: under the lease, behind a durable mark, and a second time only where that is allowed.

A sending has one of three ends. *Answered*: the verdict decides, and nothing is in doubt. *Not sent*: as if it had not
been tried. *In doubt*: the mark stays on the lease, whoever comes next finds it, and the rotation profile decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coatcheck.clock import Clock
from coatcheck.coordination import SentMark
from coatcheck.errors import CoatcheckError, InvalidTokenResponse, TransportError
from coatcheck.oauth.client import Client
from coatcheck.oauth.rotation import Rotation, RotationKind
from coatcheck.oauth.token import TokenSet
from coatcheck.telemetry import in_doubt as in_doubt_decisions
from coatcheck.tokens.endpoint import TokenEndpoint
from coatcheck.tokens.lease import HeldLease, LeaseTimes
from coatcheck.tokens.rotation import RotationProfiles, may_send_again
from coatcheck.tokens.values import User, UserToken, UserTokenRequestParameters

Checkpoints = Callable[[str], Awaitable[None]]
"""
Awaited at named places of a renewal, so that tests can stop there: `renewal.lease_held`, `renewal.marked`,
`renewal.answered`, `renewal.before_write`, `renewal.written`. In production it does nothing.
"""


async def no_checkpoint(name: str) -> None:
    """Pass every checkpoint."""


_SENT_BEFORE = (
    "a process that was renewing it ended, or was cut off, in the middle, or the store was restored from an older state"
)
_QUICK = 5.0
"""Seconds within which a connection has to break for the request to be sent again while its callers wait."""
_ANSWER_SHARE = 0.875
"""The part of a long lease that must be left when the request leaves: 10.5 of 12 s, for an answer within 10."""
_LONGEST_DOUBT = 400 * 24 * 3600.0
"""Seconds for which it is remembered that a refresh token was sent, where nothing says how long it is kept."""


@dataclass(frozen=True, slots=True)
class Due:
    """
    What one flight is about: the *token* that is stored now and has to be renewed, under *lease*.

    *kept_until* is the instant from which it is not stored any more, if that is known. *resumed*: somebody before has
    sent the refresh token, and nobody knows what came of it.
    """

    user: User
    parameters: UserTokenRequestParameters
    token: UserToken
    endpoint: TokenEndpoint
    lease: HeldLease
    grant: bytes
    kept_until: float | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class InDoubt:
    """Nobody knows what came of a sending; *what* says what happened to it."""

    what: str


class Sender:
    """Sends the refresh token of what is due: once, and again where the rotation profile permits it."""

    def __init__(
        self, profiles: RotationProfiles, *, clock: Clock, times: LeaseTimes, checkpoints: Checkpoints
    ) -> None:
        self.profiles = profiles
        self._clock = clock
        self._times = times
        self._checkpoint = checkpoints

    async def send(self, due: Due) -> TokenSet | InDoubt:
        """
        Return the answer, or that there is none to be had. The mark of the lease then says what is still in doubt.

        Raises:
            CoatcheckError: it was not sent, or it was answered with this.
            LeaseLost: it was not sent, and somebody else may send it by now.
            StoreUnavailable: it was not sent, because the mark could not be written.
        """
        began = self._clock.monotonic()
        found = due.lease.mark
        if found is not None and not await self._may_send(due.endpoint.client, found):
            return InDoubt(_SENT_BEFORE)
        sending = _Sending(self, due)
        try:
            return await self._once(due, sending)
        except TransportError as error:
            if not sending.in_doubt(error):
                raise
            mark = due.lease.mark
            quick = self._clock.monotonic() - began < _QUICK
            if not quick or mark is None or not await self._may_send(due.endpoint.client, mark):
                return InDoubt(str(error))
        except InvalidTokenResponse as error:
            if not sending.in_doubt(error):
                raise
            return InDoubt(str(error))
        return await self._again(due)

    async def _again(self, due: Due) -> TokenSet | InDoubt:
        sending = _Sending(self, due, again=True)
        try:
            return await self._once(due, sending)
        except (TransportError, InvalidTokenResponse) as error:
            if not sending.in_doubt(error):
                raise
            return InDoubt(str(error))

    async def _once(self, due: Due, sending: _Sending) -> TokenSet:
        """Send once. However it ends, the mark of the lease says afterwards what is in doubt."""
        parameters = due.parameters
        profile = self.profiles.known(due.endpoint.client)
        marked_before = due.lease.mark
        try:
            return await due.endpoint.refresh(
                due.token.refresh_token or "",
                scope=parameters.scope,
                resource=parameters.resource,
                extra=parameters.form_parameters,
                assertion=parameters.client_assertion,
                context=parameters.context,
                who=due.grant,
                again=sending.again,
                before_send=sending,
                # Half a grace for the first sending leaves the other half for the second.
                deadline=profile.grace / 2 if profile.kind is RotationKind.GRACE else None,
            )
        except CoatcheckError as error:
            if not sending.in_doubt(error):
                due.lease.mark = marked_before  # a refusal says nothing about what was sent before
            raise

    async def mark_and_check(self, due: Due, *, began: float) -> None:
        """Write the mark, then make sure that the lease is still ours in the moment of sending."""
        profile = self.profiles.known(due.endpoint.client)
        repeatable = profile.kind in (RotationKind.NONE, RotationKind.GRACE)
        seconds = self._times.initial if repeatable else self._times.sending
        await due.lease.mark_sent(
            began=began,
            until=began + _LONGEST_DOUBT if due.kept_until is None else due.kept_until,
            seconds=seconds,
        )
        await self._checkpoint("renewal.marked")
        due.lease.check(at_least=seconds / 2 if repeatable else seconds * _ANSWER_SHARE)

    async def _may_send(self, client: Client, mark: SentMark) -> bool:
        """Say whether a refresh token may be sent though nobody knows what came of an earlier sending."""
        profile = await self.profiles.profile(client)
        again = may_send_again(profile, mark, now=self._clock.time())
        decided("send_again" if again else "do_not_send", profile)
        return again

    def now(self) -> float:
        """Return the wall clock's instant, for marks."""
        return self._clock.time()


class _Sending:
    """Stands between a request that is ready and the wire. *begun*: bytes may have left."""

    def __init__(self, sender: Sender, due: Due, *, again: bool = False) -> None:
        self.again = again
        self._sender = sender
        self._due = due
        self._began = sender.now()
        self.begun = False

    async def __call__(self) -> None:
        await self._sender.mark_and_check(self._due, began=self._began)
        self.begun = True

    def in_doubt(self, error: CoatcheckError) -> bool:
        """Say whether *error* leaves open what became of the refresh token."""
        if isinstance(error, InvalidTokenResponse):
            return error.carries_refresh_token  # which is nothing to go on with, as the rest of the answer is not
        return self.begun and isinstance(error, TransportError) and error.in_doubt


def decided(decision: str, profile: Rotation) -> None:
    """Count what was decided about a refresh token that is in doubt."""
    in_doubt_decisions.add(1, {"decision": decision, "profile": profile.kind.value})
