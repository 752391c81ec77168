"""A provider that means harm is bounded in bytes and in time, its delivery gets an outcome, and the others go on."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from tests.support.evil_server import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Attack,
    EvilConnection,
    EvilServer,
    evil_server,
    frame,
    head,
)
from tests.support.line import Line, apns_device, fcm_device, make_event, running_line

from tocsin.emulator.credentials import Files, write_credentials
from tocsin.http2.pool import PoolOptions
from tocsin.store.records import Attempt

pytestmark = pytest.mark.slow

BOUNDS = PoolOptions(request_timeout_s=2.0, connect_timeout_s=2.0, max_connections=2)
WITHIN_S = 20.0
MOST_BYTES = 24 * 1024 * 1024
"""That one connection takes, buffers of the kernel and of TLS included; within a second a flood is a few times that."""
MOST_MEMORY_BYTES = 150 * 1024 * 1024
LOOP_STOPPED_S = 2.0


def on_each_request(act: Callable[[EvilConnection, int], None], *settings: tuple[int, int]) -> Attack:
    def attack(connection: EvilConnection) -> None:
        connection.start(*settings)
        for stream_id in connection.requests():
            act(connection, stream_id)

    return attack


def answering(*pieces: Callable[[int], bytes]) -> Attack:
    return on_each_request(lambda connection, id: connection.send(b"".join(piece(id) for piece in pieces)))


def flooding(*pieces: Callable[[int], bytes], pause_s: float = 0.0, first: bytes = b"") -> Attack:
    def act(connection: EvilConnection, id: int) -> None:
        connection.send(first and frame(HEADERS, END_HEADERS, id, first))
        connection.flood(*(piece(id) for piece in pieces), pause_s=pause_s)

    return on_each_request(act)


def block(payload: bytes, flags: int = END_HEADERS) -> Callable[[int], bytes]:
    return lambda id: frame(HEADERS, flags, id, payload)


def body(payload: bytes, flags: int = END_STREAM) -> Callable[[int], bytes]:
    return lambda id: frame(DATA, flags, id, payload)


def whole(kind: int, payload: bytes, flags: int = 0) -> Callable[[int], bytes]:
    """A frame of the connection."""
    return lambda _: frame(kind, flags, 0, payload)


def status(code: str, *fields: tuple[str, str]) -> bytes:
    return head((":status", code), *fields)


def endless_header_block(connection: EvilConnection, id: int, piece: bytes) -> None:
    connection.send(frame(HEADERS, 0, id, status("200")))
    connection.flood(frame(CONTINUATION, 0, id, piece))


def body_within_windows(code: str) -> Attack:
    def act(connection: EvilConnection, id: int) -> None:
        connection.send(frame(HEADERS, END_HEADERS, id, status(code)))
        connection.flood_within_windows(id)

    return on_each_request(act)


# One field of 4,000 bytes in the table of the connection, and then that again and again, a byte each.
HPACK_BOMB = b"\x88\x40\x01x\x7f" + b"\xa1\x1e" + b"y" * 4000 + b"\xbe" * 12_000

FLOODS: dict[str, Attack] = {
    "a body without end": flooding(body(bytes(16_384), 0), first=status("200")),
    "an error's body without end": flooding(body(b" " * 16_384, 0), first=status("500")),
    "data frames without data": flooding(body(b"", 0), first=status("200")),
    "data for a request that is over": flooding(body(bytes(16_384)), first=status("503")),
    "a header block without end": on_each_request(lambda c, id: endless_header_block(c, id, b"\x00\x01x\x01y" * 3000)),
    "a header block of empty pieces": on_each_request(lambda c, id: endless_header_block(c, id, b"")),
    "1xx without end": flooding(block(status("103", ("link", "</x>; rel=preload")))),
    "PING without end": flooding(whole(PING, bytes(8))),
    "SETTINGS without end": flooding(whole(SETTINGS, b"\x00\x04\x00\x10\x00\x00")),
    "empty SETTINGS without end": flooding(whole(SETTINGS, b"")),
    "WINDOW_UPDATE without end": flooding(whole(WINDOW_UPDATE, b"\x00\x00\x00\x01")),
    "PRIORITY without end": flooding(lambda id: frame(PRIORITY, 0, id, bytes(4) + b"\x10")),
    "frames of no known type": flooding(whole(0xFA, bytes(16_000))),
    "RST_STREAM of streams that are closed": flooding(lambda id: frame(RST_STREAM, 0, id, bytes(4))),
    "GOAWAY without end": flooding(whole(GOAWAY, bytes(8) + b"x" * 8000)),
    "trailers again and again": flooding(
        block(status("200")), body(b"x", 0), block(head(("x-y", "z" * 8000)), END_HEADERS | END_STREAM)
    ),
}

BAD: dict[str, Attack] = {
    "a table that grows when it is unpacked": answering(block(HPACK_BOMB, END_HEADERS | END_STREAM)),
    "many header fields": answering(
        block(status("200", *((f"x-{n}", "y") for n in range(2000))), END_HEADERS | END_STREAM)
    ),
    "a status that is no number": answering(block(status("abc"), END_HEADERS | END_STREAM)),
    "a status of four digits": answering(block(status("9999"), END_HEADERS | END_STREAM)),
    "no status": answering(block(head(("x", "y")), END_HEADERS | END_STREAM)),
    "a header field with a line break": answering(block(status("200", ("x", "a\r\nb: c")), END_HEADERS | END_STREAM)),
    "a header block that cannot be unpacked": answering(block(b"\xff" * 50, END_HEADERS | END_STREAM)),
    "a body longer than it says": answering(block(status("500", ("content-length", "1"))), body(b"xyz")),
    "1xx one after the other, slowly": flooding(block(status("103")), pause_s=0.2),
    "a body of one byte a second": flooding(body(b"x", 0), pause_s=1.0, first=status("500")),
    "no answer at all": on_each_request(lambda c, id: None),
    "every request is reset": answering(lambda id: frame(RST_STREAM, 0, id, b"\x00\x00\x00\x02")),
    "every request is refused": answering(lambda id: frame(RST_STREAM, 0, id, b"\x00\x00\x00\x07")),
    "a pushed stream": answering(lambda id: frame(PUSH_PROMISE, END_HEADERS, id, b"\x00\x00\x00\x02" + status("200"))),
    "no window for a body": on_each_request(lambda c, id: None, (4, 0)),
    "no streams at all": on_each_request(lambda c, id: None, (3, 0)),
    "a window that overflows": answering(whole(WINDOW_UPDATE, b"\x7f\xff\xff\xff")),
    "HTTP/1.1": lambda connection: connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    "nonsense": lambda connection: connection.flood(b"\xff" * 4096),
    "the connection ends at once": lambda connection: None,
    "silence after the handshake": lambda connection: connection.wait(),
    "GOAWAY at once": on_each_request(lambda c, id: c.send(frame(GOAWAY, 0, 0, bytes(8)))),
}

LONG = "x" * 60_000
BODIES: dict[str, bytes] = {
    "no JSON": b"<html>Bad gateway</html>",
    "no UTF-8": b"\xff\xfe\x00",
    "JSON of another form": b"[1, 2, 3]",
    "JSON nested deeply": b"[" * 60_000,
    "null": b'{"reason": null, "timestamp": null, "error": null}',
    "numbers without bounds": b'{"reason": "Unregistered", "timestamp": 1' + b"0" * 400 + b"}",
    "a time that no clock shows": b'{"reason": "Unregistered", "timestamp": 9223372036854775808}',
    "a time before all times": b'{"reason": "Unregistered", "timestamp": -9223372036854775808}',
    "a long reason": json.dumps(
        {
            "reason": LONG,
            "error": {
                "status": LONG,
                "message": LONG,
                "details": [{"@type": "FcmError", "errorCode": LONG}, {"@type": "BadRequest", "fieldViolations": LONG}],
            },
        }
    ).encode(),
    "lists where there are none": b'{"error": {"status": "X", "message": "", "details": [{"@type": "BadRequest",'
    b' "fieldViolations": [1, null, {"field": {}}]}]}}',
    "a compressed bomb": gzip.compress(bytes(50_000_000)),
}
STATUSES = ["200", "307", "400", "404", "410", "500", "600"]
FIELDS = [
    ("content-encoding", "gzip"),
    ("location", "https://localhost:1/elsewhere"),
    ("retry-after", "9" * 400),
    ("apns-unique-id", LONG[:10_000]),
]


@contextmanager
def watching_the_loop() -> Iterator[Callable[[], float]]:
    """How long the event loop has computed without a pause, at most. Where others use the processor is not counted."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.01)
            longest = max(longest, time.thread_time() - before)

    task = asyncio.get_running_loop().create_task(watch())
    try:
        yield lambda: longest
    finally:
        task.cancel()


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emulator's files, which take long to make."""
    return write_credentials(tmp_path_factory.mktemp("credentials")).directory


