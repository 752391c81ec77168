"""Runs the console until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import uvicorn

from tocsin.console.options import Options
from tocsin.console.security import SecureHeaders

_KEEP_ALIVE_S: Final = 75
_STOP_WITHIN_S: Final = 2
_MOST_CONNECTIONS: Final = 512


class ConsoleError(Exception):
    """The console cannot start; the message says why, and what to do."""


async def serve(options: Options, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the pages. `ready` is called with the address, once they can be opened.

    Raises:
        ConsoleError: something that is configured cannot be used.
    """
    from tocsin.console.app import console

    try:
        # Outside of Litestar, which answers some requests before its middleware sees them.
        app = SecureHeaders(console(options))
    except (OSError, ssl.SSLError) as error:
        raise ConsoleError(
            f"console.api_ca_file {options.api_ca_file}: {error}; name a PEM file of authorities"
        ) from None
    listening = _listen(host, port)
    server = _Server(app)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listening]))
        await server.listening.wait()
        if not server.should_exit:
            ready(_url(host, listening))


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own. Streams that never end are cut off when it stops."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_STOP_WITHIN_S,
            )
        )
        self.listening = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True

    def install_signal_handlers(self) -> None:
        """None: `serve` has installed them."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.listening.set()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, UnicodeError) as error:  # The latter is about a name that cannot be in the DNS.
        reason = getattr(error, "strerror", None) or error
        raise ConsoleError(
            f"console.host {host}, console.port {port}: {reason}; choose another with --host, --port or in [console]"
        ) from None
    return listening


def _url(host: str, listening: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}"
