"""The few pages that we show ourselves: small, without script, without anything from another host."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from coatcheck.bff.answers import PRIVATE, Answer
from coatcheck.bff.problems import Problem, problem_headers

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: Canvas; color: CanvasText; }
main { max-width: 34rem; margin: 2rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; }
p { margin: 0 0 1rem; }
a { display: inline-block; padding: .5rem 1.25rem; border-radius: .5rem; background: #1f5f5b; color: #fff;
    text-decoration: none; font-weight: 600; }
a:focus-visible { outline: 3px solid #e0a526; outline-offset: 2px; }
aside { border-left: 4px solid #e0a526; padding: .25rem 0 .25rem 1rem; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
aside p { margin: 0 0 .5rem; }
small { display: block; margin-top: 1.5rem; opacity: .7; font-family: ui-monospace, monospace; }
"""

_CLOSED = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
_STYLED = (
    b"default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest())
    + b"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def hop(url: str, *, status: int = 200) -> Answer:
    """
    Send the browser to *url* as a navigation that our own origin started, without script.

    A redirect would carry on the navigation that the authorization server's page began, and the browser would withhold
    the Strict cookie from it. The body is empty, so that nothing flashes.
    """
    target = escape(url, quote=True)
    html = f'<!doctype html><title>&hellip;</title><meta http-equiv="refresh" content="0;url={target}">'
    return _page(status, html, _CLOSED)


def message_page(title: str, text: str, *, link: tuple[str, str] | None = None, status: int = 200) -> Answer:
    """Say something to a person. *link* is (address, words)."""
    return _page(status, _document(title, [f"<p>{escape(text)}</p>", _anchor(link)]), _STYLED)


def problem_page(
    problem: Problem,
    *,
    trace_id: str,
    hint: str = "",
    link: tuple[str, str] | None = None,
    reason: tuple[str, str] | None = None,
) -> Answer:
    """
    Refuse a navigation with a page. *hint* tells the user what may help; *reason* (cause, remedy) is for the developer
    and is given in development mode only.
    """
    parts = [f"<p>{escape(hint)}</p>" if hint else ""]
    if reason is not None:
        cause, remedy = reason
        parts.append(f"<aside><p>{escape(cause)}</p><p>{escape(remedy)}</p></aside>")
    parts += [_anchor(link), f"<small>{escape(problem.code)} &middot; {escape(trace_id)}</small>"]
    answer = _page(problem.status, _document(problem.title, parts), _STYLED)
    ours = problem_headers(problem, content_type=b"", length=0)
    extra = tuple(line for line in ours if line[0] in (b"coatcheck-error", b"retry-after"))
    return Answer(answer.status, (*answer.headers, *extra), answer.body)


def framed_page(html: str, *, script: bytes) -> Answer:
    """A page that only pages of our own may frame, with the one script whose SHA-256 (in base64) is *script*."""
    policy = b"default-src 'none'; script-src 'sha256-" + script + b"'; frame-ancestors 'self'; base-uri 'none'"
    answer = _page(200, html, policy)
    headers = tuple((name, b"SAMEORIGIN" if name == b"x-frame-options" else value) for name, value in answer.headers)
    return Answer(answer.status, headers, answer.body)


def _document(title: str, parts: list[str]) -> str:
    heading = escape(title)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{_STYLE}</style><main><h1>{heading}</h1>{''.join(parts)}</main></html>"
    )


def _anchor(link: tuple[str, str] | None) -> str:
    return f'<p><a href="{escape(link[0], quote=True)}">{escape(link[1])}</a></p>' if link else ""


def _page(status: int, html: str, policy: bytes) -> Answer:
    body = html.encode()
    headers = (
        *PRIVATE,
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"content-security-policy", policy),
        (b"x-frame-options", b"DENY"),
    )
    return Answer(status, headers, body)
