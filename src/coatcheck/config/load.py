"""Reading the gateway's file: every table checked, every secret fetched, every path made absolute."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from coatcheck.bff.login_options import LoginOptions
from coatcheck.bff.logout_options import LogoutOptions
from coatcheck.bff.public_url import PublicURL, parse_public_url
from coatcheck.config.explain import explain, missing_key, prefixed, unknown_key
from coatcheck.config.rules import GatewayConfig, problems_between
from coatcheck.config.values import HSTS, Duration, Listen, Network, Secret, SecretReader, StorePlace
from coatcheck.config.words import (
    APIWords,
    ClientWords,
    FileWords,
    FrontendWords,
    LoginWords,
    LogoutWords,
    PrivateKeyWords,
    ServerWords,
    SessionsWords,
    UserWords,
    Words,
)
from coatcheck.errors import ConfigurationError
from coatcheck.oauth.client import Client
from coatcheck.oauth.client_assertion import PrivateKeyJWT
from coatcheck.sessions.seal import KeyRing

W = TypeVar("W", bound=Words)
T = TypeVar("T")


class ConfigurationProblems(ConfigurationError):
    """Everything that is wrong with a file. As text it is the first problem; `problems` has them all."""

    def __init__(self, problems: tuple[ConfigurationError, ...]) -> None:
        first = problems[0]
        super().__init__(str(first).removeprefix(f"{first.path}: "), path=first.path)
        self.problems = problems


def load_config(file: Path | str, *, listen: str | None = None, workers: int | None = None) -> GatewayConfig:
    """
    Read and check a gateway's file. *listen* and *workers*, if given, take the place of what `[server]` says.

    Needs no network; `coatcheck check` goes on from here and asks the authorization servers.

    Raises:
        ConfigurationProblems: with one error for each problem found; each names its setting and what to do.
    """
    file = Path(file).absolute()
    document = _parse(file)
    reader = _Reader(document, file.parent)
    given = {"listen": listen, "workers": workers}
    reader.override("server", {name: value for name, value in given.items() if value is not None})
    config = reader.read()
    if config is None:
        raise ConfigurationProblems(tuple(reader.problems))
    return config


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"there is no file {file}: name one, or try `coatcheck demo`") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from None


class _Reader:
    """Goes through the tables, and goes on after a problem, so that one run tells them all."""

    def __init__(self, document: dict[str, Any], folder: Path) -> None:
        self.problems: list[ConfigurationError] = []
        self._document = document
        self._folder = folder
        self._secrets = SecretReader(folder, development=False)

    def override(self, table: str, members: dict[str, Any]) -> None:
        """Let the command line speak before the file does."""
        written = self._document.get(table, {})
        if members and isinstance(written, dict):
            self._document = {**self._document, table: {**written, **members}}

    def read(self) -> GatewayConfig | None:
        """Return the configuration, or None when there are problems."""
        self._refuse_unknown_keys()
        public_url = self._noted(self._public_url)
        server = self._table("server", ServerWords)
        # Where public_url is what is wrong, nothing can be said of secrets that stand in the file.
        self._secrets = replace(self._secrets, development=public_url is None or public_url.loopback)
        keys = self._noted(self._keys)
        clients = self._clients()
        login = self._noted(self._login, "login")
        logout = self._noted(self._logout, "logout")
        sessions = self._table("sessions", SessionsWords)
        user = self._table("user", UserWords)
        apis = self._apis()
        frontend = self._table("frontend", FrontendWords) if "frontend" in self._document else None
        if public_url is None or server is None or login is None or logout is None or sessions is None or user is None:
            return None
        if self.problems:
            return None
        config = GatewayConfig(
            folder=self._folder,
            public_url=public_url,
            keys=keys,
            server=server,
            clients=clients,
            login=login,
            logout=logout,
            sessions=sessions,
            user=user,
            apis=apis,
            frontend=frontend,
        )
        self.problems += problems_between(config)
        return None if self.problems else config

    def _noted(self, make: Callable[[], T], at: str = "") -> T | None:
        """What *make* returns; or None, and its error is noted."""
        try:
            return make()
        except ConfigurationError as error:
            self.problems.append(prefixed(error, at))
            return None

    def _refuse_unknown_keys(self) -> None:
        known = list(FileWords.__struct_fields__)
        self.problems += [unknown_key(name, known=known, at="") for name in self._document if name not in known]

    def _convert(self, value: object, words: type[W], at: str) -> W | None:
        try:
            return msgspec.convert(value, words, dec_hook=self._decode)
        except msgspec.ValidationError as error:
            self.problems.append(explain(str(error), words, at))
            return None

    def _decode(self, type_: type, value: object) -> object:
        readers: dict[object, Callable[[object], object]] = {
            Duration: Duration.read,
            HSTS: HSTS.read,
            Listen: Listen.read,
            Network: Network.read,
            Secret: self._secrets.read,
            StorePlace: self._secrets.read_store,
        }
        return readers[type_](value)

    def _table(self, name: str, words: type[W]) -> W | None:
        return self._convert(self._document.get(name, {}), words, name)

    def _public_url(self) -> PublicURL:
        text = self._document.get("public_url")
        if text is None:
            raise missing_key("public_url", at="")
        if not isinstance(text, str):
            raise ConfigurationError("expected text in quotes", path="public_url")
        return parse_public_url(text)

    def _keys(self) -> tuple[str, ...] | None:
        written = self._document.get("keys")
        if written is None:
            return None
        if not isinstance(written, list):
            raise ConfigurationError('expected a list such as [{ env = "COATCHECK_KEY" }]', path="keys")
        keys = tuple(self._secret(value, f"keys[{position}]") for position, value in enumerate(written))
        KeyRing(keys)
        return keys

    def _secret(self, value: object, at: str) -> str:
        try:
            return self._secrets.read(value).text
        except ValueError as error:
            raise ConfigurationError(str(error), path=at) from None

    def _clients(self) -> dict[str, Client]:
        others = self._document.get("clients", {})
        if not isinstance(others, dict):
            self.problems.append(ConfigurationError("expected tables such as [clients.billing]", path="clients"))
            others = {}
        if "default" in others:
            message = 'the registration named "default" is the table [client]: choose another name'
            self.problems.append(ConfigurationError(message, path="clients.default"))
        if "client" not in self._document:
            self.problems.append(missing_key("client", at=""))
            return {}
        tables = [("default", "client", self._document["client"])]
        tables += [(name, f"clients.{name}", value) for name, value in others.items()]
        clients: dict[str, Client] = {}
        for name, at, value in tables:
            words = self._convert(value, ClientWords, at)
            client = words and self._noted(partial(self._client, words), at)
            if client:
                clients[name] = client
        return clients

    def _client(self, words: ClientWords) -> Client:
        """Make the registration; only what is written is passed on, so that the defaults stand in one place."""
        written: dict[str, Any] = {
            name: getattr(words, name)
            for name in ClientWords.__struct_fields__
            if name not in ("client_secret", "private_key", "client_auth") and getattr(words, name) is not None
        }
        if words.client_secret is not None:
            written["client_secret"] = words.client_secret.text
        if words.client_auth is not None:
            written["client_auth"] = words.client_auth
        if words.private_key is not None:
            if words.client_auth not in (None, "private_key_jwt"):
                raise ConfigurationError(f"{words.client_auth} does not use private_key", path="client_auth")
            written["client_auth"] = self._private_key(words.private_key)
        elif words.client_auth == "private_key_jwt":
            raise ConfigurationError("private_key_jwt needs it: add private_key = { file = ... }", path="private_key")
        elif words.client_secret is None:
            raise ConfigurationError(
                'nothing to authenticate with: add client_secret = { env = "CLIENT_SECRET" }, '
                'or private_key = { file = "key.pem" }',
                path="client_secret",
            )
        return Client(**written)

    def _login(self) -> LoginOptions | None:
        words = self._table("login", LoginWords)
        return None if words is None else LoginOptions(**_as_written(words))

    def _logout(self) -> LogoutOptions | None:
        words = self._table("logout", LogoutWords)
        return None if words is None else LogoutOptions(**_as_written(words))

    def _private_key(self, words: PrivateKeyWords) -> PrivateKeyJWT:
        sources = {name: value for name in ("env", "file") if (value := getattr(words, name)) is not None}
        pem = self._secret(sources, "private_key")
        try:
            return PrivateKeyJWT(pem, alg=words.alg, kid=words.kid, audience=words.audience)
        except ConfigurationError as error:
            raise prefixed(error, "private_key") from None

    def _apis(self) -> tuple[APIWords, ...]:
        written = self._document.get("api", [])
        if not isinstance(written, list):
            self.problems.append(ConfigurationError("write [[api]], in double brackets, for each API", path="api"))
            return ()
        apis = (self._convert(value, APIWords, f"api[{position}]") for position, value in enumerate(written))
        return tuple(api for api in apis if api is not None)


def _as_written(words: Words) -> dict[str, Any]:
    return {name: getattr(words, name) for name in words.__struct_fields__}
