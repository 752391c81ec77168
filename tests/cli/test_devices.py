"""Devices: shown, removed, explained, restored; and the quarantine."""

from __future__ import annotations

import io
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import APPLICATION, OWNER, Run

from tocsin.cli import opening
from tocsin.domain.devices import Address, Complaint, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.providers.apns.address import ApnsAddress
from tocsin.settings import load
from tocsin.store.ports import Store
from tocsin.store.records import DeadToken, Learned

APNS = DeviceToken("a6" * 32)
FCM = DeviceToken("APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx")
HEX_FCM = DeviceToken("A6B7" * 16)
"""An FCM token that could also be an APNs token: an APNs token would be stored in lower case."""
OTHER = "1de7257a-4f34-11e0-ab6e-0024e8f90cc1"


def file_of(token: str) -> str:
    """A file that holds the token, as an operator makes one."""
    Path("token.txt").write_text(token + "\n")
    return "token.txt"


def in_store(operation: Callable[[Store], Awaitable[Any]]) -> Any:
    return opening.in_store(load(), operation, create=True, say=lambda _: None)


def _fcm(owner: str, token: DeviceToken) -> Registration:
    return Registration(UserId(owner), "fcm", token, Address(""))


def _apns(owner: str, token: DeviceToken, *, sandbox: bool = False, topic: str | None = None) -> Registration:
    return Registration(UserId(owner), "apns", token, ApnsAddress(APPLICATION, sandbox, topic).text())


def _register(*registrations: Registration) -> None:
    async def register(store: Store) -> None:
        for registration in registrations:
            await store.registry.add(registration, 100)

    in_store(register)


@pytest.fixture
def registered(run: Run) -> Run:
    """Anna has an iPhone and an Android phone; another user has registered the latter, too."""
    apns = _apns(OWNER, APNS, sandbox=True, topic="de.cospace.app.voip")
    _register(apns, _fcm(OWNER, FCM), _fcm(OTHER, FCM))
    return run


def test_a_users_devices_are_shown_in_order(registered: Run) -> None:
    apns, fcm = registered("device", "list", "--owner", OWNER, "--json").json
    assert apns["device_token"] == APNS
    assert apns["topic"] == "de.cospace.app.voip"
    assert apns["sandbox"] is True
    assert fcm["device_token"] == FCM
    assert "sandbox" not in fcm
    assert (apns["system"], apns["application_id"], fcm["system"]) == ("apns", APPLICATION, "fcm")
    assert set(fcm) == {"owner", "system", "device_token", "registered", "last_success"}


def test_the_topic_of_a_device_that_names_none_is_the_bundle_id(run: Run) -> None:
    _register(_apns(OWNER, APNS))
    (apns,) = run("device", "list", "--owner", OWNER, "--json").json
    assert (apns["topic"], apns["sandbox"]) == ("de.cospace.app", False)
    assert "APNs production de.cospace.app" in run("device", "list", "--owner", OWNER).out


def test_a_users_devices_can_be_narrowed_to_one_token(registered: Run) -> None:
    (apns,) = registered("device", "list", "--owner", OWNER, "--token-file", file_of(APNS.upper()), "--json").json
    assert apns["device_token"] == APNS


def test_a_token_is_found_for_every_user_who_has_registered_it(registered: Run) -> None:
    found = registered("device", "list", "--token-file", file_of(FCM), "--json").json
    assert {device["owner"] for device in found} == {OWNER, OTHER}
    (apns,) = registered("device", "list", "--token-file", file_of(APNS.upper()), "--json").json
    assert apns["device_token"] == APNS


def test_a_token_is_removed_for_one_user_only(registered: Run) -> None:
    assert registered("device", "remove", "--token-file", file_of(FCM), "--owner", OTHER).status == 0
    (left,) = registered("device", "list", "--token-file", file_of(FCM), "--json").json
    assert left["owner"] == OWNER


