"""Whatever a caller sends, and wherever: the answer repeats no long part of it, and neither does the log."""

from __future__ import annotations

import json

import pytest
from tests.api.conftest import bearer

LONG = "secret" * 500
VALUES = [LONG, [LONG], {LONG: LONG}, LONG + "\r\nx: y", f"<{LONG}>"]


def bodies(golden):
    """Bodies with something long in every place, by route."""
    event = golden("fax_new")
    push = {"system": "apns", "action": "add", "application_id": "39JSDKGJ38.de.cospace.app", "device_token": "a6" * 32}
    replay = {"ids": ["0199f2ab-6d3c-7a51-9c1e-5d0f8a3b2c4d"], "lifetime_s": 60}
    of_route = {
        "/api/push": push,
        "/api/events": event,
        "/api/admin/devices/restore": {"device_token": "a6" * 32},
        "/api/admin/dead-letters/replay": replay,
        "/api/admin/dead-letters/discard": {"ids": replay["ids"]},
    }
    for path, body in of_route.items():
        yield path, {**body, LONG: 1}
        yield path, {**body, "secret_" + "x" * 3000: {LONG: 1}}
        for name in body:
            for value in VALUES:
                yield path, {**body, name: value}
    for path in of_route:
        yield path, [LONG]
        yield path, LONG


async def test_no_answer_repeats_a_long_part_of_a_body(api, golden, capsys):
    for path, body in bodies(golden):
        secret = {"/api/push": api.sid, "/api/events": api.producer}.get(path, api.admin)
        answer = await api.client.post(path, content=json.dumps(body).encode(), headers=bearer(secret))
        assert answer.status_code < 500, (path, body)
        assert "secretsecret" not in answer.text, (path, answer.text[:200])
        assert len(answer.text) < 2000
    assert "secretsecret" not in capsys.readouterr().out


PATHS = [
    "/api/admin/devices?owner={}",
    "/api/admin/devices?{}=1",
    "/api/admin/devices/history?owner={}",
    "/api/admin/devices?owner=1&token=1&system={}",
    "/api/events/{}",
    "/api/admin/applications/{}",
    "/api/admin/dead-letters?limit={}",
    "/api/admin/{}",
    "/{}",
    "/api/push?{}=1",
    "/schema/{}",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "POST"])
async def test_no_answer_repeats_a_long_part_of_an_address(api, path, method, capsys):
    for secret in (api.admin, api.sid):
        answer = await api.client.request(method, path.format(LONG), headers=bearer(secret))
        assert answer.status_code < 500
        assert "secretsecret" not in answer.text
    assert "secretsecret" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["content-type", "authorization", "cookie", "origin", "content-encoding", "accept"])
async def test_no_answer_repeats_a_long_part_of_a_header(api, name):
    for path in ("/api/push", "/api/events", "/api/admin/devices/restore"):
        headers = bearer(api.admin) | {name: LONG}
        answer = await api.client.post(path, content=b"{}", headers=headers)
        assert answer.status_code < 500
        assert "secretsecret" not in answer.text + str(answer.headers)
