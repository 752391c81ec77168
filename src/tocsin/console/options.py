"""What a console is started with."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from tocsin.settings import Console


class Phone(Struct, frozen=True):
    """A virtual phone of the demo: whose it is, how it is called, and its device token."""

    user: str
    owner: str
    name: str
    token: str
    kind: str = ""
    """How it is reached, in a few words: `APNs sandbox`."""


class Options(Struct, frozen=True):
    """`public_origin` is where browsers see the console, where that is not the address that they connect to."""

    api_url: str
    api_ca_file: Path | None
    session_idle: timedelta
    public_origin: str | None = None
    emulator_url: str | None = None
    """The control address of an emulator, whose phones are shown; None without one."""
    phones: tuple[Phone, ...] = ()

    @property
    def secure(self) -> bool:
        """Whether browsers use TLS: the cookies are for TLS alone then."""
        return self.public_origin is not None and self.public_origin.startswith("https://")

    def api_tls(self) -> ssl.SSLContext | bool:
        """How the API's certificate is checked.

        Raises:
            OSError: the file of authorities cannot be read.
            ssl.SSLError: it holds none.
        """
        if self.api_ca_file is None:
            return True
        return ssl.create_default_context(cafile=str(self.api_ca_file))


def options(settings: Console, *, emulator_url: str | None = None, phones: tuple[Phone, ...] = ()) -> Options:
    """The options that the settings name, and what only the demo has."""
    public = urlsplit(settings.public_url) if settings.public_url else None
    return Options(
        api_url=settings.api_url.rstrip("/"),
        api_ca_file=settings.api_ca_file,
        session_idle=settings.session_idle,
        public_origin=f"{public.scheme}://{public.netloc}" if public else None,
        emulator_url=emulator_url.rstrip("/") if emulator_url else None,
        phones=phones,
    )


def read_phones(file: Path) -> tuple[Phone, ...]:
    """The phones in a JSON file: an array of objects with the fields of `Phone`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such an array.
    """
    return tuple(msgspec.json.decode(file.read_bytes(), type=list[Phone]))
