"""Requests read and responses made: the small change of the in-process authorization server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from coatcheck.codec import decode_object, encode
from coatcheck.errors import OAuthError
from coatcheck.oauth.messages import Request, Response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def parameters_of(request: Request) -> tuple[tuple[str, str], ...]:
    """Query and form parameters, in order."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    form = request.body.decode("utf-8", "replace") if content_type == "application/x-www-form-urlencoded" else ""
    _, _, query = request.url.partition("?")
    return tuple(parse_qsl(query, keep_blank_values=True) + parse_qsl(form, keep_blank_values=True))


def json_answer(members: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON document that no cache keeps."""
    fixed = {"content-type": "application/json", "cache-control": "no-store"}
    return Response(status, {**fixed, **(headers or {})}, encode(members))


def refusal(error: OAuthError) -> Response:
    """The error answer of RFC 6749 5.2."""
    members = {"error": error.error, "error_description": error.error_description or ""}
    headers = {"www-authenticate": "Basic"} if error.status == 401 else {}
    return json_answer(members, status=error.status, headers=headers)


def error_in(response: Response | None) -> str | None:
    """The `error` that a JSON answer names, for the log."""
    if response is None or response.status < 400:
        return None
    try:
        return str(decode_object(response.body).get("error"))
    except ValueError:
        return None


async def request_from_asgi(scope: Scope, receive: Receive) -> Request:
    """Read a whole request from an ASGI server."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = scope["query_string"].decode("latin-1")
    url = f"{scope['scheme']}://{headers.get('host', '')}{scope['path']}{'?' + query if query else ''}"
    return Request(scope["method"], url, headers, body)


async def response_to_asgi(response: Response, send: Send) -> None:
    """Write a whole response to an ASGI server."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