@pytest.mark.parametrize("registration", [_apns(OWNER, APNS), _fcm(OWNER, HEX_FCM)], ids=lambda one: one.provider)
def test_a_token_typed_in_upper_case_is_removed_and_restored_whichever_provider_has_it(
    run: Run, registration: Registration
) -> None:
    _register(registration)
    typed = registration.token.upper()
    assert "1 registration" in run("device", "remove", "--token-file", file_of(typed)).err
    assert run("device", "list", "--owner", OWNER, "--json").json == []
    (removed,) = run("device", "history", "--token-file", file_of(typed), "--json").json
    assert removed["device_token"] == registration.token
    assert "1 registration" in run("device", "restore", "--token-file", file_of(typed)).err
    (restored,) = run("device", "list", "--token-file", file_of(typed), "--json").json
    assert (restored["system"], restored["device_token"]) == (registration.provider, registration.token)


def test_a_token_is_removed_in_every_form_in_which_it_is_stored(run: Run) -> None:
    apns = DeviceToken(HEX_FCM.lower())
    _register(_apns(OWNER, apns), _fcm(OWNER, HEX_FCM))
    assert "2 registrations" in run("device", "remove", "--token-file", file_of(HEX_FCM)).err
    assert run("device", "list", "--owner", OWNER, "--json").json == []


def test_a_token_is_not_hidden_or_touched_by_another_providers_spelling_of_it(run: Run) -> None:
    """APNs stores a token in lower case. FCM tokens that differ in case are different tokens."""
    lower = DeviceToken(HEX_FCM.lower())
    _register(_fcm(OWNER, HEX_FCM), _fcm(OTHER, lower))
    (shown,) = run("device", "list", "--token-file", file_of(HEX_FCM), "--json").json
    assert shown["device_token"] == HEX_FCM
    assert run("device", "list", "--owner", OTHER, "--token-file", file_of(HEX_FCM), "--json").json == []
    for token in (HEX_FCM, lower):
        assert "1 registration" in run("device", "remove", "--token-file", file_of(token)).err
    (removed,) = run("device", "history", "--token-file", file_of(HEX_FCM), "--json").json
    assert removed["device_token"] == HEX_FCM
    assert "1 registration" in run("device", "restore", "--token-file", file_of(HEX_FCM)).err
    assert run("device", "list", "--token-file", file_of(lower), "--json").json == []


