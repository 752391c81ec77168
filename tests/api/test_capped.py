"""Every list says how long it may be, and whether there is more."""

from __future__ import annotations

from typing import Any

import pytest

from tocsin.api import capped
from tocsin.providers.rules import RULES
from tocsin.store.records import Role

PREFIX = "/api/admin"


async def document(api: Any) -> Any:
    return (await api.client.get("/schema/openapi.json")).json()


def resolved(document: Any, schema: Any) -> Any:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


async def test_every_list_of_the_admin_api_states_its_cap_and_whether_there_is_more(api: Any) -> None:
    told = await document(api)
    lists = 0
    for path, methods in told["paths"].items():
        answer = methods.get("get", {}).get("responses", {}).get("200") if path.startswith(PREFIX) else None
        if answer is None or "application/json" not in answer.get("content", {}):
            continue
        schema = resolved(told, answer["content"]["application/json"]["schema"])
        if schema.get("type") == "array":
            lists += 1
            assert schema["maxItems"] == capped.MOST, path
            assert capped.MORE in answer["headers"], path
    assert lists >= 9


async def test_a_list_that_is_capped_has_the_newest_and_says_that_there_are_more(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await api.operate("GET", "/keys")
    assert answer.headers[capped.MORE] == "false"
    monkeypatch.setattr(capped, "MOST", 2)
    for name in ("one", "two", "three"):
        await api.store.access.create_key(Role.MONITORING, name, None)
    answer = await api.operate("GET", "/keys")
    assert ([key["name"] for key in answer.json()], answer.headers[capped.MORE]) == (["two", "three"], "true")


async def test_jobs_are_gone_through_in_pages(api: Any) -> None:
    made = [(await api.operate("POST", "/jobs", json={"action": "discard", "filter": {}})).json() for _ in range(3)]
    first = (await api.operate("GET", "/jobs", params={"limit": 2})).json()
    second = (await api.operate("GET", "/jobs", params={"limit": 2, "start": first["next"]})).json()
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == [job["id"] for job in made[::-1]]
    assert second["next"] is None
    wrong = await api.operate("GET", "/jobs", params={"start": "the first"})
    assert (wrong.status_code, wrong.json()["errors"][0]["at"]) == (400, "?start")


def test_every_provider_tells_the_account_of_its_lanes() -> None:
    for name, account in (("apns", "39JSDKGJ38.de.cospace.app"), ("fcm", "cospace-main")):
        assert {RULES[name].account_of(lane) for lane in RULES[name].lanes(account)} == {account}
