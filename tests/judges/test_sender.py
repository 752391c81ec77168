"""pushy's mock of APNs judges our sender: the whole service, as a process, sends to it."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import Struct
from tests.judges import packages
from tests.judges.mock_apple import MockApple, Push
from tests.system.running_system import eventually
from tests.torture.http_client import Client
from tests.torture.processes import APPLICATION, VOIP_TOPIC, Server
from tests.torture.run import prepare

TOPIC = "de.cospace.app"
OTHER_APPLICATION = "39JSDKGJ38.de.cospace.other"
OTHER_TOPIC = "de.cospace.other"
PUSHES = 4000
WITHIN_S = 60.0


class Sender:
    """A server that sends to the mock of APNs, a producer, and users who each have one device."""

    def __init__(self, line: Line, client: Client) -> None:
        self.apple = line.apple
        self._server = line.server
        self._sessions = line.sessions
        self._own: dict[str, str] = {}
        self._client = client

    async def user(self, *, known: bool = True, topic: str = TOPIC, application: str = APPLICATION) -> tuple[str, str]:
        """A new user with a device; returns the user's id and the device token. `known`: Apple knows the token."""
        owner, session = self._sessions.popitem()
        self._own[owner] = session
        token = secrets.token_hex(32)
        if known:
            self.apple.knows(token, topic)
        body = {"system": "apns", "action": "add", "application_id": application, "device_token": token}
        await self._call("POST", "/api/push", body | {"apns_topic": topic}, self._own[owner], expected=200)
        return owner, token

    async def send(self, owners: Sequence[str]) -> list[tuple[str, str]]:
        """Send an event to each of these; returns the fax and the event's id of each."""
        faxes = [str(uuid.uuid4()) for _ in owners]
        lines = [
            {"owner": owner, "message": "fax_new", "fax": fax, "phone": "+492215587412", "page_count": 2}
            for owner, fax in zip(owners, faxes, strict=True)
        ]
        await self.apple.obeys()
        body = b"\n".join(map(msgspec.json.encode, lines))
        response = await self._client.call("POST", "/api/events", body, "application/x-ndjson")
        assert response.status == 202, response
        return list(zip(faxes, response.json()["events"], strict=True))

    async def attempts(self, event_id: str) -> list[tuple[str, int, str]]:
        """Result, status and reason of each attempt at the event's one device."""
        response = await self._call("GET", f"/api/events/{event_id}", None, "", expected=200)
        return [
            (attempt["result"], attempt["status"], attempt.get("reason", ""))
            for device in response["devices"]
            for attempt in device["attempts"]
        ]

    async def tokens(self, owner: str) -> list[str]:
        """The tokens that this user has registered."""
        response = await self._call("GET", "/api/push", None, self._own[owner], expected=200)
        return re.findall(r"[0-9a-f]{64}", msgspec.json.encode(response).decode())

    async def send_rounds(self, users: Sequence[tuple[str, str]], rounds: int, faxes: set[str]) -> None:
        """Send so many events to each user, and return when some of them have arrived; `faxes` gets theirs."""
        sent: set[str] = set()
        for _ in range(rounds):
            sent |= {fax for fax, _ in await self.send([owner for owner, _ in users])}
        faxes |= sent
        await eventually(lambda: not sent.isdisjoint(self.apple.accepted()), WITHIN_S, self._server.last_lines)

    async def all_arrived(self, faxes: set[str]) -> dict[str, list[Push]]:
        """Wait until all of these have arrived; returns their pushes."""
        await eventually(lambda: faxes <= self.apple.accepted().keys(), WITHIN_S, self._server.last_lines)
        return {fax: pushes for fax, pushes in self.apple.accepted().items() if fax in faxes}

    async def attempted(self, event_id: str) -> None:
        """Wait until there was an attempt."""

        async def has_attempts() -> bool:
            return bool(await self.attempts(event_id))

        await eventually(has_attempts, WITHIN_S, self._server.last_lines)

    async def removed(self, owner: str) -> None:
        """Wait until this user has no token any more."""

        async def has_none() -> bool:
            return await self.tokens(owner) == []

        await eventually(has_none, WITHIN_S, self._server.last_lines)

    async def _call(self, method: str, path: str, body: Any, secret: str, *, expected: int) -> Any:
        content = b"" if body is None else msgspec.json.encode(body)
        response = await self._client.call(method, path, content, secret=secret)
        assert response.status == expected, response
        return response.json()


class Line(Struct, frozen=True):
    """Both processes, and users who have no device yet."""

    apple: MockApple
    server: Server
    sessions: dict[str, str]
    secret: str


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """For all tests of this file: each has users of its own, and leaves everything running."""
    command, class_path = packages.or_skip(packages.java), packages.or_skip(packages.java_class_path)
    directory = tmp_path_factory.mktemp("sender")
    apple = MockApple(directory / "apple", command, class_path, frozenset({TOPIC, VOIP_TOPIC, OTHER_TOPIC}))
    servers: list[Server] = []

    async def start() -> Line:
        await apple.start()
        servers.append(server := Server(directory / "server", apple))
        sessions, secret = await prepare(server, apple, [str(uuid.uuid4()) for _ in range(500)])
        # The same key id, and another key.
        other = directory / "AuthKey_OTHER.p8"
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        other.write_bytes(pem)
        added = server.run_cli(
            "app", "add", OTHER_APPLICATION, "--key", str(other), "--key-id", apple.summary["key_id"]
        )
        assert added.returncode == 0, added.stderr
        await server.start()
        return Line(apple, server, sessions, secret)

    try:
        yield asyncio.run(start())
    finally:
        for process in (*servers, apple):
            process.close()


