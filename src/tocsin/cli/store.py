"""`tocsin store`: is it sound, a copy of it, and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError
from tocsin.cli.opening import settings_of
from tocsin.cli.output import print_json, remark

app = group("The store: check it, copy it (both while a server runs on it), and restore a copy.")


@command(app, "check", example="tocsin store check")
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Check that the file is whole and that everything in it adds up; status 1 where it does not."""
    from tocsin.store.maintenance import check as check_store

    path = settings_of(config).store.path
    findings = check_store(path)
    if as_json:
        print_json({"path": str(path), "findings": findings})
    elif findings:
        for finding in findings:
            typer.echo(finding)
    else:
        remark(f"{path}: all is well")
    if findings:
        raise typer.Exit(1)


@command(app, "backup", example="tocsin store backup /backup/tocsin-2026-11-24.db")
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes; it must not exist yet.")],
    config: Config = None,
) -> None:
    """Copy the store as it is at one instant. `tocsin store restore` brings the copy back."""
    from tocsin.store.maintenance import backup as back_up
    from tocsin.store.opening import StoreError

    path = settings_of(config).store.path
    try:
        back_up(path, target)
    except StoreError as error:
        raise CommandError(str(error)) from None
    remark(f"{path} is copied to {target}")


@command(app, "restore", example="tocsin store restore /backup/tocsin-2026-11-24.db")
def restore(
    copy: Annotated[Path, typer.Argument(metavar="FILE", help="A copy that `backup` has made; it stays as it is.")],
    config: Config = None,
) -> None:
    """Put a copy in the place of the store, whose content is lost. Stop the server first, and run no other command."""
    from tocsin.store.maintenance import restore as put_back
    from tocsin.store.opening import StoreError

    path = settings_of(config).store.path
    try:
        put_back(path, copy)
    except StoreError as error:
        raise CommandError(str(error)) from None
    remark(f"{path} is restored from {copy}")
