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


ADD = {"system": "fcm", "action": "add", "device_token": "APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"}
FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://tocsin.test.evil.example"},
    {"origin": "http://tocsin.test:81"},
    {"origin": "https://tocsin.test@evil.example"},
    {"origin": "file://tocsin.test"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "unheard-of"},
    {"sec-fetch-site": "same-origin", "origin": "https://evil.example"},
    {"sec-fetch-site": "none", "origin": "null"},
    {"sec-fetch-site": "same-site", "origin": "http://tocsin.test"},
]
OWN = [
    {},
    {"origin": "http://tocsin.test"},
    {"origin": "https://tocsin.test"},
    {"origin": "HTTP://Tocsin.Test"},
    {"sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "same-origin", "origin": "http://tocsin.test"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_page_of_another_site_cannot_use_a_users_cookie(api, headers):
    cookie = {"cookie": f"a=b; sid={api.sid}"}
    # Whatever the content type: a form of another site needs no permission for these.
    for content_type in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        answer = await api.client.post("/api/push", json=ADD, headers={**cookie, **headers, **content_type})
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:tocsin:problem:foreign-page")
    assert (await api.client.get("/api/push", headers={**cookie, **headers})).status_code == 403
    assert (await api.tokens())["fcm"]["device_tokens"] == []


@pytest.mark.parametrize("headers", OWN, ids=str)
async def test_the_apis_own_pages_and_apps_can_use_the_cookie(api, headers):
    headers = {**headers, "cookie": f"sid={api.sid}"}
    assert (await api.client.post("/api/push", json=ADD, headers=headers)).status_code == 200
    assert (await api.client.get("/api/push", headers=headers)).status_code == 200


async def test_the_port_that_a_scheme_has_anyway_is_no_other_address(api):
    for host, origin, status in (
        ("tocsin.test:443", "https://tocsin.test", 200),
        ("tocsin.test:80", "http://tocsin.test", 200),
        ("tocsin.test:443", "http://tocsin.test", 403),
        ("tocsin.test:8443", "https://tocsin.test:8443", 200),
    ):
        headers = {"cookie": f"sid={api.sid}", "host": host, "origin": origin}
        assert (await api.client.get("/api/push", headers=headers)).status_code == status, (host, origin)


async def test_pages_of_a_listed_origin_can_use_the_cookie_whatever_else_the_browser_says(open_api):
    async with open_api(origins=("https://app.example",)) as api:
        for origin, status in (("https://app.example", 200), ("http://app.example", 403), ("null", 403)):
            headers = {"cookie": f"sid={api.sid}", "origin": origin, "sec-fetch-site": "cross-site"}
            assert (await api.client.get("/api/push", headers=headers)).status_code == status, origin


async def test_of_two_origins_none_may_be_foreign(open_api):
    async with open_api(origins=("https://app.example",)) as api:
        headers = [("cookie", f"sid={api.sid}"), ("origin", "https://app.example"), ("origin", "https://evil.example")]
        assert (await api.client.get("/api/push", headers=headers)).status_code == 403


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_session_that_no_browser_attaches_is_not_asked_where_it_comes_from(api, headers):
    answer = await api.client.get("/api/push", headers={"authorization": f"Bearer {api.sid}", **headers})
    assert answer.status_code == 200


async def test_a_session_in_the_header_does_not_excuse_a_foreign_page_that_brings_a_cookie(api):
    headers = {"authorization": f"Bearer {api.sid}", "cookie": f"sid={api.sid}", "origin": "https://evil.example"}
    assert (await api.client.get("/api/push", headers=headers)).status_code == 403


async def test_in_the_platforms_convention_a_foreign_page_is_not_signed_in(open_api):
    async with open_api(convention="platform") as api:
        headers = {"cookie": f"sid={api.sid}", "origin": "https://evil.example"}
        for path in ("/api/push", f"/api/push?sid={api.sid}"):
            answer = await api.client.post(path, json=ADD, headers=headers)
            assert (answer.status_code, answer.json()["status"]) == (200, "no-auth")


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
