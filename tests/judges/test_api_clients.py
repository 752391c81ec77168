"""curl and Java's own client speak to the API as they do when nobody tells them otherwise: they offer HTTP/2."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.judges import packages
from tests.judges.clients import run
from tests.system.running_system import RunningSystem
from tests.torture.sent_events import SentEvent
from tests.torture.users import Device, User

SEND = "/api/events"
REGISTER = "/api/push"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    system = RunningSystem(tmp_path_factory.mktemp("judged"))
    try:
        yield asyncio.run(system.open(users=40))
    finally:
        system.close()


class Curl:
    """Posts bodies with curl; returns status and body of each response."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def post(
        self,
        url: str,
        secret: str,
        bodies: list[bytes],
        directory: Path,
        *options: str,
        media: str = "application/json",
    ) -> list[tuple[int, str]]:
        """All in one call of curl, which keeps its connection where the server does."""
        arguments = [self._path]
        for number, body in enumerate(bodies):
            file = directory / f"body-{number}"
            file.write_bytes(body)
            arguments += ["--next"] if number else []
            arguments += ["--silent", "--show-error", "--max-time", "20", *options, "--data-binary", f"@{file}", url]
            arguments += ["--header", f"Authorization: Bearer {secret}", "--header", f"Content-Type: {media}"]
            arguments += ["--write-out", "\\n%{http_code}\\n"]
        output = (await run(arguments, b"", {})).decode()
        return [(int(status), body) for body, status in re.findall(r"(.*)\n(\d+)\n", output)]


class Java:
    """Posts bodies with `java.net.http.HttpClient`; returns status and body of each response."""

    def __init__(self, command: list[str]) -> None:
        self._command = [*command, str(packages.HERE / "java" / "ApiClient.java")]

    async def post(self, url: str, secret: str, bodies: list[bytes], *how: str) -> list[tuple[int, str]]:
        output = await run([*self._command, url, secret, *how], b"\n".join(bodies), {})
        lines = [line.split(" ", 1) for line in output.decode().splitlines()]
        return [(int(status), body) for status, body in lines]


@pytest.fixture(scope="module")
def curl() -> Curl:
    return Curl(packages.or_skip(lambda: packages.program("curl")))


@pytest.fixture(scope="module")
def java() -> Java:
    return Java(packages.or_skip(packages.java))


def address(system: RunningSystem, path: str) -> str:
    return f"http://127.0.0.1:{system.server.port}{path}"


async def are_accepted(system: RunningSystem, events: list[SentEvent], answers: list[tuple[int, str]]) -> None:
    """Each event was answered with its own id, and reached its device."""
    assert [status for status, _ in answers] == [202] * len(events), answers
    ids = [msgspec.json.decode(body)["events"] for _, body in answers]
    assert ids == [[event.event_id] for event in events]
    await system.all_received(events)


def registration(user: User, number: int) -> tuple[Device, bytes]:
    device = Device(user.owner, "apns", f"{number:064x}")
    return device, device.body("add")


@pytest.mark.parametrize(
    "options",
    [
        ["--http2"],
        ["--http2", "--header", "Transfer-Encoding: chunked"],
        ["--http2", "--header", "Expect: 100-continue"],
        ["--http1.1"],
        ["--http1.0"],
    ],
    ids=" ".join,
)
async def test_curl_can_send_events(options: list[str], curl: Curl, system: RunningSystem, tmp_path: Path) -> None:
    events = system.events(await system.user(), 3)
    bodies = [event.body for event in events]
    answers = await curl.post(address(system, SEND), system.secret, bodies, tmp_path, *options)
    await are_accepted(system, events, answers)


async def test_curl_can_send_many_events_in_one_body(curl: Curl, system: RunningSystem, tmp_path: Path) -> None:
    """More than a megabyte, so that curl asks before it sends the body."""
    user = await system.user()
    events = system.events(user, 3000)
    body = b"\n".join(event.body.ljust(400) for event in events)
    assert len(body) > 1_100_000
    [(status, answer)] = await curl.post(
        address(system, SEND), system.secret, [body], tmp_path, "--http2", media="application/x-ndjson"
    )
    assert (status, msgspec.json.decode(answer)["accepted"]) == (202, 3000)


async def test_curl_can_register_a_device_and_send_to_it(curl: Curl, system: RunningSystem, tmp_path: Path) -> None:
    user = await system.user()
    device, body = registration(user, 0xC0)
    answers = await curl.post(address(system, REGISTER), user.session, [body, body], tmp_path, "--http2")
    assert answers == [(200, "{}")] * 2
    events = system.events(user, 1)
    await are_accepted(
        system,
        events,
        await curl.post(address(system, SEND), system.secret, [events[0].body], tmp_path, "--http2"),
    )
    assert device.token in {push["token"] for push in system.emulator.accepted_pushes()}


async def test_a_refusal_reaches_curl_whole(curl: Curl, system: RunningSystem, tmp_path: Path) -> None:
    answers = await curl.post(address(system, SEND), system.secret, [b'{"owner": 1}'], tmp_path, "--http2")
    assert [status for status, _ in answers] == [400]
    assert "$.message: missing" in answers[0][1]
    answers = await curl.post(address(system, SEND), "no such key", [b"{}"], tmp_path, "--http2")
    assert [status for status, _ in answers] == [401]


async def test_http_2_without_an_upgrade_is_refused_and_not_left_waiting(curl: Curl, system: RunningSystem) -> None:
    """The API speaks HTTP/1.1; a proxy in front of it may speak HTTP/2. 28 would be curl's own time-out."""
    command = [packages.program("curl"), "--silent", "--show-error", "--max-time", "20", "--http2-prior-knowledge"]
    with pytest.raises(AssertionError, match=r"curl: \((?!28\))"):
        await run([*command, address(system, "/health/live")], b"", {})
    assert (await system.get("/health/live")).status == 200


@pytest.mark.parametrize("how", [("one-by-one",), ("at-once",), ("at-once", "streamed"), ("one-by-one", "continue")])
async def test_java_can_send_events(how: tuple[str, ...], java: Java, system: RunningSystem) -> None:
    events = system.events(await system.user(), 20)
    bodies = [event.body for event in events]
    await are_accepted(system, events, await java.post(address(system, SEND), system.secret, bodies, *how))


async def test_java_can_register_devices(java: Java, system: RunningSystem) -> None:
    user = await system.user()
    devices = [registration(user, 0x0A0000 + number) for number in range(20)]
    bodies = [body for _, body in devices]
    answers = await java.post(address(system, REGISTER), user.session, bodies, "at-once", "streamed")
    assert answers == [(200, "{}")] * len(devices)
    events = system.events(user, 1)
    await are_accepted(
        system, events, await java.post(address(system, SEND), system.secret, [events[0].body], "one-by-one")
    )


async def test_a_refusal_reaches_java_whole(java: Java, system: RunningSystem) -> None:
    answers = await java.post(address(system, SEND), system.secret, [b'{"owner": 1}'] * 3, "at-once")
    assert [status for status, _ in answers] == [400] * 3
    assert all("$.message: missing" in body for _, body in answers)
