"""The operator's routes."""

from __future__ import annotations

import json

import pytest

from tocsin.api.control import CredentialRules
from tocsin.domain.devices import Device
from tocsin.domain.lanes import LaneState, LaneStatus
from tocsin.store.ports import DeadToken

APP = "/applications/39JSDKGJ38.de.cospace.other"
TOKEN = "ab" * 32


async def test_applications_are_listed_without_their_credentials(api):
    answer = await api.operate("GET", "/applications")
    assert answer.json() == [
        {
            "id": "39JSDKGJ38.de.cospace.app",
            "team_id": "39JSDKGJ38",
            "bundle_id": "de.cospace.app",
            "credential": "key",
            "changed_at": "1970-01-01T00:00:00.000Z",
            "key_id": "ABC123DEFG",
        }
    ]
    assert "secret key" not in answer.text


async def test_an_application_is_added_replaced_and_removed(api):
    answer = await api.operate("PUT", APP, json={"key_pem": "first secret", "key_id": "ABC123DEFG"})
    assert (answer.status_code, answer.json()["credential"]) == (200, "key")
    answer = await api.operate("PUT", APP, json={"certificate_pem": "second secret"})
    assert (answer.status_code, answer.json()["credential"]) == (200, "certificate")
    assert "secret" not in answer.text
    stored = {application.id: application for application in await api.store.applications.applications()}
    assert stored["39JSDKGJ38.de.cospace.other"].certificate_pem == "second secret"
    assert stored["39JSDKGJ38.de.cospace.other"].key_pem is None
    assert (await api.operate("DELETE", APP)).status_code == 204
    assert (await api.operate("DELETE", APP)).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "at"),
    [
        (APP, {}, "$"),
        (APP, {"key_pem": "secret"}, "$"),
        (APP, {"key_pem": "secret", "key_id": "ABC123DEFG", "certificate_pem": "secret"}, "$"),
        (APP, {"key_pem": "secret", "key_id": "short"}, "$.key_id"),
        (APP, {"key_pem": 5, "key_id": "ABC123DEFG"}, "$.key_pem"),
        (APP, {"key": "secret"}, "$.key"),
        (APP, [], "$"),
        (APP, b"{", "$"),
        ("/applications/nonsense", {"certificate_pem": "secret"}, "{application_id}"),
        ("/fcm-projects/main", {"service_account": "secret"}, "$.service_account"),
        ("/fcm-projects/main", {}, "$.service_account"),
        ("/fcm-projects/ma in", {"service_account": {}}, "{name}"),
    ],
)
async def test_a_bad_credential_is_refused_by_field_and_never_quoted(api, path, body, at):
    before = (await api.operate("GET", "/applications")).json(), (await api.operate("GET", "/fcm-projects")).json()
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = await api.operate("PUT", path, content=content)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["errors"][0]["at"] == at
    assert "secret" not in answer.text
    after = (await api.operate("GET", "/applications")).json(), (await api.operate("GET", "/fcm-projects")).json()
    assert after == before


async def test_credentials_are_read_by_the_rules_that_the_service_brings(open_api):
    def refuse(content):
        raise ValueError("not a P-256 private key")

    rules = CredentialRules(key=refuse, certificate=lambda content: content.decode().upper(), service_account=refuse)
    async with open_api(credentials=rules) as api:
        answer = await api.operate("PUT", APP, json={"key_pem": "x", "key_id": "ABC123DEFG"})
        assert answer.json()["errors"] == [{"at": "$.key_pem", "reason": "not a P-256 private key"}]
        assert (await api.operate("PUT", APP, json={"certificate_pem": "pem"})).status_code == 200
        assert (await api.store.applications.applications())[-1].certificate_pem == "PEM"
        assert (await api.operate("PUT", "/fcm-projects/main", json={"service_account": {}})).status_code == 400


async def test_fcm_projects_are_shown_without_their_service_accounts(api):
    account = {"project_id": "demo-1", "client_email": "push@demo-1", "private_key": "secret"}
    assert (await api.operate("PUT", "/fcm-projects/main", json={"service_account": account})).status_code == 200
    answer = await api.operate("GET", "/fcm-projects")
    (project,) = answer.json()
    assert (project["name"], project["project_id"], project["default"]) == ("main", "demo-1", True)
    assert "secret" not in answer.text
    assert (await api.operate("DELETE", "/fcm-projects/main")).status_code == 204
    assert (await api.operate("DELETE", "/fcm-projects/main")).status_code == 404


