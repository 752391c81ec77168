"""`tocsin device`: who has which devices, where they went, and how to bring them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import user_id
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, print_json, print_table, remark, utc
from tocsin.domain.devices import APNS_DEVICE_TOKEN, Device, DeviceToken, System
from tocsin.domain.events import UserId
from tocsin.store.ports import Removal

if TYPE_CHECKING:
    from tocsin.store.opening import Store

app = group("Devices: who has which; the removed, and their return.")

Token = Annotated[str, typer.Argument(metavar="TOKEN", help="The device token.")]
OwnerOption = Annotated[str | None, typer.Option("--owner", metavar="UUID", help="This user's.")]
TokenOption = Annotated[str | None, typer.Option("--token", metavar="TOKEN", help="This token's, whoever holds it.")]


@command(app, "list", example="tocsin device list --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0")
def list_(owner: OwnerOption = None, token: TokenOption = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show a user's devices, or every registration of one token."""
    user, wanted = _whose("device list", owner, token)

    async def find(store: Store) -> list[Device]:
        if user is None:
            assert wanted is not None
            return await store.registry.find(wanted)
        devices = (await store.registry.devices_of([user])).get(user, [])
        return [device for device in devices if wanted in (None, device.token)]

    found = in_store(settings_of(config), find)
    if as_json:
        print_json([described(device) for device in found])
        return
    rows = [
        (one.owner, where(one), utc(one.registered_us // 1000), utc(one.last_success_ms), one.token) for one in found
    ]
    print_table(("owner", "reached through", "registered", "last success", "token"), rows, empty="No devices.")


@command(
    app,
    "remove",
    example="tocsin device remove APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0",
)
def remove(
    token: Token,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="UUID", help="Only this user's registration of it.")
    ] = None,
    config: Config = None,
) -> None:
    """Remove a device token, for one user or for all that registered it. `device restore` brings it back."""
    wanted = _token(token)
    user = None if owner is None else user_id(owner)

    async def delete(store: Store) -> int:
        found = [device for device in await store.registry.find(wanted) if user in (None, device.owner)]
        return sum(
            [
                await store.registry.delete(UserId(one.owner), System(one.system), wanted, by_operator=True)
                for one in found
            ]
        )

    removed = in_store(settings_of(config), delete)
    if not removed:
        raise CommandError("nobody has registered this token; see: tocsin device history --token TOKEN")
    remark(f"Removed {_registrations(removed)}.")


@command(app, "history", example="tocsin device history --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0")
def history(
    owner: OwnerOption = None, token: TokenOption = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Tell which registrations are gone, when and why. They are remembered for 30 days."""
    user, wanted = _whose("device history", owner, token)
    found = in_store(settings_of(config), lambda store: store.registry.history(owner=user, token=wanted))
    if as_json:
        print_json([described_removal(removal) for removal in found])
        return
    rows = [(utc(one.removed_ms), one.device.owner, where(one.device), reason(one), one.device.token) for one in found]
    print_table(("removed", "owner", "was reached through", "reason", "token"), rows, empty="Nothing was removed.")


@command(app, "restore", example="tocsin device restore APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx")
def restore(token: Token, config: Config = None) -> None:
    """Bring a removed token back for everyone who had it. What was registered again since is left alone."""
    wanted = _token(token)
    restored = in_store(settings_of(config), lambda store: store.registry.restore(token=wanted, quarantined_only=False))
    if not restored:
        raise CommandError("nothing to restore: this token was not removed in the last 30 days, or is registered again")
    remark(f"Restored {_registrations(restored)}.")


def described(device: Device) -> dict[str, Any]:
    """A device as JSON shows it: what the system has no use for is left out."""
    shown: dict[str, Any] = {"owner": device.owner, "system": str(device.system), "device_token": device.token}
    if device.system == System.APNS:
        shown |= {
            "application_id": device.application_id,
            "sandbox": device.sandbox,
            "topic": device.topic,
        }
    return shown | {"registered": iso(device.registered_us // 1000), "last_success": iso(device.last_success_ms)}


def described_removal(removal: Removal) -> dict[str, Any]:
    return described(removal.device) | {
        "removed": iso(removal.removed_ms),
        "reason": removal.reason,
        "quarantined": removal.quarantined,
    }


def where(device: Device) -> str:
    if device.system == System.FCM:
        return "FCM"
    return f"APNs {'sandbox' if device.sandbox else 'production'} {device.topic}"


def reason(removal: Removal) -> str:
    return f"{removal.reason} (in quarantine)" if removal.quarantined else removal.reason


def _whose(command: str, owner: str | None, token: str | None) -> tuple[UserId | None, DeviceToken | None]:
    if owner is None and token is None:
        raise InputError(f"{command}: give --owner UUID, --token TOKEN, or both")
    return None if owner is None else user_id(owner), None if token is None else _token(token)


def _token(text: str) -> DeviceToken:
    """A token as it is stored: APNs' are in lower case."""
    return DeviceToken(text.lower() if APNS_DEVICE_TOKEN.fullmatch(text) else text)


def _registrations(count: int) -> str:
    return "1 registration" if count == 1 else f"{count} registrations"
