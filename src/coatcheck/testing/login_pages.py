"""The pages that a person meets at the in-process authorization server. No scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from coatcheck.oauth.messages import Response

_STYLE = """
:root { color-scheme: light dark; --page: #f4f2ee; --card: #fff; --text: #23211e; --quiet: #6d675f; --line: #dcd7cf;
  --accent: #1f5f57; --on-accent: #fff; }
@media (prefers-color-scheme: dark) { :root { --page: #171614; --card: #211f1c; --text: #ece8e1; --quiet: #a39c91;
  --line: #3a3631; --accent: #7cc4b8; --on-accent: #10231f; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
main { width: 100%; max-width: 23rem; background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 2rem; }
.issuer { margin: 0 0 1.25rem; color: var(--quiet); font-size: .8rem; overflow-wrap: anywhere; }
h1 { margin: 0 0 .25rem; font-size: 1.35rem; line-height: 1.25; letter-spacing: -.01em; }
p { margin: 0 0 1.25rem; color: var(--quiet); }
label { display: block; font-size: .85rem; font-weight: 600; margin-bottom: .35rem; }
input { width: 100%; font: inherit; color: inherit; background: transparent; border: 1px solid var(--line);
  border-radius: 8px; padding: .6rem .75rem; }
button { width: 100%; font: inherit; font-weight: 600; border: 1px solid transparent; border-radius: 8px;
  padding: .65rem .75rem; margin-top: 1rem; cursor: pointer; background: var(--accent); color: var(--on-accent); }
button.quiet { background: transparent; color: var(--quiet); border-color: var(--line); margin-top: .6rem; }
input:focus-visible, button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
p.hint { margin: .45rem 0 1.1rem; font-size: .85rem; }
ul { margin: 0 0 1.25rem; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .35rem; }
li { font: .78rem/1.4 ui-monospace, monospace; border: 1px solid var(--line); border-radius: 99px;
  padding: .1rem .6rem; }
"""


def login_page(*, issuer: str, action: str, transaction: str, client_id: str, scope: str, username: str) -> Response:
    """Ask who is there. Whoever answers is believed: there are no passwords here."""
    scopes = "".join(f"<li>{escape(name)}</li>" for name in scope.split())
    return _page(
        "Log in",
        f"""<p class="issuer">{escape(issuer)}</p>
<h1>Log in</h1>
<p>to continue to <strong>{escape(client_id)}</strong></p>
<form method="post" action="{escape(action)}">
<input type="hidden" name="transaction" value="{escape(transaction)}">
<label for="username">User name</label>
<input id="username" name="username" value="{escape(username)}" autocomplete="username" required>
<p class="hint">This provider is for tests and demos: any name will do.</p>
<ul aria-label="what the application asks for">{scopes}</ul>
<button name="decision" value="allow">Log in</button>
<button class="quiet" name="decision" value="deny" formnovalidate>Cancel</button>
</form>""",
    )


def form_post_page(redirect_uri: str, members: Mapping[str, str]) -> Response:
    """Hand the answer over in a form (OAuth 2.0 Form Post Response Mode). Other servers press the button themselves."""
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in members.items()
    )
    return _page(
        "Go on",
        f"""<h1>Logged in</h1>
<form method="post" action="{escape(redirect_uri)}">{fields}<button>Go on to the application</button></form>""",
    )


def signed_out_page(issuer: str) -> Response:
    """Logged out, and the application gave no address to go on to."""
    return _page(
        "Logged out", f'<p class="issuer">{escape(issuer)}</p><h1>Logged out</h1><p>You may close this page.</p>'
    )


def error_page(message: str) -> Response:
    """A request that must not be answered with a redirect (RFC 6749 4.1.2.1)."""
    return _page("Bad request", f"<h1>This request cannot go on</h1><p>{escape(message)}</p>", status=400)


def _page(title: str, content: str, *, status: int = 200) -> Response:
    html = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><main>{content}</main></body></html>"""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    headers = {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "no-store",
        "content-security-policy": policy,
    }
    return Response(status, headers, html.encode())