def test_nothing_is_restored_beyond_what_a_user_may_register(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _register(_fcm(OWNER, FCM))
    run("device", "remove", "--token-file", file_of(FCM))
    _register(_apns(OWNER, APNS))
    monkeypatch.setenv("TOCSIN_PUSH_API__MAX_TOKENS_PER_USER", "1")
    ran = run("device", "restore", "--token-file", file_of(FCM))
    assert ran.status == 1
    assert "its user has 1 tokens (`push_api.max_tokens_per_user`)" in ran.err
    monkeypatch.setenv("TOCSIN_PUSH_API__MAX_TOKENS_PER_USER", "2")
    assert "1 registration" in run("device", "restore", "--token-file", file_of(FCM)).err


def test_a_removed_token_is_explained_and_restored_for_every_user(registered: Run) -> None:
    assert "2 registrations" in registered("device", "remove", "--token-file", file_of(FCM)).err
    (removed,) = registered("device", "history", "--owner", OWNER, "--json").json
    assert removed["device_token"] == FCM
    assert removed["reason"]
    assert "2 registrations" in registered("device", "restore", "--token-file", file_of(FCM)).err
    assert len(registered("device", "list", "--token-file", file_of(FCM), "--json").json) == 2


def test_the_table_shows_whole_tokens(registered: Run) -> None:
    assert FCM in registered("device", "list", "--owner", OWNER).out


@pytest.mark.parametrize("verb", ["list", "history"])
def test_the_owner_or_the_token_must_be_given(run: Run, verb: str) -> None:
    ran = run("device", verb)
    assert ran.status == 2
    assert "--owner UUID, --token-file FILE" in ran.err


@pytest.mark.parametrize("verb", ["remove", "restore"])
def test_an_unknown_token_fails(run: Run, verb: str) -> None:
    assert run("device", verb, "--token-file", file_of("unknown")).status == 1


def test_what_a_provider_says_of_a_device_alone_is_shown_with_it(registered: Run) -> None:
    said = Complaint("400 DeviceTokenNotForTopic", 1_800_000_000_000, 1_800_000_000_000, APPLICATION, "de.cospace.app")

    async def complain(store: Store) -> None:
        (device,) = await store.registry.find(APNS)
        await store.registry.learn([Learned(device, complaint=said)])

    in_store(complain)
    apns, fcm = registered("device", "list", "--owner", OWNER, "--json").json
    assert (apns["complaint"], apns["complaint_since"]) == ("400 DeviceTokenNotForTopic", "2027-01-15T08:00:00.000Z")
    assert "complaint" not in fcm
    out = registered("device", "list", "--token-file", file_of(APNS)).out
    assert "400 DeviceTokenNotForTopic since 2027-01-15 08:00:00 UTC" in out


@pytest.fixture
def quarantined(registered: Run) -> Run:
    async def quarantine(store: Store) -> None:
        (device,) = await store.registry.find(APNS)
        await store.registry.remove_dead([DeadToken(device, APPLICATION, "Unregistered", 2**62)], quarantine=True)

    in_store(quarantine)
    return registered


def test_the_quarantine_is_counted_by_application(quarantined: Run) -> None:
    out = quarantined("quarantine", "list").out
    assert APPLICATION in out
    assert "Unregistered" in out
    (one,) = quarantined("quarantine", "list", APPLICATION, "--json").json
    assert one["device_token"] == APNS
    assert (one["application"], one["quarantined"]) == (APPLICATION, True)


def test_what_is_released_is_registered_again(quarantined: Run) -> None:
    assert quarantined("quarantine", "release", APPLICATION).status == 0
    assert len(quarantined("device", "list", "--token-file", file_of(APNS), "--json").json) == 1
    assert quarantined("quarantine", "list", "--json").json == []


def test_a_release_that_restores_nothing_empties_the_quarantine_and_says_so(quarantined: Run) -> None:
    _register(_apns(OWNER, APNS))
    ran = quarantined("quarantine", "release", APPLICATION)
    assert (ran.status, ran.err.strip()) == (0, f"{APPLICATION}: 0 registrations are restored")
    assert quarantined("quarantine", "list", "--json").json == []
    assert quarantined("device", "history", "--token-file", file_of(APNS), "--json").json != []


def test_what_is_purged_is_removed(quarantined: Run) -> None:
    assert quarantined("quarantine", "purge", APPLICATION, "--yes").status == 0
    assert quarantined("quarantine", "list", "--json").json == []
    assert quarantined("device", "list", "--token-file", file_of(APNS), "--json").json == []


@pytest.mark.parametrize("verb", [("release",), ("purge", "--yes")])
@pytest.mark.usefixtures("store")
def test_an_empty_quarantine_fails(run: Run, verb: tuple[str, ...]) -> None:
    ran = run("quarantine", *verb, APPLICATION)
    assert ran.status == 1
    assert "nothing is in quarantine" in ran.err


def test_a_token_may_come_from_standard_input(registered: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{APNS}\n".encode())))
    assert "1 registration" in registered("device", "remove", "--token-file", "-").err


@pytest.mark.parametrize("command", ["remove", "restore"])
def test_a_token_is_refused_as_an_argument_and_not_repeated(registered: Run, command: str) -> None:
    ran = registered("device", command, APNS)
    assert ran.status == 2
    assert "--token-file - to give it on standard input" in ran.err
    assert APNS[:8] not in ran.err + ran.out
    assert len(registered("device", "list", "--owner", OWNER, "--json").json) == 2


@pytest.mark.parametrize("command", ["list", "history"])
def test_a_token_as_an_option_is_refused_and_not_repeated(registered: Run, command: str) -> None:
    for arguments in (["--token", APNS], [f"--token={APNS}"]):
        ran = registered("device", command, *arguments)
        assert ran.status == 2
        assert APNS[:8] not in ran.err + ran.out


@pytest.mark.parametrize("command", ["remove", "restore"])
def test_a_command_that_needs_a_token_says_how_to_give_it(registered: Run, command: str) -> None:
    ran = registered("device", command)
    assert (ran.status, "give --token-file FILE" in ran.err) == (2, True)


def test_an_empty_token_file_is_refused(registered: Run) -> None:
    ran = registered("device", "remove", "--token-file", file_of(""))
    assert (ran.status, ran.err) == (2, "tocsin: --token-file token.txt: empty; the token must stand in it\n")
