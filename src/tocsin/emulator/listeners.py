"""The emulator's doors: TLS with ALPN for Apple and Google, plain HTTP for the control API."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tocsin.emulator.acting import Faults
from tocsin.emulator.credentials import Files
from tocsin.emulator.tally import Tally
from tocsin.http2.http1 import Http1Connection
from tocsin.http2.server import Handler, ServerConnection, Switch


class ListenError(Exception):
    """A port cannot be had; the message names it and the reason."""


class Door(Struct, frozen=True, kw_only=True):
    """One listener. `offset` is its place above the first port, where ports are not free ones."""

    provider: str
    environment: str | None = None
    offset: int
    http1: bool = True
    """Whether it speaks HTTP/1.1, too. APNs does not."""
    asks_for_certificate: bool = False
    first_streams: int
    """Streams that a new connection may have."""

    @property
    def name(self) -> str:
        return f"{self.provider}.{self.environment}" if self.environment else self.provider


class Listeners:
    """All that listen, and the connections that came in by them."""

    def __init__(self, host: str, first_port: int, files: Files, tally: Tally, faults: Faults) -> None:
        self._host = host
        self._first_port = first_port
        self._files = files
        self._tally = tally
        self._faults = faults
        self._listening: list[asyncio.Server] = []
        self._open: dict[str, set[asyncio.Protocol]] = {}

    async def tls(self, door: Door, handler: Handler) -> str:
        """Listen; returns the URL.

        Raises:
            ListenError: the port cannot be had.
        """
        registry = self._open.setdefault(door.name, set())

        def choose(alpn: str | None, certificate: bytes | None) -> asyncio.Protocol:
            self._tally.opened[door.name] += 1
            # Apple speaks HTTP/2 to clients that have not asked for it by ALPN, too; aioapns is one.
            if alpn == "h2" or not door.http1:
                streams = door.first_streams
                return ServerConnection(handler, max_streams=streams, client_certificate=certificate, registry=registry)
            return Http1Connection(handler, registry)

        port = await self._start(lambda: Switch(choose), door.offset, self._context(door))
        return f"https://localhost:{port}"

    async def plain(self, handler: Handler, offset: int) -> str:
        """Listen without TLS, for HTTP/1.1 alone; returns the URL, raises as `tls`."""
        registry = self._open.setdefault("control", set())
        port = await self._start(lambda: Http1Connection(handler, registry), offset, None)
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}"

    def connections(self) -> list[dict[str, Any]]:
        """For `GET /stats`."""
        return [
            {
                "listener": name,
                "open": len(registry),
                "opened": self._tally.opened[name],
                "open_streams": sum(getattr(connection, "in_flight", 0) for connection in registry),
            }
            for name, registry in self._open.items()
            if name != "control"
        ]

    async def close(self) -> None:
        """Stop listening, and say goodbye on what is open."""
        for server in self._listening:
            server.close()
        for registry in self._open.values():
            for connection in list(registry):
                assert isinstance(connection, ServerConnection | Http1Connection)
                connection.goaway()
                connection.close()
        # One turn of the loop for the goodbyes to be written.
        await asyncio.sleep(0)

    def _context(self, door: Door) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._files.server)
        context.set_alpn_protocols(["h2", "http/1.1"] if door.http1 else ["h2"])
        if door.asks_for_certificate:
            # Apple asks for a client certificate, and takes a provider token in its place.
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(self._files.ca)

        def refuse(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> int | None:
            failing = self._faults.refuses_handshake(door.provider, door.environment)
            return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE if failing else None

        # OpenSSL calls this in every handshake, whether the client names a server or not.
        context.sni_callback = refuse
        return context

    async def _start(self, factory: Callable[[], asyncio.Protocol], offset: int, context: ssl.SSLContext | None) -> int:
        port = self._first_port + offset if self._first_port else 0
        try:
            server = await asyncio.get_running_loop().create_server(
                factory, self._host, port, ssl=context, backlog=1024
            )
        except OSError as error:
            raise ListenError(f"{self._host}:{port}: cannot listen: {error.strerror or error}") from None
        self._listening.append(server)
        number: int = server.sockets[0].getsockname()[1]
        return number
