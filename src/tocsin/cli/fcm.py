"""`tocsin fcm`: the Firebase projects that reach Android devices, each with its service account."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from tocsin.cli import last_checks
from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import read_file
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, print_json, print_table, remark, utc
from tocsin.domain.credentials import Credential
from tocsin.providers.fcm.address import NAME, PROJECT_NAME
from tocsin.store.ports import Store, StoreError

app = group("Firebase projects that reach Android devices.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the project was added as.")]


@command(
    app,
    "add",
    example="""
tocsin fcm add --service-account cospace-firebase.json
tocsin fcm add tablets --service-account tablets.json --default
""",
)
def add(
    service_account: Annotated[
        Path, typer.Option("--service-account", metavar="FILE", help="The JSON file, as Google hands it out.")
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="How to call it here; the file's project_id by default.")
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Use it for devices of which no project is known. The first one is.")
    ] = False,
    config: Config = None,
) -> None:
    """Register a Firebase project, or replace its service account. The file is checked first, without asking Google."""
    from tocsin.providers.base import CredentialError
    from tocsin.providers.configured import token_hosts
    from tocsin.providers.fcm.credentials import read_service_account, stored

    content = read_file(service_account, "--service-account")
    try:
        account = read_service_account(content, token_hosts(settings_of(config)))
    except CredentialError as error:
        raise InputError(f"{service_account}: {error}") from None
    project = account.project_id if name is None else name
    if not PROJECT_NAME.fullmatch(project):
        raise InputError(
            f"project name {project}: must be at most 201 letters, digits, dots, colons, hyphens and underscores, and"
            " begin with a letter or digit"
        )

    async def put(store: Store) -> None:
        # A default project that is added again stays the default; and there is one as soon as there is a project.
        others = [one for one in await store.credentials.of(NAME) if one.account != project]
        is_default = default or not any(one.default for one in others)
        await store.credentials.put(stored(project, content, default=is_default, changed_ms=store.now_ms()))

    in_store(settings_of(config), put, create=True)
    remark(f"{project}: registered. Ask Google with: tocsin fcm check {project}")


@command(app, "list", example="tocsin fcm list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """Show the projects, never their keys, and what Google said when it was asked last."""
    found, checks = in_store(settings_of(config), lambda store: last_checks.credentials_of(store, NAME))
    if as_json:
        print_json([_described(one) | last_checks.described(checks.get(one.account)) for one in found])
        return
    rows = [(*_row(one), last_checks.in_words(checks.get(one.account))) for one in found]
    columns = ("name", "project", "service account", "default", "changed", "last check")
    print_table(columns, rows, empty="No projects yet; see: tocsin fcm add --help")


@command(app, "remove", example="tocsin fcm remove tablets")
def remove(name: Name, config: Config = None) -> None:
    """Remove a project and its service account. Devices stay registered."""

    async def take_out(store: Store) -> tuple[bool, bool]:
        removed = await store.credentials.remove(NAME, name)
        try:
            left = await store.credentials.of(NAME)
        except StoreError:  # the master key is missing: what cannot be read can be removed all the same
            left = []
        return removed, bool(left) and not any(project.default for project in left)

    removed, without_default = in_store(settings_of(config), take_out)
    if not removed:
        raise CommandError(_unknown(name))
    remark(f"{name}: removed")
    if without_default:
        remark("It was the default: choose another with: tocsin fcm default NAME")


@command(app, "default", example="tocsin fcm default tablets")
def default(name: Name, config: Config = None) -> None:
    """Make a project the default: the one for devices of which no project is known."""

    async def choose(store: Store) -> bool:
        project = await _find(store, name)
        if project is not None:
            await store.credentials.put(replace(project, default=True, changed_ms=store.now_ms()))
        return project is not None

    if not in_store(settings_of(config), choose):
        raise CommandError(_unknown(name))
    remark(f"{name}: is the default now")


@command(app, "check", example="tocsin fcm check cospace-firebase")
def check(name: Name, config: Config = None, as_json: AsJson = False) -> None:
    """Ask Google whether it accepts the project's service account. No device gets a push."""
    from tocsin.http2.network import SystemNetwork
    from tocsin.providers.configured import fcm_options
    from tocsin.providers.fcm.check import check as ask_google
    from tocsin.providers.fcm.credentials import read_stored

    settings = settings_of(config)
    project = in_store(settings, lambda store: _find(store, name))
    if project is None:
        raise CommandError(_unknown(name))
    result = asyncio.run(ask_google(name, read_stored(project), fcm_options(settings), network=SystemNetwork()))
    if as_json:
        print_json({"name": name, "ok": result.ok, "sentence": result.sentence})
    else:
        typer.echo(f"{name}: {result.sentence}")
    last_checks.note_check(settings, project, result)
    if not result.ok:
        raise typer.Exit(1)


async def _find(store: Store, name: str) -> Credential | None:
    return next((project for project in await store.credentials.of(NAME) if project.account == name), None)


def _described(project: Credential) -> dict[str, Any]:
    """A project as JSON shows it, without its secrets."""
    from tocsin.providers.fcm.credentials import read_stored

    account = read_stored(project)
    return {
        "name": project.account,
        "project_id": account.project_id,
        "client_email": account.client_email,
        "default": project.default,
        "changed": iso(project.changed_ms),
    }


def _row(project: Credential) -> tuple[str, ...]:
    """A project in the table."""
    from tocsin.providers.fcm.credentials import read_stored

    account = read_stored(project)
    is_default = "yes" if project.default else ""
    return project.account, account.project_id, account.client_email, is_default, utc(project.changed_ms)


def _unknown(name: str) -> str:
    return f"{name}: no such Firebase project; see: tocsin fcm list"
