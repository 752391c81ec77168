"""A network without sockets and TLS, in virtual time: bytes take a while, arrive in order, and may be lost with their
connection.

A `SimulatedNetwork` connects by port. The emulator and each life of tocsin have a `ProcessNetwork` of their own, which
dies with them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextvars import Context, copy_context
from random import Random
from typing import Any, Final, TypeVar, cast

from msgspec import Struct
from ngh2 import Setting

from tocsin.http2.dial import DialError
from tocsin.http2.state import State

Client = TypeVar("Client", bound=asyncio.Protocol)

_HIGH_BYTES: Final = 256 * 1024
_OF_USE: Final = 2
_APART_S: Final = 1e-6
_SPLIT: Final = 0.05
"""The share of writes that arrive in two parts."""


class Latency(Struct, frozen=True):
    """How long bytes take, one way: at least `least_s`, and `more_s` on top of it on average."""

    least_s: float = 0.005
    more_s: float = 0.02

    def draw_s(self, random: Random) -> float:
        return self.least_s + min(random.expovariate(1 / self.more_s), 20 * self.more_s)


class Transport(asyncio.Transport):
    """One side of a connection. What is written arrives at `peer` later, in order."""

    def __init__(self, network: SimulatedNetwork, port: int, context: Context) -> None:
        """`context`: of the process that it belongs to. What comes to it runs there."""
        super().__init__()
        self.context = context
        self._network = network
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.BaseProtocol | None = None
        self._closing = False
        self._lost = False
        self._last_arrival_s = 0.0
        self._on_the_way = 0
        self._paused_writing = False
        self._high, self._low = _HIGH_BYTES, _HIGH_BYTES // 4
        self._reading = True
        self._unread: list[bytes] = []
        self._end: Exception | bool | None = False
        """What ended the connection while reading was paused; False where nothing has."""
        self.port = port
        self.peer: Transport | None = None
        self.swallows = False
        """Nothing that is written arrives any more, and nobody is told (a link that is silently dead)."""

    # -- asyncio.Transport ---------------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        piece = bytes(data)
        random = self._network.random
        # As many draws whatever the length: it must not decide what is drawn next.
        split, share = random.random() < _SPLIT, random.random()
        at = 1 + int(share * (len(piece) - 1))
        for part in (piece[:at], piece[at:]) if split else (piece,):
            if part:
                self._on_the_way += len(part)
                self._later(self._arrive, part, self._other)
        if self._on_the_way > self._high and not self._paused_writing and self._protocol is not None:
            self._paused_writing = True
            self._protocol.pause_writing()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._later(self._tell_end, None, self._other)
            self._loop.call_soon(self._connection_lost, None, context=self.context)

    def abort(self) -> None:
        """At once: what is still on its way arrives, and then a reset."""
        if not self._lost:
            self._closing = True
            self._later(self._tell_end, ConnectionResetError("connection reset by peer"), self._other)
            self._loop.call_soon(self._connection_lost, None, context=self.context)

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        unread, self._unread = self._unread, []
        for data in unread:
            self._receive(data)
        if self._end is not False:
            self._ended(cast("Exception | None", self._end))

    # -- what the network does to it -----------------------------------------------------------------------------------

    def cut(self) -> None:
        """Both sides find the connection reset, each when the news has come to it."""
        if self.peer is not None:
            self._later(self._tell_end, ConnectionResetError("connection reset"), self.peer)
            self.peer._later(self.peer._tell_end, ConnectionResetError("connection reset"), self)
            self.swallows = self.peer.swallows = True

    # -- within --------------------------------------------------------------------------------------------------------

    @property
    def _other(self) -> Transport:
        return self if self.peer is None else self.peer

    def _later(self, call: Callable[..., None], argument: Any, where: Transport) -> None:
        # Never two at the same time: the loop's timers have no order among those.
        arrival_s = max(self._last_arrival_s + _APART_S, self._network.arrival_s(self.port))
        self._last_arrival_s = arrival_s
        self._network.last_arrival_s = max(self._network.last_arrival_s, arrival_s)
        self._loop.call_at(arrival_s, call, argument, context=where.context)

    def _arrive(self, data: bytes) -> None:
        self._on_the_way -= len(data)
        if self.peer is not None and not self.swallows:
            self.peer._receive(data)
        if self._paused_writing and self._on_the_way <= self._low and not self._lost:
            self._paused_writing = False
            assert self._protocol is not None
            self._loop.call_soon(self._protocol.resume_writing, context=self.context)

    def _receive(self, data: bytes) -> None:
        if self._closing:
            return
        if not self._reading:
            self._unread.append(data)
            return
        # asyncio's own transports also give what they read to the protocol as it is now.
        cast(asyncio.Protocol, self._protocol).data_received(data)

    def _tell_end(self, error: Exception | None) -> None:
        if self.peer is not None:
            self.peer._ended(error)

    def _ended(self, error: Exception | None) -> None:
        if not self._reading and error is None:
            self._end = error
            return
        self._closing = True
        self._connection_lost(error)

    def _connection_lost(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._network.forget(self)
        if self._protocol is not None:
            self._protocol.connection_lost(error)


class Dial(Struct, eq=False):
    """A connection that was asked for."""

    at_s: float
    """When (loop time)."""
    server_side: Transport | None = None
    """None where it was not opened."""

    @property
    def was_of_use(self) -> bool:
        """Whether it has carried some requests."""
        if self.server_side is None:
            return False
        return bool(getattr(self.server_side.get_protocol(), "requests", 0) > _OF_USE)


Listening = tuple[Callable[[], asyncio.Protocol], Context]
"""What makes the protocol of each connection to a port, and where that runs."""


class SimulatedListener:
    """A port of a `SimulatedNetwork`."""

    def __init__(self, port: int, listeners: dict[int, Listening]) -> None:
        self.port = port
        self._listeners = listeners

    def close(self) -> None:
        self._listeners.pop(self.port, None)

    async def wait_closed(self) -> None: ...


class SimulatedNetwork:
    """All connections of a simulation, and what is wrong with the way to each port."""

    def __init__(self, random: Random, latency: Latency, told: Callable[[str, str], None]) -> None:
        self.random = random
        self.latency = latency
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[int, Listening] = {}
        self._transports: dict[Transport, None] = {}
        self.refusing: set[int] = set()
        """Ports at which nobody answers a new connection: it is refused at once."""
        self.silent: set[int] = set()
        """Ports at which a new connection is never answered."""
        self._stalled_until_s: dict[int, float] = {}
        self.last_arrival_s = 0.0
        """When the last of all that is on its way arrives (loop time)."""
        self.dials: dict[int, list[Dial]] = {}
        """The connections that were asked for, by port."""

    # -- faults --------------------------------------------------------------------------------------------------------

    def stall(self, port: int, seconds: float) -> None:
        """For so long nothing arrives in either direction; afterwards all of it does."""
        self._stalled_until_s[port] = self._loop.time() + seconds

    def cut_all(self, port: int) -> int:
        """Every connection to the port is reset; returns how many."""
        found = self._clients(port)
        for transport in found:
            transport.cut()
        return len(found)

    def swallow_all(self, port: int) -> int:
        """Every connection to the port is dead, and neither side is told; returns how many."""
        found = self._clients(port)
        for transport in found:
            transport.swallows = True
            if transport.peer is not None:
                transport.peer.swallows = True
        return len(found)

    def mend(self) -> None:
        """New connections succeed again. Those that are silently dead stay so."""
        self.refusing.clear()
        self.silent.clear()

    # -- for the processes ---------------------------------------------------------------------------------------------

    def listen(self, factory: Callable[[], asyncio.Protocol], port: int) -> SimulatedListener:
        """Port 0 is any free one."""
        number = port or 10_001 + len(self._listeners)
        self._listeners[number] = factory, copy_context()
        return SimulatedListener(number, self._listeners)

    async def connect(self, port: int, factory: Callable[[], Client], timeout_s: float) -> tuple[Client, Transport]:
        """Raises DialError."""
        dial = Dial(self._loop.time())
        self.dials.setdefault(port, []).append(dial)
        # TCP and TLS: two round trips.
        wait_s = sum([self.latency.draw_s(self.random) for _ in range(4)])
        if port in self.silent or self.arrival_s(port) - self._loop.time() > timeout_s:
            await asyncio.sleep(timeout_s)
            raise DialError(f"localhost:{port}: no connection within {timeout_s:g} s")
        await asyncio.sleep(wait_s)
        if port in self.refusing or port not in self._listeners:
            raise DialError(f"localhost:{port}: connection refused")
        make_server, where = self._listeners[port]
        client_side, server_side = Transport(self, port, copy_context()), Transport(self, port, where.copy())
        client_side.peer, server_side.peer = server_side, client_side
        dial.server_side = server_side
        self._transports[client_side] = None
        server, client = server_side.context.run(make_server), factory()
        server_side.set_protocol(server)
        client_side.set_protocol(client)
        server_side.context.run(server.connection_made, server_side)
        client.connection_made(client_side)
        return client, client_side

    # -- for its transports --------------------------------------------------------------------------------------------

    def arrival_s(self, port: int) -> float:
        """When what is written now arrives (loop time)."""
        return max(self._loop.time(), self._stalled_until_s.get(port, 0.0)) + self.latency.draw_s(self.random)

    def forget(self, transport: Transport) -> None:
        self._transports.pop(transport, None)

    def _clients(self, port: int) -> list[Transport]:
        return [transport for transport in self._transports if transport.port == port]


class ProcessNetwork:
    """The network as one process has it; see `tocsin.http2.network.Network`.

    `sent` is told of all requests in the moment in which they are given to a connection; `given` of how many these
    were, how many are in flight there now, and how many the peer allows (None where it has not said).
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        sent: Callable[[list[Any]], None] = lambda requests: None,
        given: Callable[[int, int, int | None], None] = lambda requests, in_flight, allowed: None,
    ) -> None:
        self._network = network
        self._sent = sent
        self._given = given
        self._transports: list[Transport] = []
        self._dead = False

    async def listen(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, tls: ssl.SSLContext | None
    ) -> SimulatedListener:
        return self._network.listen(factory, port)

    async def connect(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        factory: Callable[[], Client],
        *,
        proxy: str | None = None,
        timeout_s: float,
    ) -> Client:
        client, transport = await self._network.connect(port, factory, timeout_s)
        if self._dead:
            transport.cut()
        else:
            self._transports = [one for one in self._transports if not one.is_closing()]
            self._transports.append(transport)
            self._observe(client)
        return client

    def die(self) -> None:
        """The process is gone: its connections are reset, and what it would write goes nowhere."""
        self._dead = True
        for transport in self._transports:
            transport.cut()

    def _observe(self, client: Any) -> None:
        send = client.send

        def observed(requests: list[Any]) -> None:
            if not self._dead:
                self._sent(requests)
            send(requests)
            if not self._dead:
                # As its engine has it: what the connection takes for the limit is not asked.
                allowed = client._engine.remote_settings.get(Setting.MAX_CONCURRENT_STREAMS)
                heard = client.state is not State.OPENING
                self._given(len(requests), client.in_flight, allowed if heard else None)

        client.send = observed
