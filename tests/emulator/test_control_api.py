"""The control API: the inbox, the counters and the fault script."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.emulator.harness import BODY, TOPIC, Harness, StartEmulator, new_token
from tests.emulator.test_fcm_checks import GOOD


@pytest.fixture
async def control(harness: Harness) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=harness.url("control")) as client:
        yield client


async def test_the_inbox_returns_accepted_pushes_oldest_first(harness: Harness, control: httpx.AsyncClient) -> None:
    production, sandbox = await harness.connect("production"), await harness.connect("sandbox")
    tokens = [new_token() for _ in range(3)]
    await production.ask(harness.push(tokens[0]), BODY)
    await sandbox.ask(harness.push(tokens[1].upper()), BODY)
    await production.ask(harness.push(tokens[2], apns_id="00112233-4455-6677-8899-aabbccddeeff"), BODY)
    await harness.send_message(GOOD)

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

    async def find_tokens(**query: str) -> list[str]:
        return [entry["token"] for entry in (await control.get("/inbox", params=query)).json()]

    assert await find_tokens(token=tokens[1]) == await find_tokens(token=tokens[1].upper()) == [tokens[1]]
    assert await find_tokens(provider="fcm") == [GOOD["token"]]
    assert await find_tokens(environment="production") == [tokens[0], tokens[2]]
    assert await find_tokens(token="") == []
    assert await find_tokens(limit="2") == [tokens[2], GOOD["token"]]
    assert (await control.delete("/inbox")).status_code == 200
    assert await find_tokens() == []


@pytest.mark.parametrize("query", ["tokn=a", "tokn=", "limit=x", "limit=-1", "limit="])
async def test_an_invalid_query_parameter_is_refused_and_named(query: str, control: httpx.AsyncClient) -> None:
    answer = await control.get(f"/inbox?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]


async def test_the_inbox_drops_the_oldest_pushes(start_emulator: StartEmulator) -> None:
    harness = await start_emulator(inbox_size=3)
    connection = await harness.connect("production")
    tokens = [new_token() for _ in range(5)]
    for token in tokens:
        await connection.ask(harness.push(token), BODY)
    assert [entry["token"] for entry in harness.emulator.inbox.find()] == tokens[2:]
    assert harness.emulator.stats()["accepted"] == 5


async def test_the_counters_show_answers_and_duplicates(harness: Harness, control: httpx.AsyncClient) -> None:
    connection = await harness.connect("production")
    bearer = harness.bearer()
    for _ in range(2):
        await connection.ask(harness.push(authorization=bearer, apns_id="00112233-4455-6677-8899-aabbccddeeff"), BODY)
    await connection.ask(harness.push(authorization=bearer, apns_priority="10"), BODY)
    await harness.send_message(GOOD)
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
    production = next(endpoint for endpoint in stats["connections"] if endpoint["listener"] == "apns.production")
    assert production == {"listener": "apns.production", "open": 1, "opened": 1, "open_streams": 0}


async def test_a_fault_script_can_be_set_shown_and_removed(harness: Harness, control: httpx.AsyncClient) -> None:
    rule = {"match": {"topic": TOPIC}, "status": 503, "reason": "ServiceUnavailable", "times": 1}
    assert (await control.put("/faults", json={"rules": [rule]})).json()["rules"] == [rule]
    connection = await harness.connect("production")
    assert [(await connection.ask(harness.push(), BODY)).status for _ in range(2)] == [503, 200]
    shown = (await control.get("/faults")).json()
    assert (shown["rules"], shown["acted"]) == ([rule], [1])
    await control.put("/faults", json={"rules": [rule]})
    assert (await control.delete("/faults")).status_code == 200
    assert (await connection.ask(harness.push(), BODY)).status == 200


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
async def test_an_invalid_script_is_refused_with_the_path_and_changes_nothing(
    body: str, named: str, harness: Harness, control: httpx.AsyncClient
) -> None:
    await control.put("/faults", json={"seed": 5})
    answer = await control.put("/faults", content=body)
    assert (answer.status_code, named in answer.json()["error"]) == (400, True), answer.text
    assert harness.emulator.faults.script.seed == 5


async def test_unknown_paths_and_methods_are_refused(control: httpx.AsyncClient) -> None:
    assert (await control.get("/nothing")).status_code == 404
    assert (await control.post("/inbox")).status_code == 405
    assert (await control.get("//[")).status_code == 404


HERE = ["localhost", "LOCALHOST:{port}", "127.0.0.1:{port}", "[::1]:{port}", "127.9.8.7"]
ELSEWHERE = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "0.0.0.0",
    "",
    "x y",
]


@pytest.mark.parametrize("host", [*HERE, *ELSEWHERE])
async def test_a_page_whose_name_leads_to_this_machine_learns_and_changes_nothing(
    harness: Harness, control: httpx.AsyncClient, host: str
) -> None:
    fields = {"host": host.format(port=harness.url("control").rsplit(":", 1)[1])}
    status = 200 if host in HERE else 403
    assert (await control.get("/inbox", headers=fields)).status_code == status
    assert (await control.get("/stats", headers=fields)).status_code == status
    rules = b'{"rules": [{"match": {"provider": "apns"}, "status": 503, "reason": "Shutdown", "times": 5}]}'
    assert (await control.put("/faults", content=rules, headers=fields)).status_code == status
    assert bool((await control.get("/faults")).json()["rules"]) == (host in HERE)


async def test_the_control_api_is_on_this_machine_only_wherever_the_rest_listens(start_emulator: StartEmulator) -> None:
    harness = await start_emulator(host="0.0.0.0")
    url = harness.url("control")
    assert url.startswith("http://127.0.0.1:")
    with socket.create_server(("127.0.0.2", int(url.rsplit(":", 1)[1]))):
        pass  # Nobody else listens on this address: a listener on all of them would.
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/stats")).status_code == 200
