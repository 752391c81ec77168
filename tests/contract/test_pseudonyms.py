"""Pseudonyms: what users are called in the audit log."""

from __future__ import annotations

from tests.contract.factories import Stores
from tests.contract.support import OTHER_OWNER, OWNER

from tocsin.store.ports import Store


async def test_a_user_has_one_pseudonym_in_every_process_and_over_a_crash(stores: Stores) -> None:
    server = await stores.open()
    name = await server.pseudonyms.of(OWNER)
    command = await stores.open(server=False)
    assert await command.pseudonyms.of(OWNER) == name
    server = await stores.crash()
    assert await server.pseudonyms.of(OWNER) == await server.pseudonyms.find(OWNER) == name


async def test_a_pseudonym_does_not_show_whose_it_is_and_no_two_users_share_one(store: Store) -> None:
    name, other = await store.pseudonyms.of(OWNER), await store.pseudonyms.of(OTHER_OWNER)
    assert name != other
    assert not set(OWNER.split("-")) & set(name.replace("_", "-").split("-"))


async def test_to_look_for_a_pseudonym_makes_none(store: Store) -> None:
    assert await store.pseudonyms.find(OWNER) is None
    assert await store.pseudonyms.find(OWNER) is None


async def test_pseudonyms_survive_a_change_of_the_master_key(store: Store) -> None:
    name = await store.pseudonyms.of(OWNER)
    await store.credentials.rewrap()
    assert await store.pseudonyms.of(OWNER) == name
