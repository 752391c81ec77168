"""What a real server says of itself at `/metrics`."""

from __future__ import annotations

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from tests.support.exposed import every_metric, samples
from tests.system.running_system import RunningSystem, eventually
from tests.torture.http_client import Client
from tests.torture.processes import APPLICATION
from tocsin.service.exposition import FAMILIES

ONLY_WITH_A_CERTIFICATE = {"tocsin_certificate_expiry_seconds"}
ONLY_WITH_A_STANDBY = {"tocsin_replica_lag_seconds", "tocsin_replica_lag_bytes"}


async def exposition(system: RunningSystem) -> str:
    client = Client(system.server.private_port)
    try:
        return (await client.call("GET", "/metrics")).body.decode()
    finally:
        client.close()


async def total(system: RunningSystem, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    families = text_string_to_metric_families(await exposition(system))
    every = [one for family in families for one in family.samples if one.name == name]
    return sum(one.value for one in every if labels.items() <= one.labels.items())


async def test_every_metric_that_is_declared_is_exposed_with_its_labels_and_no_other(shared: RunningSystem) -> None:
    user = await shared.user()
    await shared.all_received(await shared.send(user, 20), 10)

    async def counted() -> bool:
        return await total(shared, "tocsin_delivery_seconds_count") > 0

    await eventually(counted, 10, shared.explain)
    found = samples(text_string_to_metric_families(await exposition(shared)))
    own = {name: labels for name, labels in found.items() if name.startswith("tocsin_")}
    assert own.items() <= every_metric().items()
    gauges = {family.name for family in FAMILIES if family.kind is GaugeMetricFamily}
    assert gauges - own.keys() == ONLY_WITH_A_CERTIFICATE | ONLY_WITH_A_STANDBY
    assert found.keys() >= {"process_cpu_seconds_total", "process_open_fds"}


async def test_a_delivery_is_in_every_figure_that_it_concerns(shared: RunningSystem) -> None:
    labels = {"provider": "apns", "environment": "production", "application": APPLICATION, "outcome": "delivered"}
    before = await total(shared, "tocsin_deliveries_total", **labels)
    accepted = await total(shared, "tocsin_events_accepted_total")
    user = await shared.user()
    await shared.all_received(await shared.send(user, 50), 10)

    async def counted() -> bool:
        return await total(shared, "tocsin_deliveries_total", **labels) == before + 50

    await eventually(counted, 10, shared.explain)
    assert await total(shared, "tocsin_events_accepted_total") == accepted + 50
    assert await total(shared, "tocsin_ready") == 1
    for name in (
        "tocsin_provider_seconds_count",
        "tocsin_commit_seconds_count",
        "tocsin_connections",
        "tocsin_connections_opened_total",
        "tocsin_streams_limit",
    ):
        assert await total(shared, name) > 0, name
    assert 0 < await total(shared, "tocsin_provider_token_age_seconds", application=APPLICATION) < 600

    async def measured() -> bool:
        return await total(shared, "tocsin_store_bytes") > 0

    await eventually(measured, 15, shared.explain)


async def test_each_goaway_of_a_provider_is_counted(shared: RunningSystem) -> None:
    before = await total(shared, "tocsin_goaways_total")
    user = await shared.user()
    await shared.faults({"goaway": {"mode": "graceful", "every": 5}})
    try:
        await shared.all_received(await shared.send(user, 30), 20)
    finally:
        await shared.faults()
    assert await total(shared, "tocsin_goaways_total") > before


async def test_googles_access_token_has_an_age_once_it_is_in_use(shared: RunningSystem) -> None:
    user = await shared.user("fcm")
    await shared.all_received(await shared.send(user, 1), 10)
    families = text_string_to_metric_families(await exposition(shared))
    ages = [one for family in families for one in family.samples if one.name == "tocsin_provider_token_age_seconds"]
    (age,) = [one.value for one in ages if one.labels["provider"] == "fcm"]
    assert 0 < age < 600
