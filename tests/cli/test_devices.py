"""Devices: shown, removed, explained, brought back; and the quarantine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.cli.conftest import APPLICATION, OWNER, Run

from tocsin.domain.devices import Device
from tocsin.service import Store, open_store
from tocsin.settings import load
from tocsin.store.ports import DeadToken

APNS = "a6" * 32
FCM = "APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"
OTHER = "1de7257a-4f34-11e0-ab6e-0024e8f90cc1"


def in_store(operation: Callable[[Store], Awaitable[Any]]) -> None:
    async def run() -> None:
        async with open_store(load()) as store:
            await operation(store)

    asyncio.run(run())


@pytest.fixture
def registered(run: Run) -> Run:
    """Anna has an iPhone and an Android phone; somebody else has signed in on the latter, too."""

    async def register(store: Store) -> None:
        for number, device in enumerate(
            (
                Device(OWNER, "apns", APNS, APPLICATION, True, "de.cospace.app.voip", 0),
                Device(OWNER, "fcm", FCM, None, False, None, 0),
                Device(OTHER, "fcm", FCM, None, False, None, 0),
            )
        ):
            at_us = 1_700_000_000_000_000 + number
            await store.registry.add(msgspec.structs.replace(device, registered_us=at_us), 100)

    in_store(register)
    return run


def test_a_users_devices_are_shown_in_order(registered: Run) -> None:
    apns, fcm = registered("device", "list", "--owner", OWNER, "--json").json
    assert apns["device_token"] == APNS
    assert apns["topic"] == "de.cospace.app.voip"
    assert apns["sandbox"] is True
    assert fcm["device_token"] == FCM
    assert "sandbox" not in fcm


def test_a_token_is_found_whoever_holds_it(registered: Run) -> None:
    found = registered("device", "list", "--token", FCM, "--json").json
    assert {device["owner"] for device in found} == {OWNER, OTHER}
    (apns,) = registered("device", "list", "--token", APNS.upper(), "--json").json
    assert apns["device_token"] == APNS


def test_a_token_is_removed_for_one_user_alone(registered: Run) -> None:
    assert registered("device", "remove", FCM, "--owner", OTHER).status == 0
    (left,) = registered("device", "list", "--token", FCM, "--json").json
    assert left["owner"] == OWNER


def test_a_removed_token_is_explained_and_comes_back_for_everyone(registered: Run) -> None:
    assert "2 registrations" in registered("device", "remove", FCM).err
    (removed,) = registered("device", "history", "--owner", OWNER, "--json").json
    assert removed["device_token"] == FCM
    assert removed["reason"]
    assert "2 registrations" in registered("device", "restore", FCM).err
    assert len(registered("device", "list", "--token", FCM, "--json").json) == 2


def test_the_table_shows_whole_tokens(registered: Run) -> None:
    assert FCM in registered("device", "list", "--owner", OWNER).out


@pytest.mark.parametrize("verb", ["list", "history"])
def test_it_must_be_said_whose_devices(run: Run, verb: str) -> None:
    ran = run("device", verb)
    assert ran.status == 2
    assert "--owner UUID, --token TOKEN" in ran.err


@pytest.mark.parametrize("verb", ["remove", "restore"])
def test_an_unknown_token_fails(run: Run, verb: str) -> None:
    assert run("device", verb, "unknown").status == 1


@pytest.fixture
def quarantined(registered: Run) -> Run:
    dead = DeadToken("apns", APNS, 2**62, "Unregistered", APPLICATION)
    in_store(lambda store: store.registry.remove_dead([dead], quarantine=True))
    return registered


def test_the_quarantine_is_counted_by_application(quarantined: Run) -> None:
    out = quarantined("quarantine", "list").out
    assert APPLICATION in out
    assert "Unregistered" in out
    (one,) = quarantined("quarantine", "list", APPLICATION, "--json").json
    assert one["device_token"] == APNS


def test_what_is_released_rings_again(quarantined: Run) -> None:
    assert quarantined("quarantine", "release", APPLICATION).status == 0
    assert len(quarantined("device", "list", "--token", APNS, "--json").json) == 1
    assert quarantined("quarantine", "list", "--json").json == []


def test_what_is_purged_is_gone(quarantined: Run) -> None:
    assert quarantined("quarantine", "purge", APPLICATION, "--yes").status == 0
    assert quarantined("quarantine", "list", "--json").json == []
    assert quarantined("device", "list", "--token", APNS, "--json").json == []


@pytest.mark.parametrize("verb", [("release",), ("purge", "--yes")])
def test_an_empty_quarantine_fails(run: Run, verb: tuple[str, ...]) -> None:
    ran = run("quarantine", *verb, APPLICATION)
    assert ran.status == 1
    assert "nothing is in quarantine" in ran.err
