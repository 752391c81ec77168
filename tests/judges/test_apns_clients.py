"""@parse/node-apn (JavaScript) and sideshow/apns2 (Go) work with the emulator; only host and CA are changed."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.emulator.harness import TOPIC, Harness, StartEmulator, new_token
from tests.judges.clients import ApnsTask, Notification, Program

from tocsin.emulator.faults import Goaway, Match, Rule


@pytest.fixture
async def apple(start_emulator: StartEmulator) -> Harness:
    return await start_emulator(topics=frozenset({TOPIC}))


def by_key(apple: Harness, **changes: str) -> dict[str, str]:
    files = apple.emulator.files
    return {"key": str(files.apns_key), "key_id": files.key_id, "team_id": "39JSDKGJ38"} | changes


def notification(**changes: Any) -> Notification:
    return Notification(**({"id": str(uuid.uuid4())} | changes))


async def send(
    client: Program, apple: Harness, *notifications: Notification, auth: dict[str, str] | None = None
) -> list[tuple[int, str]]:
    """Returns status and reason of each."""
    ca = apple.emulator.files.ca
    task = ApnsTask(
        url=apple.url("production"), ca=str(ca), auth=auth or by_key(apple), notifications=list(notifications)
    )
    return [(answer["status"], answer["reason"]) for answer in await client.run(task, ca)]


async def test_it_can_send_with_a_key(client: Program, apple: Harness) -> None:
    sent = [notification() for _ in range(300)]
    assert await send(client, apple, *sent) == [(200, "")] * 300
    arrived = {entry["id"]: entry for entry in apple.emulator.inbox.find()}
    assert len(arrived) == 300
    for one in sent:
        entry = arrived[one.id]
        assert (entry["token"], entry["body"]) == (one.token, one.payload)
        assert entry["headers"]["apns-expiration"] == str(one.expiration)


@pytest.mark.parametrize("form", ["pem", "p12"])
async def test_it_can_send_with_a_certificate(form: str, client: Program, apple: Harness) -> None:
    files = apple.emulator.files
    path = {"pem": files.certificate, "p12": files.certificate_p12}[form]
    assert await send(client, apple, notification(), auth={form: str(path)}) == [(200, "")]
    assert len(apple.emulator.inbox.find()) == 1


async def test_it_gets_the_reason_for_an_unknown_key(client: Program, apple: Harness, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "AuthKey_OTHER.p8"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    answers = await send(client, apple, notification(), auth=by_key(apple, key=str(path)))
    assert answers == [(403, "InvalidProviderToken")]


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"topic": "de.cospace.other"}, 400, "TopicDisallowed"),
    ({"token": "abc"}, 400, "BadDeviceToken"),
    ({"payload": {}}, 400, "PayloadEmpty"),
    ({"payload": {"aps": {"alert": "x" * 5000}}}, 413, "PayloadTooLarge"),
    ({"push_type": "background", "priority": 10}, 400, "BadPriority"),
    ({"collapse_id": "x" * 65}, 400, "BadCollapseId"),
]


async def test_it_gets_the_reason_for_an_invalid_notification(client: Program, apple: Harness) -> None:
    answers = await send(client, apple, *(notification(**changes) for changes, _, _ in REFUSED))
    assert answers == [(status, reason) for _, status, reason in REFUSED]
    assert apple.emulator.inbox.find() == []


async def test_it_gets_the_reason_and_the_time_for_a_token_that_is_gone(client: Program, apple: Harness) -> None:
    gone = new_token()
    since_ms = 1_790_000_000_000
    apple.script(Rule(match=Match(token=gone), status=410, reason="Unregistered", timestamp=since_ms))
    ca = apple.emulator.files.ca
    task = ApnsTask(
        url=apple.url("production"), ca=str(ca), auth=by_key(apple), notifications=[notification(token=gone)]
    )
    assert await client.run(task, ca) == [{"status": 410, "reason": "Unregistered", "timestamp": since_ms}]


async def test_it_gets_every_answer_when_the_connection_ends_gracefully(client: Program, apple: Harness) -> None:
    apple.script(Rule(goaway=Goaway(mode="graceful"), after=50, times=1))
    assert await send(client, apple, *(notification() for _ in range(200))) == [(200, "")] * 200
