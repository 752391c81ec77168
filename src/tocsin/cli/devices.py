"""`tocsin device`: which devices users have, which registrations were removed and why, and how to restore them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import read_secret, user_id
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, print_json, print_table, remark, utc
from tocsin.domain.devices import Device
from tocsin.domain.events import UserId
from tocsin.providers.rules import RULES
from tocsin.store.ports import Store
from tocsin.store.records import Removal

app = group("Devices: show, remove and restore registrations.")

_TOKEN_FILE = "--token-file"
TokenFile = Annotated[
    Path | None, typer.Option(_TOKEN_FILE, metavar="FILE", help="A file with the device token; - for standard input.")
]
Argument = Annotated[str | None, typer.Argument(hidden=True)]
"""Where a token was given as an argument once: it is refused with a word on what to do."""
OwnerOption = Annotated[str | None, typer.Option("--owner", metavar="UUID", help="This user's.")]


@command(app, "list", example="tocsin device list --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0")
def list_(
    owner: OwnerOption = None, token_file: TokenFile = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Show a user's devices, or every registration of one token."""
    user = _whose("device list", owner, token_file)
    token = None if token_file is None else _token(token_file)

    async def find(store: Store) -> list[Device]:
        if user is None:
            return await _registered(store, token or "")
        devices = (await store.registry.devices_of([user])).get(user, [])
        return [device for device in devices if token is None or RULES.is_token_of(token, device)]

    found = in_store(settings_of(config), find)
    if as_json:
        print_json([_described(device) for device in found])
        return
    rows = [
        (
            one.owner,
            _reached_through(one),
            utc(one.registered_us // 1000),
            utc(one.last_success_ms),
            _complaint(one),
            one.token,
        )
        for one in found
    ]
    columns = ("owner", "reached through", "registered", "last success", "complaint", "token")
    print_table(columns, rows, empty="No devices.")


@command(
    app,
    "remove",
    example="tocsin device remove --token-file token.txt --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0",
)
def remove(
    argument: Argument = None,
    token_file: TokenFile = None,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="UUID", help="Only this user's registration of it.")
    ] = None,
    config: Config = None,
) -> None:
    """Remove a device token, for one user or for all that registered it. `device restore` restores it."""
    token = _given("device remove", argument, token_file)
    user = None if owner is None else user_id(owner)

    async def delete(store: Store) -> int:
        found = [device for device in await _registered(store, token) if user in (None, device.owner)]
        return sum([await store.registry.delete(one.owner, one.provider, one.token, by_operator=True) for one in found])

    removed = in_store(settings_of(config), delete, in_steps=True)
    if not removed:
        raise CommandError("nobody has registered this token; see: tocsin device history --token-file FILE")
    remark(f"Removed {_registrations(removed)}.")


@command(app, "history", example="tocsin device history --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0")
def history(
    owner: OwnerOption = None, token_file: TokenFile = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Show which registrations were removed, when and why. They are remembered as `store.history` says."""
    user = _whose("device history", owner, token_file)
    token = None if token_file is None else _token(token_file)

    async def read(store: Store) -> list[Removal]:
        if token is None:
            return await store.registry.history(owner=user)
        return await _removed(store, token, user)

    found = in_store(settings_of(config), read)
    if as_json:
        print_json([described_removal(removal) for removal in found])
        return
    rows = [
        (utc(one.removed_ms), one.device.owner, _reached_through(one.device), _reason(one), one.device.token)
        for one in found
    ]
    print_table(("removed", "owner", "was reached through", "reason", "token"), rows, empty="Nothing was removed.")


@command(app, "restore", example="tocsin device restore --token-file token.txt")
def restore(argument: Argument = None, token_file: TokenFile = None, config: Config = None) -> None:
    """Restore a removed token for every user who lost it.

    Not where the user has deleted it or registered it again, or has as many tokens as allowed.
    """
    token = _given("device restore", argument, token_file)
    settings = settings_of(config)
    max_tokens = settings.push_api.max_tokens_per_user

    async def restore_all(store: Store) -> int:
        removed = {(one.device.provider, one.device.token): None for one in await _removed(store, token)}
        return sum([await store.registry.restore(*one, max_tokens) for one in removed])

    restored = in_store(settings, restore_all, in_steps=True)
    if not restored:
        raise CommandError(
            "nothing to restore: no removal of this token is remembered (see `store.history`), or its user has deleted"
            f" it, or it is registered again, or its user has {max_tokens} tokens (`push_api.max_tokens_per_user`)"
        )
    remark(f"Restored {_registrations(restored)}.")


def described_removal(removal: Removal) -> dict[str, Any]:
    """A removed registration as JSON shows it."""
    return _described(removal.device) | {
        "removed": iso(removal.removed_ms),
        "reason": removal.reason,
        "quarantined": removal.quarantined,
    }


def _described(device: Device) -> dict[str, Any]:
    """A registration as JSON shows it, with the fields of its provider."""
    return {
        "owner": device.owner,
        "system": device.provider,
        "device_token": device.token,
        **RULES.of(device).describe(device.address),
        "registered": iso(device.registered_us // 1000),
        "last_success": iso(device.last_success_ms),
    } | _described_complaint(device)


def _described_complaint(device: Device) -> dict[str, Any]:
    said = device.complaint
    return {} if said is None else {"complaint": said.reason, "complaint_since": iso(said.since_ms)}


def _complaint(device: Device) -> str:
    said = device.complaint
    return "" if said is None else f"{said.reason} since {utc(said.since_ms)}"


def _reached_through(device: Device) -> str:
    return RULES.of(device).summary(device.address)


def _reason(removal: Removal) -> str:
    return f"{removal.reason} (in quarantine)" if removal.quarantined else removal.reason


async def _registered(store: Store, token: str) -> list[Device]:
    """Every registration of a token, in whatever spelling its provider allows."""
    found = [device for form in RULES.stored_tokens(token) for device in await store.registry.find(form)]
    return [device for device in found if RULES.is_token_of(token, device)]


async def _removed(store: Store, token: str, owner: UserId | None = None) -> list[Removal]:
    """Every removal of a token, in whatever spelling its provider allows."""
    forms = RULES.stored_tokens(token)
    found = [removal for form in forms for removal in await store.registry.history(owner=owner, token=form)]
    return [removal for removal in found if RULES.is_token_of(token, removal.device)]


def _token(file: Path) -> str:
    return read_secret(file, _TOKEN_FILE, "token")


def _given(command: str, argument: str | None, file: Path | None) -> str:
    """The token. As an argument, other users of the machine could read it; no message repeats it."""
    if argument is not None:
        raise InputError(
            f"{command}: a device token is not given on the command line, where other users of this machine can read"
            f" it: use {_TOKEN_FILE} FILE, or {_TOKEN_FILE} - to give it on standard input"
        )
    if file is None:
        raise InputError(f"{command}: give {_TOKEN_FILE} FILE, or {_TOKEN_FILE} - to give it on standard input")
    return _token(file)


def _whose(command: str, owner: str | None, token_file: Path | None) -> UserId | None:
    """The user, where one was given."""
    if owner is None and token_file is None:
        raise InputError(f"{command}: give --owner UUID, {_TOKEN_FILE} FILE, or both")
    return None if owner is None else user_id(owner)


def _registrations(count: int) -> str:
    return "1 registration" if count == 1 else f"{count} registrations"