@pytest.fixture
async def sender(line: Line) -> AsyncIterator[Sender]:
    client = Client(line.server.port, line.secret)
    yield Sender(line, client)
    client.close()


def is_as_apple_wants_it(push: Push, topic: str = TOPIC) -> bool:
    """What pushy does not check: that the values fit to each other."""
    push_type, priority = ("voip", "10") if topic == VOIP_TOPIC else ("background", "5")
    headers = push.headers
    return (
        (headers["apns-topic"], headers["apns-push-type"], headers["apns-priority"]) == (topic, push_type, priority)
        and int(headers["apns-expiration"]) > time.time()
        and str(uuid.UUID(push.id)) == push.id
        and push.payload["aps"] == {"content-available": 1}
    )


async def test_four_thousand_pushes_arrive_once_each_as_apple_wants_them(sender: Sender) -> None:
    topics = [TOPIC, VOIP_TOPIC] * 50
    users = [await sender.user(topic=topic) for topic in topics]
    sent: dict[str, tuple[str, str]] = {}
    for _ in range(PUSHES // len(users)):
        events = await sender.send([owner for owner, _ in users])
        sent |= {fax: (token, topic) for (fax, _), (_, token), topic in zip(events, users, topics, strict=True)}
    arrived = await sender.all_arrived(set(sent))
    assert len(arrived) == PUSHES
    for fax, pushes in arrived.items():
        [push] = pushes
        token, topic = sent[fax]
        assert (push.environment, push.token) == ("production", token)
        assert is_as_apple_wants_it(push, topic), push
    assert len({push.id for [push] in arrived.values()}) == PUSHES


async def test_every_push_arrives_once_although_connections_end_with_goaway(sender: Sender) -> None:
    """Each time with another bound on streams, which the next connection has to keep."""
    users = [await sender.user() for _ in range(100)]
    faxes: set[str] = set()
    for streams in (500, 100, 10, 1000):
        await sender.send_rounds(users, PUSHES // len(users) // 4, faxes)
        await sender.apple.restart("production", streams=streams)
    arrived = await sender.all_arrived(faxes)
    assert len(arrived) == PUSHES
    assert {len(pushes) for pushes in arrived.values()} == {1}
    assert [sender.apple.refused(token) for _, token in users] == [[]] * len(users)


async def test_every_push_arrives_although_apple_is_killed_and_what_comes_twice_has_one_id(sender: Sender) -> None:
    users = [await sender.user() for _ in range(100)]
    faxes: set[str] = set()
    await sender.send_rounds(users, 10, faxes)
    await sender.apple.kill_and_start()
    await sender.send_rounds(users, 10, faxes)
    arrived = await sender.all_arrived(faxes)
    assert {len({push.id for push in pushes}) for pushes in arrived.values()} == {1}


async def test_a_token_that_is_gone_is_removed_and_told(sender: Sender) -> None:
    owner, token = await sender.user()
    sender.apple.says_gone(token, int(time.time() * 1000) + 60_000)
    [(_, event_id)] = await sender.send([owner])
    await sender.removed(owner)
    assert [attempt[1:] for attempt in await sender.attempts(event_id)] == [(410, "Unregistered")]


async def test_a_token_that_was_registered_after_it_was_gone_stays(sender: Sender) -> None:
    owner, token = await sender.user()
    sender.apple.says_gone(token, int(time.time() * 1000) - 60_000)
    [(_, event_id)] = await sender.send([owner])
    await sender.attempted(event_id)
    assert (await sender.attempts(event_id))[0] == ("retry", 410, "Unregistered")
    assert await sender.tokens(owner) == [token]


async def test_a_token_that_is_bad_in_both_environments_is_removed_and_told(sender: Sender) -> None:
    owner, token = await sender.user(known=False)
    sender.apple.says_bad(token)
    sender.apple.says_bad(token, "sandbox")
    [(_, event_id)] = await sender.send([owner])
    await sender.removed(owner)
    attempts = await sender.attempts(event_id)
    assert [attempt[1:] for attempt in attempts] == [(400, "BadDeviceToken")] * 2


async def test_a_token_of_the_sandbox_is_found_there_and_remembered(sender: Sender) -> None:
    owner, token = await sender.user(known=False)
    sender.apple.says_bad(token)
    sender.apple.knows(token, TOPIC, "sandbox")
    for _ in range(2):
        [(fax, _)] = await sender.send([owner])
        await sender.all_arrived({fax})
    assert [push.environment for push in sender.apple.pushes if push.token == token] == [
        "production",
        "sandbox",
        "sandbox",
    ]
    assert await sender.tokens(owner) == [token]


async def test_a_wrong_key_is_told_and_removes_no_token(sender: Sender) -> None:
    owner, token = await sender.user(topic=OTHER_TOPIC, application=OTHER_APPLICATION)
    [(_, event_id)] = await sender.send([owner])
    await sender.attempted(event_id)
    assert (await sender.attempts(event_id))[0] == ("misconfigured", 403, "InvalidProviderToken")
    assert [push.reason for push in sender.apple.refused(token)] == ["INVALID_PROVIDER_TOKEN"]
    assert await sender.tokens(owner) == [token]


async def test_a_token_of_another_app_is_told_and_kept_and_delays_nobody(sender: Sender) -> None:
    other, token = await sender.user(known=False)
    [(_, event_id)] = await sender.send([other])
    await sender.attempted(event_id)
    assert (await sender.attempts(event_id))[0] == ("misconfigured", 400, "DeviceTokenNotForTopic")
    assert await sender.tokens(other) == [token]
    owner, _ = await sender.user()
    [(fax, _)] = await sender.send([owner])
    await eventually(lambda: fax in sender.apple.accepted(), 10.0)
