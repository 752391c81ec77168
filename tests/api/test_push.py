"""`/api/push` as the document has it."""

from __future__ import annotations

import pytest

from tocsin.store.records import TokenDeleted, TokenRegistered

TOKEN = "a6461732069737d42065496ea5eea1ab53b6e0df9ec7272987a2e18e62ef39ad"
OTHER = "a6281e62e55932df9ec72829a5eea1ab53b6e0df9ec7272987a2e18e62e5e2d3"
FCM = "APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"
APP = "39JSDKGJ38.de.cospace.app"


def apns(action="add", token=TOKEN, **more):
    body = {"system": "apns", "action": action, "device_token": token}
    if action == "add":
        body["application_id"] = APP
    return body | more


def fcm(action="add", token=FCM, **more):
    return {"system": "fcm", "action": action, "device_token": token} | more


async def test_a_user_without_tokens_gets_both_sections_empty(api):
    assert await api.tokens() == {"fcm": {"device_tokens": []}, "apns": {"device_tokens": {}}}


async def test_the_documents_example_is_answered_as_in_the_document(api):
    for body in (
        fcm(),
        fcm(token="Iausdj89apcoaSDdojfAsidfAs8d84-5621i"),
        apns(sandbox=True),
        apns(token=OTHER, sandbox=False, apns_topic="de.cospace.app.voip"),
    ):
        answer = await api.push(body)
        assert (answer.status_code, answer.json()) == (200, {})
        assert answer.headers["content-type"] == "application/json"
    assert await api.tokens() == {
        "fcm": {"device_tokens": [FCM, "Iausdj89apcoaSDdojfAsidfAs8d84-5621i"]},
        "apns": {
            "device_tokens": {
                TOKEN: {"application_id": APP, "sandbox": True},
                OTHER: {"application_id": APP, "sandbox": False, "apns_topic": "de.cospace.app.voip"},
            }
        },
    }


async def test_an_apns_token_is_stored_in_lower_case_and_deleted_in_either(api):
    await api.push(apns(token=TOKEN.upper()))
    assert list((await api.tokens())["apns"]["device_tokens"]) == [TOKEN]
    await api.push(apns("delete", token=TOKEN.upper()))
    assert (await api.tokens())["apns"]["device_tokens"] == {}


async def test_adding_again_replaces_application_sandbox_and_topic(api):
    await api.push(apns(sandbox=True, apns_topic="de.cospace.app.voip"))
    await api.push(apns())
    assert (await api.tokens())["apns"]["device_tokens"] == {TOKEN: {"application_id": APP, "sandbox": False}}


async def test_adding_again_refreshes_the_registration_time(api):
    for token in ("one", "two", "one"):
        await api.push(fcm(token=token))
    assert (await api.tokens())["fcm"]["device_tokens"] == ["two", "one"]


async def test_the_order_of_registration_survives_a_clock_that_stands_still(open_api):
    async with open_api(clock=lambda: 1_700_000_000.0) as api:
        tokens = [f"token{number}" for number in range(20)]
        for token in tokens:
            await api.push(fcm(token=token))
        assert (await api.tokens())["fcm"]["device_tokens"] == tokens


async def test_deleting_an_unknown_token_is_fine(api):
    assert (await api.push(fcm("delete"))).json() == {}


async def test_deleting_never_touches_another_users_registration(api):
    mine, api.sid = api.sid, await api.sign_in("1de7257a-4f34-11e0-ab6e-0024e8f90cc1")
    await api.push(fcm())
    theirs, api.sid = api.sid, mine
    await api.push(fcm())
    await api.push(fcm("delete"))
    assert (await api.tokens())["fcm"]["device_tokens"] == []
    api.sid = theirs
    assert (await api.tokens())["fcm"]["device_tokens"] == [FCM]


async def test_every_change_is_signalled_before_it_is_answered(api):
    await api.push(fcm())
    assert api.signals_at_answer == [TokenRegistered(api.owner, "fcm", FCM)]
    await api.push(fcm("delete"))
    assert api.signals_at_answer == [TokenRegistered(api.owner, "fcm", FCM), TokenDeleted(api.owner, "fcm", FCM)]


async def test_one_token_too_many_evicts_the_oldest_and_stops_its_deliveries(open_api):
    async with open_api(max_tokens=2) as api:
        for token in ("one", "two", "three"):
            await api.push(fcm(token=token))
        assert (await api.tokens())["fcm"]["device_tokens"] == ["two", "three"]
        assert api.signals_at_answer[-1] == TokenDeleted(api.owner, "fcm", "one")


@pytest.mark.parametrize(
    "body",
    [
        fcm(sandbox="nonsense", application_id=17, apns_topic=None),
        fcm("delete", application_id=APP),
        apns("delete", application_id="x", sandbox=[1], apns_topic={}),
        fcm(token="!" * 4096),
        apns(apns_topic="a-b.c"),
    ],
)
async def test_what_the_operation_has_no_use_for_is_ignored(api, body):
    assert (await api.push(body)).json() == {}


@pytest.mark.parametrize("content_type", [None, "", "application/json", "Application/JSON; charset=UTF-8"])
async def test_a_missing_content_type_is_taken_as_json(api, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    assert (await api.push(fcm(), headers=headers)).json() == {}


async def test_of_a_key_given_twice_the_last_counts(api):
    await api.push(b'{"system":"apns","system":"fcm","action":"add","device_token":"t"}')
    assert (await api.tokens())["fcm"]["device_tokens"] == ["t"]


async def test_answers_are_not_for_caches(api):
    answer = await api.client.get("/api/push", headers={"authorization": f"Bearer {api.sid}"})
    assert answer.headers["cache-control"] == "no-store"
