"""Opens a connection: TCP, a proxy's CONNECT where one is configured, TLS with ALPN `h2` (RFC 9113, 3.2)."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from aiohappyeyeballs import start_connection

from tocsin.http2.tls_transport import Asked, handshake

ConnectionType = TypeVar("ConnectionType", bound=Asked)
_PROXY_ANSWER_LIMIT_BYTES: Final = 16 * 1024
_NEXT_ADDRESS_S: Final = 0.25
"""An address that has not answered for so long has the next one tried beside it (RFC 8305, 5)."""
_CUT: Final = "the connection was closed during the TLS handshake"


class DialError(Exception):
    """No connection could be opened; the message says where it failed."""


def client_tls(ca_file: Path | None = None, certificate_file: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer (RFC 9113, 9.2), always verified, ALPN `h2`.

    Args:
        ca_file: the authorities to trust (PEM); None for the system's.
        certificate_file: a client certificate with its chain and key (PEM).

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: a file has no usable certificate or key.
    """
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if certificate_file is not None:
        context.load_cert_chain(certificate_file)
    return context


async def dial(
    host: str,
    port: int,
    tls: ssl.SSLContext,
    factory: Callable[[], ConnectionType],
    *,
    proxy: str | None = None,
    timeout_s: float,
) -> ConnectionType:
    """Open a connection that speaks HTTP/2; returns the protocol that `factory` made for it.

    Args:
        proxy: `http://[user:password@]host:port`.
        timeout_s: for TCP, CONNECT and TLS together.

    Raises:
        DialError: unreachable, refused by the proxy, certificate not verified, or ALPN did not choose `h2`.
    """
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(timeout_s):
            sock = await (_connected(host, port) if proxy is None else _tunnel(host, port, proxy))
            transport = await handshake(sock, tls, host)
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if chosen != "h2":
            raise DialError(f"{host}:{port}: does not speak HTTP/2 (ALPN chose {chosen!r})")
    except BaseException as error:
        if sock is not None:
            sock.close()
        match error:
            case TimeoutError():
                raise DialError(f"{host}:{port}: no connection within {timeout_s:g} s") from None
            case ssl.SSLCertVerificationError():
                raise DialError(f"{host}:{port}: certificate not verified: {error.verify_message}") from None
            case OSError():
                # It has no text where the peer ends the connection during the handshake without a TLS alert.
                raise DialError(f"{host}:{port}: {str(error) or _CUT}") from None
        raise
    made = factory()
    transport.start(made)
    return made


async def _tunnel(host: str, port: int, proxy: str) -> socket.socket:
    """Open a tunnel by CONNECT (RFC 9110, 9.3.6), with the proxy's credentials where its URL has them.

    It is a socket without a transport: asyncio makes the transport afterwards, with TLS, as for any connection.
    """
    parts = urlsplit(proxy)
    if parts.scheme != "http" or parts.hostname is None:
        raise DialError("proxy: must be http://[user:password@]host:port")
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credentials.encode()).decode()}")
    loop = asyncio.get_running_loop()
    try:
        tunnel = await _connected(parts.hostname, parts.port or 3128)
    except OSError as error:
        raise DialError(f"proxy {parts.hostname}:{parts.port}: {error}") from None
    try:
        await loop.sock_sendall(tunnel, ("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while b"\r\n\r\n" not in head:
            more = await loop.sock_recv(tunnel, _PROXY_ANSWER_LIMIT_BYTES)
            if not more:
                raise DialError("the proxy closed the connection")
            head += more
            if len(head) > _PROXY_ANSWER_LIMIT_BYTES:
                raise DialError("the proxy's answer is too long")
        status = head.split(b"\r\n", 1)[0].split(b" ")
        if len(status) < 2 or not status[1].startswith(b"2"):
            raise DialError(
                f"proxy {parts.hostname}:{parts.port}: CONNECT answered {b' '.join(status[1:]).decode('latin-1')}"
            )
    except BaseException:
        tunnel.close()
        raise
    return tunnel


async def _connected(host: str, port: int) -> socket.socket:
    """A TCP connection to the first of the host's addresses that accepts one, IPv6 and IPv4 by turns (RFC 8305).

    Raises:
        OSError: none does, or there is no such host.
    """
    addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not addresses:
        raise OSError(f"{host} has no address")
    try:
        sock = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S)
    except RuntimeError as error:  # uvloop's, in place of an OSError
        raise OSError(str(error)) from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
