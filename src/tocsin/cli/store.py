"""`tocsin store`: check the store, copy it, restore a copy, move it, and look after its master key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.acting import command_line
from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import confirm
from tocsin.cli.opening import in_store, require_store, settings_of
from tocsin.cli.output import print_json, remark
from tocsin.cli.progress import working
from tocsin.settings import Settings, SettingsError, with_store
from tocsin.store import maintenance, migrating
from tocsin.store.audit_chain import Action, Change
from tocsin.store.ports import StoreError

app = group(
    "The store: check it, copy it (both while a server runs on it), restore a copy, move it to PostgreSQL, and change"
    " its master key."
)


@command(app, "check", example="tocsin store check")
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Check that the store is not damaged and that its content is consistent; status 1 where it is not."""
    settings = settings_of(config)
    require_store(settings)
    name = maintenance.name(settings)
    with working(f"checking {name}"):
        findings = maintenance.check(settings)
    if as_json:
        print_json({"path": name, "findings": findings})
    elif findings:
        for finding in findings:
            typer.echo(finding)
    else:
        remark(f"{name}: all is well")
    if findings:
        raise typer.Exit(1)
    if not as_json:
        for sentence in maintenance.unseen(settings):
            remark(f"{name}: {sentence}")


@command(app, "backup", example="tocsin store backup /backup/tocsin-2026-11-24.db")
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes; it must not exist yet.")],
    config: Config = None,
) -> None:
    """Copy the store as it is at one instant. `tocsin store restore` restores the copy."""
    settings = settings_of(config)
    require_store(settings)
    try:
        with working(f"copying {maintenance.name(settings)}") as work:
            maintenance.backup(settings, target, work.at)
    except StoreError as error:
        raise CommandError(str(error)) from None
    remark(f"{maintenance.name(settings)} is copied to {target}, without the master key: keep a copy of that apart")


@command(app, "restore", example="tocsin store restore /backup/tocsin-2026-11-24.db")
def restore(
    copy: Annotated[Path, typer.Argument(metavar="FILE", help="A copy that `backup` has made; it stays as it is.")],
    config: Config = None,
) -> None:
    """Replace the store with a copy; what is in the store now is lost. Stop the server first, and run nothing else."""
    settings = settings_of(config)
    try:
        with working(f"copying {copy}") as work:
            on_record = maintenance.restore(settings, copy, command_line(), work.at)
    except StoreError as error:
        raise CommandError(str(error)) from None
    remark(f"{maintenance.name(settings)} is restored from {copy}")
    if not on_record:
        # A copy of a version without an audit log: it is migrated for that.
        in_store(settings, lambda store: store.audit.note(Change(Action.STORE_RESTORE, str(copy))))


@command(app, "migrate", example="tocsin store migrate --from sqlite:var/tocsin.db --to postgresql://tocsin@db1/tocsin")
def migrate(
    source: Annotated[str, typer.Option("--from", metavar="URL", help="sqlite:FILE, the store that moves.")],
    target: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="postgresql://user@host/database, which is empty.")
    ] = None,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="Give the move up: the store in the file is used again, as it is.")
    ] = False,
    config: Config = None,
) -> None:
    """Move the store from SQLite to PostgreSQL, all of it; stop the server first. What was interrupted goes on.

    The password, the master key and everything else are as the configuration says. The file stays as it is, and is
    marked: nothing uses it any more, unless the move is taken back.
    """
    settings = settings_of(config)
    try:
        path = _named("--from", "sqlite:FILE", settings, source).store.path
        if take_back == (target is not None):
            raise InputError("give either --to or --take-back")
        if target is None:
            marked = migrating.take_back(path)
            remark(f"{path}: is used again, as it is" if marked else f"{path}: was not moved: nothing was changed")
            return
        moved_to = _named("--to", "postgresql://user@host/database", settings, target)
        with working(f"moving {path}") as work:
            moved = asyncio.run(migrating.migrate(path, moved_to, remark, work.at))
    except StoreError as error:
        raise CommandError(str(error)) from None
    if moved:
        _end_move(path, moved_to)
    remark(f"{path}: is moved to {maintenance.name(moved_to)}: name that with store.url, and start")


def _named(option: str, wanted: str, settings: Settings, url: str) -> Settings:
    """The settings for the store at `url`, which is of the kind that is wanted."""
    if not url.startswith(wanted.partition(":")[0] + ":"):
        raise InputError(f"{option}: must be {wanted}")
    try:
        return with_store(settings, url)
    except SettingsError as error:
        raise InputError(f"{option}: {error}") from None


def _end_move(path: Path, moved_to: Settings) -> None:
    in_store(moved_to, lambda store: store.audit.note(Change(Action.STORE_MIGRATE, str(path))))
    try:
        migrating.set_done(path)
    except StoreError as error:
        raise CommandError(str(error)) from None


@command(app, "rekey", example="tocsin store rekey")
def rekey(config: Config = None) -> None:
    """Bring all that is encrypted under a new master key; a server may be running. Old keys stay, for older backups.

    Where the keys are in a file beside the store (or named by secrets.key_file), a new one is made and put first.
    Elsewhere put the new key first yourself, leave the old one after it, and run this.
    """
    settings = settings_of(config)
    require_store(settings)
    try:
        made = maintenance.add_key(settings)
    except StoreError as error:
        raise CommandError(str(error)) from None
    if made is not None:
        remark(f"a new master key {made.id} was put first in {maintenance.keys(settings)}")
    with working("encrypting under the new key") as work:
        count = in_store(settings, lambda store: store.credentials.rewrap(work.at), doing="")
    remark(f"{count} records were under another master key, and are under the newest now")


@command(app, "export-key", example="tocsin store export-key")
def export_key(config: Config = None) -> None:
    """Print the master keys, for safe-keeping apart from the store's backups. Whoever has both can read the secrets.

    The audit log of the store, where there is one, tells of it first.
    """
    settings = settings_of(config)
    try:
        text = maintenance.keys(settings).text()
    except StoreError as error:
        raise CommandError(str(error)) from None
    if maintenance.exists(settings):
        in_store(settings, lambda store: store.audit.note(Change(Action.STORE_EXPORT_KEY)))
    typer.echo(text, nl=not text.endswith("\n"))


@command(app, "give-up-key", example="tocsin store give-up-key 3f9a1c5be207 --yes")
def give_up_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The id of the master key, as `serve` names it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = None,
) -> None:
    """Give up what is encrypted by a master key that is lost for good, so that all the rest can be used again.

    Its credentials are removed; events that were not delivered, and dead letters, end without being delivered. Devices,
    sessions and API keys stay. Stop every server first.
    """
    settings = settings_of(config)
    require_store(settings)
    if not yes:
        confirm(f"{key_id}: give up all that this master key encrypts, for good?")
    try:
        with working(f"giving up what {key_id} encrypts"):
            given_up = maintenance.give_up_key(settings, key_id, command_line())
    except StoreError as error:
        raise CommandError(str(error)) from None
    remark(f"{given_up.events} events were given up; {len(given_up.accounts)} credentials were removed:")
    for account in given_up.accounts:
        typer.echo(account)
