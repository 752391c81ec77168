"""The connections of one origin: takes requests, gives them to connections, replaces connections that end.

What is done next for requests that wait is decided in `choosing`, connections are opened by `dialler`. It never looks
into a request or a response.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic
from urllib.parse import urlsplit

from tocsin.http2.choosing import SATURATED_FOR_S, Give, Wait, choose
from tocsin.http2.connection import Connection
from tocsin.http2.dial import DialError
from tocsin.http2.dialler import Dialler
from tocsin.http2.messages import Failure, FailureKind, R
from tocsin.http2.network import Network
from tocsin.http2.options import PoolOptions
from tocsin.http2.traffic import Traffic
from tocsin.http2.waiting import Waiting

__all__ = ["Pool", "PoolOptions"]

_MOST_RESENDS: Final = 5
_TIMED: Final = 16
"""Of so many requests that are given to a connection together, the time of one is looked at."""
_CHECK_EVERY_S: Final = 1.0
_CLOSED: Final = Failure(FailureKind.CONNECT, "the pool was closed", unknown=False)
_WOUND_UP: Final = Failure(FailureKind.CONNECT, "the pool winds up", unknown=False)


def _none_withdrawn(requests: list[R]) -> Sequence[R]:
    return ()


def _none_revoked(requests: list[R]) -> bool:
    return False


def _always() -> bool:
    return True


class Pool(Generic[R]):
    """Requests in, requests out: `done` gets each of them back, in batches, with its status or its failure.

    Requests of different groups get their streams in turn, and no group gets all of them (`waiting`).

    Only within a running event loop.

    Args:
        origin: `https://host[:port]`.
        tls: asked for each connection; what it raises fails the requests that wait.
        done: gets requests that have ended.
        options: the pool's limits.
        network: opens the connections.
        withdrawn: asked, as the last thing before they are sent, which of some requests are no longer wanted; these
            come back as `FailureKind.WITHDRAWN`. Asked again before what a connection still holds of them goes on.
        revoked: asked of requests that may be written in part, before the rest is: whether one of them must not reach
            the peer, if that can still be helped. Then the rest is dropped, and the connection with it.
        may_send: asked before requests are given to a connection, and before each write that could carry a part of one.
            While it says False requests wait, with their deadlines; they go on after `resume`, or within a second after
            it says True. What is guaranteed is said at `Connection._flush`.
        unsent: gets requests that this pool is not to send any more (`take_back`, `wind_up`), in place of `done`.
            Without it they end as `FailureKind.CONNECT`.
        random: uniform in [0, 1), for the back-off.
        traffic: where to count; without it the pool has its own.
    """

    def __init__(
        self,
        origin: str,
        tls: Callable[[], ssl.SSLContext],
        done: Callable[[list[R]], None],
        options: PoolOptions,
        *,
        network: Network,
        withdrawn: Callable[[list[R]], Sequence[R]] = _none_withdrawn,
        revoked: Callable[[list[R]], bool] = _none_revoked,
        may_send: Callable[[], bool] = _always,
        unsent: Callable[[list[R]], None] | None = None,
        random: Callable[[], float] = random.random,
        traffic: Traffic | None = None,
    ) -> None:
        parts = urlsplit(origin)
        assert parts.hostname is not None
        self.origin = origin
        self._host = parts.hostname
        self._port = parts.port or 443
        self.authority = parts.netloc.encode()
        """For the requests' `:authority` (RFC 9113, 8.3.1)."""
        self._tls = tls
        self._done = done
        self._options = options
        self._network = network
        self.withdrawn = withdrawn
        self.revoked = revoked
        self._may_send = may_send
        self._unsent = unsent or partial(self._fail, failure=_WOUND_UP)
        self._loop = asyncio.get_running_loop()
        self._pending: Waiting[R] = Waiting()
        self._connections: list[Connection[R]] = []
        self._dialler: Dialler[Connection[R]] = Dialler(
            origin, self._connect, self._opened, self._not_opened, random=random
        )
        self._saturated_since: float | None = None
        self._closed = False
        self._pumping = False
        self._winding_up = False
        self._not_here: set[str] = set()
        """Groups that were taken back: what is refused of them is for another pool."""
        self._checking: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self.opened = 0
        """Connections that this pool has opened in all."""
        self.traffic = traffic or Traffic()

    @property
    def connections(self) -> int:
        """Connections that are open, those that drain included."""
        return len(self._connections)

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have no answer yet."""
        return sum(connection.in_flight for connection in self._connections)

    @property
    def room(self) -> int:
        """How many requests may be in flight at a time, over the connections that take new ones."""
        return sum(connection.limit for connection in self._connections if connection.is_usable)

    @property
    def idle(self) -> bool:
        """No request waits, no connection is open or being opened."""
        return not self._pending and not self._connections and self._dialler.task is None

    @property
    def next_check_at(self) -> float | None:
        """When the periodic check is due (`loop.time()`); None while there is nothing to check."""
        return self._checking.when() if self._checking is not None else None

    def send(self, requests: Sequence[R]) -> None:
        """Take requests; each comes back exactly once, through `done` or `unsent`."""
        now = self._loop.time()
        for request in requests:
            request.started = now
        if self._not_here:
            self._not_here.difference_update([request.group for request in requests])
        self._pending.add(requests)
        if self._closed:
            self._fail_pending(_CLOSED)
            return
        if self._checking is None:
            self._check_later()
        self._pump()

    def resume(self) -> None:
        """Send what waits, now that `may_send` says True again."""
        for connection in list(self._connections):
            connection.resume()
        self._pump()

    def retire(self, *, opened_until: float = float("inf"), why: str = "") -> None:
        """New requests go to new connections; those in flight finish on the old ones (opened until that loop time).

        `why`: the peer has asked for it in an answer. Where it asks on every connection, they are opened ever more
        slowly.
        """
        for connection in self._connections:
            if connection.opened_at <= opened_until:
                connection.drain(why)

    def wind_up(self) -> None:
        """No more requests will come: what connections have is finished, then this closes; what waits is unsent."""
        self._winding_up = True
        self._dialler.stop_waiting()
        self.retire()
        if self._checking is None and not self._closed:
            self._check_later()
        if unsent := self._pending.take_all():
            self._unsent(unsent)

    def take_back(self, group: str) -> None:
        """What waits of this group is unsent, and so is what the peer refuses of it, until more of it comes."""
        self._not_here.add(group)
        if unsent := self._pending.take_group(group):
            self._unsent(unsent)

    async def close(self) -> None:
        """Close every connection; what is in flight comes back as lost, what waits as not sent."""
        self._closed = True
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None
        if self._again is not None:
            self._again.cancel()
        await self._dialler.close()
        for connection in list(self._connections):
            connection.close()
        self._fail_pending(_CLOSED)

    # -- connection.Owner ----------------------------------------------------------------------------------------------

    def finished(self, requests: list[R]) -> None:
        if self._dialler.failures and any(200 <= request.status < 300 for request in requests):
            self._dialler.succeeded(self._connections)
        self._pending.returned(requests)
        if timed := [request.given for request in requests if request.given and request.status]:
            now = self._loop.time()
            self.traffic.took.observe([now - given for given in timed])
        self._done(requests)

    def resend(self, requests: list[R]) -> None:
        self._pending.returned(requests)
        again: list[R] = []
        unsent: list[R] = []
        failed: list[R] = []
        for request in requests:
            request.resends += 1
            request.status = 0
            request.given = 0.0
            if request.resends > _MOST_RESENDS:
                request.failure = Failure(FailureKind.RESET, f"refused {request.resends} times", unknown=False)
                failed.append(request)
            elif not self._closed and (self._winding_up or request.group in self._not_here):
                unsent.append(request)
            else:
                again.append(request)
        self._pending.put_back(again)
        if unsent:
            self._unsent(unsent)
        if failed:
            self._done(failed)

    def changed(self, connection: Connection[R]) -> None:
        self._pump()

    def useless(self, connection: Connection[R], why: str) -> None:
        self._dialler.back_off(f"{why} before it was of use")

    def goaway(self) -> None:
        self.traffic.goaways += 1

    def ended(self, connection: Connection[R]) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        self._pump()

    # -- within --------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Carry out what `choose` says until nothing waits, or nothing can be done now."""
        if self._closed or self._pumping:
            return
        if not self._pending or not self._may_send():
            return
        self._pumping = True
        try:
            while pending := self._pending.ready(self._free()):
                decision = choose(
                    self._connections,
                    pending,
                    most=self._options.max_connections,
                    dialling=self._dialler.task is not None,
                    saturated_since=self._saturated_since,
                    now=self._loop.time(),
                )
                if isinstance(decision, Give):
                    self._give(decision.connection, decision.count)
                    if decision.count == pending:
                        self._saturated_since = None
                elif isinstance(decision, Wait):
                    self._saturated_since = decision.saturated_since
                    if decision.saturated_since is not None and self._again is None:
                        self._look_again(decision.saturated_since + SATURATED_FOR_S)
                    return
                else:
                    self._saturated_since = None
                    self._dialler.start()
                    return
        finally:
            self._pumping = False

    def _free(self) -> int:
        """How many more requests could be in flight, with the connections that may still be opened: each allows as
        many as the best of those that are open, or one as long as none is."""
        free, usable, most = 0, 0, 1
        for connection in self._connections:
            if connection.is_usable:
                usable += 1
                limit = connection.limit
                most = max(most, limit)
                free += max(0, limit - connection.in_flight)
        return free + max(0, self._options.max_connections - usable) * most

    def _look_again(self, at: float) -> None:
        """Ask `choose` again when requests have waited for long enough: no answer may come that would make it do so."""
        if at >= self._loop.time():
            self._again = self._loop.call_at(at, self._pump_again)

    def _pump_again(self) -> None:
        self._again = None
        self._pump()

    def _give(self, connection: Connection[R], count: int) -> None:
        batch = self._pending.take(count, self._free())
        if unwanted := self.withdrawn(batch):
            self._pending.returned(unwanted)
            for request in unwanted:
                request.failure = Failure(FailureKind.WITHDRAWN, "no longer wanted", unknown=False)
            # From the loop: `done` may send, and this pool is in the middle of sending.
            self._loop.call_soon(self._done, list(unwanted))
            batch = [request for request in batch if request.failure is None]
        now = self._loop.time()
        for request in batch[::_TIMED]:
            request.given = now
        connection.send(batch)

    async def _connect(self) -> Connection[R]:
        return await self._network.connect(
            self._host,
            self._port,
            self._tls(),
            lambda: Connection(self, max_streams=self._options.max_streams, may_send=self._may_send),
            proxy=self._options.proxy,
            timeout_s=self._options.connect_timeout_s,
        )

    def _opened(self, connection: Connection[R]) -> None:
        self.opened += 1
        self.traffic.opened += 1
        if not connection.is_closed:
            self._connections.append(connection)
            if self._closed:
                connection.close()
            elif self._winding_up:
                connection.drain()
        self._pump()

    def _not_opened(self, error: Exception) -> None:
        if not isinstance(error, DialError):
            self._fail_pending(Failure(FailureKind.CONNECT, f"{type(error).__name__}: {error}", unknown=False))
        elif not self._connections:
            self._fail_pending(Failure(FailureKind.CONNECT, str(error), unknown=False))

    def _fail_pending(self, failure: Failure) -> None:
        if self._pending:
            self._fail(self._pending.take_all(), failure)

    def _fail(self, requests: list[R], failure: Failure) -> None:
        for request in requests:
            request.failure = failure
        self._done(requests)

    def _check_later(self) -> None:
        self._checking = self._loop.call_later(_CHECK_EVERY_S, self._check)

    def _check(self) -> None:
        """Every second while there is something to check, from the first request on."""
        self._checking = None
        if self.idle:
            if self._winding_up:
                self._closed = True
            return
        # First of all, so that an exception in what follows does not end the checks.
        self._check_later()
        now, options = self._loop.time(), self._options
        for connection in list(self._connections):
            connection.check(
                now,
                request_timeout_s=options.request_timeout_s,
                ping_after_s=options.ping_after_s,
                ping_timeout_s=options.ping_timeout_s,
                without_streams_s=options.without_streams_s,
            )
        if late := self._pending.overdue(now - options.request_timeout_s):
            why = f"no connection had room within {options.request_timeout_s:g} s"
            self._fail(late, Failure(FailureKind.TIMEOUT, why, unknown=False))
        self._pump()
