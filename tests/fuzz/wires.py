"""HTTP/1.1 as the API reads it, and HTTP/2 on both sides, over a wire that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

import httptools
from ngh2 import Configuration, Role, Setting
from ngh2 import Connection as Engine

from tocsin.api.server import ApiServer, BoundedProtocol
from tocsin.http2.connection import Connection
from tocsin.http2.messages import Request
from tocsin.http2.server import Exchange, Reply, ServerConnection
from tocsin.settings import Server

_PIECE_BYTES = 64 * 1024
HEAD = ((b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/"))


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.paused = False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def write_eof(self) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return not self.paused

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 2)}.get(name, default)


def _loop() -> tuple[asyncio.AbstractEventLoop, list[Any]]:
    """A loop, and what went wrong in it."""
    loop, wrong = asyncio.new_event_loop(), []
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    return loop, wrong


def _pieces(data: bytes) -> Iterator[bytes]:
    """The bytes as they arrive: the first byte says in how large pieces."""
    size = (0, 1, 7, 64)[data[0] % 4] or _PIECE_BYTES
    for start in range(1, len(data), size):
        yield data[start : start + size]


def _cancel_timers(loop: asyncio.AbstractEventLoop) -> None:
    """They would hold what the input has made for some seconds more."""
    timers: list[asyncio.TimerHandle] = cast(Any, loop)._scheduled
    for timer in timers:
        timer.cancel()
    timers.clear()


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def http1() -> Callable[[bytes], None]:
    """The API's side of HTTP/1.1. Whatever comes, what goes out is whole responses, and no request is made up."""
    loop, wrong = _loop()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert all(name == name.lower() for name, _ in scope["headers"])
        assert not {b"upgrade"} & {name for name, _ in scope["headers"]}
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def made() -> Any:
        server = ApiServer(app, Server())
        server.config.load()
        return server

    server = loop.run_until_complete(made())

    async def serve(data: bytes) -> Wire:
        protocol = BoundedProtocol(
            server.shared, config=server.config, server_state=server.server_state, app_state={}, _loop=loop
        )
        wire = Wire()
        protocol.connection_made(wire)
        for piece in _pieces(data):
            if wire.closed:
                break
            protocol.data_received(piece)
            await _turns(1)
        await _turns(4)
        protocol.connection_lost(None)
        await _turns(3)
        for task in asyncio.all_tasks(loop) - {asyncio.current_task(loop)}:
            task.cancel()
        _cancel_timers(loop)
        return wire

    def run(data: bytes) -> None:
        if not data:
            return
        wire = loop.run_until_complete(serve(data))
        assert not wrong, wrong
        assert not server.server_state.connections
        _check_responses(bytes(wire.written))

    return run


class _Responses:
    """Counts responses; httptools calls it."""

    begun = complete = 0

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_message_complete(self) -> None:
        self.complete += 1


def _check_responses(written: bytes) -> None:
    rest = written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    if not rest:
        return
    seen = _Responses()
    parser = httptools.HttpResponseParser(seen)
    # A response may come after one that has said "close": it is then the refusal of what else was sent.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    parser.feed_data(rest)
    assert seen.begun >= 1


class _Pool:
    """What a client's connection reports to: every request comes back once."""

    def __init__(self) -> None:
        self.back: list[Request] = []
        self.ends = 0

    def finished(self, requests: list[Request]) -> None:
        assert all(request.status or request.failure is not None for request in requests)
        self.back += requests

    def resend(self, requests: list[Request]) -> None:
        self.back += requests

    def withdrawn(self, requests: list[Request]) -> list[Request]:
        return []

    def revoked(self, requests: list[Request]) -> bool:
        return False

    def changed(self, connection: Any) -> None: ...

    def useless(self, connection: Any, why: str) -> None: ...

    def goaway(self) -> None: ...

    def ended(self, connection: Any) -> None:
        self.ends += 1


def http2_client() -> Callable[[bytes], None]:
    """Our side towards a provider, with three requests in flight, against whatever it answers."""
    loop, wrong = _loop()
    engine = Engine(Role.SERVER, Configuration())
    engine.initiate_connection({Setting.MAX_CONCURRENT_STREAMS: 10})
    begin = engine.data_to_send()

    async def serve(data: bytes) -> None:
        pool = _Pool()
        connection: Connection[Request] = Connection(pool, max_streams=100, may_send=lambda: True)
        wire = Wire()
        connection.connection_made(wire)
        connection.data_received(begin)
        requests = [Request(HEAD, b"{}"), Request(HEAD, b"{}"), Request(HEAD, b"")]
        connection.send(requests)
        await _turns(1)
        for piece in _pieces(data):
            if connection.is_closed:
                break
            connection.data_received(piece)
            await _turns(1)
        connection.connection_lost(None)
        await _turns(2)
        assert sorted(map(id, pool.back)) == sorted(map(id, requests)), "a request came back twice, or never"
        assert pool.ends == 1
        _cancel_timers(loop)
        assert all(len(request.response_body) <= 2 * _PIECE_BYTES for request in requests)

    def run(data: bytes) -> None:
        if data:
            loop.run_until_complete(serve(data))
            assert not wrong, wrong

    return run


def http2_server() -> Callable[[bytes], None]:
    """The emulator's side, against whatever a client sends after the preface."""
    loop, wrong = _loop()
    engine = Engine(Role.CLIENT, Configuration())
    engine.initiate_connection({})
    begin = engine.data_to_send()

    def handle(exchange: Exchange) -> Reply:
        assert exchange.headers
        return Reply(200, (), b"{}")

    async def serve(data: bytes) -> None:
        connections: set[asyncio.Protocol] = set()
        connection = ServerConnection(handle, registry=connections, takes_odd_scheme=data[0] > 127)
        wire = Wire()
        connection.connection_made(wire)
        connection.data_received(begin)
        for piece in _pieces(data):
            if wire.closed:
                break
            connection.data_received(piece)
        await _turns(1)
        connection.connection_lost(None)
        _cancel_timers(loop)
        assert not connections
        assert connection.in_flight == 0

    def run(data: bytes) -> None:
        if data:
            loop.run_until_complete(serve(data))
            assert not wrong, wrong

    return run
