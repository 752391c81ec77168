"""firebase-admin (JavaScript) and firebase.google.com/go (Go) work with the emulator; only host and CA are changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.emulator.harness import Harness
from tests.judges.clients import FcmTask, Message, Program

from tocsin.emulator.faults import Match, Rule

MANY = 60


async def send(
    client: Program, google: Harness, call: str, *messages: Message, account: Path | None = None
) -> list[dict[str, Any]]:
    files = google.emulator.files
    account = account or files.service_account
    task = FcmTask(url=google.url("fcm"), account=str(account), call=call, messages=list(messages))
    return await client.run(task, files.ca)


def is_refused_as(code: str, answers: list[dict[str, Any]]) -> bool:
    """Whether every answer has this error; JavaScript writes `messaging/` before it."""
    return bool(answers) and all(answer.get("code", "").removeprefix("messaging/") == code for answer in answers)


@pytest.mark.parametrize("call", ["send", "send_each"])
async def test_every_message_arrives_as_it_was_sent(call: str, client: Program, harness: Harness) -> None:
    messages = [Message(token=f"APA91bHun4MxP5ego-{number}") for number in range(MANY)]
    names = [answer["name"] for answer in await send(client, harness, call, *messages)]
    arrived = {entry["token"]: entry for entry in harness.emulator.inbox.find(provider="fcm")}
    assert len(arrived) == MANY
    for message, name in zip(messages, names, strict=True):
        entry = arrived[message.token]
        assert name == f"projects/tocsin-emulator/messages/{entry['id']}"
        assert entry["body"]["message"]["data"] == message.data
        assert entry["body"]["message"]["android"] == {"priority": "high", "ttl": "3600s"}


@pytest.mark.parametrize("client", ["node"], indirect=True)
async def test_the_older_transport_over_http_1_1_works_too(client: Program, harness: Harness) -> None:
    answers = await send(client, harness, "send_each_http1", *(Message() for _ in range(MANY)))
    assert all("name" in answer for answer in answers)
    assert len(harness.emulator.inbox.find()) == MANY


async def test_a_message_can_be_validated_without_sending_it(client: Program, harness: Harness) -> None:
    [answer] = await send(client, harness, "dry_run", Message())
    assert "fake_message_id" in answer["name"]
    assert harness.emulator.inbox.find() == []


@pytest.mark.parametrize("call", ["send", "send_each"])
async def test_an_invalid_message_is_refused(call: str, client: Program, harness: Harness) -> None:
    messages = [
        Message(data={"from": "x"}),
        Message(data={"text": "x" * 5000}),
        Message(token="a b"),
        Message(token="abc"),
    ]
    code = "invalid-argument"
    answers = await send(client, harness, call, *messages)
    assert [is_refused_as(code, [answer]) for answer in answers] == [True] * len(messages), answers
    assert harness.emulator.inbox.find() == []


@pytest.mark.parametrize("call", ["send", "send_each"])
async def test_a_token_that_is_gone_is_told_as_such(call: str, client: Program, harness: Harness) -> None:
    gone = "APA91bHun4MxP5ego-gone"
    harness.script(Rule(match=Match(token=gone), status=404, reason="UNREGISTERED"))
    answers = await send(client, harness, call, Message(token=gone), Message())
    code = {"node": "registration-token-not-registered", "go": "unregistered"}[client.name]
    assert is_refused_as(code, answers[:1]), answers
    assert "name" in answers[1]


async def test_another_project_is_refused(client: Program, harness: Harness, tmp_path: Path) -> None:
    account = _account(harness, tmp_path, project_id="another")
    [answer] = await send(client, harness, "send", Message(), account=account)
    assert "another" in answer["message"], answer
    assert harness.emulator.inbox.find() == []


async def test_an_unknown_key_is_refused(client: Program, harness: Harness, tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    [answer] = await send(client, harness, "send", Message(), account=_account(harness, tmp_path, private_key=pem))
    assert "invalid_grant" in answer["message"], answer


def _account(harness: Harness, tmp_path: Path, **changes: str) -> Path:
    path = tmp_path / "account.json"
    path.write_text(json.dumps(harness.account | changes))
    return path
