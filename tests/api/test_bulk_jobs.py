"""Bulk actions over the API: previewed, begun, watched, stopped; what breaks a rule is named."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.api.test_operators_view import APPLICATION, attempt, ingested, register, settled

from tocsin.console.searching import conditions
from tocsin.service.bulk_jobs import BulkJobs
from tocsin.store.records import Result


async def dead_letters(api: Any, *reasons: str) -> list[str]:
    await register(api)
    ids = []
    for reason in reasons:
        ids.append(await ingested(api))
        await settled(api, ids[-1], attempt(Result.REFUSED, 400, reason, at_ms=api.store.now_ms()))
    return ids


async def test_a_bulk_action_is_previewed_begun_and_done(api: Any) -> None:
    ids = await dead_letters(api, "BadTopic", "PayloadTooLarge", "BadTopic")
    body = {"action": "replay", "filter": {"reason": "BadTopic", "account": APPLICATION}}
    found = (await api.operate("POST", "/jobs/preview", json=body)).json()
    assert (found["estimate"], found["exact"], found["looked_at"]) == (2, True, 3)
    assert set(found["examples"]) == {ids[0], ids[2]}
    assert found["filter"]["until"]
    begun = await api.operate("POST", "/jobs", json={**body, "lifetime_s": 3600})
    assert begun.status_code == 202
    job = begun.json()
    assert (job["state"], job["total"], job["filter"]["reason"]) == ("waiting", 2, "BadTopic")
    await asyncio.sleep(0.01)
    later = await dead_letters(api, "BadTopic")
    await BulkJobs(api.store).run()
    done = (await api.operate("GET", f"/jobs/{job['id']}")).json()
    assert (done["state"], done["done"], done["skipped"]) == ("done", 2, 0)
    assert done["result"] == "2 dead letters are delivered again."
    left = (await api.operate("GET", "/dead-letters")).json()["dead_letters"]
    assert {one["id"] for one in left} == {ids[1], *later}
    listed = (await api.operate("GET", "/jobs")).json()
    assert ([one["id"] for one in listed["jobs"]], listed["most"]) == ([job["id"]], 200)


async def test_the_console_lists_by_a_filter_exactly_what_a_job_with_it_takes(api: Any) -> None:
    await register(api)
    ids = [await ingested(api) for _ in range(3)]
    # Accepted now, and tried last in another year.
    for id, year in zip(ids, (2031, 2032, 2033), strict=True):
        at_ms = int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)
        await settled(api, id, attempt(Result.EXPIRED, at_ms=at_ms))
    api.store.now_ms = lambda: int(datetime(2040, 1, 1, tzinfo=UTC).timestamp() * 1000)
    for given, expected in (
        ({"from": "2032-01-01T00:00"}, {ids[1], ids[2]}),
        ({"until": "2032-01-01T00:00"}, {ids[0]}),
        ({"outcome": "expired", "account": APPLICATION, "until": "2033-01-01T00:00"}, {ids[0], ids[1]}),
        ({"outcome": "refused"}, set()),
    ):
        asked = conditions(given, given)
        body = {"action": "discard", "filter": asked.body()}
        preview = (await api.operate("POST", "/jobs/preview", json=body)).json()
        listed = (await api.operate("POST", "/deliveries/search", json=asked.letters_sought())).json()
        assert set(preview["examples"]) == expected, given
        assert {row["event_id"] for row in listed["deliveries"]} == expected, given


async def test_a_job_that_waits_is_stopped_at_once(api: Any) -> None:
    await dead_letters(api, "BadTopic")
    job = (await api.operate("POST", "/jobs", json={"action": "discard", "filter": {}})).json()
    stopped = (await api.operate("POST", f"/jobs/{job['id']}/stop")).json()
    assert stopped["state"] == "stopped"
    assert stopped["result"].endswith("it was stopped before its end.")
    await BulkJobs(api.store).run()
    assert (await api.operate("GET", "/dead-letters")).json()["dead_letters"]
    assert (await api.operate("GET", "/jobs/job_unknown")).status_code == 404
    assert (await api.operate("POST", "/jobs/job_unknown/stop")).status_code == 404


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"action": "explode"}, "$.action"),
        ({"action": "release"}, "$.filter.account"),
        ({"action": "purge", "filter": {"account": "a", "reason": "x"}}, "$.filter.reason"),
        ({"action": "restore", "filter": {"outcome": "refused"}}, "$.filter.outcome"),
        ({"action": "restore", "filter": {"system": "apsn"}}, "$.filter.system"),
        ({"action": "replay", "filter": {"message": "fax"}}, "$.filter.message"),
        ({"action": "replay", "filter": {"outcome": "delivered"}}, "$.filter.outcome"),
        ({"action": "replay", "filter": {"owner": "me"}}, "$.filter.owner"),
        ({"action": "replay", "filter": {"from": "now"}}, "$.filter.from"),
        ({"action": "replay", "filter": {"ids": []}}, "$.filter.ids"),
        ({"action": "discard", "lifetime_s": 5}, "$.lifetime_s"),
    ],
)
async def test_what_breaks_a_rule_is_named_and_nothing_is_begun(api: Any, body: Any, at: str) -> None:
    answer = await api.operate("POST", "/jobs", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["at"]) == (400, at)
    assert (await api.operate("GET", "/jobs")).json()["jobs"] == []