@asynccontextmanager
async def attacked(directory: Path, credentials: Path, attack: Attack) -> AsyncIterator[tuple[Line, EvilServer]]:
    """Apple's production and Google mean harm; Apple's sandbox does not."""
    shutil.copytree(credentials, directory / "emulator")
    with evil_server(Files(credentials), attack) as server:
        async with running_line(directory, pool=BOUNDS, urls={"apns": server.url, "fcm": server.url}) as line:
            yield line, server


async def first_attempts(line: Line, devices_of_each: int = 1) -> list[Attempt]:
    """Send one event to devices of each: what became of the evil ones' first attempts. The good one's is delivered."""
    evil = [make() for make in (apns_device, fcm_device) for _ in range(devices_of_each)]
    good = apns_device(sandbox=True)
    await line.register(*evil, good)
    event = make_event()
    await line.append(event)
    async with asyncio.timeout(WITHIN_S):
        while True:
            attempts = (await line.record(event)).attempts
            first = {one.device.partition(":")[2]: one for one in reversed(attempts)}
            if len(first) == len(evil) + 1:
                break
            await asyncio.sleep(0.05)
    assert first[good.token].result == "delivered"
    return [first[device.token] for device in evil]


@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_is_cut_and_its_deliveries_get_an_outcome(tmp_path: Path, credentials: Path, what: str) -> None:
    async with attacked(tmp_path, credentials, FLOODS[what]) as (line, server):
        before = memory_bytes()
        with watching_the_loop() as longest:
            await first_attempts(line)
            async with asyncio.timeout(WITHIN_S):
                while not server.ended:
                    await asyncio.sleep(0.05)
        assert server.sent_bytes / server.connections < MOST_BYTES
        assert memory_bytes() - before < MOST_MEMORY_BYTES
        assert longest() < LOOP_STOPPED_S


