"""Every way to get `/api/push` wrong, in both conventions; and that nothing changes."""

from __future__ import annotations

import pytest

from tocsin.store.ports import CommitUnknown

TOKEN = "ab" * 32
APP = "39JSDKGJ38.de.cospace.app"
FCM = {"system": "fcm", "action": "add", "device_token": "t"}
APNS = {"system": "apns", "action": "add", "device_token": TOKEN, "application_id": APP}


def without(body, name):
    return {key: value for key, value in body.items() if key != name}


SYNTAX, MISSING = "wrong-syntax", "missing-element"
BAD = [
    # body, errors[0].at, the platform's status
    (b"", "$", SYNTAX),
    (b"{", "$", SYNTAX),
    (b"nonsense", "$", SYNTAX),
    (b"\xff\xfe", "$", SYNTAX),
    (b'{"system":"fcm","action":"add","device_token":"t","sandbox":"\xff"}', "$.sandbox", SYNTAX),
    (b'\xef\xbb\xbf{"system":"fcm","action":"add","device_token":"t"}', "$", SYNTAX),
    (b"[" * 30_000, "$", SYNTAX),
    (b'{"sandbox":' + b"[" * 30_000, "$.sandbox", SYNTAX),
    ([], "$", SYNTAX),
    ("text", "$", SYNTAX),
    (None, "$", SYNTAX),
    ({}, "$.system", MISSING),
    (without(FCM, "system"), "$.system", MISSING),
    (without(FCM, "action"), "$.action", MISSING),
    (without(FCM, "device_token"), "$.device_token", MISSING),
    (without(APNS, "application_id"), "$.application_id", MISSING),
    (FCM | {"system": "wns"}, "$.system", SYNTAX),
    (FCM | {"system": "FCM"}, "$.system", SYNTAX),
    (FCM | {"system": 1}, "$.system", SYNTAX),
    (FCM | {"system": None}, "$.system", SYNTAX),
    (FCM | {"action": "remove"}, "$.action", SYNTAX),
    (FCM | {"action": ["add"]}, "$.action", SYNTAX),
    (FCM | {"device_token": ""}, "$.device_token", SYNTAX),
    (FCM | {"device_token": "a b"}, "$.device_token", SYNTAX),
    (FCM | {"device_token": "a\n"}, "$.device_token", SYNTAX),
    (FCM | {"device_token": "tökèn"}, "$.device_token", SYNTAX),
    (FCM | {"device_token": "x" * 4097}, "$.device_token", SYNTAX),
    (FCM | {"device_token": 5}, "$.device_token", SYNTAX),
    (b'{"system":"fcm","action":"add","device_token":"\\ud800"}', "$.device_token", SYNTAX),
    (APNS | {"device_token": TOKEN[1:]}, "$.device_token", SYNTAX),
    (APNS | {"device_token": TOKEN + "a"}, "$.device_token", SYNTAX),
    (APNS | {"device_token": "g" * 64}, "$.device_token", SYNTAX),
    (APNS | {"device_token": TOKEN + "\n"}, "$.device_token", SYNTAX),
    (APNS | {"device_token": "t", "action": "delete"}, "$.device_token", SYNTAX),
    (APNS | {"sandbox": "true"}, "$.sandbox", SYNTAX),
    (APNS | {"sandbox": 1}, "$.sandbox", SYNTAX),
    (APNS | {"sandbox": None}, "$.sandbox", SYNTAX),
    (APNS | {"application_id": 39}, "$.application_id", SYNTAX),
    (APNS | {"application_id": None}, "$.application_id", SYNTAX),
    (APNS | {"apns_topic": None}, "$.apns_topic", SYNTAX),
    (APNS | {"apns_topic": 1}, "$.apns_topic", SYNTAX),
    (FCM | {"colour": "red"}, "$.colour", SYNTAX),
    (FCM | {"deviceToken": "t"}, "$.deviceToken", SYNTAX),
    (FCM | {TOKEN: 1}, "$.*", SYNTAX),
]
NAMED = [
    (APNS | {"application_id": "39JSDKGJ38.de.cospace.other"}, "unknown-appid"),
    (APNS | {"application_id": ""}, "invalid-appid"),
    (APNS | {"application_id": "39JSDKGJ38"}, "invalid-appid"),
    (APNS | {"application_id": "39JSDKGJ38-de.cospace.app"}, "invalid-appid"),
    (APNS | {"application_id": "39JSDKGJ3.de.cospace.app"}, "invalid-appid"),
    (APNS | {"application_id": "39JSDKGJ38.de.c"}, "invalid-appid"),
    (APNS | {"application_id": "39JSDKGJ38." + "a" * 101}, "invalid-appid"),
    (APNS | {"application_id": APP + "\n"}, "invalid-appid"),
    (APNS | {"apns_topic": ""}, "invalid-apns-topic"),
    (APNS | {"apns_topic": "de.c"}, "invalid-apns-topic"),
    (APNS | {"apns_topic": "a" * 101}, "invalid-apns-topic"),
    (APNS | {"apns_topic": "de.cospace app"}, "invalid-apns-topic"),
    # In this order: syntax of the id, syntax of the topic, whether the id is known.
    (APNS | {"application_id": "bad", "apns_topic": "!"}, "invalid-appid"),
    (APNS | {"application_id": "39JSDKGJ38.de.cospace.other", "apns_topic": "!"}, "invalid-apns-topic"),
]


