"""How far something outside was taken."""

from __future__ import annotations

from tests.contract.factories import Stores


async def test_a_position_is_what_was_set_last_and_other_processes_see_it(stores: Stores) -> None:
    store = await stores.open()
    assert await store.positions.get("nats EVENTS tocsin") is None
    await store.positions.set("nats EVENTS tocsin", 2**62)
    await store.positions.set("nats EVENTS other", 3)
    await store.positions.set("nats EVENTS tocsin", 7)
    other = await stores.open(server=False)
    assert await other.positions.get("nats EVENTS tocsin") == 7
    store = await stores.crash()
    assert await store.positions.get("nats EVENTS tocsin") == 7
    assert await store.positions.get("nats EVENTS other") == 3
