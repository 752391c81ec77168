"""The operator's routes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tocsin.domain.devices import Address, Complaint, DeviceToken, Registration
from tocsin.domain.routes import LaneState, LaneStatus
from tocsin.providers.apns.address import ApnsAddress
from tocsin.providers.apns.credentials import read_stored
from tocsin.store.records import Attempt, DeadToken, Learned, Result, Settlement, TokenDeleted, TokenRestored

APP = "/applications/39JSDKGJ38.de.cospace.other"
TOKEN = "ab" * 32


def key_text(pem):
    """What must never be shown of a key."""
    return "".join(pem.splitlines()[1:-1])


@pytest.fixture(scope="module")
def certificate_pem():
    """A certificate with its private key, one of Apple's as far as can be told without Apple."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "de.cospace.other")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (certificate.public_bytes(Encoding.PEM) + private).decode()


@pytest.fixture(scope="module")
def service_account():
    key = rsa.generate_private_key(65537, 2048)
    return {
        "type": "service_account",
        "project_id": "demo-1",
        "private_key_id": "secret id",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "client_email": "push@demo-1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }


async def test_applications_are_listed_without_their_credentials(api, key_pem):
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
    assert key_text(key_pem)[:40] not in answer.text


async def test_an_application_is_added_replaced_and_removed(api, key_pem, certificate_pem):
    answer = await api.operate("PUT", APP, json={"key_pem": key_pem, "key_id": "ABC123DEFG"})
    assert (answer.status_code, answer.json()["credential"]) == (200, "key")
    answer = await api.operate("PUT", APP, json={"certificate_pem": certificate_pem})
    assert (answer.status_code, answer.json()["credential"]) == (200, "certificate")
    assert "-----" not in answer.text
    stored = {one.account: read_stored(one) for one in await api.store.credentials.of("apns")}
    assert stored["39JSDKGJ38.de.cospace.other"].certificate_pem == certificate_pem
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
        (APP, {"key_pem": "secret", "key_id": "ABC123DEFG"}, "$.key_pem"),
        (APP, {"certificate_pem": "secret"}, "$.certificate_pem"),
        (APP, {"key_pem": 5, "key_id": "ABC123DEFG"}, "$.key_pem"),
        (APP, {"key": "secret"}, "$.key"),
        (APP, [], "$"),
        (APP, b"{", "$"),
        ("/applications/nonsense", {"certificate_pem": "secret"}, "{application_id}"),
        ("/fcm-projects/main", {"service_account": "secret"}, "$.service_account"),
        ("/fcm-projects/main", {"service_account": {}}, "$.service_account"),
        ("/fcm-projects/main", {"service_account": {"private_key": "secret"}}, "$.service_account"),
        ("/fcm-projects/main", {}, "$.service_account"),
        ("/fcm-projects/ma in", {"service_account": {}}, "{name}"),
        ("/fcm-projects/:main", {"service_account": {}}, "{name}"),
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


async def test_credentials_are_read_by_the_rules_of_their_provider(api, key_pem, certificate_pem):
    answer = await api.operate("PUT", APP, json={"key_pem": "x", "key_id": "ABC123DEFG"})
    reason = "not a P-256 private key (PEM, .p8 as downloaded from Apple)"
    assert answer.json()["errors"] == [{"at": "$.key_pem", "reason": reason}]
    for kind, pem in (("key", key_pem), ("certificate", certificate_pem)):
        surrounded = f"Bag Attributes\n{pem}\n\n"
        body = {f"{kind}_pem": surrounded} | ({"key_id": "ABC123DEFG"} if kind == "key" else {})
        assert (await api.operate("PUT", APP, json=body)).status_code == 200
        stored = read_stored((await api.store.credentials.of("apns"))[-1])
        assert (stored.kind, stored.key_pem or stored.certificate_pem) == (kind, pem)
    assert (await api.operate("PUT", "/fcm-projects/main", json={"service_account": {}})).status_code == 400


async def test_fcm_projects_are_shown_without_their_service_accounts(api, service_account):
    body = {"service_account": service_account}
    assert (await api.operate("PUT", "/fcm-projects/main", json=body)).status_code == 200
    answer = await api.operate("GET", "/fcm-projects")
    (project,) = answer.json()
    assert (project["name"], project["project_id"], project["default"]) == ("main", "demo-1", True)
    assert "secret" not in answer.text
    assert key_text(service_account["private_key"])[:40] not in answer.text
    assert (await api.operate("DELETE", "/fcm-projects/main")).status_code == 204
    assert (await api.operate("DELETE", "/fcm-projects/main")).status_code == 404


async def test_a_service_account_that_names_another_token_endpoint_is_refused(api, service_account):
    foreign = service_account | {"token_uri": "https://evil.example/token"}
    answer = await api.operate("PUT", "/fcm-projects/phones", json={"service_account": foreign})
    assert answer.status_code == 400
    assert "token_uri" in answer.json()["detail"]
    assert (await api.operate("GET", "/fcm-projects")).json() == []


async def test_a_project_of_a_domain_is_called_by_its_id(api, service_account):
    id = "example.com:calls"
    body = {"service_account": service_account | {"project_id": id}}
    for path in (f"/fcm-projects/{id}", "/fcm-projects/example.com%3Acalls"):
        answer = await api.operate("PUT", path, json=body)
        assert (answer.status_code, answer.json()["name"], answer.json()["project_id"]) == (200, id, id)
    assert [one["name"] for one in (await api.operate("GET", "/fcm-projects")).json()] == [id]
    assert (await api.operate("DELETE", f"/fcm-projects/{id}")).status_code == 204


async def test_a_device_is_found_by_owner_and_by_token_in_either_case(api):
    await api.push(
        {"system": "apns", "action": "add", "device_token": TOKEN, "application_id": "39JSDKGJ38.de.cospace.app"}
    )
    for query in (f"owner={api.owner}", f"token={TOKEN}", f"token={TOKEN.upper()}"):
        (device,) = (await api.operate("GET", f"/devices?{query}")).json()
        assert (device["device_token"], device["sandbox"]) == (TOKEN, False)
    assert (await api.operate("GET", "/devices?token=unknown")).json() == []


async def test_a_token_that_two_providers_could_have_given_is_found_as_each_of_them_stores_it(api):
    token = TOKEN.upper()
    await api.push({"system": "fcm", "action": "add", "device_token": token})
    (device,) = (await api.operate("GET", f"/devices?token={token}")).json()
    assert (device["system"], device["device_token"]) == ("fcm", token)
    await api.push(
        {"system": "apns", "action": "add", "device_token": token, "application_id": "39JSDKGJ38.de.cospace.app"}
    )
    found = (await api.operate("GET", f"/devices?token={token}")).json()
    assert [(device["system"], device["device_token"]) for device in found] == [("fcm", token), ("apns", TOKEN)]
    params = {"owner": api.owner, "system": "fcm", "token": token}
    assert (await api.operate("DELETE", "/devices", params=params)).status_code == 204
    (removal,) = (await api.operate("GET", f"/devices/history?token={token}")).json()
    assert removal["device"]["device_token"] == token
    assert list((await api.tokens())["apns"]["device_tokens"]) == [TOKEN]
    assert (await api.operate("POST", "/devices/restore", json={"device_token": token})).json() == {"restored": 1}


async def test_a_token_is_not_touched_by_another_providers_spelling_of_it(api):
    """APNs stores a token in lower case. FCM tokens that differ in case are different tokens."""
    typed, lower = TOKEN.upper(), TOKEN
    for token in (typed, lower):
        await api.push({"system": "fcm", "action": "add", "device_token": token})
    (found,) = (await api.operate("GET", f"/devices?token={typed}")).json()
    assert found["device_token"] == typed
    for token in (typed, lower):
        params = {"owner": api.owner, "system": "fcm", "token": token}
        assert (await api.operate("DELETE", "/devices", params=params)).status_code == 204
    (removal,) = (await api.operate("GET", f"/devices/history?token={typed}")).json()
    assert removal["device"]["device_token"] == typed
    assert (await api.operate("POST", "/devices/restore", json={"device_token": typed})).json() == {"restored": 1}
    assert (await api.tokens())["fcm"]["device_tokens"] == [typed]


async def test_a_device_of_a_provider_that_is_not_there_any_more_is_found_and_restored(api):
    registry, token = api.store.registry, DeviceToken("Wns:1")
    await registry.add(Registration(api.owner, "wns", token, Address("")), 100)
    (found,) = (await api.operate("GET", f"/devices?token={token}")).json()
    assert (found["system"], found["device_token"]) == ("wns", token)
    await registry.delete(api.owner, "wns", token, by_operator=True)
    (removal,) = (await api.operate("GET", f"/devices/history?token={token}")).json()
    assert removal["device"] == found
    assert (await api.operate("POST", "/devices/restore", json={"device_token": token})).json() == {"restored": 1}


async def test_removing_a_registration_leaves_the_one_that_differs_in_case(api):
    for token in (TOKEN, TOKEN.upper()):
        await api.push({"system": "fcm", "action": "add", "device_token": token})
    params = {"owner": api.owner, "system": "fcm", "token": TOKEN.upper()}
    assert (await api.operate("DELETE", "/devices", params=params)).status_code == 204
    assert (await api.tokens())["fcm"]["device_tokens"] == [TOKEN]
    params = {"owner": api.owner, "system": "apns", "token": "no token of Apple's"}
    assert (await api.operate("DELETE", "/devices", params=params)).status_code == 404


async def test_what_a_provider_says_of_a_device_alone_is_shown_with_it(api):
    app, since_ms = "39JSDKGJ38.de.cospace.app", 1_800_000_000_000
    registration = Registration(api.owner, "apns", DeviceToken("a" * 64), ApnsAddress(app).text())
    await api.store.registry.add(registration, 100)
    (device,) = await api.store.registry.find(registration.token)
    said = Complaint("400 DeviceTokenNotForTopic", since_ms, since_ms, app, "de.cospace.app")
    await api.store.registry.learn([Learned(device, complaint=said)])
    (shown,) = (await api.operate("GET", "/devices", params={"owner": api.owner})).json()
    assert shown["complaint"] == "400 DeviceTokenNotForTopic"
    assert datetime.fromisoformat(shown["complaint_since"]) == datetime.fromtimestamp(since_ms / 1000, UTC)
    await api.store.registry.learn([Learned(device, success_ms=1)])
    (shown,) = (await api.operate("GET", "/devices", params={"owner": api.owner})).json()
    assert "complaint" not in shown


async def test_a_device_is_removed_explained_and_restored(api):
    token = "odd/token?with=signs&more:1"
    await api.push({"system": "fcm", "action": "add", "device_token": token})
    params = {"owner": api.owner, "system": "fcm", "token": token}
    assert (await api.operate("DELETE", "/devices", params=params)).status_code == 204
    assert api.signals_at_answer[-1] == TokenDeleted(api.owner, "fcm", token)
    assert (await api.operate("DELETE", "/devices", params=params)).status_code == 404
    (removal,) = (await api.operate("GET", "/devices/history", params={"token": token})).json()
    assert removal["device"]["device_token"] == token
    assert removal["reason"]
    assert (await api.operate("POST", "/devices/restore", json={"device_token": token})).json() == {"restored": 1}
    assert api.signals_at_answer[-1] == TokenRestored(api.owner, "fcm", token)
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

    async def declare_dead():
        (device,) = await registry.find(DeviceToken(token))
        await registry.remove_dead([DeadToken(device, app, "Unregistered")], quarantine=True)

    for number in (1, 2):
        token = f"{number:064x}"
        registration = Registration(api.owner, "apns", DeviceToken(token), ApnsAddress(app).text())
        await registry.add(registration, 100)
        await declare_dead()
    (held,) = (await api.operate("GET", "/quarantine")).json()
    assert (held["application"], held["tokens"]) == (app, 2)
    assert (await api.operate("POST", f"/quarantine/{app}/release")).json() == {"released": 2}
    assert (await api.operate("GET", "/quarantine")).json() == []
    await declare_dead()
    assert (await api.operate("POST", f"/quarantine/{app}/purge")).json() == {"purged": 1}
    assert (await api.operate("GET", "/quarantine")).json() == []


async def refused(api, golden, count):
    """Ids of that many dead letters, in the order in which they were accepted."""
    ids = [(await api.events(golden("fax_new"))).json()["events"][0] for _ in range(count)]
    items = await api.store.queue.claim(count)
    attempt = Attempt(1_700_000_000_000, "fcm:t", "fcm:main", Result.REFUSED, 400, "INVALID_ARGUMENT")
    await api.store.queue.settle([Settlement(item, [attempt], []) for item in items])
    return ids


async def test_dead_letters_are_paged_newest_first_by_a_cursor_of_the_stores(api, golden):
    ids = await refused(api, golden, 5)
    pages, params = [], {"limit": 2}
    while True:
        page = (await api.operate("GET", "/dead-letters", params=params)).json()
        pages.append([letter["id"] for letter in page["dead_letters"]])
        if page["next"] is None:
            break
        assert isinstance(page["next"], str)
        params["start"] = page["next"]
    assert pages == [ids[:2:-1], ids[2:0:-1], ids[:1]]


@pytest.mark.parametrize("start", ["", "nonsense", "-1", "1.5", "\u0662", "9" * 30, "a\x00b"])
async def test_a_page_that_the_store_does_not_know_is_400(api, golden, start):
    await refused(api, golden, 1)
    answer = await api.operate("GET", "/dead-letters", params={"start": start})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:tocsin:problem:bad-input")
    (violation,) = answer.json()["errors"]
    assert (violation["at"], bool(violation["reason"])) == ("?start", True)


async def test_a_dead_letter_is_explained_replayed_and_discarded(api, golden):
    first, second = await refused(api, golden, 2)
    (letter, _) = (await api.operate("GET", "/dead-letters")).json()["dead_letters"]
    assert letter["id"] == second
    assert letter["devices"] == [
        {
            "device": "fcm:t",
            "result": "refused",
            "status": 400,
            "reason": "INVALID_ARGUMENT",
            "at": "2023-11-14T22:13:20.000Z",
        }
    ]
    assert (await api.operate("GET", f"/dead-letters/{first}")).json()["state"] == "dead"
    assert (await api.operate("POST", "/dead-letters/replay", json={"ids": [first]})).json() == {"count": 1}
    assert (await api.operate("GET", f"/dead-letters/{first}")).status_code == 404
    assert (await api.operate("POST", "/dead-letters/discard", json={"ids": None})).json() == {"count": 1}
    assert (await api.operate("GET", "/dead-letters")).json() == {"dead_letters": [], "next": None}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/x-msgpack"])
async def test_only_json_is_read(api, content_type):
    headers = {"authorization": f"Bearer {api.admin}", "content-type": content_type}
    answer = await api.client.put(f"/api/admin{APP}", content=b"{}", headers=headers)
    assert answer.status_code == 415


async def test_a_huge_body_is_413(api):
    answer = await api.operate("PUT", APP, json={"certificate_pem": "x" * 70_000})
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


DEEP = b"[" * 980 + b"]" * 980
DEEPER = b"[" * 30_000 + b"]" * 30_000


@pytest.mark.parametrize(
    ("method", "path", "body", "at"),
    [
        ("PUT", APP, b'{"key_pem":"\xff"}', "$.key_pem"),
        ("PUT", APP, b'{"key_pem":1,"x":"\xff"}', "$.x"),
        ("PUT", APP, b'{"x":' + DEEP + b"}", "$.x"),
        ("PUT", "/fcm-projects/main", b'{"service_account":{"a":"\xff"}}', "$.service_account"),
        ("PUT", "/fcm-projects/main", b'{"service_account":{"a":"\\ud800"}}', "$.service_account"),
        ("PUT", "/fcm-projects/main", b'{"service_account":{"a":1e400}}', "$.service_account"),
        ("PUT", "/fcm-projects/main", b'{"service_account":{"a":' + DEEP + b"}}", "$.service_account"),
        ("PUT", "/fcm-projects/main", b'{"service_account":{"a":' + DEEPER + b"}}", "$.service_account"),
        ("PUT", "/fcm-projects/main", b'{"service_account":1,"default":"\xff"}', "$.default"),
        ("POST", "/dead-letters/replay", b'{"ids":' + DEEPER + b"}", "$.ids"),
        ("POST", "/dead-letters/discard", b'{"ids":' + DEEP + b"}", "$.ids"),
        ("POST", "/dead-letters/discard", b'{"ids":' + b"[" * 60_000, "$.ids"),
        ("POST", "/devices/restore", b'{"device_token":"\xff"}', "$.device_token"),
        ("POST", "/devices/restore", b'{"device_token":"\\ud800"}', "$.device_token"),
        ("POST", "/devices/restore", b'{"device_token":1e400}', "$.device_token"),
        ("POST", "/devices/restore", b"", "$"),
        ("POST", "/devices/restore", b"\xff", "$"),
    ],
)
async def test_nothing_that_an_operator_can_send_is_an_error_of_the_server(api, method, path, body, at):
    answer = await api.operate(method, path, content=body)
    assert (answer.status_code, answer.json()["errors"][0]["at"]) == (400, at)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_what_takes_a_token_in_its_address_is_said_to_be_deprecated_and_has_another_way(api):
    schema = (await api.client.get("/schema/openapi.json")).json()["paths"]
    assert schema["/api/admin/devices"]["delete"]["deprecated"]
    for path, operations in schema.items():
        for method, operation in operations.items():
            named = [one for one in operation.get("parameters", ()) if one["in"] == "query" and "token" in one["name"]]
            for parameter in named:
                told = f"{operation.get('description', '')} {parameter.get('description', '')}"
                assert "Deprecated" in told, (method, path)
