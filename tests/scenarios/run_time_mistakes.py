"""What goes wrong while somebody is logged in. The session always survives it."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx2

from coatcheck.sessions.seal import new_key
from coatcheck.tokens.results import AccessTokenResult
from coatcheck.tokens.retrievers import AccessTokenRetrievalContext, TokenExchangeRetriever
from tests.rig.programs import free_port
from tests.scenarios.mistakes import Mistakes
from tests.scenarios.scene import Scene, untrusted_tls_server

TOKEN_MISTAKES = Mistakes("Access tokens")
CALL_MISTAKES = Mistakes("Calls of a remote API")
STORE_MISTAKES = Mistakes("Sessions and keys")

TTL = 60
"""Seconds that access tokens live here."""


@TOKEN_MISTAKES.induced(
    "The client secret was changed at the provider",
    503,
    "token_unavailable",
    names=["invalid_client", "check client_id, client_secret and client_auth"],
    alarm="token_requests_refused",
    advice="""
        Give coatcheck the new secret and restart it. Nobody is logged out: the next renewal after that
        succeeds.
    """,
)
def secret_changed_while_running(scene: Scene) -> httpx2.Response:
    client = scene.register(x_access_token_ttl=TTL)
    with scene.serve(client) as agent:
        agent.login()
        scene.register(client_id=client.client_id, client_secret="a-new-secret", x_access_token_ttl=TTL)
        scene.clock.offset = 2 * TTL
        answer = agent.fetch("/api/orders")
        assert agent.fetch("/bff/user").status_code == 200, "the session is kept"
    with scene.serve(client, secret="a-new-secret") as agent:
        assert agent.fetch("/api/orders").status_code == 200
    return answer


@TOKEN_MISTAKES.induced(
    "There is no refresh token",
    401,
    "token_expired_no_refresh_token",
    names=["no refresh token", "offline_access"],
    advice="""
        Ask for the scope `offline_access` (Google wants `access_type=offline` in `authorization_params`
        instead), and allow the client the grant type `refresh_token`. Until then users log in again whenever
        the access token has expired.
    """,
)
def no_refresh_token(scene: Scene) -> httpx2.Response:
    client = scene.register(x_refresh_tokens="offline_access", x_access_token_ttl=TTL)
    with scene.serve(client, scope="openid profile") as agent:
        agent.login()
        scene.clock.offset = 2 * TTL
        answer = agent.fetch("/api/orders")
        assert answer.json()["login_url"] == "/bff/login"
        return answer


@TOKEN_MISTAKES.induced(
    "The provider is down when a token has to be renewed",
    503,
    "token_unavailable",
    names=["gave no token", "the next call tries again"],
    advice="""
        Nothing to do here: nobody is logged out, and the next call tries again. Tokens that are still valid are
        used.
    """,
)
def provider_down_at_renewal(scene: Scene) -> httpx2.Response:
    client = scene.register(x_access_token_ttl=TTL)
    with scene.serve(client) as agent:
        agent.login()
        scene.clock.offset = 2 * TTL
        scene.provider.fault("status", status=500, client_id=client.client_id, times=None)
        answer = agent.fetch("/api/orders")
        assert int(answer.headers["retry-after"]) > 0
        scene.provider.clear_faults()
        scene.clock.offset += 10  # a failure is remembered for some seconds
        assert agent.fetch("/api/orders").status_code == 200
        return answer


@TOKEN_MISTAKES.induced(
    "The provider refuses a token exchange",
    403,
    "invalid_target",
    names=["token exchange", "invalid_target", "check audience"],
    advice="""
        Use an `audience` or `resource` that the provider knows and this client may have. The user's own token
        is never sent in place of the exchanged one.
    """,
)
def exchange_for_an_unknown_audience(scene: Scene) -> httpx2.Response:
    retriever = TokenExchangeRetriever(audience="https://unknown.example.com")
    with scene.serve(scene.register("login-tx"), retriever=retriever) as agent:
        agent.login()
        return agent.fetch("/api/orders")


@TOKEN_MISTAKES.induced(
    "The client may not exchange tokens",
    403,
    "invalid_request",
    names=["grant type is not allowed", "that the client may exchange tokens"],
    advice="""
        Allow the client the grant type `urn:ietf:params:oauth:grant-type:token-exchange` at the provider.
    """,
)
def exchange_not_allowed(scene: Scene) -> httpx2.Response:
    retriever = TokenExchangeRetriever(audience="https://billing.internal")
    with scene.serve(scene.register(), retriever=retriever) as agent:
        agent.login()
        return agent.fetch("/api/orders")


class Forgetful:
    """A retriever as somebody might write it."""

    async def get_access_token(self, context: AccessTokenRetrievalContext) -> AccessTokenResult:
        tenants: dict[str, AccessTokenResult] = {}
        return tenants[context.api]


@TOKEN_MISTAKES.induced(
    "A retriever raises an exception",
    503,
    "token_unavailable",
    names=["Forgetful, raised KeyError at ", "Correct the retriever"],
    advice="""
        The line has the place and the kind of the exception; its text is left out, because it may hold a token.
    """,
)
def retriever_raises(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register(), retriever=Forgetful()) as agent:
        agent.login()
        answer = agent.fetch("/api/orders")
        assert scene.api.requests == []
        return answer


@CALL_MISTAKES.induced(
    "The page forgets the CSRF header",
    403,
    "csrf_header_missing",
    names=["does not prove that it comes from a page of", "x-csrf: 1"],
    advice="""
        Send `X-CSRF: 1` with every call, GET included; a wrapper around `fetch` is the place. For what cannot
        send headers (downloads, event streams) there is `csrf = false` on the route.
    """,
)
def csrf_header_forgotten(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        agent.login()
        return agent.fetch("/api/orders", csrf=False)


@CALL_MISTAKES.induced(
    "A page of another site calls",
    403,
    "cross_site",
    names=["comes from another site", "Origin https://elsewhere.example.com", "serve it from there"],
    advice="""
        Serve the frontend from the origin of `public_url`. A page elsewhere cannot use a session, by design; if
        nobody of yours has such a page, somebody tries.
    """,
)
def called_from_another_site(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        agent.login()
        return agent.fetch("/api/orders", initiator="https://elsewhere.example.com/")


@CALL_MISTAKES.induced(
    "The remote API is down",
    502,
    "upstream_unreachable",
    names=["cannot be reached", "Check that it runs"],
    advice="""
        Start it, or correct the route's URL.
    """,
)
def api_down(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register(), api_url=f"http://127.0.0.1:{free_port()}") as agent:
        agent.login()
        return agent.fetch("/api/orders")


@CALL_MISTAKES.induced(
    "The remote API is too slow",
    504,
    "upstream_timeout",
    names=["silent for too long", "raise the route's timeout (0.3 s)"],
    advice="""
        The route's `timeout` is the longest silence, before the answer and within it. Make the API faster, or
        raise it.
    """,
)
def api_too_slow(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register(), timeout=timedelta(seconds=0.3)) as agent:
        agent.login()
        answer = agent.fetch("/api/orders/hang")
        scene.api.wait_until(lambda api: api.gone == 1)
        return answer


@CALL_MISTAKES.induced(
    "The remote API's certificate is not trusted",
    502,
    "upstream_unreachable",
    names=["cannot be reached", "certificate", "trusted here"],
    advice="""
        Have its certificate signed by an authority that this machine knows, or add that authority to the
        machine.
    """,
)
def api_with_untrusted_certificate(scene: Scene) -> httpx2.Response:
    with (
        untrusted_tls_server(scene.folder) as api_url,
        scene.serve(scene.register(), api_url=api_url) as agent,
    ):
        agent.login()
        return agent.fetch("/api/orders")


@STORE_MISTAKES.induced(
    "The session store is damaged",
    503,
    "store_unavailable",
    names=["sessions.db", "does not answer", "nobody was logged out"],
    advice="""
        Stop coatcheck, put the file back from a backup or move it away, and start again. The browser keeps its
        cookie: with the old file back, everybody is still logged in.
    """,
)
def session_store_damaged(scene: Scene) -> httpx2.Response:
    client = scene.register()
    with scene.serve(client) as agent:
        agent.login()
        with _damaged(scene.database):
            answer = agent.fetch("/api/orders")
            assert "set-cookie" not in answer.headers
        assert scene.api.requests == []
    with scene.serve(client) as agent:
        assert agent.fetch("/api/orders").status_code == 200
    return answer


@STORE_MISTAKES.induced(
    "A key was taken out of `keys`",
    503,
    "store_unavailable",
    names=["is not in the key ring", "add it back to `keys`", "nobody was logged out"],
    advice="""
        Put the key back, behind the new one: the first seals, all open. Remove it when the longest session is
        over.
    """,
)
def key_taken_out(scene: Scene) -> httpx2.Response:
    client = scene.register()
    with scene.serve(client) as agent:
        agent.login()
    old, new = scene.keys[0], new_key()
    scene.placeholders[old.split(".")[1]] = "<key id>"
    scene.keys = [new]
    with scene.serve(client) as agent:
        answer = agent.fetch("/api/orders")
        assert "set-cookie" not in answer.headers
    scene.keys = [new, old]
    with scene.serve(client) as agent:
        assert agent.fetch("/api/orders").status_code == 200, "nothing was deleted"
    return answer


def _damaged(database: Path) -> ExitStack:
    """Overwrite the files in place, where the running process has them open; put them back at the end."""
    back = ExitStack()
    for path in sorted(database.parent.glob(f"{database.name}*")):
        contents = path.read_bytes()
        _overwrite(path, b"\xa5" * len(contents))
        back.callback(_overwrite, path, contents)
    return back


def _overwrite(path: Path, contents: bytes) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:  # never truncated: SQLite maps some into memory
        file.write(contents)
