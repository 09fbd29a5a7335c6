"""What an OpenAPI document says of the session and of the CSRF header, for those who try the operations out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from coatcheck.bff.settings import Settings

FROM_SCRIPT: Final = "coatcheck_script"
"""The security scheme of an operation that needs the session and the CSRF header, until `name_credentials`."""

FROM_PAGE: Final = "coatcheck_page"
"""The one of an operation that needs the session only."""

SESSION: Final = "coatcheck_session"
CSRF_HEADER: Final = "coatcheck_csrf_header"


def name_credentials(document: dict[str, Any], settings: Settings) -> None:
    """
    Replace the two provisional schemes in *document* by the cookie and the header of the application with *settings*.

    A framework knows one scheme per dependency, and makes alternatives of several. Cookie and header are needed
    together, so they stand in one requirement, and in each alternative that the application has of its own: those
    never let anybody in who lacks ours. A document that was done already stays as it is.

    OpenAPI 3.1, sections 4.8.27 (Security Scheme Object) and 4.8.30 (Security Requirement Object).
    """
    schemes = document.get("components", {}).get("securitySchemes", {})
    provisional = {name for name in (FROM_SCRIPT, FROM_PAGE) if schemes.pop(name, None) is not None}
    if not provisional:
        return
    schemes[SESSION] = _session_scheme(settings)
    if FROM_SCRIPT in provisional:
        schemes[CSRF_HEADER] = _csrf_scheme(settings)
    for operation in _operations(document):
        operation["security"] = _requirements(operation["security"])


def _requirements(security: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    names = {name for requirement in security for name in requirement}
    if not names & {FROM_SCRIPT, FROM_PAGE}:
        return security
    ours: dict[str, list[str]] = {SESSION: []}
    if FROM_SCRIPT in names:
        ours[CSRF_HEADER] = []
    others = [requirement for requirement in security if not requirement.keys() & {FROM_SCRIPT, FROM_PAGE}]
    return [ours | other for other in others] or [ours]


def _session_scheme(settings: Settings) -> dict[str, str]:
    return {
        "type": "apiKey",
        "in": "cookie",
        "name": settings.cookies.session,
        "description": f"The session. Log in at {settings.login_path}: the browser sends this cookie by itself.",
    }


def _csrf_scheme(settings: Settings) -> dict[str, str]:
    value = settings.csrf.header_value.decode()
    return {
        "type": "apiKey",
        "in": "header",
        "name": settings.csrf.written,
        "description": f"The CSRF header. Its value is {value}, always: it shows that a script of ours calls.",
    }


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the operations that require something."""
    for part in ("paths", "webhooks"):
        for path_item in document.get(part, {}).values():
            for operation in path_item.values():
                if isinstance(operation, dict) and "security" in operation:
                    yield operation
