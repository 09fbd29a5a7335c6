"""What goes wrong before somebody is logged in."""

from __future__ import annotations

import re
from collections.abc import Iterable

import httpx2

from coatcheck import LoginOptions
from coatcheck.sessions.seal import new_key
from tests.rig.cookie_jar import CookieJar
from tests.rig.programs import free_port
from tests.scenarios.mistakes import Mistakes
from tests.scenarios.scene import Scene, untrusted_tls_server

WAY_TO_THE_PROVIDER = Mistakes("On the way to the provider")
LOGIN_MISTAKES = Mistakes("Logging in")

MINUTE = 60


@WAY_TO_THE_PROVIDER.induced(
    "The provider is down",
    503,
    "login_unavailable",
    names=["cannot be reached", "connection was refused", "Is it running"],
    advice="""
        See that this machine reaches the issuer: name, port, proxy, firewall. Logins work again by themselves;
        who is logged in stays so meanwhile.
    """,
)
def provider_down(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register(), issuer=f"http://127.0.0.1:{free_port()}") as agent:
        answer = agent.navigate("/bff/login")
        assert agent.fetch("/api/orders").status_code == 401, "nobody becomes anybody by an outage"
        assert scene.api.requests == []
        return answer


@WAY_TO_THE_PROVIDER.induced(
    "The provider's certificate is not trusted",
    503,
    "login_unavailable",
    names=["its certificate is not trusted", "http_clients"],
    advice="""
        If a certificate authority of your own signed it, add it to those of the machine (`update-ca-certificates`),
        or pass an HTTP client that knows it as
        `http_clients={BACK_CHANNEL_HTTP_CLIENT: httpx2.AsyncClient(verify=context)}`. There is no switch that
        turns the check off.
    """,
)
def provider_with_untrusted_certificate(scene: Scene) -> httpx2.Response:
    with (
        untrusted_tls_server(scene.folder) as issuer,
        scene.serve(scene.register(), issuer=issuer) as agent,
    ):
        return agent.navigate("/bff/login")


@WAY_TO_THE_PROVIDER.induced(
    "The issuer differs by a slash",
    503,
    "login_misconfigured",
    names=["they must be identical", "byte for byte", "`issuer`"],
    advice="""
        Copy `issuer` from the provider's `/.well-known/openid-configuration`. `coatcheck check` compares it,
        too.
    """,
)
def issuer_with_a_slash_too_many(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register(), issuer=f"{scene.provider.issuer}/") as agent:
        return agent.navigate("/bff/login")


@WAY_TO_THE_PROVIDER.induced(
    "The redirect URI is not registered (development)",
    400,
    None,
    what="from the provider: an error page of its own",
    names=["Register exactly this redirect URI", "/bff/callback"],
    advice="""
        Register the redirect URI that the line shows, character by character: `localhost` is not `127.0.0.1`,
        and the port counts. In development mode coatcheck asks the provider at the first login.
    """,
)
def unregistered_redirect_uri(scene: Scene) -> httpx2.Response:
    client = scene.register(redirect_uris="http://localhost:1/callback")
    with scene.serve(client) as agent:
        return agent.navigate("/bff/login")


@WAY_TO_THE_PROVIDER.induced(
    "The redirect URI is not registered (production)",
    302,
    None,
    what="to the provider, which shows an error page of its own",
    names=["never came back", "register exactly", "https://app.example.com/bff/callback"],
    advice="""
        A provider must not send a browser to an address that is not registered, so coatcheck cannot see this
        page. It notices when the same browser begins another login, and no answer has arrived from anybody in
        between.
    """,
)
def unregistered_redirect_uri_in_production(scene: Scene) -> httpx2.Response:
    client = scene.register(redirect_uris="https://elsewhere.example.com/bff/callback")
    with scene.serve(client, production=True) as agent:
        assert agent.navigate("/bff/login").status_code == 400
        agent.navigate("/bff/login")  # another tab, at the same moment: nothing to say
        scene.clock.offset += 20
        agent.navigate("/bff/login")
        scene.clock.offset += 20
        agent.navigate("/bff/login")  # and it is not said each time
        return agent.history[0]


@WAY_TO_THE_PROVIDER.induced(
    "The client may not have a scope",
    503,
    "login_misconfigured",
    names=[
        "invalid_scope",
        "Allow every scope in `scope` for this client at the provider, or ask for less",
    ],
    advice="""
        Allow the scope for this client at the provider, or take it out of `scope`.
    """,
)
def scope_not_allowed(scene: Scene) -> httpx2.Response:
    client = scene.register(scope="openid profile offline_access")
    with scene.serve(client, scope="openid profile orders.read") as agent:
        return agent.login()


