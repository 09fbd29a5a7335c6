"""The two things on a page that act without a script: forms, and the refresh that leads on to another page."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx2


@dataclass(slots=True)
class Form:
    """A form as a user sees it. `fields` has what would be sent, `typed` the names of the fields for typing into."""

    action: str
    method: str
    id: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    typed: dict[str, str] = field(default_factory=dict)
    """Field name to input type: `text`, `password` ..."""
    pressed: bool = False
    """A submit button is among the fields; there can be only one."""

    def fill(self, username: str) -> None:
        """Type *username* wherever text goes, and `USERNAME-password` wherever a password goes."""
        for name, kind in self.typed.items():
            self.fields[name] = f"{username}-password" if kind == "password" else username


def forms(response: httpx2.Response) -> list[Form]:
    """The forms of an HTML page, each with its first submit button pressed."""
    if "html" not in response.headers.get("content-type", ""):
        return []
    reader = _FormReader(str(response.url))
    reader.feed(response.text)
    return reader.forms


def refresh_target(response: httpx2.Response) -> str | None:
    """Where a page leads on to without a script: its `Refresh` header or `<meta http-equiv="refresh">`."""
    content = response.headers.get("refresh")
    if content is None and "html" in response.headers.get("content-type", ""):
        reader = _RefreshReader()
        reader.feed(response.text)
        content = reader.content
    match = re.match(r"\s*0\s*[;,]\s*url\s*=\s*(['\"]?)(.*?)\1\s*$", content or "", re.IGNORECASE)
    return match.group(2) if match else None


class _FormReader(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._url = url
        self._open: Form | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            method = given.get("method", "get").upper()
            self._open = Form(action=given.get("action") or self._url, method=method, id=given.get("id"))
            self.forms.append(self._open)
        elif tag in ("input", "button") and "name" in given:
            self._control(tag, given)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None

    def _control(self, tag: str, given: dict[str, str]) -> None:
        owner = next((form for form in self.forms if form.id == given["form"]), None) if "form" in given else self._open
        if owner is None:
            return
        kind = given.get("type", "submit" if tag == "button" else "text").lower()
        if kind == "submit":
            if owner.pressed:
                return
            owner.pressed = True
        if kind in ("checkbox", "radio") and "checked" not in given:
            return
        owner.fields[given["name"]] = given.get("value", "on" if kind == "checkbox" else "")
        if kind in ("text", "email", "password"):
            owner.typed[given["name"]] = kind


class _RefreshReader(HTMLParser):
    content: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "meta" and (given.get("http-equiv") or "").lower() == "refresh":
            self.content = given.get("content")
