"""What arrived, what was counted, and the script in force: over plain HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.emulator.lab import BODY, TOPIC, Lab, Laboratory, new_token
from tests.emulator.test_fcm_is_as_strict_as_google import GOOD


@pytest.fixture
async def control(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=lab.url("control")) as client:
        yield client


async def test_the_inbox_tells_what_arrived_newest_last(lab: Lab, control: httpx.AsyncClient) -> None:
    production, sandbox = await lab.connect("production"), await lab.connect("sandbox")
    tokens = [new_token() for _ in range(3)]
    await production.ask(lab.push(tokens[0]), BODY)
    await sandbox.ask(lab.push(tokens[1].upper()), BODY)
    await production.ask(lab.push(tokens[2], apns_id="00112233-4455-6677-8899-aabbccddeeff"), BODY)
    await lab.send_message(GOOD)

    inbox = (await control.get("/inbox")).json()
    assert [entry["token"] for entry in inbox] == [*tokens, GOOD["token"]]
    assert [entry["provider"] for entry in inbox] == ["apns", "apns", "apns", "fcm"]
    assert [entry["environment"] for entry in inbox] == ["production", "sandbox", "production", None]
    assert [entry["time"] for entry in inbox] == sorted(entry["time"] for entry in inbox)
    push, message = inbox[2], inbox[3]
    assert push["id"] == push["headers"]["apns-id"] == "00112233-4455-6677-8899-aabbccddeeff"
    assert (push["headers"]["apns-topic"], push["headers"]["apns-push-type"]) == (TOPIC, "background")
    assert push["headers"][":path"] == f"/3/device/{tokens[2]}"
    assert push["body"] == {"aps": {"content-available": 1}, "message": "fax_new"}
    assert message["body"] == {"message": GOOD}
    assert not any("authorization" in entry["headers"] for entry in inbox)

    async def found(**query: str) -> list[str]:
        return [entry["token"] for entry in (await control.get("/inbox", params=query)).json()]

    assert await found(token=tokens[1]) == await found(token=tokens[1].upper()) == [tokens[1]]
    assert await found(provider="fcm") == [GOOD["token"]]
    assert await found(environment="production") == [tokens[0], tokens[2]]
    assert await found(token="") == []
    assert await found(limit="2") == [tokens[2], GOOD["token"]]
    assert (await control.delete("/inbox")).status_code == 200
    assert await found() == []


@pytest.mark.parametrize("query", ["tokn=a", "tokn=", "limit=x", "limit=-1", "limit="])
async def test_a_wrong_query_is_refused_by_name(query: str, control: httpx.AsyncClient) -> None:
    answer = await control.get(f"/inbox?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]


async def test_the_inbox_is_bounded(laboratory: Laboratory) -> None:
    lab = await laboratory(inbox_size=3)
    connection = await lab.connect("production")
    tokens = [new_token() for _ in range(5)]
    for token in tokens:
        await connection.ask(lab.push(token), BODY)
    assert [entry["token"] for entry in lab.emulator.inbox.find()] == tokens[2:]
    assert lab.emulator.stats()["accepted"] == 5


async def test_the_counts_say_what_was_answered_and_what_came_twice(lab: Lab, control: httpx.AsyncClient) -> None:
    connection = await lab.connect("production")
    bearer = lab.bearer()
    for _ in range(2):
        await connection.ask(lab.push(authorization=bearer, apns_id="00112233-4455-6677-8899-aabbccddeeff"), BODY)
    await connection.ask(lab.push(authorization=bearer, apns_priority="10"), BODY)
    await lab.send_message(GOOD)
    stats = (await control.get("/stats")).json()
    assert (stats["accepted"], stats["duplicates"], stats["in_inbox"]) == (3, 1, 3)
    assert (stats["access_tokens_issued"], stats["provider_tokens_verified"]) == (1, 1)
    answers = {(a["provider"], a["environment"], a["status"], a["reason"]): a["count"] for a in stats["answers"]}
    assert answers == {
        ("apns", "production", 200, ""): 2,
        ("apns", "production", 400, "BadPriority"): 1,
        ("fcm", None, 200, ""): 1,
        ("oauth", None, 200, ""): 1,
    }
    production = next(door for door in stats["connections"] if door["listener"] == "apns.production")
    assert production == {"listener": "apns.production", "open": 1, "opened": 1, "open_streams": 0}


async def test_faults_are_put_shown_and_taken_back(lab: Lab, control: httpx.AsyncClient) -> None:
    rule = {"match": {"topic": TOPIC}, "status": 503, "reason": "ServiceUnavailable", "times": 1}
    assert (await control.put("/faults", json={"rules": [rule]})).json()["rules"] == [rule]
    connection = await lab.connect("production")
    assert [(await connection.ask(lab.push(), BODY)).status for _ in range(2)] == [503, 200]
    shown = (await control.get("/faults")).json()
    assert (shown["rules"], shown["acted"]) == ([rule], [1])
    await control.put("/faults", json={"rules": [rule]})
    assert (await control.delete("/faults")).status_code == 200
    assert (await connection.ask(lab.push(), BODY)).status == 200


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"rules": [{"staus": 500}]}', "staus"),
        ('{"rules": [{"status": 99}]}', "$.rules[0].status"),
        ('{"rules": [{"rate": 2}]}', "$.rules[0].rate"),
        ('{"rules": [{"match": {"provider": "apple"}}]}', "$.rules[0].match.provider"),
        ('{"rules": [{"cut": "somewhere"}]}', "$.rules[0].cut"),
        ('{"rules": [{"status": 500}, {"headers": {"x mark": "a"}}]}', "$.rules[1]"),
        ('{"rules": [{"headers": {"x-mark": "a\\r\\nb: c"}}]}', "x-mark"),
        ('{"rules": [{"headers": {":status": "200"}}]}', ":status"),
        ('{"rules": [{"html_404": true, "match": {"provider": "apns"}}]}', "html_404"),
        ('{"rules": [{"expire_tokens": true, "match": {"provider": "oauth"}}]}', "expire_tokens"),
        ('{"rules": [{"goaway": {"mode": "soon"}}]}', "$.rules[0].goaway.mode"),
        ("[]", "object"),
        ("", "truncated"),
        ("{", "truncated"),
    ],
)
async def test_a_wrong_script_is_refused_by_name_and_changes_nothing(
    body: str, named: str, lab: Lab, control: httpx.AsyncClient
) -> None:
    await control.put("/faults", json={"seed": 5})
    answer = await control.put("/faults", content=body)
    assert (answer.status_code, named in answer.json()["error"]) == (400, True), answer.text
    assert lab.emulator.faults.script.seed == 5


async def test_unknown_pages_and_methods_are_told(control: httpx.AsyncClient) -> None:
    assert (await control.get("/nothing")).status_code == 404
    assert (await control.post("/inbox")).status_code == 405
    assert (await control.get("//[")).status_code == 404
