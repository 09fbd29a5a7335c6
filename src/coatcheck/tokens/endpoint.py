"""The token endpoint of one client registration: each grant is one method, and one request (RFC 6749 section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coatcheck.clock import Clock
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
from coatcheck.oauth.logout import parse_revocation_response, revocation_request
from coatcheck.oauth.messages import Form, Response
from coatcheck.oauth.metadata import Metadata
from coatcheck.oauth.token import TokenSet, parse_token_exchange_response, parse_token_response
from coatcheck.provider import AuthorizationServer
from coatcheck.tokens.values import NOTHING
from coatcheck.transport import Send


class TokenEndpoint:
    """
    Sends token requests for the registration *name*, each authenticated anew and each exactly once.

    Nothing is retried here, and nothing is remembered: a failure leaves as the error that `oauth` or the transport
    raised, and the caller judges it.
    """

    def __init__(
        self,
        name: str,
        server: AuthorizationServer,
        send: Send,
        *,
        assertions: ClientAssertionService | None,
        clock: Clock,
    ) -> None:
        self.name = name
        self.server = server
        self._send = send
        self._assertions = assertions
        self._clock = clock

    @property
    def client(self) -> Client:
        """The registration."""
        return self.server.client

    async def redeem_code(self, code: AuthorizationCode, *, redirect_uri: str, code_verifier: str) -> TokenSet:
        """Exchange an authorization code for tokens (RFC 6749 4.1.3)."""
        form = authorization_code_form(code, redirect_uri=redirect_uri, code_verifier=code_verifier)
        return await self._tokens(form)

    async def refresh(
        self,
        refresh_token: str,
        *,
        scope: str | None,
        resource: tuple[str, ...],
        extra: Form = (),
        assertion: ClientAssertion | None = None,
        context: Mapping[str, Any] = NOTHING,
    ) -> TokenSet:
        """Use a refresh token (RFC 6749 6). Without *scope* the grant's own is kept."""
        form = refresh_form(refresh_token, scope=scope, resource=resource)
        return await self._tokens(form, extra=extra, assertion=assertion, context=context)

    async def client_credentials(
        self, *, scope: str | None, resource: tuple[str, ...], extra: Form = (), context: Mapping[str, Any] = NOTHING
    ) -> TokenSet:
        """Ask for a token of the client's own (RFC 6749 4.4)."""
        return await self._tokens(client_credentials_form(scope=scope, resource=resource), extra=extra, context=context)

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
        requested_at, response = await self._answer(form)
        return parse_token_exchange_response(response, requested_at=requested_at)

    async def revoke(self, refresh_token: str) -> bool:
        """Revoke a refresh token (RFC 7009 2.1); False when the authorization server has no endpoint for it."""
        metadata = await self.server.metadata()
        request = revocation_request(
            self.client,
            metadata,
            refresh_token,
            token_type_hint="refresh_token",
            now=self._clock.time(),
            assertion=await self._assertion(metadata, NOTHING),
        )
        if request is None:
            return False
        parse_revocation_response(await self._send(request))
        return True

    async def _tokens(
        self,
        form: Form,
        *,
        extra: Form = (),
        assertion: ClientAssertion | None = None,
        context: Mapping[str, Any] = NOTHING,
    ) -> TokenSet:
        requested_at, response = await self._answer(form, extra=extra, assertion=assertion, context=context)
        return parse_token_response(response, requested_at=requested_at)

    async def _answer(
        self,
        form: Form,
        *,
        extra: Form = (),
        assertion: ClientAssertion | None = None,
        context: Mapping[str, Any] = NOTHING,
    ) -> tuple[float, Response]:
        metadata = await self.server.metadata()
        assertion = assertion or await self._assertion(metadata, context)
        requested_at = self._clock.time()
        request = token_request(self.client, metadata, form, now=requested_at, assertion=assertion, extra=extra)
        return requested_at, await self._send(request)

    async def _assertion(self, metadata: Metadata, context: Mapping[str, Any]) -> ClientAssertion | None:
        if self._assertions is None:
            return None
        client = self.client
        return await self._assertions.get_client_assertion(
            self.name,
            issuer=client.issuer,
            client_id=client.client_id,
            token_endpoint=metadata.token_endpoint,
            context=context,
        )
