"""The few pages that we show ourselves: small, without script, without anything from another host."""

from __future__ import annotations

from html import escape

from coatcheck.bff.answers import Answer
from coatcheck.bff.own_headers import PRIVATE, SHOWN, Headers, content_security_policy, csp_hash
from coatcheck.bff.problems import Problem, marks, printable

_STYLE = """
:root { color-scheme: light dark; --page: #f4f2ee; --card: #fffefc; --text: #23211e; --quiet: #6b655d; --line: #ddd8cf;
  --soft: #efece6; --accent: #1f5f57; --on-accent: #fff; --warn: #a8651b; }
@media (prefers-color-scheme: dark) {
  :root { --page: #161513; --card: #201e1b; --text: #ece8e1; --quiet: #a59e93; --line: #37332e;
    --soft: #2a2723; --accent: #7cc4b8; --on-accent: #10231f; --warn: #dfa55d; }
}
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; align-items: center; justify-items: center; padding: 1rem;
  background: var(--page); color: var(--text); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { width: 100%; max-width: 35rem; padding: clamp(1.5rem, 6vw, 2.5rem); background: var(--card);
  border: 1px solid var(--line); border-radius: 16px; overflow-wrap: anywhere; }
svg { display: block; width: 2rem; height: 2rem; margin: 0 0 1.25rem -.15rem; fill: none; stroke: var(--accent);
  stroke-width: 2.6; stroke-linecap: round; stroke-linejoin: round; }
h1 { margin: 0; font-size: clamp(1.5rem, 5vw, 1.9rem); font-weight: 680; line-height: 1.15; letter-spacing: -.025em;
  text-wrap: balance; }
p { margin: .75rem 0 0; color: var(--quiet); text-wrap: pretty; }
.button { display: inline-block; margin-top: 1.6rem; padding: .68rem 1.35rem; border-radius: 10px; font-weight: 600;
  line-height: 1.2; text-decoration: none; background: var(--accent); color: var(--on-accent); }
.button:hover { filter: brightness(1.08); }
.button:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
dl { margin: 1.6rem 0 0; padding: 1.1rem 1.25rem; border-left: 3px solid var(--warn); border-radius: 3px 10px 10px 3px;
  background: var(--soft); font-size: .95rem; }
dt { color: var(--warn); font-size: .82rem; font-weight: 600; }
dd { margin: .1rem 0 .9rem; }
dd:last-child { margin-bottom: 0; }
footer { margin-top: 1.9rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--quiet);
  font-size: .85rem; }
code { display: block; margin-top: .2rem; color: var(--text); user-select: all; -webkit-user-select: all;
  font: .82rem/1.6 ui-monospace, "SF Mono", "Cascadia Mono", Menlo, monospace; }
.passing { background: Canvas; }
.passing .button { visibility: hidden; animation: late 0s 2s forwards; }
@keyframes late { to { visibility: visible; } }
"""

_STYLED = content_security_policy(f"style-src {csp_hash(_STYLE)}")

_HANGER = (
    '<svg viewBox="0 0 32 32" aria-hidden="true"><path d="M12.6 8.2a3.4 3.4 0 1 1 5 3c-1 .6-1.6 1.2-1.6 2.3v.9"/>'
    '<path d="M16 14.4 4 22.2c-1.6 1.1-.9 3.4 1 3.4h22c1.9 0 2.6-2.3 1-3.4z"/></svg>'
)


def hop(url: str, *, status: int = 200) -> Answer:
    """
    Send the browser to *url* as a navigation that our own origin started, without script.

    A redirect would carry on the navigation that the authorization server's page began, and the browser would withhold
    the Strict cookie from it. Nothing is seen of this page, so that nothing flashes; only where a browser does not
    refresh by itself, as some can be told, a link appears after two seconds.
    """
    target = escape(url, quote=True)
    refresh = f'<meta http-equiv="refresh" content="0;url={target}">'
    body = f'<body class="passing"><a class="button" href="{target}">Continue</a></body>'
    return _page(status, _document("\u2026", refresh, body), _STYLED)


def message_page(title: str, text: str, *, link: tuple[str, str] | None = None, status: int = 200) -> Answer:
    """Say or ask something to a person. *link* is (address, words), and looks like a button."""
    return _page(status, _card(title, [_paragraph(text), _button(link)]), (*_STYLED, *SHOWN))


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

    The code and the trace id, which lead to the line in the log, are selected together by one click.
    """
    parts = [_paragraph(hint), _reason(reason), _button(link)]
    parts.append(
        f"<footer>If you ask for help, quote this:<code>{escape(problem.code)} {escape(trace_id)}</code></footer>"
    )
    return _page(problem.status, _card(problem.title, parts), (*_STYLED, *SHOWN, *marks(problem)))


def framed_page(html: str, *, script: str) -> Answer:
    """The page *html* that only pages of our own may frame, with *script* after it and no other."""
    policy = content_security_policy(f"script-src {csp_hash(script)}", framed_by="'self'")
    answer = _page(200, f"{html}<script>{script}</script>", policy)
    headers = tuple((name, b"SAMEORIGIN" if name == b"x-frame-options" else value) for name, value in answer.headers)
    return Answer(answer.status, headers, answer.body)


def empty_page(*, framed_by: str, problem: Problem | None = None) -> Answer:
    """
    A page with nothing on it, for a frame in a page of the origin *framed_by*. A *problem* shows in its status.

    `X-Frame-Options` cannot name an origin, so it is left out; browsers that know nothing else are long gone.
    """
    status, more = (200, ()) if problem is None else (problem.status, marks(problem))
    answer = _page(status, "<!doctype html><title>&hellip;</title>", content_security_policy(framed_by=framed_by))
    headers = (line for line in (*answer.headers, *more) if line[0] != b"x-frame-options")
    return Answer(answer.status, tuple(headers), answer.body)


def _card(title: str, parts: list[str]) -> str:
    return _document(title, "", f"<body><main>{_HANGER}<h1>{escape(title)}</h1>{''.join(parts)}</main></body>")


def _document(title: str, head: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title>{head}<style>{_STYLE}</style></head>{body}</html>"
    )


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _button(link: tuple[str, str] | None) -> str:
    return f'<a class="button" href="{escape(link[0], quote=True)}">{escape(link[1])}</a>' if link else ""


def _reason(reason: tuple[str, str] | None) -> str:
    if reason is None:
        return ""
    cause, remedy = (escape(printable(text)) for text in reason)
    return f"<dl><dt>Why (shown in development mode only)</dt><dd>{cause}</dd><dt>What to do</dt><dd>{remedy}</dd></dl>"


def _page(status: int, html: str, more: Headers) -> Answer:
    body = html.encode()
    headers = (
        *PRIVATE,
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        *more,
    )
    return Answer(status, headers, body)
