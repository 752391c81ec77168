"""Starts the service: listens, opens the store, and waits for storage that fails."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Final

import structlog

from tocsin.api.conventions import convention
from tocsin.api.tls import ServerTls, TlsError
from tocsin.api.unavailable import Reason, Unavailable
from tocsin.domain.nodes import NodeRole
from tocsin.library_logs import take_over_library_logs
from tocsin.providers.configured import MakeProviders
from tocsin.providers.rules import RULES
from tocsin.service.wiring import MissingExtra, Service
from tocsin.settings import Settings
from tocsin.sign_in.configured import SignInError
from tocsin.store.opening import open_store
from tocsin.store.ports import StorageFailure, Store
from tocsin.telemetry import configure_logging

log = structlog.get_logger(__name__)

_PUBLIC: Final = "server.host, server.port"
_PRIVATE: Final = "server.private_host"
_OPEN_AGAIN_S: Final = 1.0
_LATEST_OPEN_AGAIN_S: Final = 10.0
# The writer thread asks for the GIL a few times a commit, and waits one interval each time while the loop is busy.
_SWITCH_INTERVAL_S: Final = 0.0005


class ServiceError(Exception):
    """The service cannot start; the message names the reason and the remedy."""


async def serve(
    settings: Settings,
    *,
    ready: Callable[[str], None] | None = None,
    make_providers: MakeProviders | None = None,
    role: NodeRole = NodeRole.ALL,
) -> None:
    """Run tocsin until SIGTERM or SIGINT; returns after draining. `ready` gets the base URL once it listens. In
    another `role` than all it does a part of the service, beside other processes on the same store.

    Storage that fails (a full disk, say) is waited for, and every request answered with 503 meanwhile: ending would
    mend nothing, and have a supervisor start it again and again.

    Raises:
        StoreError, ServiceError: it cannot start.
    """
    configure_logging(settings.log.level, settings.log.format)
    take_over_library_logs()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    tls = _tls(settings)
    with contextlib.ExitStack() as listening:
        sock = listening.enter_context(contextlib.closing(_listen(settings.server.host, settings.server.port, _PUBLIC)))
        private = None
        if settings.server.private_address is not None:
            private = listening.enter_context(contextlib.closing(_listen(*settings.server.private_address, _PRIVATE)))
        async with contextlib.AsyncExitStack() as held:
            store: Store | None
            try:
                store = await held.enter_async_context(_started(settings, role))
            except StorageFailure as failure:
                store = await _when_mended(failure, settings, sock, private, tls, held, role)
            if store is not None:
                try:
                    service = Service(settings, store, make_providers=make_providers, tls=tls, role=role)
                except (SignInError, MissingExtra) as error:
                    raise ServiceError(str(error)) from None
                await service.run(sock, ready, private)


@contextlib.asynccontextmanager
async def _started(settings: Settings, role: NodeRole) -> AsyncIterator[Store]:
    async with open_store(settings, server=True, role=role) as store:
        await store.start()
        yield store


async def _when_mended(
    failure: StorageFailure,
    settings: Settings,
    sock: socket.socket,
    private: socket.socket | None,
    tls: ServerTls | None,
    held: contextlib.AsyncExitStack,
    role: NodeRole,
) -> Store | None:
    """The store, in `held`, as soon as its storage works; None where a signal says stop before that."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.error("the store cannot be used; every request is answered 503 until it can", error=str(failure))
    wait_s = _OPEN_AGAIN_S
    reason = Reason(failure.reason)
    async with contextlib.AsyncExitStack() as answering:
        push_refused = convention(settings.push_api.convention, RULES).refused
        await answering.enter_async_context(Unavailable(sock, tls=tls, push_refused=push_refused))
        if private is not None:
            await answering.enter_async_context(Unavailable(private, reason))
        while not await _set_within(stop, wait_s):
            wait_s = min(2 * wait_s, _LATEST_OPEN_AGAIN_S)
            try:
                store = await held.enter_async_context(_started(settings, role))
            except StorageFailure as error:
                if error.reason != reason.text:
                    log.error("the store still cannot be used", error=str(error))
                reason.text = error.reason
            else:
                log.info("the store can be used now")
                return None if stop.is_set() else store
    return None


def _tls(settings: Settings) -> ServerTls | None:
    server = settings.server
    if server.tls_certificate is None or server.tls_key is None:
        return None
    try:
        return ServerTls(server.tls_certificate, server.tls_key)
    except TlsError as error:
        raise ServiceError(str(error)) from None


def _listen(host: str, port: int, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except (OSError, UnicodeError) as error:  # The latter is about a name that cannot be in the DNS.
        sock.close()
        reason = getattr(error, "strerror", None) or error
        raise ServiceError(f"cannot listen on {host}:{port}: {reason}; choose another address with {setting}") from None
    sock.setblocking(False)
    return sock


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
