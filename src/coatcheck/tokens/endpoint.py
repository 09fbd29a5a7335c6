"""The token endpoint of one client registration: each grant is one method, and one request (RFC 6749 section 3.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, ConfigurationError, TokenUnavailable, TransportError
from coatcheck.oauth.authorize import AuthorizationCode
from coatcheck.oauth.client import Client
from coatcheck.oauth.client_auth import ClientAssertion, ClientAssertionService
from coatcheck.oauth.grants import (
    authorization_code_form,
    client_credentials_form,
    refresh_form,
    token_exchange_form,
    token_request,
)
from coatcheck.oauth.logout import TokenTypeHint, parse_revocation_response, revocation_request
from coatcheck.oauth.messages import Form, Request, Response
from coatcheck.oauth.metadata import Metadata
from coatcheck.oauth.token import TokenSet, parse_token_exchange_response, parse_token_response
from coatcheck.provider import AuthorizationServer
from coatcheck.telemetry import token_requests
from coatcheck.tokens.traffic import Errand, Traffic
from coatcheck.tokens.values import NOTHING
from coatcheck.transport import Send

BeforeSend = Callable[[], Awaitable[None]]


async def ready() -> None:
    """Have nothing to do before a request leaves."""


class ParseTokenResponse(Protocol):
    """Reads an answer of the token endpoint."""

    def __call__(self, response: Response, *, requested_at: float) -> TokenSet:
        """Return the tokens, or raise what the answer says."""
        ...


class TokenEndpoint:
    """
    Sends token requests for the registration *name*, each authenticated anew and each exactly once.

    Nothing is retried here: a failure leaves as the error that `oauth` or the transport raised, and the caller judges
    it. *traffic* keeps requests from an authorization server that is not well.
    """

    def __init__(
        self,
        name: str,
        server: AuthorizationServer,
        send: Send,
        *,
        traffic: Traffic,
        assertions: ClientAssertionService | None,
        clock: Clock,
    ) -> None:
        self.name = name
        self.server = server
        self._send = send
        self._traffic = traffic
        self._assertions = assertions
        self._clock = clock

    @property
    def client(self) -> Client:
        """The registration."""
        return self.server.client

    async def redeem_code(self, code: AuthorizationCode, *, redirect_uri: str, code_verifier: str) -> TokenSet:
        """Exchange an authorization code for tokens (RFC 6749 4.1.3)."""
        form = authorization_code_form(code, redirect_uri=redirect_uri, code_verifier=code_verifier)
        return await self._tokens((*form, *(("resource", uri) for uri in self._resource_of_the_login())))

    async def refresh(
        self,
        refresh_token: str,
        *,
        scope: str | None,
        resource: tuple[str, ...],
        extra: Form = (),
        assertion: ClientAssertion | None = None,
        context: Mapping[str, Any] = NOTHING,
        who: Hashable = None,
        again: bool = False,
        before_send: BeforeSend = ready,
        deadline: float | None = None,
    ) -> TokenSet:
        """
        Use a refresh token (RFC 6749 6). Without *scope* the grant's own is kept.

        *who* names the grant for `Traffic`, *again* a second try. *before_send* is awaited when everything is ready,
        right before the request leaves; if it raises, nothing does. *deadline*, in seconds from then on, may be shorter
        than the transport's.
        """
        form = refresh_form(refresh_token, scope=scope, resource=resource or self._resource_of_the_login())
        return await self._tokens(
            form,
            extra=extra,
            assertion=assertion,
            context=context,
            errand=Errand(self.client.issuer, self.name, "refresh_token", who, again),
            before_send=before_send,
            deadline=deadline,
        )

    async def client_credentials(
        self,
        *,
        scope: str | None,
        resource: tuple[str, ...],
        extra: Form = (),
        context: Mapping[str, Any] = NOTHING,
        who: Hashable = None,
    ) -> TokenSet:
        """Ask for a token of the client's own (RFC 6749 4.4). *who* names it for `Traffic`."""
        form = client_credentials_form(scope=scope, resource=resource or self.client.resource)
        errand = Errand(self.client.issuer, self.name, "client_credentials", who)
        return await self._tokens(form, extra=extra, context=context, errand=errand)

    async def exchange(
        self,
        subject_token: str,
        *,
        audience: str | None,
        resource: tuple[str, ...],
        scope: str | None,
        actor_token: str | None,
    ) -> TokenSet:
        """Exchange an access token for another one (RFC 8693 2.1)."""
        form = token_exchange_form(
            subject_token, audience=audience, resource=resource, scope=scope, actor_token=actor_token
        )
        errand = Errand(self.client.issuer, self.name, dict(form)["grant_type"], (audience, resource, scope))
        return await self._tokens(form, parse=parse_token_exchange_response, errand=errand)

    async def revoke(self, token: str, *, token_type_hint: TokenTypeHint = "refresh_token") -> bool:
        """Revoke *token* (RFC 7009 2.1); False when the authorization server has no endpoint for it."""
        metadata = await self.server.metadata()
        request = revocation_request(
            self.client,
            metadata,
            token,
            token_type_hint=token_type_hint,
            now=self._clock.time(),
            assertion=await self._assertion(metadata, NOTHING),
        )
        if request is None:
            return False
        parse_revocation_response(await self._send(request))
        return True

    def _resource_of_the_login(self) -> tuple[str, ...]:
        """
        The resource that tokens of a login are for, when the registration names exactly one.

        With several, most authorization servers want each named in a request of its own: a route does that.

        RFC 8707 section 2.2.
        """
        return self.client.resource if len(self.client.resource) == 1 else ()

    async def _tokens(
        self,
        form: Form,
        *,
        extra: Form = (),
        assertion: ClientAssertion | None = None,
        context: Mapping[str, Any] = NOTHING,
        parse: ParseTokenResponse = parse_token_response,
        errand: Errand | None = None,
        before_send: BeforeSend = ready,
        deadline: float | None = None,
    ) -> TokenSet:
        grant = dict(form)["grant_type"]
        try:
            async with self._in_turn(grant, errand):
                metadata = await self.server.metadata()
                assertion = assertion or await self._assertion(metadata, context)
                requested_at = self._clock.time()
                request = token_request(self.client, metadata, form, now=requested_at, assertion=assertion, extra=extra)
                await before_send()
                tokens = parse(await self._answer(request, deadline), requested_at=requested_at)
        except CoatcheckError as error:
            token_requests.add(1, {"grant": grant, "outcome": type(error).__name__})
            raise
        token_requests.add(1, {"grant": grant, "outcome": "ok"})
        return tokens

    def refusal(self, who: Hashable) -> TokenUnavailable | None:
        """Tell whether a refresh for *who* would be refused now without asking."""
        return self._traffic.refusal(Errand(self.client.issuer, self.name, "refresh_token", who))

    def _in_turn(self, grant: str, errand: Errand | None) -> AbstractAsyncContextManager[None]:
        """Wait for our turn, or be refused; but a code is good for seconds, and somebody is waiting to be let in."""
        if grant == "authorization_code":
            return nullcontext()
        return self._traffic.entered(errand or Errand(self.client.issuer, self.name, grant))

    async def _answer(self, request: Request, deadline: float | None) -> Response:
        try:
            async with asyncio.timeout(deadline):
                return await self._send(request)
        except TimeoutError:
            raise TransportError(f"{self.client.issuer} did not answer within {deadline:g} s", sent=True) from None

    async def _assertion(self, metadata: Metadata, context: Mapping[str, Any]) -> ClientAssertion | None:
        if self._assertions is None:
            return None
        try:
            return await self._assertions.get_client_assertion(
                self.name,
                issuer=self.client.issuer,
                client_id=self.client.client_id,
                token_endpoint=metadata.token_endpoint,
                context=context,
            )
        except Exception as error:
            raise ConfigurationError(
                f"the ClientAssertionService raised {type(error).__name__} for the registration {self.name!r}",
                path="client_assertions",
            ) from error