@pytest.mark.parametrize(("body", "at", "_"), BAD)
async def test_bad_input_is_a_problem_that_names_the_field_and_changes_nothing(api, body, at, _):
    before = await api.contents()
    answer = await api.push(body)
    problem = answer.json()
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "urn:tocsin:problem:bad-input"
    assert (problem["status"], problem["title"]) == (400, "Bad input")
    assert problem["errors"][0]["at"] == at
    assert problem["errors"][0]["reason"]
    assert "line" not in problem["errors"][0]
    assert await api.contents() == before
    assert TOKEN not in answer.text


@pytest.mark.parametrize(("body", "status"), NAMED)
async def test_the_three_named_failures_are_answers_of_the_call_and_change_nothing(api, body, status):
    before = await api.contents()
    answer = await api.push(body)
    assert (answer.status_code, answer.json()) == (200, {"status": status})
    assert answer.headers["content-type"] == "application/json"
    assert await api.contents() == before


async def test_the_platforms_convention_answers_every_failure_with_200(open_api):
    async with open_api(convention="platform") as api:
        before = await api.contents()
        for body, status in [(body, status) for body, _, status in BAD] + NAMED:
            answer = await api.push(body)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["status"] == status, body
            assert answer.json()["message"]
            assert TOKEN not in answer.text
        assert await api.contents() == before


async def test_the_platforms_convention_always_has_a_status(open_api):
    async with open_api(convention="platform") as api:
        assert (await api.push(FCM)).json() == {"status": "ok"}
        assert (await api.push(FCM | {"action": "delete"})).json() == {"status": "ok"}
        assert await api.tokens() == {
            "status": "ok",
            "fcm": {"device_tokens": []},
            "apns": {"device_tokens": {}},
        }


@pytest.mark.parametrize(
    ("convention", "no_session", "no_user"),
    [("document", (401, 401), (401, 401)), ("platform", (200, "no-session"), (200, "no-auth"))],
)
async def test_sessions_are_missed_in_each_convention(open_api, convention, no_session, no_user):
    async with open_api(convention=convention) as api:
        for sid, (code, status) in (("", no_session), ("wrong", no_session), (await api.sign_in(None), no_user)):
            answer = await api.client.get("/api/push", headers={"authorization": f"Bearer {sid}"})
            assert (answer.status_code, answer.json()["status"]) == (code, status)


@pytest.mark.parametrize("convention", ["document", "platform"])
async def test_what_is_not_about_an_element_fails_in_each_convention(open_api, convention):
    async with open_api(convention=convention) as api:
        answers = {
            405: await api.client.put("/api/push"),
            413: await api.push(b" " * (64 * 1024 + 1)),
            415: await api.push(FCM, headers={"content-type": "text/plain"}),
        }
        for status, answer in answers.items():
            if convention == "platform":
                assert (answer.status_code, answer.json()["status"]) == (200, "fail")
            else:
                assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert answers[405].headers["allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/x-ndjson"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "nonsense"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_a_body_that_says_it_is_something_else_is_415(api, headers):
    before = await api.contents()
    answer = await api.push(FCM, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (415, "application/problem+json")
    assert await api.contents() == before


class LostAnswer:
    """A registry whose commit may have taken effect."""

    async def add(self, registration, max_tokens):
        raise CommitUnknown("postgresql://secret")


async def test_a_change_of_unknown_outcome_fails_in_each_convention(open_api):
    for convention, code, status in (("document", 503, 503), ("platform", 200, "fail")):
        async with open_api(convention=convention, registry=LostAnswer()) as api:
            answer = await api.push(FCM)
            assert (answer.status_code, answer.json()["status"]) == (code, status)
            assert int(answer.headers["retry-after"]) >= 1
            assert "events" not in answer.json()
            assert "secret" not in answer.text
            if convention == "document":
                assert answer.json()["type"] == "urn:tocsin:problem:outcome-unknown"
