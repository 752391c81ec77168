"""What operators look at: search, timelines, figures, lanes, nodes, accounts, keys and sessions."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from tocsin.api.admin import figures as figure_routes
from tocsin.api.timestamps import rfc3339
from tocsin.domain.devices import Address, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.domain.nodes import NodeStatus
from tocsin.domain.routes import LaneState, LaneStatus, PauseStatus
from tocsin.providers.apns.address import ApnsAddress
from tocsin.store.records import (
    Area,
    Attempt,
    DeadToken,
    KeyLimits,
    Parked,
    Rate,
    Result,
    Role,
    Settlement,
)

APPLICATION = "39JSDKGJ38.de.cospace.app"
LANE = f"apns:production:{APPLICATION}"
TOKEN, OTHER_TOKEN = "ab" * 32, "cd" * 32
ADDRESS = ApnsAddress(APPLICATION).text()


async def register(api: Any, token: str = TOKEN, owner: str | None = None) -> None:
    user = UserId(owner or api.owner)
    await api.store.registry.add(Registration(user, "apns", DeviceToken(token), Address(ADDRESS)), 100)


async def ingested(api: Any, **fields: Any) -> str:
    event = {
        "owner": api.owner,
        "message": "fax_new",
        "fax": str(uuid4()),
        "phone": "+49221",
        "page_count": 2,
        **fields,
    }
    answer = await api.events(event)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["events"][0])


async def settled(api: Any, id: str, *attempts: Attempt, waiting: tuple[Parked, ...] = ()) -> None:
    items = {item.event.id: item for item in await api.store.queue.claim(100)}
    await api.store.queue.settle([Settlement(items.pop(id), list(attempts), list(waiting))])
    await api.store.queue.release(list(items.values()))
    while await api.store.search.fill(1):
        pass


def attempt(result: Result, status: int = 0, reason: str = "", token: str = TOKEN, at_ms: int = 1000) -> Attempt:
    return Attempt(at_ms, f"apns:{token}", LANE, str(result), status, reason)


async def searched(api: Any, **fields: Any) -> Any:
    answer = await api.operate("POST", "/deliveries/search", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def story(api: Any, id: str, **params: str) -> Any:
    answer = await api.operate("GET", f"/events/{id}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


# -- search ------------------------------------------------------------------------------------------------------------


async def test_a_delivery_is_found_by_everything_that_is_known_of_it(api: Any) -> None:
    await register(api)
    id = await ingested(api)
    await settled(api, id, attempt(Result.REFUSED, 413, "PayloadTooLarge"))
    for fields in (
        {},
        {"owner": api.owner},
        {"event_id": id},
        {"device_token": TOKEN.upper()},
        {"system": "apns"},
        {"account": APPLICATION},
        {"outcome": ["refused", "expired"]},
        {"reason": "PayloadTooLarge"},
        {"message": "fax_new"},
        {"from": "2020-01-01T00:00:00Z", "until": "2999-01-01T00:00:00+01:00"},
    ):
        found = await searched(api, **fields)
        (row,) = found["deliveries"]
        assert (row["event_id"], row["device_token"], row["outcome"]) == (id, TOKEN, "refused"), fields
        assert (row["status"], row["reason"], row["lane"], row["attempts"]) == (413, "PayloadTooLarge", LANE, 1)
        assert row["account"] == APPLICATION
        assert (found["next"], found["complete"], found["most"]) == (None, True, 200)
    for fields in (
        {"owner": str(uuid4())},
        {"event_id": str(uuid4())},
        {"device_token": OTHER_TOKEN},
        {"system": "fcm"},
        {"account": "39JSDKGJ38.de.cospace.other"},
        {"outcome": ["delivered"]},
        {"reason": "BadTopic"},
        {"until": "2020-01-01T00:00:00Z"},
        {"event_id": id, "outcome": ["delivered"]},
    ):
        assert (await searched(api, **fields))["deliveries"] == [], fields


async def test_a_token_that_was_removed_is_found_by_those_who_had_it(api: Any) -> None:
    await register(api)
    id = await ingested(api)
    await settled(api, id, attempt(Result.TOKEN_DEAD, 410, "Unregistered"))
    (device,) = (await api.store.registry.devices_of((api.owner,)))[api.owner]
    await api.store.registry.remove_dead([DeadToken(device, APPLICATION, "Unregistered")])
    assert [row["event_id"] for row in (await searched(api, device_token=TOKEN))["deliveries"]] == [id]


async def test_pages_are_gone_through_by_an_opaque_cursor(api: Any) -> None:
    await register(api)
    ids = []
    for _ in range(5):
        ids.append(await ingested(api))
        await settled(api, ids[-1], attempt(Result.DELIVERED, 200))
    first = await searched(api, limit=3)
    second = await searched(api, limit=3, start=first["next"])
    assert [row["event_id"] for row in first["deliveries"] + second["deliveries"]] == ids[::-1]
    assert second["next"] is None
    answer = await api.operate("POST", "/deliveries/search", json={"start": "nowhere"})
    assert (answer.status_code, answer.json()["errors"][0]["at"]) == (400, "$.start")


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"limit": 201}, "$.limit"),
        ({"outcome": ["lost"]}, "$.outcome[0]"),
        ({"from": "yesterday"}, "$.from"),
        ({"from": "2026-01-01T00:00:00"}, "$.from"),
        ({"owner": "me"}, "$.owner"),
        ({"system": "apsn"}, "$.system"),
        ({"message": "fax"}, "$.message"),
        ({"token": "secret-token"}, "$.token"),
    ],
)
async def test_a_search_that_breaks_a_rule_names_the_field(api: Any, fields: Any, at: str) -> None:
    answer = await api.operate("POST", "/deliveries/search", json=fields)
    assert (answer.status_code, answer.json()["errors"][0]["at"]) == (400, at)
    assert "secret-token" not in answer.text


async def test_the_index_says_how_far_it_is_behind(api: Any) -> None:
    index = (await searched(api))["index"]
    assert set(index) == {"behind_s", "waiting_events", "rebuilding", "indexed_to"}
    await register(api)
    id = await ingested(api)
    (item,) = await api.store.queue.claim(10)
    await api.store.queue.settle([Settlement(item, [attempt(Result.DELIVERED, 200)], [])])
    found = await searched(api, outcome=["delivered"])
    assert (found["deliveries"], found["index"]["waiting_events"]) == ([], 1)
    assert (await searched(api, event_id=id))["deliveries"], "by its id it is found in the store itself"


# -- timeline ----------------------------------------------------------------------------------------------------------


async def test_a_timeline_has_every_attempt_in_the_provider_s_words_and_what_comes_next(api: Any) -> None:
    await register(api)
    await register(api, OTHER_TOKEN)
    id = await ingested(api)
    now_ms = api.store.now_ms()
    waits = Parked(LANE, now_ms + 60_000, 1, (f"apns:{OTHER_TOKEN}",))
    busy = Attempt(now_ms, f"apns:{OTHER_TOKEN}", LANE, "retry", 429, "TooManyRequests", "", now_ms + 60_000)
    await settled(api, id, attempt(Result.DELIVERED, 200), busy, waiting=(waits,))
    found = await story(api, id)
    assert (found["event_id"], found["state"], found["round"]) == (id, "delivering", 0)
    first, second = found["devices"]
    assert (first["outcome"], first["explanation"]["code"], first["registered"]) == ("delivered", "delivered", True)
    assert "Apple accepted" in first["explanation"]["cause"]
    assert "next" not in first
    assert "request" not in first
    assert (second["outcome"], second["explanation"]["code"]) == ("waiting", "throttled")
    assert second["attempts"][0]["meaning"].startswith("Apple got too many")
    assert second["next"]["what"] == "retry"
    assert second["next"]["at"] in second["explanation"]["cause"]
    assert found["explanation"]["code"] == "in_part"
    assert "1 of 2 devices" in found["explanation"]["cause"]


async def test_a_timeline_says_why_a_lane_is_paused_since_when_and_when_it_is_tried(api: Any) -> None:
    await register(api)
    id = await ingested(api)
    await settled(api, id, waiting=(Parked(LANE, api.store.now_ms(), 0, (f"apns:{TOKEN}",)),))
    pause = PauseStatus("credential", "InvalidProviderToken", 60.0, 240.0, probing=False)
    api.delivery.status = [
        LaneStatus(LANE, LaneState.PAUSED, pause.reason, 0, 0, provider="apns", account=APPLICATION, pauses=[pause])
    ]
    (device,) = (await story(api, id))["devices"]
    assert device["explanation"]["code"] == "lane_paused"
    assert f"Lane {LANE} is paused since 20" in device["explanation"]["cause"]
    assert "Apple does not accept the key" in device["explanation"]["cause"]
    assert "tocsin app add" in device["explanation"]["remedy"]
    assert device["next"]["what"] == "paused"
    assert "because of InvalidProviderToken" in device["next"]["text"]


async def test_a_timeline_says_that_the_user_has_no_device_and_what_became_of_the_last_one(api: Any) -> None:
    await register(api)
    (device,) = (await api.store.registry.devices_of((api.owner,)))[api.owner]
    await api.store.registry.remove_dead([DeadToken(device, APPLICATION, "Unregistered")])
    id = await ingested(api)
    await settled(api, id)
    found = await story(api, id)
    assert (found["devices"], found["explanation"]["code"]) == ([], "no_device")
    assert "removed: Unregistered" in found["explanation"]["cause"]


async def test_a_dead_token_in_quarantine_is_told_as_such(api: Any) -> None:
    await register(api)
    id = await ingested(api)
    await settled(api, id, attempt(Result.TOKEN_DEAD, 410, "Unregistered"))
    (device,) = (await api.store.registry.devices_of((api.owner,)))[api.owner]
    await api.store.registry.remove_dead([DeadToken(device, APPLICATION, "Unregistered")], quarantine=True)
    (row,) = (await story(api, id))["devices"]
    assert (row["explanation"]["code"], row["registered"]) == ("quarantined", False)
    assert row["registered_at"] <= row["removed_at"], "also of one that is gone"
    assert row["removed_because"] == "Unregistered"


async def test_the_text_of_a_message_is_hidden_until_it_is_asked_for_and_gone_once_settled(api: Any) -> None:
    await register(api)
    chat = {"chat": str(uuid4()), "uuid": str(uuid4()), "time": 1, "user": str(uuid4()), "user_name": "John Doe"}
    answer = await api.events(
        {"owner": api.owner, "message": "chat_message", **chat, "type": "text", "text": "meet me at nine"}
    )
    id = answer.json()["events"][0]
    other = await api.events(
        {"owner": api.owner, "message": "chat_message", **chat, "type": "poll", "question": "meet me at ten"}
    )
    for event_id in (id, other.json()["events"][0]):
        await settled(api, event_id, waiting=(Parked(LANE, api.store.now_ms(), 0, (f"apns:{TOKEN}",)),))
        hidden = await story(api, event_id)
        assert "meet me" not in json.dumps(hidden)
        assert hidden["content"]["state"] == "hidden"
        assert hidden["content"]["body"]["chat"] == chat["chat"]
        request = hidden["devices"][0]["request"]
        assert (request["url"], request["headers"]) == ("https://provider.test/send", [["x-topic", "t"]])
        shown = await story(api, event_id, include="content")
        assert shown["content"]["state"] == "shown"
        assert json.dumps(shown).count("meet me") == 2
    (item,) = [one for one in await api.store.schedule.claim_due({LANE: 10}) if one.event.id == id]
    await api.store.queue.settle([Settlement(item, [attempt(Result.DELIVERED, 200)], [])])
    gone = await story(api, id, include="content")
    assert gone["content"] == {"state": "gone"}
    assert "request" not in gone["devices"][0]
    assert (await api.operate("GET", f"/events/{id}", params={"include": "all"})).status_code == 400


async def test_an_unknown_event_is_404(api: Any) -> None:
    assert (await api.operate("GET", f"/events/{uuid4()}")).status_code == 404


async def test_a_test_event_is_ingested_like_any_other(api: Any) -> None:
    event = {"owner": api.owner, "message": "fax_new", "fax": str(uuid4()), "phone": "", "page_count": 1}
    answer = await api.operate("POST", "/events/test", json=event)
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
    assert (await story(api, answer.json()["events"][0]))["state"] == "accepted"
    assert api.delivery.ingested == 1
    entries = (await api.operate("GET", "/audit")).json()["entries"]
    assert [one["details"]["message"] for one in entries if one["action"] == "event.test"] == ["fax_new"]
    assert (await api.operate("POST", "/events/test", json={"message": "fax_new"})).status_code == 400


# -- devices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("410 Unregistered", "Apple says that the device token is no longer active (410 Unregistered)"),
        ("400 BadDeviceToken", "Apple knows the device token in neither environment"),
        ("400 DeviceTokenNotForTopic for 7 days", "The registration is gone: 400 DeviceTokenNotForTopic for 7 days."),
        ("removed by the operator", "The registration is gone: removed by the operator."),
        ("410 Unregistered; then deleted by its user", "The registration is gone: 410 Unregistered; then deleted by"),
    ],
)
async def test_a_registration_that_is_gone_is_explained_by_what_ended_it(api: Any, reason: str, cause: str) -> None:
    await register(api)
    (device,) = (await api.store.registry.devices_of((api.owner,)))[api.owner]
    await api.store.registry.remove_dead([DeadToken(device, APPLICATION, reason)])
    (gone,) = (await api.operate("POST", "/devices/search", json={"owner": api.owner})).json()["removed"]
    assert gone["explanation"]["cause"].startswith(cause)


async def test_devices_are_looked_up_and_removed_without_a_token_in_the_url(api: Any) -> None:
    await register(api)
    await register(api, OTHER_TOKEN)
    (first, _) = (await api.store.registry.devices_of((api.owner,)))[api.owner]
    await api.store.registry.remove_dead([DeadToken(first, APPLICATION, "Unregistered")])
    found = (await api.operate("POST", "/devices/search", json={"owner": api.owner})).json()
    assert [one["device_token"] for one in found["devices"]] == [OTHER_TOKEN]
    (gone,) = found["removed"]
    assert (gone["device"]["device_token"], gone["reason"], gone["account"]) == (TOKEN, "Unregistered", APPLICATION)
    assert gone["explanation"]["code"] == "app_uninstalled"
    by_token = (await api.operate("POST", "/devices/search", json={"device_token": TOKEN.upper()})).json()
    assert (by_token["devices"], len(by_token["removed"])) == ([], 1)
    choice = {"owner": api.owner, "system": "apns", "device_token": OTHER_TOKEN}
    assert (await api.operate("POST", "/devices/remove", json=choice)).status_code == 204
    assert (await api.operate("POST", "/devices/remove", json=choice)).status_code == 404
    for body in ({}, {"owner": api.owner, "device_token": TOKEN}):
        assert (await api.operate("POST", "/devices/search", json=body)).status_code == 400


# -- figures, lanes, nodes ---------------------------------------------------------------------------------------------


async def test_figures_are_a_snapshot_with_a_history(api: Any) -> None:
    await ingested(api)
    pause = PauseStatus("provider", "the provider or the link to it failed too often", 5.0, 30.0, probing=True)
    lane = LaneStatus(
        LANE,
        LaneState.OPEN,
        pause.reason,
        1,
        2,
        provider="apns",
        account=APPLICATION,
        pauses=[pause],
        parked_due_ms=1_800_000_000_000,
    )
    api.delivery.status, api.delivery.sentences = [lane], ["lane is paused"]
    await api.store.publish(NodeStatus("host:1", "0.1", api.store.now_ms() - 60_000, [], [lane]))
    found = (await api.operate("GET", "/figures")).json()
    assert found["backlog"]["events"] == 1
    assert found["backlog"]["oldest_s"] >= 0
    assert found["totals"] == {"accepted": 1, "sent": 0, "failed": 0}
    assert found["history"][0]["sent"] == 2.0
    assert found["problems"] == ["lane is paused"]
    assert found["lanes"][0]["pauses"][0]["explanation"]["code"] == "provider_down"
    assert found["lanes"][0]["parked_due_at"] == "2027-01-15T08:00:00.000Z"
    (node,) = found["nodes"]
    assert (node["gone"], node["lanes"][0]["name"]) == (True, LANE)
    assert node["lanes"][0]["parked_due_at"] == found["lanes"][0]["parked_due_at"], "of other nodes, too"
    assert node["age_s"] >= 60
    assert (await api.operate("GET", "/nodes")).json()[0]["node"] == "host:1"
    assert (await api.operate("GET", "/lanes")).json()[0]["pauses"][0]["probing"] is True


async def test_any_node_answers_for_the_lanes_and_the_backlog_of_all(api: Any) -> None:
    api.delivery.delivers = False
    now_ms = api.store.now_ms()
    lane = LaneStatus(LANE, LaneState.RUNNING, "", 1, 2, provider="apns", account=APPLICATION)
    node = NodeStatus("host:1", "1", now_ms, [], [lane], backlog_events=3, oldest_ms=now_ms - 60_000)
    await api.store.publish(node)
    assert [one["name"] for one in (await api.operate("GET", "/lanes")).json()] == [LANE]
    found = (await api.operate("GET", "/figures")).json()
    assert (found["lanes"][0]["waiting"], found["of_nodes"]) == (2, ["here:1"])
    assert found["backlog"]["oldest_s"] >= 60
    (one,) = (await api.operate("GET", "/nodes")).json()
    assert (one["delivers"], one["backlog_events"], one["oldest_at"]) == (True, 3, found["backlog"]["oldest_at"])


async def test_the_timeline_names_it_where_no_node_is_left_that_delivers(api: Any) -> None:
    await register(api)
    id = await ingested(api)
    api.delivery.delivers = False
    at_ms = api.store.now_ms()
    await api.store.publish(NodeStatus("host:1", "1", at_ms, [], []))
    assert (await story(api, id))["explanation"]["code"] == "queued"
    await api.store.publish(NodeStatus("host:1", "1", at_ms - 20_000, [], []))
    told = (await story(api, id))["explanation"]
    assert told["code"] == "node_gone"
    assert f"since {rfc3339(at_ms - 20_000)}" in told["cause"]
    assert "tocsin serve" in told["remedy"]
    await api.store.publish(NodeStatus("other:1", "1", at_ms, [], [], delivers=False))
    assert "since" not in (await story(api, id))["explanation"]["cause"]
    assert (await story(api, id))["explanation"]["code"] == "node_gone"
    (item,) = await api.store.queue.claim(1)
    await api.store.queue.settle([Settlement(item, [attempt(Result.DELIVERED, 200)], [])])
    assert (await story(api, id))["explanation"]["code"] == "delivered"


async def test_figures_are_streamed_each_second_to_so_many_at_a_time(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure_routes, "_EVERY_S", 0.01)
    chunks: list[bytes] = []
    enough, gone = asyncio.Event(), asyncio.Event()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            assert headers[b"content-type"].startswith(b"text/event-stream")
        elif message.get("body"):
            chunks.append(message["body"])
        if len(chunks) >= 3:
            enough.set()

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/api/admin/figures/stream",
        "raw_path": b"",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "client": None,
        "server": None,
        "headers": [(b"host", b"t"), (b"authorization", f"Bearer {api.admin}".encode())],
    }
    streaming = asyncio.create_task(api.app(scope, receive, send))
    async with asyncio.timeout(10):
        await enough.wait()
    monkeypatch.setattr(figure_routes, "MOST_STREAMS", 1)
    refused = await api.operate("GET", "/figures/stream")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    gone.set()
    async with asyncio.timeout(10):
        await asyncio.gather(streaming, return_exceptions=True)
    event, data = chunks[0].decode().split("\n")[:2]
    assert event == "event: figures"
    assert "per_second" in json.loads(data.removeprefix("data: "))
    assert chunks[0].endswith(b"\n\n")


def streaming(api: Any, key: str) -> asyncio.Task[Any]:
    """A stream of figures with this key, for as long as it lasts."""

    ended = asyncio.Event()

    async def receive() -> Any:
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set()

    headers = [(b"host", b"t"), (b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/api/admin/figures/stream"}
    scope |= {"raw_path": b"", "query_string": b"", "root_path": "", "scheme": "http", "client": None, "server": None}
    return asyncio.create_task(api.app(scope | {"headers": headers}, receive, send))


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_stream_of_figures_ends_with_its_key(open_api: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(figure_routes, "_EVERY_S", 0.01)
    now = [1_700_000_000.0]
    async with open_api(clock=lambda: now[0]) as api:
        expires_ms = api.store.now_ms() + 60_000
        secret, key = await api.store.access.create_key(Role.ADMIN, "short", expires_ms)
        stream = streaming(api, secret)
        assert (await asyncio.wait({stream}, timeout=0.2))[1], "it ended while the key was valid"
        if how == "revoked":
            await api.store.access.revoke_key(key.id)
        else:
            now[0] += 61
        async with asyncio.timeout(10):
            await stream


async def test_one_key_cannot_take_all_the_streams(api: Any) -> None:
    streams = [streaming(api, api.admin) for _ in range(figure_routes.MOST_STREAMS_OF_A_KEY)]
    try:
        await asyncio.sleep(0.3)
        refused = await api.operate("GET", "/figures/stream")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        other, _ = await api.store.access.create_key(Role.ADMIN, "other", None)
        streams.append(streaming(api, other))
        assert not (await asyncio.wait(streams, timeout=0.3))[0]
    finally:
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)


# -- accounts, keys, sessions ------------------------------------------------------------------------------------------


async def test_accounts_say_how_their_credential_is_and_what_the_provider_answered_last(api: Any) -> None:
    (account,) = (await api.operate("GET", "/accounts")).json()
    assert (account["system"], account["account"], account["kind"]) == ("apns", APPLICATION, "key")
    assert account["key_id"] == "ABC123DEFG"
    assert LANE in account["lanes"]
    assert "last_check" not in account
    path = f"/accounts/apns/{APPLICATION}/check"
    checked = (await api.operate("POST", path, json={"sandbox": True})).json()
    assert (checked["ok"], checked["sandbox"]) == (False, True)
    assert (await api.operate("GET", "/accounts")).json()[0]["last_check"] == checked
    assert (await api.operate("POST", "/accounts/apns/other/check", json={})).status_code == 404


async def test_keys_and_sessions_are_listed_created_and_revoked(api: Any) -> None:
    new = await api.operate("POST", "/keys", json={"role": "producer", "name": "fax 2", "expires_in_s": 60})
    assert new.status_code == 201
    key = new.json()
    assert await api.store.access.key(key["key"]) is not None
    listed = (await api.operate("GET", "/keys")).json()
    assert {one["id"] for one in listed} >= {key["id"]}
    assert key["key"] not in json.dumps(listed)
    assert (await api.operate("DELETE", f"/keys/{key['id']}")).status_code == 204
    assert (await api.operate("DELETE", f"/keys/{key['id']}")).status_code == 404
    assert await api.store.access.key(key["key"]) is None
    session = (await api.operate("POST", "/sessions", json={"owner": api.owner, "expires_in_s": None})).json()
    assert (await api.store.access.session(session["sid"])).owner == api.owner
    page = (await api.operate("GET", "/sessions", params={"owner": api.owner})).json()
    assert session["id"] in {one["id"] for one in page["sessions"]}
    assert (page["capped"], page["most"]) == (False, 1000)
    assert (await api.operate("DELETE", f"/sessions/{session['id']}")).status_code == 204
    assert await api.store.access.session(session["sid"]) is None


async def test_a_key_is_created_with_its_limits_and_they_are_shown(api: Any) -> None:
    limits = {"events": ["fax_new"], "rate": {"count": 50, "per_s": 1}}
    fax = (await api.operate("POST", "/keys", json={"role": "producer", "expires_in_s": 60, **limits})).json()
    key = await api.store.access.key(fax.pop("key"))
    assert key.limits == KeyLimits(events=frozenset({"fax_new"}), rate=Rate(50, 1))
    support = {"role": "admin", "expires_in_s": None, "read_only": True, "areas": ["devices"]}
    made = (await api.operate("POST", "/keys", json=support)).json()
    assert (await api.store.access.key(made.pop("key"))).limits == KeyLimits(
        read_only=True, areas=frozenset({Area.DEVICES})
    )
    listed = {one["id"]: one for one in (await api.operate("GET", "/keys")).json()}
    assert (listed[fax["id"]], listed[made["id"]]) == (fax, made)
    assert (fax["events"], fax["rate"], made["areas"]) == (["fax_new"], {"count": 50, "per_s": 1}, ["devices"])


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"role": "root"}, "$.role"),
        ({"role": "admin", "events": ["fax_new"]}, "$.events"),
        ({"role": "admin", "rate": {"count": 1, "per_s": 1}}, "$.rate"),
        ({"role": "producer", "read_only": True}, "$.read_only"),
        ({"role": "monitoring", "areas": ["devices"]}, "$.areas"),
        ({"role": "producer", "events": ["fax_old"]}, "$.events[0]"),
        ({"role": "producer", "rate": {"count": 0, "per_s": 1}}, "$.rate.count"),
        ({"role": "producer", "expires_in_s": 0}, "$.expires_in_s"),
    ],
)
async def test_a_key_that_breaks_a_rule_is_not_created(api: Any, fields: Any, at: str) -> None:
    before = await api.store.access.keys()
    answer = await api.operate("POST", "/keys", json={"expires_in_s": None, **fields})
    assert (answer.status_code, answer.json()["errors"][0]["at"]) == (400, at)
    assert await api.store.access.keys() == before


async def test_the_text_of_a_message_is_not_for_a_key_that_is_for_an_area(api: Any) -> None:
    id = await ingested(api)
    api.admin, _ = await api.store.access.create_key(
        Role.ADMIN, "", None, KeyLimits(areas=frozenset({Area.DELIVERIES}))
    )
    assert (await api.operate("GET", f"/events/{id}")).status_code == 200
    refused = await api.operate("GET", f"/events/{id}", params={"include": "content"})
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:tocsin:problem:area-not-allowed")


async def test_a_secret_in_a_url_revokes_nothing(api: Any) -> None:
    secret, session = await api.store.access.create_session(api.owner, None)
    assert (await api.operate("DELETE", f"/sessions/{secret}")).status_code == 404
    assert await api.store.access.session(secret) == session


async def test_a_search_that_is_switched_off_says_so(open_api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api() as api:
        monkeypatch.setattr(api.store.search, "_recent", None)
        answer = await api.operate("POST", "/deliveries/search", json={})
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:tocsin:problem:store-unavailable")
        assert "store.search" in answer.json()["detail"]
