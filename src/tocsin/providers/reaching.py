"""Whether a provider's address can be reached: its name, the connection, TLS with HTTP/2; and what time it is there."""

from __future__ import annotations

import asyncio
import socket
import time
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import httpx
from msgspec import Struct

from tocsin.http2.dial import client_tls
from tocsin.http2.network import Network
from tocsin.http2.pool import PoolOptions
from tocsin.providers.asking import ask
from tocsin.providers.base import Origin

_TIMEOUT_S: Final = 10.0


class Reached(Struct, frozen=True):
    """What was found of one address."""

    origin: Origin
    failure: str | None = None
    """Why it cannot be reached; None where it can."""
    ahead_s: float | None = None
    """By how much our clock is ahead of its `Date` (RFC 9110, 6.6.1: whole seconds); None where it gave none."""


async def reach(origin: Origin, network: Network) -> Reached:
    """Ask it for `/` without a credential. Whatever it answers, it is reached."""
    try:
        # A proxy looks the name up itself.
        if origin.proxy is None and (unknown := await _unknown_name(origin.url)) is not None:
            return Reached(origin, unknown)
        began_s = time.time()
        date = await (_over_http2(origin, network) if origin.http2 else _over_http1(origin))
    except _Unreached as error:
        return Reached(origin, str(error))
    except OSError as error:  # Its file of authorities; ssl.SSLError is one, too.
        return Reached(origin, f"the file of authorities {origin.ca_file} cannot be used: {error.strerror or error}")
    return Reached(origin, ahead_s=_ahead_s((began_s + time.time()) / 2, date))


class _Unreached(Exception):  # noqa: N818
    """The message says why."""


async def _unknown_name(url: str) -> str | None:
    """Why the name of its host leads to no address; None where it does."""
    host = urlsplit(url).hostname
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        return f"DNS gave no address of {host} within {_TIMEOUT_S:g} s"
    except (OSError, UnicodeError) as error:
        return f"DNS has no address of {host}: {getattr(error, 'strerror', None) or error}"
    return None


async def _over_http2(origin: Origin, network: Network) -> str | None:
    """The `Date` of the answer."""
    options = PoolOptions(
        max_connections=1, request_timeout_s=_TIMEOUT_S, connect_timeout_s=_TIMEOUT_S, proxy=origin.proxy
    )
    headers = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")]
    request = await ask(origin.url, client_tls(origin.ca_file), options, headers, b"", network)
    if request.failure is not None:
        raise _Unreached(request.failure.detail)
    date = request.response_header(b"date")
    return None if date is None else date.decode("latin-1")


async def _over_http1(origin: Origin) -> str | None:
    """The same."""
    tls = client_tls(origin.ca_file)
    tls.set_alpn_protocols(["http/1.1"])
    try:
        async with (
            asyncio.timeout(_TIMEOUT_S),
            httpx.AsyncClient(verify=tls, trust_env=False, proxy=origin.proxy, timeout=_TIMEOUT_S) as client,
            client.stream("GET", origin.url) as answer,
        ):
            date: str | None = answer.headers.get("date")
            return date
    except TimeoutError:
        raise _Unreached(f"no answer within {_TIMEOUT_S:g} s") from None
    except httpx.HTTPError as error:
        raise _Unreached(str(error) or type(error).__name__) from None


def _ahead_s(now_s: float, date: str | None) -> float | None:
    try:
        there_s = None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
    # It was cut to whole seconds: half of one is what that takes off on average.
    return None if there_s is None else now_s - (there_s + 0.5)
