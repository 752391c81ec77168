"""Liveness, readiness and metrics: what strangers are told, and what those who may know."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from tests.api.conftest import Api, OpenApi, StubDelivery, bearer

from tocsin.api.app import create_private_app
from tocsin.domain.routes import LaneState, LaneStatus
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Area, KeyLimits, Role

DETAILS = {
    "ready": False,
    "problems": ["the store cannot write: disk full"],
    "lanes": [{"name": "fcm:main", "state": "open", "reason": "UNAVAILABLE"}],
}


def break_(delivery: StubDelivery) -> None:
    delivery.sentences = ["the store cannot write: disk full"]
    delivery.status = [LaneStatus("fcm:main", LaneState.OPEN, "UNAVAILABLE", 1, 2)]


def with_metrics() -> CollectorRegistry:
    metrics = CollectorRegistry()
    Counter("tocsin_things", "Things.", registry=metrics).inc(3)
    return metrics


@pytest.mark.parametrize("secret", ["", "wrong", "session", "producer"])
async def test_strangers_are_told_whether_it_is_ready_and_nothing_else(api: Api, secret: str) -> None:
    headers = bearer({"session": api.sid, "producer": api.producer}.get(secret, secret)) if secret else {}
    assert (await api.client.get("/health/live")).json() == {"status": "live"}
    ready = await api.client.get("/health/ready", headers=headers)
    assert (ready.status_code, ready.json()) == (200, {"ready": True})
    break_(api.delivery)
    ready = await api.client.get("/health/ready", headers=headers)
    assert (ready.status_code, ready.json()) == (503, {"ready": False})
    assert ready.headers["cache-control"] == "no-store"
    assert (await api.client.get("/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("role", "limits"),
    [
        (Role.MONITORING, KeyLimits()),
        (Role.ADMIN, KeyLimits()),
        (Role.ADMIN, KeyLimits(read_only=True, areas=frozenset({Area.CREDENTIALS}))),
    ],
    ids=str,
)
async def test_a_monitoring_or_admin_key_is_told_why_not(api: Api, role: Role, limits: KeyLimits) -> None:
    headers = bearer((await api.store.access.create_key(role, "", None, limits))[0])
    ready = await api.client.get("/health/ready", headers=headers)
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "problems": [], "lanes": []})
    break_(api.delivery)
    ready = await api.client.get("/health/ready", headers=headers)
    assert (ready.status_code, ready.json()) == (503, DETAILS)


async def test_what_does_not_keep_it_from_working_is_a_note_for_those_who_may_know(api: Api) -> None:
    api.delivery.beside = ["nats: not connected"]
    assert (await api.client.get("/health/ready")).json() == {"ready": True}
    ready = await api.client.get("/health/ready", headers=bearer(api.admin))
    assert (ready.status_code, ready.json()["ready"], ready.json()["notes"]) == (200, True, ["nats: not connected"])


async def test_readiness_is_answered_also_where_the_store_cannot_look_up_a_key(open_api: OpenApi) -> None:
    class Unusable:
        async def key(self, secret: str) -> None:
            raise StoreUnavailable("the disk fails")

    async with open_api(access=Unusable()) as api:
        ready = await api.client.get("/health/ready", headers=bearer(api.admin))
        assert (ready.status_code, ready.json()) == (200, {"ready": True})


async def test_metrics_are_those_of_the_registry_that_was_given(open_api: OpenApi) -> None:
    async with open_api(metrics=with_metrics()) as api:
        monitoring, _ = await api.store.access.create_key(Role.MONITORING, "", None)
        for secret in (monitoring, api.admin):
            answer = await api.client.get("/metrics", headers=bearer(secret))
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain; version=")
            assert "tocsin_things_total 3.0" in answer.text


async def test_metrics_are_not_for_strangers(open_api: OpenApi) -> None:
    async with open_api(metrics=with_metrics()) as api:
        for headers, status in (({}, 401), (bearer(api.sid), 401), (bearer(api.producer), 403)):
            answer = await api.client.get("/metrics", headers=headers)
            assert (answer.status_code, "tocsin_things" in answer.text) == (status, False)
            assert answer.headers["content-type"] == "application/problem+json"


async def test_at_the_private_address_nobody_needs_a_key() -> None:
    delivery = StubDelivery()
    transport = httpx.ASGITransport(create_private_app(delivery, with_metrics()))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://tocsin.test") as client:
        assert (await client.get("/health/ready")).json() == {"ready": True, "problems": [], "lanes": []}
        break_(delivery)
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, DETAILS)
        assert (await client.get("/health/live")).status_code == 200
        assert "tocsin_things_total 3.0" in (await client.get("/metrics")).text
        assert (await client.head("/metrics")).status_code == 200
        for path in ("/api/push", "/api/events", "/api/admin/lanes", "/schema", "/"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["type"]) == (404, "urn:tocsin:problem:not-found"), path
