"""Connects to NATS as `[sources.nats]` says: servers, TLS, and how to sign in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final

import nats.errors
import structlog
from nats.aio.client import Client

from tocsin.settings import Nats
from tocsin.sources.cancelling import cancelled

log = structlog.get_logger(__name__)

_CONNECT_S: Final = 15.0
_SERVER_S: Final = 5
_TRY_AGAIN_S: Final = 1
_PING_S: Final = 10
_LONGEST_SECRET_BYTES: Final = 4096


class CannotConnect(Exception):  # noqa: N818
    """No server of the settings took us; the message says what the last one did."""


async def connect(settings: Nats, connected: Callable[[bool], None]) -> Client:
    """A client that reconnects by itself, for ever; `connected` is told when its connection is lost and is back.

    Files are read each time: a credential that was replaced is used at the next connection.

    Raises:
        CannotConnect: also where a file cannot be used; the message names the setting.
    """
    options = {**_identity(settings), **_tls(settings)}
    client, reasons, refused = Client(), list[str](), asyncio.Event()

    async def failed(error: Exception) -> None:
        reasons.append(_reason(error))
        log.debug("nats", error=reasons[-1])
        del reasons[: -len(settings.servers)]
        if len(reasons) == len(settings.servers):
            refused.set()

    async def lost() -> None:
        connected(False)

    async def back() -> None:
        connected(True)

    connecting = asyncio.create_task(
        client.connect(
            list(settings.servers),
            name="tocsin",
            error_cb=failed,
            disconnected_cb=lost,
            reconnected_cb=back,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_TRY_AGAIN_S,
            connect_timeout=_SERVER_S,
            ping_interval=_PING_S,
            max_outstanding_pings=2,
            **options,
        )
    )
    # The client would try for ever, and not say why: it is given up when each server has failed.
    giving_up = asyncio.create_task(refused.wait())
    try:
        await asyncio.wait({connecting, giving_up}, timeout=_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()
            return client
        raise CannotConnect(reasons[-1] if reasons else "no answer in time")
    except CannotConnect:
        raise
    except Exception as error:
        raise CannotConnect(reasons[-1] if reasons else _reason(error)) from None
    finally:
        giving_up.cancel()
        if not client.is_connected:
            await cancelled(connecting)
            await _close(client)


async def _close(client: Client) -> None:
    # A client that never was connected may fail to end.
    try:
        async with asyncio.timeout(1):
            await client.close()
    except Exception as error:
        log.debug("nats", error=_reason(error))


def _identity(settings: Nats) -> dict[str, Any]:
    if settings.password_file is not None:
        return {"user": settings.user, "password": _read("password_file", settings.password_file)}
    if settings.nkey_file is not None:
        _read("nkey_file", settings.nkey_file)
        return {"nkeys_seed": str(settings.nkey_file)}
    if settings.credentials_file is not None:
        _read("credentials_file", settings.credentials_file)
        return {"user_credentials": str(settings.credentials_file)}
    return {}


def _read(key: str, file: Any) -> str:
    try:
        with open(file, "rb") as opened:
            content = opened.read(_LONGEST_SECRET_BYTES + 1)
        text = content.decode().strip()
    except OSError as error:
        raise CannotConnect(f"sources.nats.{key} {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CannotConnect(f"sources.nats.{key} {file}: not UTF-8") from None
    if not text or len(content) > _LONGEST_SECRET_BYTES:
        raise CannotConnect(f"sources.nats.{key} {file}: must have 1 to {_LONGEST_SECRET_BYTES} bytes")
    return text


def _tls(settings: Nats) -> dict[str, Any]:
    encrypted = any(url.startswith("tls:") for url in settings.servers)
    if not encrypted and settings.ca_file is None and settings.certificate_file is None:
        return {}
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.certificate_file is not None:
            context.load_cert_chain(settings.certificate_file, settings.private_key_file)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise CannotConnect(f"sources.nats: the files for TLS cannot be used: {reason}") from None
    return {"tls": context}


def _reason(error: BaseException) -> str:
    """What happened, in the library's words, without what it was doing it with."""
    if isinstance(error, TimeoutError | nats.errors.TimeoutError):
        return "no answer in time"
    text = str(error).removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__