async def test_a_device_is_found_by_owner_and_by_token_in_either_case(api):
    await api.push(
        {"system": "apns", "action": "add", "device_token": TOKEN, "application_id": "39JSDKGJ38.de.cospace.app"}
    )
    for query in (f"owner={api.owner}", f"token={TOKEN}", f"token={TOKEN.upper()}"):
        (device,) = (await api.operate("GET", f"/devices?{query}")).json()
        assert (device["device_token"], device["sandbox"]) == (TOKEN, False)
    assert (await api.operate("GET", "/devices?token=unknown")).json() == []


async def test_a_device_is_removed_explained_and_restored(api):
    token = "odd/token?with=signs&more:1"
    await api.push({"system": "fcm", "action": "add", "device_token": token})
    params = {"owner": api.owner, "system": "fcm", "token": token}
    assert (await api.operate("DELETE", "/devices", params=params)).status_code == 204
    assert api.delivery.calls[-1] == ("cancel", api.owner, "fcm", token)
    assert (await api.operate("DELETE", "/devices", params=params)).status_code == 404
    (removal,) = (await api.operate("GET", "/devices/history", params={"token": token})).json()
    assert removal["device"]["device_token"] == token
    assert removal["reason"]
    assert (await api.operate("POST", "/devices/restore", json={"device_token": token})).json() == {"restored": 1}
    assert api.delivery.calls[-1] == ("registered", api.owner, "fcm", token)
    assert (await api.tokens())["fcm"]["device_tokens"] == [token]


@pytest.mark.parametrize(
    ("method", "path", "at"),
    [
        ("GET", "/devices", "?owner"),
        ("GET", "/devices/history", "?owner"),
        ("GET", "/devices?owner=somebody", "?owner"),
        ("GET", "/devices?owner=9aed5e94-3803-11e3-8475-0024e8f90cc0&token=t", "?owner"),
        ("DELETE", "/devices?owner=9aed5e94-3803-11e3-8475-0024e8f90cc0&system=wns&token=t", "?system"),
    ],
)
async def test_bad_parameters_are_refused_by_name(api, method, path, at):
    answer = await api.operate(method, path)
    assert (answer.status_code, answer.json()["errors"][0]["at"]) == (400, at)


async def test_a_missing_parameter_is_named_and_the_url_not_quoted(api):
    answer = await api.operate("DELETE", "/devices?token=secret&system=fcm")
    assert answer.json()["errors"] == [{"at": "?owner", "reason": "missing"}]
    assert "secret" not in answer.text


async def test_lanes_and_backlog_are_shown(api, golden):
    api.delivery.status = [LaneStatus("fcm:main", LaneState.PAUSED, "PERMISSION_DENIED", 0, 7)]
    (lane,) = (await api.operate("GET", "/lanes")).json()
    assert (lane["name"], lane["state"], lane["waiting"]) == ("fcm:main", "paused", 7)
    await api.events(golden("fax_new"))
    backlog = (await api.operate("GET", "/backlog")).json()
    assert backlog["events"] == 1
    assert backlog["size_bytes"] > 100


async def test_quarantined_tokens_are_listed_released_and_purged(api):
    registry, app = api.store.registry, "39JSDKGJ38.de.cospace.app"
    for number in (1, 2):
        token = f"{number:064x}"
        await registry.add(Device(api.owner, "apns", token, app, False, None, number), 100)
        await registry.remove_dead([DeadToken("apns", token, 10, "Unregistered", app)], quarantine=True)
    (held,) = (await api.operate("GET", "/quarantine")).json()
    assert (held["application"], held["tokens"]) == (app, 2)
    assert (await api.operate("POST", f"/quarantine/{app}/release")).json() == {"released": 2}
    assert (await api.operate("GET", "/quarantine")).json() == []
    await registry.remove_dead([DeadToken("apns", f"{1:064x}", 10, "Unregistered", app)], quarantine=True)
    assert (await api.operate("POST", f"/quarantine/{app}/purge")).json() == {"purged": 1}
    assert (await api.operate("GET", "/quarantine")).json() == []


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/x-msgpack"])
async def test_only_json_is_read(api, content_type):
    headers = {"authorization": f"Bearer {api.admin}", "content-type": content_type}
    answer = await api.client.put(f"/api/admin{APP}", content=b"{}", headers=headers)
    assert answer.status_code == 415


async def test_a_huge_body_is_413(api):
    answer = await api.operate("PUT", APP, json={"certificate_pem": "x" * 70_000})
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