@LOGIN_MISTAKES.induced(
    "The client secret is wrong",
    503,
    "login_misconfigured",
    names=["invalid_client", "client_secret", "basic_encoding"],
    advice="""
        Compare the secret with the provider's: has it expired, does the file end with something else than the
        secret? A few providers do not decode what RFC 6749 says to encode: `basic_encoding = "raw"`, or another
        `client_auth`.
    """,
)
def wrong_client_secret(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register(), secret="not-the-secret") as agent:
        return agent.login()


@LOGIN_MISTAKES.induced(
    "The page was opened at another address than public_url",
    302,
    None,
    what="to the same path at `public_url`, where the login goes on",
    names=["wrong_host", "127.0.0.1", "public_url"],
    advice="""
        Open the application by its `public_url`, or set that to what stands in the browser's address bar.
        Cookies belong to a host: those of `127.0.0.1` do not reach `localhost`.
    """,
)
def page_opened_at_another_address(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        first = agent.navigate(f"http://127.0.0.1:{scene.application.port}/bff/login")
        scene.placeholders[f"127.0.0.1:{scene.application.port}"] = "127.0.0.1:<port>"
        answer = agent.history[0]
        assert agent.through_foreign_pages(first).status_code == 200
        assert agent.fetch("/api/orders").status_code == 200, "the login went on at the right address"
        return answer


@LOGIN_MISTAKES.induced(
    "The browser keeps no cookies",
    400,
    "login_lost",
    names=["without the cookie of the login", "Cookies may be blocked", "open the application by exactly that address"],
    advice="""
        Allow cookies for the site. coatcheck starts such a login over once by itself (logged at INFO), and then
        gives up. Safari keeps no secure cookies on `http://localhost`.
    """,
)
def cookies_blocked(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        agent.cookies = _BlockedOn("localhost")
        return agent.login()


@LOGIN_MISTAKES.induced(
    "The login page was left open for too long",
    400,
    "login_lost",
    names=["took more than 15 minutes", "clock"],
    advice="""
        Nothing to do: the browser is led to a new login by itself. If it happens to everybody, the clocks of
        your nodes differ.
    """,
)
def login_page_left_open(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        shown = agent.navigate("/bff/login?returnUrl=/cart")
        ready = agent.through_foreign_pages(shown, stop_at=scene.application.redirect_uri)
        scene.clock.offset = 20 * MINUTE
        late = agent.click(ready.headers["location"], stop_at=f"{scene.application.url}/bff/login")
        scene.clock.offset = 0
        agent.login("/bff/login?again=1&hop=1")
        assert agent.fetch("/api/orders").status_code == 200
        return late


@LOGIN_MISTAKES.induced(
    "The user cancels",
    400,
    "login_refused",
    names=["access_denied", "The user cancelled, or may not use this application"],
    advice="""
        The provider said `access_denied`: the user cancelled, or an administrator has not allowed them this
        application.
    """,
)
def user_cancels(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        login_page = agent.navigate("/bff/login")
        cancel = re.search(r'href="([^"]*/abort)"', login_page.text)
        assert cancel
        return agent.click(cancel[1])


@LOGIN_MISTAKES.induced(
    "This machine's clock is 10 minutes slow",
    503,
    "login_misconfigured",
    names=["in the future", "Set this machine's clock (or the provider's)"],
    advice="""
        Let a time service set the clock. A minute of difference is tolerated.
    """,
)
def clock_slow(scene: Scene) -> httpx2.Response:
    scene.clock.offset = -10 * MINUTE
    with scene.serve(scene.register()) as agent:
        return agent.login()


@LOGIN_MISTAKES.induced(
    "This machine's clock is 10 minutes fast",
    503,
    "login_misconfigured",
    names=["expired", "Set this machine's clock (or the provider's)"],
    advice="""
        The same from the other side: id_tokens seem to have expired when they arrive.
    """,
)
def clock_fast(scene: Scene) -> httpx2.Response:
    scene.clock.offset = 10 * MINUTE
    with scene.serve(scene.register()) as agent:
        return agent.login()


@LOGIN_MISTAKES.induced(
    "A session in cookies is too large",
    503,
    "session_too_large",
    names=["does not fit", 'sessions="sqlite:///var/lib/app/sessions.db"'],
    advice="""
        Three cookies hold about 9 KB. Keep sessions on the server, or have the provider put less into its
        tokens (groups are the usual reason).
    """,
)
def session_too_large_for_cookies(scene: Scene) -> httpx2.Response:
    client = scene.register()
    groups = [f"cn={number:08x},ou=groups,dc=example,dc=com" for number in range(400)]
    scene.provider.tamper(client_id=client.client_id, claims={"groups": groups})
    with scene.serve(client, sessions="cookie") as agent:
        return agent.login()


@LOGIN_MISTAKES.induced(
    "Two nodes have different keys",
    400,
    "login_lost",
    names=["cannot be opened", "the same `keys`"],
    advice="""
        Give all nodes the same `keys`. In development mode they come from `.coatcheck/key`, so each folder has
        its own.
    """,
)
def nodes_with_different_keys(scene: Scene) -> httpx2.Response:
    client = scene.register()
    with scene.serve(client) as agent:
        ready = agent.login(stop_at=scene.application.redirect_uri)
    scene.keys = [new_key()]
    with scene.serve(client) as agent:
        answer = agent.click(ready.headers["location"], stop_at=f"{scene.application.url}/bff/login")
        agent.login("/bff/login?again=1&hop=1")
        assert agent.fetch("/api/orders").status_code == 200, "begun and ended at one node, it works"
        return answer


@LOGIN_MISTAKES.induced(
    "A script fetches the login",
    400,
    "navigation_required",
    names=["called by fetch", "location.href"],
    advice="""
        A login is a navigation of the whole window: `location.assign("/bff/login?returnUrl=...")`, not `fetch`.
    """,
)
def login_by_fetch(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        return agent.fetch("/bff/login")


@LOGIN_MISTAKES.induced(
    "A login asks for what is not configured",
    400,
    "login_parameter_refused",
    names=["acr_values='phr'", "login options"],
    advice="""
        List the values that a page may ask for: `BFF(login=LoginOptions(acr_values=["phr"]))`, or `acr_values` under
        `[login]` in the gateway's file.
    """,
)
def login_asks_for_more_than_is_configured(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        return agent.navigate("/bff/login?acr_values=phr")


@LOGIN_MISTAKES.induced(
    "Another user completes a stronger login",
    403,
    "step_up_failed",
    names=["another user", "the same user"],
    advice="""
        Nothing was changed: who was logged in still is. A login that strengthens a session has to be made by its user.
    """,
)
def step_up_by_another_user(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register(), login=LoginOptions(max_age=[0])) as agent:
        agent.login()
        answer = agent.login("/bff/login?max_age=0&prompt=login%20consent", username="bob")
        agent.navigate("/")
        assert '"alice"' in agent.fetch("/bff/user").text
        return answer


@LOGIN_MISTAKES.induced(
    "The browser loses its session after every login",
    400,
    "login_loop",
    names=["logged in 3 times", "full cookie jar"],
    advice="""
        The page sent the browser to the login again and again, and each time the provider let it in at once. Look for
        what removes or refuses the cookie: another application that fills the cookie jar of the host, a proxy that
        drops `Set-Cookie`, an extension. A page that asks for a login which its user already has does the same.
    """,
)
def session_lost_after_every_login(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        for _ in range(3):
            agent.login("/bff/login")
            for cookie in agent.cookies.all():
                if re.fullmatch("__Host-Http-coatcheck-[a-z0-9]{8}", cookie.name):
                    agent.cookies.delete(cookie.name)
        return agent.navigate("/bff/login?returnUrl=/orders")


@LOGIN_MISTAKES.induced(
    "A portal starts a login and may not",
    400,
    "third_party_login_refused",
    names=["not switched on", "third_party"],
    advice="""
        Switch it on by `LoginOptions(third_party=True)`, or `third_party = true` under `[login]`. The portal has to
        send the configured issuer as `iss`, character by character.
    """,
)
def portal_starts_a_login(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        return agent.navigate(f"/bff/login?iss={scene.provider.issuer}")


@LOGIN_MISTAKES.induced(
    "The return URL is not a path",
    400,
    "return_url_invalid",
    names=["https://elsewhere.example.com/", "Pass a path of your own"],
    advice="""
        Pass a path on this site, such as `returnUrl=/orders?page=2` (encoded). Other hosts are never redirected
        to.
    """,
)
def return_url_elsewhere(scene: Scene) -> httpx2.Response:
    with scene.serve(scene.register()) as agent:
        return agent.navigate("/bff/login?returnUrl=https://elsewhere.example.com/")


class _BlockedOn(CookieJar):
    """A browser that keeps no cookies of one host."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self._host = host

    def store(self, url: httpx2.URL, set_cookie: Iterable[str]) -> None:
        if url.host != self._host:
            super().store(url, set_cookie)
