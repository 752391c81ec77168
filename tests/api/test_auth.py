"""Who may call what."""

from __future__ import annotations

import time

import pytest

from tocsin.store.records import Role


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_session_travels_as_bearer(api, scheme):
    assert (await api.client.get("/api/push", headers={"authorization": f"{scheme} {api.sid}"})).status_code == 200


@pytest.mark.parametrize("cookie", ["sid={}", 'a=b; sid="{}"; c', ";;=;sid={}", "sidx=1; sid={}; sid=other"])
async def test_a_session_travels_as_cookie(api, cookie):
    assert (await api.client.get("/api/push", headers={"cookie": cookie.format(api.sid)})).status_code == 200


async def test_a_cookie_does_not_count_when_another_sites_page_sent_the_request(api):
    headers = {"cookie": f"sid={api.sid}", "sec-fetch-site": "cross-site"}
    body = {"system": "fcm", "action": "add", "device_token": "evil"}
    assert (await api.client.post("/api/push", json=body, headers=headers)).status_code == 401
    assert (await api.client.get("/api/push", headers={**headers, "sec-fetch-site": "same-origin"})).status_code == 200


async def test_the_url_carries_a_session_in_the_platforms_convention_alone(open_api):
    for convention, status in (("document", 401), ("platform", 200)):
        async with open_api(convention=convention) as api:
            answer = await api.client.get(f"/api/push?a=%ff&sid={api.sid}")
            assert answer.status_code == status
            if convention == "platform":
                assert answer.json()["status"] == "ok"
                assert (await api.client.get("/api/push?sid=wrong")).json()["status"] == "no-session"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic c2lkOg=="},
        {"authorization": b"Bearer \xff\xfe\x80"},
        {"authorization": "Bearer " + "x" * 10_000},
        {"cookie": "sid="},
        {"cookie": b"sid=\xff; =;;"},
        {"cookie": "nosid=1"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/push"),
        ("POST", "/api/push"),
        ("POST", "/api/events"),
        ("GET", "/api/events/01a20b73-e9eb-799a-af77-58b39d909c1f"),
        ("GET", "/api/admin/backlog"),
        ("PUT", "/api/admin/applications/39JSDKGJ38.de.cospace.app"),
    ],
)
async def test_without_a_valid_session_or_key_it_is_401(api, method, path, headers):
    answer = await api.client.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


async def test_each_key_opens_its_own_routes(api):
    expected = {
        # method, path: status by (session, producer, admin)
        ("GET", "/api/push"): (200, 401, 401),
        ("POST", "/api/events"): (401, 400, 403),
        ("GET", "/api/events/01a20b73-e9eb-799a-af77-58b39d909c1f"): (401, 404, 404),
        ("GET", "/api/admin/backlog"): (401, 403, 200),
    }
    for (method, path), statuses in expected.items():
        for secret, status in zip((api.sid, api.producer, api.admin), statuses, strict=True):
            answer = await api.client.request(method, path, headers=bearer(secret))
            assert answer.status_code == status, (method, path)


async def test_revoked_and_expired_secrets_are_401_at_once(api):
    assert (await api.client.get("/api/push", headers=bearer(api.sid))).status_code == 200
    await api.store.access.revoke_session(api.sid)
    assert (await api.client.get("/api/push", headers=bearer(api.sid))).status_code == 401
    expired, _ = await api.store.access.create_key(Role.ADMIN, "old", int(time.time() * 1000) - 1)
    assert (await api.client.get("/api/admin/backlog", headers=bearer(expired))).status_code == 401


async def test_a_body_is_not_read_before_the_caller_is_known(api):
    messages = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        messages.append(message)

    for path in ("/api/push", "/api/events", "/api/admin/devices/restore"):
        headers = [(b"authorization", b"Bearer wrong"), (b"content-length", b"1000")]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        await api.app(scope, receive, send)
    assert [message["status"] for message in messages if "status" in message] == [401, 401, 401]
