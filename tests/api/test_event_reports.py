"""`GET /api/events/{id}`: what became of an event."""

from __future__ import annotations

from tocsin.api.event_records import report as report_of
from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.records import Attempt, EventRecord, Parked, Result, Settlement, State

LANE = "apns:production:39JSDKGJ38.de.cospace.app"
APNS = "apns:" + "ab" * 32
FCM = "fcm:APA91b:with:colons"


async def report(api, event_id):
    answer = await api.client.get(f"/api/events/{event_id}", headers={"authorization": f"Bearer {api.producer}"})
    return answer.status_code, answer.json()


async def test_an_event_is_accepted_before_any_device_is_tried(open_api, golden):
    async with open_api(clock=lambda: 1_700_000_000.25) as api:
        (event_id,) = (await api.events(golden("fax_new"))).json()["events"]
        assert await report(api, event_id.upper()) == (
            200,
            {
                "event_id": event_id,
                "owner": api.owner,
                "message": "fax_new",
                "state": "accepted",
                "accepted_at": "2023-11-14T22:13:20.250Z",
                "expires_at": "2023-12-12T22:13:20.250Z",
                "devices": [],
            },
        )


async def test_every_attempt_is_reported_device_by_device(api, golden):
    (event_id,) = (await api.events(golden("chat_message"))).json()["events"]
    (item,) = await api.store.queue.claim(1)
    now, later = 1_700_000_000_000, 1_700_000_060_500
    attempts = [
        Attempt(now, APNS, LANE, Result.RETRY, 503, "ServiceUnavailable", "", later),
        Attempt(now, FCM, "fcm:main", Result.DELIVERED, 200, "", "projects/main/messages/1"),
    ]
    await api.store.queue.settle([Settlement(item, attempts, [Parked(LANE, later, 1, (APNS,))])])
    status, reported = await report(api, event_id)
    assert (status, reported["state"]) == (200, "delivering")
    assert reported["devices"] == [
        {
            "system": "apns",
            "device_token": "ab" * 32,
            "outcome": "waiting",
            "attempts": [
                {
                    "at": "2023-11-14T22:13:20.000Z",
                    "result": "retry",
                    "lane": LANE,
                    "status": 503,
                    "reason": "ServiceUnavailable",
                    "retry_at": "2023-11-14T22:14:20.500Z",
                }
            ],
            "waiting": {"lane": LANE, "due_at": "2023-11-14T22:14:20.500Z", "tries": 1},
        },
        {
            "system": "fcm",
            "device_token": "APA91b:with:colons",
            "outcome": "delivered",
            "attempts": [
                {
                    "at": "2023-11-14T22:13:20.000Z",
                    "result": "delivered",
                    "lane": "fcm:main",
                    "status": 200,
                    "provider_id": "projects/main/messages/1",
                }
            ],
        },
    ]
    assert "lunch" not in str(reported)


def test_a_delivery_that_is_tried_again_after_its_end_is_waiting():
    event = Event(EventId("id"), UserId("owner"), "fax_new", 0, 1, b"{}")
    refused = Attempt(5, FCM, "fcm:main", Result.REFUSED, 400, "INVALID_ARGUMENT")
    record = EventRecord(event, State.DELIVERING, [refused], [Parked("fcm:main", 9, 0, (FCM,))])
    (device,) = report_of(record).devices
    assert device.outcome == "waiting"
    (device,) = report_of(EventRecord(event, State.DEAD, [refused], [])).devices
    assert device.outcome == "refused"


async def test_an_unknown_event_is_404(api):
    for event_id in ("01a20b73-e9eb-799a-af77-58b39d909c1f", "nonsense", "%00", "x" * 5000):
        status, problem = await report(api, event_id)
        assert (status, problem["type"]) == (404, "urn:tocsin:problem:not-found")