@pytest.mark.parametrize(("code", "result"), [("200", "delivered"), ("500", "retry")])
async def test_a_body_that_is_too_long_is_read_no_further_and_its_status_decides(
    tmp_path: Path, credentials: Path, code: str, result: str
) -> None:
    async with attacked(tmp_path, credentials, body_within_windows(code)) as (line, server):
        assert {attempt.result for attempt in await first_attempts(line)} == {result}
        assert server.sent_bytes / server.connections < 4 * 1024 * 1024


@pytest.mark.parametrize("what", BAD)
async def test_what_is_no_answer_is_a_failure_that_is_tried_again(tmp_path: Path, credentials: Path, what: str) -> None:
    async with attacked(tmp_path, credentials, BAD[what]) as (line, server):
        for attempt in await first_attempts(line):
            assert attempt.result == "retry"
            assert len(attempt.reason) < 200
        # Nothing is tried again in a hurry.
        assert server.connections < 40
        assert server.requests < 200


@pytest.mark.parametrize("code", STATUSES)
async def test_whatever_a_body_holds_its_delivery_gets_an_outcome_that_is_short(
    tmp_path: Path, credentials: Path, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One event goes to as many devices as there are bodies; each request gets the next of them."""
    contents = itertools.cycle(BODIES.values())

    def act(connection: EvilConnection, id: int) -> None:
        content = next(contents)
        connection.send(frame(HEADERS, END_HEADERS, id, status(code, *FIELDS)))
        for offset in range(0, len(content), 16_000):
            connection.send(frame(DATA, 0, id, content[offset : offset + 16_000]))
        connection.send(frame(DATA, END_STREAM, id))

    async with attacked(tmp_path, credentials, on_each_request(act)) as (line, _):
        for attempt in await first_attempts(line, len(BODIES)):
            assert attempt.status == int(code)
            assert (attempt.result == "delivered") == (code == "200")
            assert len(attempt.reason) <= 48
            assert len(attempt.provider_id) <= 200
            # A token dies of what Apple and Google say of dead ones, and of nothing else.
            assert attempt.result != "token_dead" or (code, attempt.reason) == ("410", "Unregistered")
    assert "x" * 400 not in capsys.readouterr().out
