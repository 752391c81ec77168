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

from tocsin.api.unavailable import Unavailable
from tocsin.providers.configured import MakeProviders
from tocsin.service.wiring import Service
from tocsin.settings import Settings
from tocsin.sign_in.configured import SignInError
from tocsin.store.opening import open_store
from tocsin.store.ports import StorageFailure, Store
from tocsin.telemetry import configure_logging

log = structlog.get_logger(__name__)

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
) -> None:
    """Run tocsin until SIGTERM or SIGINT; returns after draining. `ready` gets the base URL once it listens.

    Storage that fails (a full disk, say) is waited for, and every request answered with 503 meanwhile: ending would
    mend nothing, and have a supervisor start it again and again.

    Raises:
        StoreError, ServiceError: it cannot start.
    """
    configure_logging(settings.log.level, settings.log.format)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with contextlib.closing(_listen(settings)) as sock:
        async with contextlib.AsyncExitStack() as held:
            store: Store | None
            try:
                store = await held.enter_async_context(_started(settings))
            except StorageFailure as failure:
                store = await _when_mended(failure, settings, sock, held)
            if store is not None:
                try:
                    service = Service(settings, store, make_providers=make_providers)
                except SignInError as error:
                    raise ServiceError(str(error)) from None
                await service.run(sock, ready)


@contextlib.asynccontextmanager
async def _started(settings: Settings) -> AsyncIterator[Store]:
    async with open_store(settings, server=True) as store:
        await store.start()
        yield store


async def _when_mended(
    failure: StorageFailure, settings: Settings, sock: socket.socket, held: contextlib.AsyncExitStack
) -> Store | None:
    """The store, in `held`, as soon as its storage works; None where a signal says stop before that."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.error("the store cannot be used; every request is answered 503 until it can", error=str(failure))
    wait_s = _OPEN_AGAIN_S
    async with Unavailable(sock, failure.reason) as unavailable:
        while not await _set_within(stop, wait_s):
            wait_s = min(2 * wait_s, _LATEST_OPEN_AGAIN_S)
            try:
                store = await held.enter_async_context(_started(settings))
            except StorageFailure as error:
                if error.reason != unavailable.reason:
                    log.error("the store still cannot be used", error=str(error))
                unavailable.reason = error.reason
            else:
                log.info("the store can be used now")
                return None if stop.is_set() else store
    return None


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except (OSError, UnicodeError) as error:  # The latter is about a name that cannot be in the DNS.
        sock.close()
        reason = getattr(error, "strerror", None) or error
        raise ServiceError(
            f"cannot listen on {host}:{port}: {reason}; choose others with server.host, server.port"
        ) from None
    sock.setblocking(False)
    return sock


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
