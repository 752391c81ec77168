"""Listens for connections: APNs, FCM and OAuth over TLS, the control API over plain HTTP/1.1."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from tocsin.emulator.control import is_loopback
from tocsin.emulator.counters import Counters
from tocsin.emulator.credentials import Files
from tocsin.emulator.fault_injection import FaultInjector
from tocsin.emulator.options import EmulatorOptions
from tocsin.emulator.protocol_selection import ClosingProtocol, PrefaceSwitch
from tocsin.emulator.tls_contexts import server_context
from tocsin.http2.http1 import Http1Connection
from tocsin.http2.network import Listener, Network
from tocsin.http2.server import Handler, ServerConnection, Switch

_CONTROL: Final = "control"
_LOOPBACK: Final = "127.0.0.1"
_CLOSING_S: Final = 1.0


class ListenError(Exception):
    """The emulator cannot listen on a port; the message names the port and the reason."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """One port on which APNs, FCM or OAuth is served."""

    provider: str
    environment: str | None = None
    port_offset: int
    """The port is `EmulatorOptions.port` plus this number, unless the operating system assigns the ports."""
    http1: bool = True
    """Whether HTTP/1.1 is served besides HTTP/2. APNs does not serve it."""
    requests_client_certificate: bool = False
    takes_odd_scheme: bool = False
    """Whether requests whose `:scheme` is `https:` are answered, as Google does; Node's firebase-admin sends them."""
    initial_max_streams: int
    """SETTINGS_MAX_CONCURRENT_STREAMS of a new connection."""

    @property
    def name(self) -> str:
        """The name of the endpoint in `GET /stats`."""
        return f"{self.provider}.{self.environment}" if self.environment else self.provider


class Listeners:
    """All listening ports, and the connections that clients have opened to them."""

    def __init__(
        self, options: EmulatorOptions, network: Network, files: Files, counters: Counters, faults: FaultInjector
    ) -> None:
        self._options = options
        self._network = network
        self._files = files
        self._counters = counters
        self._faults = faults
        self._listeners: list[Listener] = []
        self._connections: dict[str, set[asyncio.Protocol]] = {}

    async def serve(self, endpoint: Endpoint, handler: Handler) -> str:
        """Serve an endpoint, with TLS unless the options say otherwise; returns its URL.

        Raises:
            ListenError: the port is not available.
        """
        connections = self._connections.setdefault(endpoint.name, set())

        def open_connection(alpn: str | None, certificate: bytes | None) -> asyncio.Protocol:
            self._counters.connections_opened[endpoint.name] += 1
            # Apple speaks HTTP/2 also to clients that do not request it by ALPN, for example aioapns.
            if alpn == "h2" or not endpoint.http1:
                return ServerConnection(
                    handler,
                    max_streams=endpoint.initial_max_streams,
                    client_certificate=certificate,
                    registry=connections,
                    takes_odd_scheme=endpoint.takes_odd_scheme,
                )
            return Http1Connection(handler, connections)

        if self._options.tls:
            return await self._serve_with_tls(endpoint, open_connection)
        return await self._serve_without_tls(endpoint, open_connection)

    async def serve_control(self, handler: Handler, port_offset: int) -> str:
        """Serve the control API over HTTP/1.1 without TLS, on this machine only; returns its URL.

        Raises:
            ListenError: the port is not available.
        """
        connections = self._connections.setdefault(_CONTROL, set())
        own = self._options.host if is_loopback(self._options.host) else _LOOPBACK
        listener = await self._listen(lambda: Http1Connection(handler, connections), port_offset, host=own)
        host = f"[{own}]" if ":" in own else own
        return f"http://{host}:{listener.port}"

    def connections(self) -> list[dict[str, Any]]:
        """The number of connections and open streams of each endpoint, as `GET /stats` returns them."""
        return [
            {
                "listener": name,
                "open": len(connections),
                "opened": self._counters.connections_opened[name],
                "open_streams": sum(getattr(connection, "in_flight", 0) for connection in connections),
            }
            for name, connections in self._connections.items()
            if name != _CONTROL
        ]

    async def close(self) -> None:
        """Stop listening, send GOAWAY on the open connections, and close them."""
        for listener in self._listeners:
            listener.close()
        for connections in self._connections.values():
            for connection in list(connections):
                assert isinstance(connection, ServerConnection | Http1Connection)
                connection.goaway()
                connection.close()
        # The transports write the GOAWAY frames in the next iteration of the event loop.
        await asyncio.sleep(0)
        # From Python 3.12 on this waits for the connections, too, and some clients never read what is left to read.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                for listener in self._listeners:
                    await listener.wait_closed()
        for connections in self._connections.values():
            for connection in list(connections):
                assert isinstance(connection, ServerConnection | Http1Connection)
                connection.abort()

    async def _serve_with_tls(
        self, endpoint: Endpoint, open_connection: Callable[[str | None, bytes | None], asyncio.Protocol]
    ) -> str:
        context = server_context(
            self._files,
            http1=endpoint.http1,
            requests_client_certificate=endpoint.requests_client_certificate,
            fails_handshake=lambda: self._faults.fails_handshake(endpoint.provider, endpoint.environment),
        )
        listener = await self._listen(lambda: Switch(open_connection), endpoint.port_offset, context)
        return f"https://localhost:{listener.port}"

    async def _serve_without_tls(
        self, endpoint: Endpoint, open_connection: Callable[[str | None, bytes | None], asyncio.Protocol]
    ) -> str:
        def accept() -> asyncio.Protocol:
            if self._faults.fails_handshake(endpoint.provider, endpoint.environment):
                return ClosingProtocol()
            if endpoint.http1:
                return PrefaceSwitch(lambda protocol: open_connection(protocol, None))
            return open_connection("h2", None)

        listener = await self._listen(accept, endpoint.port_offset)
        return f"http://localhost:{listener.port}"

    async def _listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        port_offset: int,
        context: ssl.SSLContext | None = None,
        host: str | None = None,
    ) -> Listener:
        host, first_port = host or self._options.host, self._options.port
        port = first_port + port_offset if first_port else 0
        try:
            listener = await self._network.listen(factory, host, port, context)
        except (OSError, UnicodeError) as error:  # The latter is about a name that cannot be in the DNS.
            reason = getattr(error, "strerror", None) or error
            raise ListenError(f"{host}:{port}: cannot listen: {reason}; choose others with --host and --port") from None
        self._listeners.append(listener)
        return listener
