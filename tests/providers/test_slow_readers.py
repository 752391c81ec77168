"""A provider that stops reading, over TLS: what its connection has not taken can be withdrawn, and is dropped when
nothing may be sent any more. Only what the kernel has by then still arrives."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import ngh2
import pytest
import pytest_asyncio
from ngh2 import Configuration, Role, Setting
from tests.support.cut_off_sender import BODY, COUNT, FRESH_S
from tests.support.evil_server import EvilConnection, EvilServer, evil_server
from tests.support.peer import Asked

from tocsin.emulator.credentials import Files, write_credentials
from tocsin.http2.dial import client_tls
from tocsin.http2.messages import FailureKind
from tocsin.http2.network import SystemNetwork
from tocsin.http2.pool import Pool, PoolOptions

pytestmark = pytest.mark.slow

WITHIN_S = 20.0
ALL_BYTES = COUNT * len(BODY)


class SlowReader:
    """Takes requests by windows without bound, but reads none of its first connection until `read_on`. Every request
    that has come as a whole is answered."""

    def __init__(self) -> None:
        self.read_on = threading.Event()
        self.read_bytes = 0
        self.paths: list[str] = []
        """Of the requests that came as a whole, on whichever connection."""
        self.ended = threading.Event()
        self._first = threading.Lock()

    def __call__(self, connection: EvilConnection) -> None:
        engine = ngh2.Connection(Role.SERVER, Configuration())
        engine.initiate_connection({Setting.MAX_CONCURRENT_STREAMS: COUNT, Setting.INITIAL_WINDOW_SIZE: 2**20})
        engine.set_local_window_size(2**30)
        connection.send(engine.data_to_send())
        first = self._first.acquire(blocking=False)
        if first:
            self.read_on.wait()
        paths: dict[int, str] = {}
        try:
            while data := connection._sock.recv(65536):
                self.read_bytes += len(data)
                engine.receive_data(data)
                for event in engine.events():
                    if isinstance(event, ngh2.RequestReceived):
                        paths[event.stream_id] = dict(event.headers)[b":path"].decode()
                    if getattr(event, "end_stream", False):
                        self.paths.append(paths[event.stream_id])
                        engine.send_response(event.stream_id, [(b":status", b"200")], end_stream=True)
                connection.send(engine.data_to_send())
        finally:
            if first:
                self.ended.set()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_credentials(tmp_path / "peer")


@pytest.fixture
def reader(files: Files) -> Iterator[tuple[SlowReader, EvilServer]]:
    reader = SlowReader()
    with evil_server(files, reader) as server:
        yield reader, server
        reader.read_on.set()


@pytest.fixture
def peer(reader: tuple[SlowReader, EvilServer]) -> SlowReader:
    return reader[0]


class Sent:
    """A thousand requests on one connection that nobody reads; `allowed`, `unwanted` and `revoked` are what delivery
    would say."""

    def __init__(self, url: str, files: Files) -> None:
        self.allowed = True
        self.unwanted: set[str] = set()
        self.revoked: set[str] = set()
        self.done: list[Asked] = []
        tls = client_tls(files.ca)
        self.pool: Pool[Asked] = Pool(
            url,
            lambda: tls,
            self.done.extend,
            PoolOptions(max_connections=1, request_timeout_s=60),
            network=SystemNetwork(),
            withdrawn=lambda requests: [request for request in requests if request.path in self.unwanted],
            revoked=lambda requests: any(request.path in self.revoked for request in requests),
            may_send=lambda: self.allowed,
        )
        head = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", self.pool.authority)]
        self.requests = [
            Asked([*head, (b":path", b"/%d" % number)], BODY, path=f"/{number}") for number in range(COUNT)
        ]

    async def send(self) -> None:
        """Until the socket takes no more."""
        self.pool.send(self.requests)
        await within(lambda: any(connection.limit > 1 and not connection.room for connection in self.pool._connections))
        await asyncio.sleep(0.1)
        assert self.pool.in_flight == COUNT

    @property
    def unwritten(self) -> set[str]:
        """The paths of the requests whose body has not gone to the transport."""
        [connection] = self.pool._connections
        return {connection._streams[id].path for id in connection._unwritten()}


@pytest_asyncio.fixture
async def sent(reader: tuple[SlowReader, EvilServer], files: Files) -> AsyncIterator[Sent]:
    """As much as the socket takes, and the rest held."""
    sent = Sent(reader[1].url, files)
    await sent.send()
    yield sent
    await sent.pool.close()


async def within(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_the_socket_has_not_taken_is_dropped_when_nothing_may_be_sent_and_sent_again_later(
    peer: SlowReader, sent: Sent
) -> None:
    waiting = sent.unwritten
    assert len(waiting) > 50
    sent.allowed = False
    peer.read_on.set()
    await within(peer.ended.is_set)
    assert not waiting & set(peer.paths)
    assert len(peer.paths) < COUNT
    lost = {request.path for request in sent.done if request.failure is not None}
    assert not lost & waiting, "they wait in the pool: they were certainly not sent"
    sent.allowed = True
    sent.pool.resume()
    await within(lambda: len(sent.done) == COUNT)
    assert {request.path for request in sent.done if request.status == 200} >= waiting
    assert len(peer.paths) == len(set(peer.paths))


async def test_what_waits_for_a_slow_reader_is_withdrawn_and_the_rest_arrives(peer: SlowReader, sent: Sent) -> None:
    sent.unwanted = set(sorted(sent.unwritten)[:20])
    assert len(sent.unwanted) == 20
    peer.read_on.set()
    await within(lambda: len(sent.done) == COUNT)
    withdrawn = {request.path for request in sent.done if request.failure is not None}
    assert withdrawn == sent.unwanted
    assert {request.failure.kind for request in sent.done if request.failure} == {FailureKind.WITHDRAWN}
    assert set(peer.paths) == {request.path for request in sent.requests} - sent.unwanted
    assert sent.pool.opened == 1


async def test_of_a_revoked_request_that_the_transport_has_nothing_more_is_handed_to_the_socket(
    peer: SlowReader, sent: Sent
) -> None:
    [connection] = sent.pool._connections
    sent.revoked = sent.unwanted = {request.path for request in connection._held.at_risk[-1:]}
    assert sent.revoked
    peer.read_on.set()
    await within(lambda: len(sent.done) == COUNT)
    assert not sent.revoked & set(peer.paths)
    assert sent.pool.opened == 2, "its connection has ended, for some of it may have been sent"


async def test_closing_the_pool_drops_what_the_socket_has_not_taken(peer: SlowReader, sent: Sent) -> None:
    waiting = sent.unwritten
    await sent.pool.close()
    peer.read_on.set()
    await within(peer.ended.is_set)
    assert not waiting & set(peer.paths)
    assert len(sent.done) == COUNT
    unknown = {request.path for request in sent.done if request.failure and request.failure.unknown}
    assert not waiting & unknown, "these were certainly not sent"
    assert unknown >= set(peer.paths), "the others may have been"


def test_a_process_that_was_stopped_hands_nothing_more_to_the_socket_when_it_may_not_send(
    reader: tuple[SlowReader, EvilServer], files: Files
) -> None:
    peer, server = reader
    command = [sys.executable, "-m", "tests.support.cut_off_sender", server.url, str(files.ca)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        try:
            assert sender.stdout is not None
            assert sender.stdout.readline() == b"held\n"
            sender.send_signal(signal.SIGSTOP)
            time.sleep(FRESH_S + 0.2)
            peer.read_on.set()
            kernel_had = _all_read(peer)
            assert 0 < kernel_had < ALL_BYTES
            sender.send_signal(signal.SIGCONT)
            assert peer.ended.wait(WITHIN_S), "what it holds goes with its connection"
            assert peer.read_bytes == kernel_had
        finally:
            sender.kill()


def _all_read(peer: SlowReader) -> int:
    """How much was read when nothing more comes."""
    before = -1
    while peer.read_bytes != before or not before:
        before = peer.read_bytes
        time.sleep(0.3)
    return before
