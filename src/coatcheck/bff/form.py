"""Reading the form that another server had a browser send, or sends itself: small, and of one kind."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qsl

from coatcheck.bff.answers import Receive
from coatcheck.bff.refusals import Refused

MAX_BYTES = 65_536
"""Of a whole form. An authorization response or a logout token is far smaller."""

_MAX_FIELDS = 100
_TYPE = b"application/x-www-form-urlencoded"


class SenderLeft(Exception):
    """Nobody is there any more to be answered."""


async def read_form(headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> tuple[tuple[str, str], ...]:
    """
    Return the fields of a form in their order; a field that is there twice is in it twice.

    Raises:
        Refused: another content type, more than 64 KiB, more than 100 fields.
        SenderLeft: the body ended before its end.

    WHATWG URL, application/x-www-form-urlencoded.
    """
    types = [value.partition(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
    if types != [_TYPE]:
        raise Refused("form_refused", "A POST does not carry a form.", f"Send {_TYPE.decode()}.")
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise SenderLeft
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BYTES:
            raise Refused("body_too_large", f"A form of more than {MAX_BYTES} bytes was sent.", "It was not read.")
    try:
        return tuple(parse_qsl(body.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise Refused("form_refused", f"A form of more than {_MAX_FIELDS} fields was sent.", "Send less.") from None
