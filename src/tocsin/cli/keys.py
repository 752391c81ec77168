"""`tocsin key`: the API keys of the platform's backends (producer), of operators (admin), and of what watches tocsin
(monitoring)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError
from tocsin.cli.inputs import duration_ms, id_or_secret
from tocsin.cli.key_limits import described, key_limits, shown
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, kept_if_printed, print_json, print_table, printable, remark, utc
from tocsin.store.ports import Store
from tocsin.store.records import ApiKey, Role

app = group("API keys: for producers of events, for admins, and for monitoring.")


@command(
    app,
    "create",
    example="""
tocsin key create producer --name fax-backend --events fax_new --rate 50/s
tocsin key create admin --name support --area devices,deliveries --read-only
tocsin key create monitoring --name prometheus
""",
)
def create(
    role: Annotated[Role, typer.Argument(help="What the key may do.")],
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="Who uses it, for the list.")] = "",
    expires_in: Annotated[
        str, typer.Option("--expires-in", metavar="TIME", help="How long it is valid: 12h, 90d, or never.")
    ] = "365d",
    events: Annotated[
        str | None,
        typer.Option("--events", metavar="NAMES", help="Only these events, as fax_new,chat_message (producer)."),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="N/s", help="No more events than these: 50/s, 600/min, 1000/h (producer)."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="It can look, and change nothing (admin).")] = False,
    area: Annotated[
        str | None,
        typer.Option("--area", metavar="AREAS", help="Only these, of credentials, devices and deliveries (admin)."),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It cannot be shown again: only a hash is kept."""
    lifetime_ms = duration_ms(expires_in)
    limits = key_limits(role, events=events, rate=rate, read_only=read_only, area=area)

    async def create_key(store: Store) -> tuple[str, ApiKey]:
        expires_ms = None if lifetime_ms is None else store.now_ms() + lifetime_ms
        return await store.access.create_key(role, name, expires_ms, limits)

    settings = settings_of(config)
    secret, key = in_store(settings, create_key, create=True)
    with kept_if_printed("key", lambda: in_store(settings, lambda store: store.access.revoke_key(key.id))):
        if as_json:
            print_json(_described(key) | {"key": secret})
        else:
            remark(f"{key.role.value.capitalize()} key {key.id}, good until {utc(key.expires_ms)}:")
            typer.echo(secret)


@command(app, "list", example="tocsin key list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """Show the keys and what they are limited to, never the secrets."""
    found = in_store(settings_of(config), lambda store: store.access.keys())
    if as_json:
        print_json([_described(key) for key in found])
        return
    rows = [
        (one.id, one.role.value, printable(one.name), shown(one.limits), utc(one.created_ms), utc(one.expires_ms))
        for one in found
    ]
    columns = ("id", "role", "name", "limits", "created", "expires")
    print_table(columns, rows, empty="No keys; see: tocsin key create --help")


@command(
    app,
    "revoke",
    example="""
tocsin key revoke key_3f9a1c5be207
tocsin key revoke --key-file leaked-key.txt
""",
)
def revoke(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The key's id.")] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="A file with the key itself; - for standard input."),
    ] = None,
    config: Config = None,
) -> None:
    """End a key at once, also on a server that is running."""
    given = id_or_secret(id, "key_", key_file, "--key-file")
    if not in_store(settings_of(config), lambda store: store.access.revoke_key(given)):
        raise CommandError("no key has this id or secret; see: tocsin key list")
    remark("The key is revoked.")


def _described(key: ApiKey) -> dict[str, Any]:
    """A key as JSON shows it, without its secret."""
    return {
        "id": key.id,
        "role": key.role.value,
        "name": key.name,
        "created": iso(key.created_ms),
        "expires": iso(key.expires_ms),
        **described(key.limits),
    }
