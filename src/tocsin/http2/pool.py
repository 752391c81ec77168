"""The connections of one origin: open, saturate, drain, replace.

One connection until its streams are saturated, then more, up to a bound. A connection that fails is opened again with
full-jitter back-off, never in a tight loop: Apple takes rapid reconnecting for an attack.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import structlog
from msgspec import Struct

from tocsin.http2.connection import Connection
from tocsin.http2.dial import DialError, dial
from tocsin.http2.messages import Failure, FailureKind, Request
from tocsin.http2.waiting import Waiting

log = structlog.get_logger(__name__)

_BACKOFF_FIRST_S: Final = 0.5
_BACKOFF_CAP_S: Final = 60.0
_SATURATED_FOR_S: Final = 0.1
_MOST_REPLAYS: Final = 5
_CHECK_EVERY_S: Final = 1.0
_CLOSED: Final = Failure(FailureKind.CONNECT, "the pool was closed", unknown=False)


class PoolOptions(Struct, frozen=True):
    max_connections: int = 8
    max_streams: int = 1000
    """Per connection, whatever more the peer may allow."""
    request_timeout_s: float = 30.0
    connect_timeout_s: float = 10.0
    ping_after_s: float = 60.0
    ping_timeout_s: float = 10.0
    proxy: str | None = None


def _all_wanted(requests: list[Request]) -> Sequence[Request]:
    return ()


class Pool:
    """Requests in, requests out: `done` gets them back in batches, each with its status or its failure.

    `withdrawn` is asked, as the last thing before they are sent, which of some requests are no longer wanted.
    """

    def __init__(
        self,
        origin: str,
        tls: Callable[[], ssl.SSLContext],
        done: Callable[[list[Request]], None],
        options: PoolOptions,
        *,
        withdrawn: Callable[[list[Request]], Sequence[Request]] = _all_wanted,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        parts = urlsplit(origin)
        assert parts.hostname is not None
        self.origin = origin
        self._host = parts.hostname
        self._port = parts.port or 443
        self.authority = parts.netloc.encode()
        self._tls = tls
        self._done = done
        self._options = options
        self._withdrawn = withdrawn
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._pending = Waiting()
        self._connections: list[Connection] = []
        self._dialling: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._saturated_since: float | None = None
        self._closed = False
        self._pumping = False
        self._winding_up = False
        self.opened = 0
        """Connections opened in all."""
        self._checking = self._loop.call_later(_CHECK_EVERY_S, self._check)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def in_flight(self) -> int:
        return sum(connection.in_flight for connection in self._connections)

    def send(self, requests: Sequence[Request]) -> None:
        """Take requests; each comes back through `done`, exactly once."""
        now = self._loop.time()
        for request in requests:
            request.started = now
        self._pending.add(requests)
        if self._closed:
            self._fail_pending(_CLOSED)
        else:
            self._pump()

    async def close(self) -> None:
        """Close every connection; what is in flight or waiting comes back as lost."""
        self._closed = True
        self._checking.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        for connection in list(self._connections):
            connection.close()
        self._fail_pending(_CLOSED)

    def retire(self, *, opened_before: float = float("inf")) -> None:
        """New requests go to new connections; those in flight finish on the old ones (opened before that loop time)."""
        for connection in self._connections:
            if connection.opened_at < opened_before:
                connection.draining = True
                if not connection.in_flight:
                    self._loop.call_soon(connection.close)

    def wind_up(self) -> None:
        """No more requests will come: finish those that are here, then close."""
        self._winding_up = True
        self.retire()

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is open, nothing is being opened."""
        return not self._pending and not self._connections and self._dialling is None

    # -- connection.Owner ----------------------------------------------------------------------------------------------

    def finished(self, requests: list[Request]) -> None:
        if self._failures and any(request.status for request in requests):
            self._failures = 0
        self._done(requests)

    def replay(self, requests: list[Request]) -> None:
        again, given_up = [], []
        for request in requests:
            request.replays += 1
            request.status = 0
            if request.replays > _MOST_REPLAYS:
                request.failure = Failure(FailureKind.RESET, f"refused {request.replays} times", unknown=False)
                given_up.append(request)
            else:
                again.append(request)
        self._pending.put_back(again)
        if given_up:
            self._done(given_up)

    def changed(self, connection: Connection) -> None:
        self._pump()

    def ended(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            if not connection.answered and not connection.given_up:
                self._back_off("closed before the first answer")
        self._pump()

    # -- within --------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Give what waits to the connections that have room; open one more where none has."""
        if self._closed or not self._pending or self._pumping:
            return
        self._pumping = True
        try:
            for connection in self._connections:
                room = connection.room
                if room:
                    pending = self._pending
                    batch = pending.take(room)
                    if unwanted := self._withdrawn(batch):
                        self._withdraw(unwanted)
                        batch = [request for request in batch if request.failure is None]
                    connection.send(batch)
                    if not pending:
                        self._saturated_since = None
                        return
        finally:
            self._pumping = False
        usable = [connection for connection in self._connections if not connection.draining]
        now = self._loop.time()
        if usable:
            if self._saturated_since is None:
                self._saturated_since = now
                return
            if now - self._saturated_since < _SATURATED_FOR_S:
                return
        most = self._options.max_connections
        # Those on their way out count as well, so that a peer that ends each connection does not get ever more of them.
        if self._dialling is None and len(usable) < most and len(self._connections) < 2 * most:
            self._saturated_since = None
            self._dialling = self._loop.create_task(self._open())

    def _withdraw(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.failure = Failure(FailureKind.WITHDRAWN, "no longer wanted", unknown=False)
        # Not from within: whoever is told may send.
        self._loop.call_soon(self._done, list(requests))

    async def _open(self) -> None:
        try:
            wait_s = self._not_before - self._loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            connection = await dial(
                self._host,
                self._port,
                self._tls(),
                lambda: Connection(self, max_streams=self._options.max_streams),
                proxy=self._options.proxy,
                timeout_s=self._options.connect_timeout_s,
            )
        except DialError as error:
            self._dialling = None
            self._back_off(str(error))
            if not self._connections:
                self._fail_pending(Failure(FailureKind.CONNECT, str(error), unknown=False))
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A credential that does not load, say: it fails these requests visibly, and the pool lives on.
            self._dialling = None
            self._back_off(str(error))
            self._fail_pending(Failure(FailureKind.CONNECT, f"{type(error).__name__}: {error}", unknown=False))
            return
        self._dialling = None
        self.opened += 1
        if connection.closed:
            self._back_off("closed during the handshake")
        else:
            self._connections.append(connection)
            if self._closed:
                connection.close()
        self._pump()

    def _back_off(self, why: str) -> None:
        self._failures += 1
        bound = min(_BACKOFF_CAP_S, _BACKOFF_FIRST_S * 2 ** (self._failures - 1))
        self._not_before = self._loop.time() + bound * self._jitter()
        log.warning("connection failed", origin=self.origin, error=why, failures=self._failures)

    def _fail_pending(self, failure: Failure) -> None:
        if self._pending:
            failed = self._pending.take_all()
            for request in failed:
                request.failure = failure
            self._done(failed)

    def _check(self) -> None:
        now, options = self._loop.time(), self._options
        if self._winding_up and self.idle:
            self._closed = True
            return
        self._checking = self._loop.call_later(_CHECK_EVERY_S, self._check)
        for connection in list(self._connections):
            connection.check(
                now,
                request_timeout_s=options.request_timeout_s,
                ping_after_s=options.ping_after_s,
                ping_timeout_s=options.ping_timeout_s,
            )
        late = self._pending.overdue(now - options.request_timeout_s)
        for request in late:
            request.failure = Failure(
                FailureKind.TIMEOUT, f"no connection had room within {options.request_timeout_s:g} s", unknown=False
            )
        if late:
            self._done(late)
        self._pump()
