"""HTTP messages as plain values: what the protocol functions return and are given."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlencode

T = TypeVar("T")

Form = Sequence[tuple[str, str]]
"""Form parameters in order; a name may repeat (`resource`, RFC 8707)."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to an authorization server. Headers and body may hold secrets and stay out of `repr`."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, read to its end. Header names are lower-case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


Exchange = Generator[Request, Response, T]
"""One protocol step that may need two round trips: yields requests, is sent responses, returns its result."""


def form_request(url: str, form: Form, headers: Mapping[str, str] | None = None) -> Request:
    """Build a POST of `application/x-www-form-urlencoded` parameters that asks for JSON (RFC 6749 3.2)."""
    return Request(
        "POST",
        url,
        {
            "accept": "application/json",
            "content-type": "application/x-www-form-urlencoded",
            **(headers or {}),
        },
        urlencode(list(form)).encode("ascii"),
    )
