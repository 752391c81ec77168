"""What operators and users do through the API is in the audit log, and operators can read it."""

from __future__ import annotations

import pytest
from tests.api.conftest import APPLICATION, OWNER, opened

from tocsin.settings import Audit
from tocsin.store.audit_chain import Entry, read

TOKEN = "ab" * 32
ADD = {"system": "apns", "action": "add", "application_id": APPLICATION, "device_token": TOKEN}
DELETE = {"system": "apns", "action": "delete", "device_token": TOKEN}
OTHER_APP = "/applications/39JSDKGJ38.de.cospace.other"


async def entries(api) -> list[Entry]:
    """Oldest first."""
    return [read(one) for one in reversed((await api.store.audit.page(1000)).entries)]


async def test_what_an_operator_changes_is_in_the_log_with_the_keys_id_and_the_address(api, key_pem):
    await api.operate("PUT", OTHER_APP, json={"key_pem": key_pem, "key_id": "ABC123DEFG"})
    await api.operate("DELETE", OTHER_APP)
    found = await entries(api)
    assert [(one.action, one.subject) for one in found] == [
        ("credential.put", "apns:39JSDKGJ38.de.cospace.other"),
        ("credential.remove", "apns:39JSDKGJ38.de.cospace.other"),
    ]
    [key] = [key for key in await api.store.access.keys() if key.role == "admin"]
    assert {(one.actor.kind, one.actor.id, one.actor.source) for one in found} == {("key", key.id, "127.0.0.1")}


async def test_what_is_refused_or_only_read_is_not_in_the_log(api):
    await api.operate("PUT", OTHER_APP, json={"key_pem": "x", "key_id": "ABC123DEFG"})
    await api.operate("DELETE", OTHER_APP)
    for path in ("/applications", "/lanes", "/backlog", "/quarantine", "/dead-letters", "/audit"):
        assert (await api.operate("GET", path)).status_code == 200
    await api.client.put(f"/api/admin{OTHER_APP}", json={})
    assert await entries(api) == []


async def test_a_user_who_deletes_a_token_is_in_the_log_under_a_pseudonym(api):
    await api.push(ADD)
    await api.push(DELETE)
    await api.push(DELETE)
    [entry] = await entries(api)
    assert (entry.action, entry.subject, entry.actor.kind) == ("device.delete", "apns:abababab…", "user")
    assert entry.actor.id == entry.details["user"]
    assert OWNER not in str(entry)


async def test_what_one_request_does_is_not_taken_for_another(api, key_pem):
    """An operator's request is followed by a user's, and by what nobody in particular does."""
    await api.operate("PUT", OTHER_APP, json={"key_pem": key_pem, "key_id": "ABC123DEFG"})
    await api.push(ADD)
    await api.push(DELETE)
    await api.sign_in()
    assert [(one.action, one.actor.kind) for one in await entries(api)] == [
        ("credential.put", "key"),
        ("device.delete", "user"),
    ]


async def test_registrations_are_in_the_log_where_the_settings_want_them(tmp_path):
    async with opened(tmp_path, audit=Audit(registrations=True)) as api:
        await api.push(ADD)
        [entry] = await entries(api)
        assert (entry.action, entry.subject, entry.actor.kind) == ("device.add", "apns:abababab…", "user")


async def test_the_log_is_read_in_pages_newest_first(api, key_pem):
    for _ in range(3):
        await api.operate("PUT", OTHER_APP, json={"key_pem": key_pem, "key_id": "ABC123DEFG"})
    await api.operate("DELETE", OTHER_APP)
    first = (await api.operate("GET", "/audit?limit=3")).json()
    assert [one["number"] for one in first["entries"]] == [4, 3, 2]
    assert first["entries"][0]["action"] == "credential.remove"
    assert set(first["entries"][0]) == {
        "chain",
        "number",
        "at",
        "kind",
        "actor",
        "source",
        "action",
        "subject",
        "details",
        "hash",
    }
    second = (await api.operate("GET", f"/audit?limit=3&start={first['next']}")).json()
    assert [one["number"] for one in second["entries"]] == [1]
    assert second["next"] is None


@pytest.mark.parametrize("query", ["start=x", "start=-1", "limit=0", "limit=1001", "limit=x"])
async def test_a_page_that_cannot_be_is_refused(api, query):
    assert (await api.operate("GET", f"/audit?{query}")).status_code == 400


async def test_only_operators_read_the_log(api):
    for secret in ("", api.sid, api.producer):
        answer = await api.client.get("/api/admin/audit", headers={"authorization": f"Bearer {secret}"})
        assert answer.status_code in (401, 403)


async def test_nothing_changes_the_log(api):
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await api.operate(method, "/audit")).status_code == 405
