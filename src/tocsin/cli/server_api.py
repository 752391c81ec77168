"""Asks a running server over HTTP, for the commands that are about the server and not about the store."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import read_secret
from tocsin.settings import Settings

_TIMEOUT_S: Final = 10.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class NoAnswerError(CommandError):
    """No server answers at the address; the message says why."""


class ServerApi:
    """Connections to one server, until `close`.

    Args:
        url: scheme, host and port.
        key: an API key that goes with every request; None for none.
        ca_file: who may have signed the server's certificate; None for the system's authorities.
    """

    def __init__(self, url: str, key: str | None, ca_file: Path | None) -> None:
        self.url = url.rstrip("/")
        try:
            tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except OSError as error:
            raise InputError(f"console.api_ca_file {ca_file}: {error.strerror or 'no certificates'}") from None
        # No proxy and no .netrc of the environment: the key goes to the server and nowhere else.
        self._http = httpx.Client(
            base_url=self.url,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=_TIMEOUT_S,
            verify=tls,
            trust_env=False,
        )

    def __enter__(self) -> ServerApi:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """The status and the body of an answer.

        Raises:
            NoAnswerError: there is none.
        """
        try:
            answer = self._http.get(path)
        except httpx.TimeoutException:
            raise NoAnswerError(f"{self.url}: no answer within {_TIMEOUT_S:g} s") from None
        except (httpx.HTTPError, UnicodeError) as error:  # The latter is about a name that cannot be in the DNS.
            raise NoAnswerError(f"{self.url}: {error}") from None
        return answer.status_code, answer.content


def server_of(settings: Settings, api: str | None, key_file: Path | None) -> ServerApi:
    """The server at `--api`, else at the address that the settings name, with the key in `--key-file`.

    Raises:
        InputError: one of them cannot be used.
    """
    key = None if key_file is None else read_secret(key_file, "--key-file", "key")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InputError("--key-file: not a key; `tocsin key create` prints one")
    return ServerApi(address_of(settings) if api is None else _checked(api), key, settings.console.api_ca_file)


def address_of(settings: Settings) -> str:
    """Where a server with these settings answers: as the console is told, else where it listens."""
    if "api_url" in settings.console.model_fields_set:
        return settings.console.api_url
    server = settings.server
    scheme = "http" if server.tls_certificate is None else "https"
    return f"{scheme}://{_authority(server.host, server.port)}"


def private_address_of(settings: Settings) -> str | None:
    """Where it tells everything about its health without a key; None where it does so nowhere."""
    private = settings.server.private_address
    return None if private is None else f"http://{_authority(*private)}"


def detail_of(body: bytes) -> str:
    """What an error of the API (RFC 9457) says; empty where it is none."""
    try:
        problem: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return ""
    return str(problem.get("detail", "")) if isinstance(problem, dict) else ""


def _authority(host: str, port: int) -> str:
    host = _ANY_ADDRESS.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in url
    except ValueError:
        usable = False
    if not usable or not url.isascii():
        raise InputError(f"--api {url}: must be the server's address, like http://127.0.0.1:8080")
    return url
