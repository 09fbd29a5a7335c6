"""`BlockingTokens`: the same tokens for code without an event loop, in command-line tools, threads and agents."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, runtime_checkable
from weakref import finalize

from coatcheck.clock import SYSTEM_CLOCK, Clock
from coatcheck.coordination import CoordinationStore
from coatcheck.errors import ConfigurationError
from coatcheck.oauth.client import Client
from coatcheck.oauth.client_auth import ClientAssertionService
from coatcheck.oauth.messages import Form
from coatcheck.sessions.seal import KeyRing
from coatcheck.sessions.sessions import SearchableSessions
from coatcheck.tokens.coordinator import WAITER_DEADLINE
from coatcheck.tokens.lease import LeaseTimes
from coatcheck.tokens.loop_thread import LoopThread
from coatcheck.tokens.manager import Tokens
from coatcheck.tokens.results import BearerTokenResult
from coatcheck.tokens.sending import Checkpoints, no_checkpoint
from coatcheck.tokens.store import UserTokenStore
from coatcheck.tokens.values import (
    DEFAULT_PARAMETERS,
    NOTHING,
    ClientToken,
    User,
    UserToken,
    UserTokenRequestParameters,
)
from coatcheck.transport import Send

if TYPE_CHECKING:
    from coatcheck.tokens.auth import BlockingTokenAuth, HTTPClients  # these load httpx2

T = TypeVar("T")


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


class BlockingTokens:
    """
    `Tokens` for synchronous code: the same arguments, the same answers, the same errors, and methods that wait.

    The work is done by one event loop on one daemon thread, which starts with the first call. Any number of threads may
    call; a forked child gets a thread of its own. Close it: `with BlockingTokens(...) as tokens`, or `close()`.

    Nothing is renewed behind your back, because a process may end right after a call: a stale token is renewed while
    the caller waits, and if that fails it is returned as it is. *store* and *coordination* are used in that event loop;
    closing awaits their `aclose()` there, if they have one, which for ours closes what that loop had opened. Clients in
    *http_clients* must not be used elsewhere, nor on both sides of a fork: a child makes its own `BlockingTokens` then.

    Raises:
        ConfigurationError: as `Tokens`.
    """

    def __init__(
        self,
        client: Client | Mapping[str, Client],
        *,
        store: UserTokenStore | None = None,
        http_clients: HTTPClients | None = None,
        client_assertions: ClientAssertionService | None = None,
        coordination: CoordinationStore | None = None,
        keys: Sequence[str] | KeyRing | None = None,
        sessions: SearchableSessions | None = None,
        clock: Clock = SYSTEM_CLOCK,
        checkpoints: Checkpoints = no_checkpoint,
        lease_times: LeaseTimes = LeaseTimes(),  # noqa: B008  # a frozen value
        send: Send | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        waiter_deadline: timedelta = WAITER_DEADLINE,
        revoke_refresh_token: bool = True,
        revoke_access_token: bool = True,
    ) -> None:
        self._make = partial(
            Tokens,
            client,
            store=store,
            http_clients=http_clients,
            client_assertions=client_assertions,
            coordination=coordination,
            keys=keys,
            sessions=sessions,
            clock=clock,
            checkpoints=checkpoints,
            lease_times=lease_times,
            send=send,
            pause=pause,
            waiter_deadline=waiter_deadline,
            revoke_refresh_token=revoke_refresh_token,
            revoke_access_token=revoke_access_token,
            background=False,
        )
        self._has_given_clients = bool(http_clients)
        self._tokens = self._make()  # now, so that a wrong configuration is told here
        self._thread: LoopThread | None = None
        used: tuple[object, ...] = (store, coordination)
        self._to_close = [each for each in used if isinstance(each, _Closable)]
        self._closed = False

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._tokens)[1:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the calls and renewals under way, then close what was opened here. Later calls are refused."""
        with _starting:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None and thread.pid == os.getpid():
            thread.stop()
            thread.join()

    def user(self, *, sub: str | None = None, sid: str | None = None, iss: str | None = None) -> User:
        """
        Find the session of a user who is not here.

        Raises:
            LoginRequired, StoreUnavailable, ConfigurationError, ValueError: as `Tokens.user`.
        """
        return self._call(lambda tokens: tokens.user(sub=sub, sid=sid, iss=iss))

    def user_token(self, user: User, parameters: UserTokenRequestParameters = DEFAULT_PARAMETERS) -> UserToken:
        """
        Return the user's access token, renewed if it is due.

        Raises:
            LoginRequired, TokenUnavailable, StoreUnavailable: as `Tokens.user_token`.
        """
        return self._call(lambda tokens: tokens.user_token(user, parameters))

    def client_token(
        self,
        *,
        client: str = "default",
        scope: str | None = None,
        resource: tuple[str, ...] = (),
        form_parameters: Form = (),
        context: Mapping[str, Any] = NOTHING,
        refused: str | None = None,
    ) -> ClientToken:
        """
        Return an access token of the registration itself.

        Raises:
            TokenUnavailable: as `Tokens.client_token`.

        RFC 6749 section 4.4.
        """
        return self._call(
            lambda tokens: tokens.client_token(
                client=client,
                scope=scope,
                resource=resource,
                form_parameters=form_parameters,
                context=context,
                refused=refused,
            )
        )

    def exchange(
        self,
        subject_token: str,
        *,
        audience: str | None = None,
        resource: tuple[str, ...] = (),
        scope: str | None = None,
        client: str = "default",
        actor_token: str | None = None,
    ) -> BearerTokenResult:
        """
        Exchange an access token for one that another API accepts.

        Raises:
            OAuthError, TokenUnavailable: as `Tokens.exchange`.

        RFC 8693 section 2.
        """
        return self._call(
            lambda tokens: tokens.exchange(
                subject_token,
                audience=audience,
                resource=resource,
                scope=scope,
                client=client,
                actor_token=actor_token,
            )
        )

    def store_login(self, user: User, token: UserToken, *, client: str = "default") -> None:
        """
        Put the user's grant into the store, in the place of an earlier one.

        Raises:
            StoreUnavailable: nothing may have been stored.
        """
        self._call(lambda tokens: tokens.store_login(user, token, client=client))

    def revoke(self, user: User) -> None:
        """Revoke the user's tokens and forget them, as `Tokens.revoke`: for everybody who shares the grant."""
        self._call(lambda tokens: tokens.revoke(user))

    def auth(
        self,
        *,
        token: Literal["client", "user"] = "client",
        user: User | None = None,
        scope: str | None = None,
        resource: tuple[str, ...] = (),
        client: str = "default",
    ) -> BlockingTokenAuth:
        """
        Return an `auth=` for `httpx2.Client` that attaches a token and renews it after a 401.

        Give it to clients that call one API only: it puts the token on every request of that client.

        Raises:
            ConfigurationError: `token="user"` without a user.
        """
        from coatcheck.tokens.auth import BlockingTokenAuth

        if token == "client":
            return BlockingTokenAuth(partial(self.client_token, client=client, scope=scope, resource=resource))
        if user is None:
            raise ConfigurationError("token='user' needs to know which: give user=...", path="user")
        parameters = UserTokenRequestParameters(client=client, scope=scope, resource=resource)
        forced = replace(parameters, force_renewal=True)

        def user_token(*, refused: str | None = None) -> UserToken:
            token = self.user_token(user, parameters)
            return self.user_token(user, forced) if token.access_token == refused else token

        return BlockingTokenAuth(user_token, user=user)

    def _call(self, work: Callable[[Tokens], Coroutine[Any, Any, T]]) -> T:
        with _starting:
            thread = self._running()
            outcome = thread.submit(work(self._tokens))
        return outcome()

    def _running(self) -> LoopThread:
        if self._closed:
            raise RuntimeError("these BlockingTokens are closed: make new ones, or close them later")
        if self._thread is None or self._thread.pid != os.getpid():
            if self._thread is not None:
                if self._has_given_clients:
                    # Parent and child would talk on the same connections, each taking the other's answers for its own.
                    raise RuntimeError(
                        "these BlockingTokens were used before the fork, with HTTP clients of yours whose connections "
                        "belong to the parent: make new clients and new BlockingTokens in the child"
                    )
                _abandoned.append((self._thread, self._tokens))
                self._tokens = self._make()
            self._thread = LoopThread(partial(_close, self._tokens, self._to_close))
            # Not for the end of the interpreter, which the thread knows by itself, and earlier.
            finalize(self, self._thread.stop).atexit = False
        return self._thread


async def _close(tokens: Tokens, others: Sequence[_Closable]) -> None:
    await tokens.aclose()
    for each in others:
        await each.aclose()


_abandoned: list[object] = []
"""What a fork left behind in the child: to tidy it up would take connections and watched sockets from the parent."""

_starting = threading.RLock()
"""
Held for the moment in which a thread starts or takes a call, and during a fork, so that no child inherits it held.

A signal handler may call in that very moment, too, in the same thread.
"""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)
