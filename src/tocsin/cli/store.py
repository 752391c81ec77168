"""`tocsin store`: check the store, copy it, and restore a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError
from tocsin.cli.opening import require_store, settings_of
from tocsin.cli.output import print_json, remark
from tocsin.store import maintenance
from tocsin.store.ports import StoreError

app = group("The store: check it, copy it (both while a server runs on it), and restore a copy.")


@command(app, "check", example="tocsin store check")
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Check that the store is not damaged and that its content is consistent; status 1 where it is not."""
    settings = settings_of(config)
    require_store(settings)
    name, findings = maintenance.name(settings), maintenance.check(settings)
    if as_json:
        print_json({"path": name, "findings": findings})
    elif findings:
        for finding in findings:
            typer.echo(finding)
    else:
        remark(f"{name}: all is well")
    if findings:
        raise typer.Exit(1)


@command(app, "backup", example="tocsin store backup /backup/tocsin-2026-11-24.db")
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes; it must not exist yet.")],
    config: Config = None,
) -> None:
    """Copy the store as it is at one instant. `tocsin store restore` restores the copy."""
    settings = settings_of(config)
    require_store(settings)
    try:
        maintenance.backup(settings, target)
    except StoreError as error:
        raise CommandError(str(error)) from None
    remark(f"{maintenance.name(settings)} is copied to {target}")


@command(app, "restore", example="tocsin store restore /backup/tocsin-2026-11-24.db")
def restore(
    copy: Annotated[Path, typer.Argument(metavar="FILE", help="A copy that `backup` has made; it stays as it is.")],
    config: Config = None,
) -> None:
    """Replace the store with a copy; what is in the store now is lost. Stop the server first, and run nothing else."""
    settings = settings_of(config)
    try:
        maintenance.restore(settings, copy)
    except StoreError as error:
        raise CommandError(str(error)) from None
    remark(f"{maintenance.name(settings)} is restored from {copy}")
