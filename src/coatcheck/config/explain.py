"""From what a typed decoder says to one line that names the setting and the remedy."""

from __future__ import annotations

import difflib
import re
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from coatcheck.config.words import LATER
from coatcheck.errors import ConfigurationError

_AT = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_CHOICE = re.compile(r"Invalid enum value (.+)")
_TYPE = re.compile(r"Expected `(.+)`, got `(.+)`")

_KINDS = {
    "str": "text in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list in [ ]",
    "object": "a table",
}

_EXAMPLES = {
    "public_url": 'public_url = "https://app.example.com"',
    "client": "a table [client] with issuer and client_id",
    "issuer": 'issuer = "https://idp.example.com"',
    "client_id": 'client_id = "shop"',
    "path": 'path = "/api/orders"',
    "url": 'url = "https://orders.internal"',
    "static": 'static = "dist"',
}


def explain(message: str, words: type, at: str) -> ConfigurationError:
    """
    Say in this file's words what the decoder found wrong with a table.

    *words* is the Struct of the table and *at* its name (`api[0]`, or "" for the whole file).
    """
    match = _AT.fullmatch(message)
    what, inner = (match["what"], match["path"] or "") if match else (message, "")
    inner = inner.removesuffix("[...]").lstrip(".")
    path = joined(at, inner)
    if unknown := _UNKNOWN.fullmatch(what):
        return unknown_key(unknown[1], known=_keys(_type_at(words, inner)), at=path)
    if missing := _MISSING.fullmatch(what):
        return missing_key(missing[1], at=path)
    if choice := _CHOICE.fullmatch(what):
        choices = ", ".join(f'"{name}"' for name in _choices(_type_at(words, inner)))
        return ConfigurationError(f"expected one of {choices}, not {choice[1]}", path=path)
    if type_ := _TYPE.fullmatch(what):
        return ConfigurationError(f"expected {_kinds(type_[1])}, not {_kinds(type_[2])}", path=path)
    return ConfigurationError(what, path=path)


def unknown_key(name: str, *, known: list[str], at: str) -> ConfigurationError:
    """A key that the table does not have: perhaps misspelt, perhaps of a later version."""
    path = joined(at, name)
    if name in LATER:
        return ConfigurationError(f"this version has no {LATER[name]} yet: remove the key", path=path)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(known)}"
    return ConfigurationError(f"unknown key; {hint}", path=path)


def missing_key(name: str, *, at: str) -> ConfigurationError:
    """A key that the table cannot do without."""
    example = _EXAMPLES.get(name)
    return ConfigurationError(f"is missing{f': add {example}' if example else ''}", path=joined(at, name))


def prefixed(error: ConfigurationError, at: str) -> ConfigurationError:
    """The same error, with the table that it is in before its path."""
    message = str(error).removeprefix(f"{error.path}: ") if error.path else str(error)
    return ConfigurationError(message, path=joined(at, error.path or ""))


def joined(at: str, inner: str) -> str:
    """`api[0]` and `timeout` make `api[0].timeout`."""
    return f"{at}.{inner}" if at and inner and not inner.startswith("[") else f"{at}{inner}"


def _type_at(words: Any, inner: str) -> Any:
    """The annotation of a field inside a table: `exchange.resource`."""
    for name in filter(None, re.split(r"\.|\[.*?\]", inner)):
        table = _without_none(words)
        if name not in _keys(table):
            return str
        words = get_type_hints(table)[name]
    return _without_none(words)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        return next(member for member in get_args(annotation) if member is not type(None))
    return annotation


def _keys(words: Any) -> list[str]:
    return list(getattr(words, "__struct_fields__", ()))


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [str(member.value) for member in annotation] if issubclass(annotation, Enum) else []


def _kinds(names: str) -> str:
    return " or ".join(_KINDS.get(name, name) for name in names.split(" | ") if name != "null")
