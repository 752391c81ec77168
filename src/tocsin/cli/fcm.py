"""`tocsin fcm`: the Firebase projects that reach Android devices, each with its service account."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import now_ms, read_file
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, print_json, print_table, remark, utc
from tocsin.store.ports import FcmProject

if TYPE_CHECKING:
    from tocsin.store.opening import Store

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
        str | None, typer.Argument(metavar="[NAME]", help="How to call it here; the file's project_id by default.")
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Use it for devices of which no project is known. The first one is.")
    ] = False,
    config: Config = None,
) -> None:
    """Register a Firebase project, or replace its service account. The file is checked first, without asking Google."""
    from tocsin.providers.credentials import CredentialError, read_service_account

    content = read_file(service_account)
    try:
        project_id = read_service_account(content)
    except CredentialError as error:
        raise InputError(f"{service_account}: {error}") from None
    project = FcmProject(name or project_id, content.decode(), default, now_ms())
    in_store(settings_of(config), lambda store: store.applications.put_project(project))
    remark(f"{project.name}: registered. Ask Google with: tocsin fcm check {project.name}")


@command(app, "list", example="tocsin fcm list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """Show the projects, never their keys."""
    found = in_store(settings_of(config), lambda store: store.applications.projects())
    if as_json:
        print_json([_described(project) for project in found])
        return
    rows = [
        (one.name, _account(one, "project_id"), _account(one, "client_email"), _yes(one.default), utc(one.changed_ms))
        for one in found
    ]
    columns = ("name", "project", "service account", "default", "changed")
    print_table(columns, rows, empty="No projects yet; see: tocsin fcm add --help")


@command(app, "remove", example="tocsin fcm remove tablets")
def remove(name: Name, config: Config = None) -> None:
    """Forget a project and its service account. Devices stay registered."""

    async def take_out(store: Store) -> tuple[bool, bool]:
        removed = await store.applications.remove_project(name)
        left = await store.applications.projects()
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
            await store.applications.put_project(msgspec.structs.replace(project, default=True, changed_ms=now_ms()))
        return project is not None

    if not in_store(settings_of(config), choose):
        raise CommandError(_unknown(name))
    remark(f"{name}: is the default now")


@command(app, "check", example="tocsin fcm check cospace-firebase")
def check(name: Name, config: Config = None, as_json: AsJson = False) -> None:
    """Ask Google whether it accepts the project's service account. No device is rung."""
    from tocsin.service import check_project

    settings = settings_of(config)
    project = in_store(settings, lambda store: _find(store, name))
    if project is None:
        raise CommandError(_unknown(name))
    result = asyncio.run(check_project(settings, project))
    if as_json:
        print_json({"name": name, "ok": result.ok, "sentence": result.sentence})
    else:
        typer.echo(f"{name}: {result.sentence}")
    if not result.ok:
        raise typer.Exit(1)


async def _find(store: Store, name: str) -> FcmProject | None:
    return next((project for project in await store.applications.projects() if project.name == name), None)


def _described(project: FcmProject) -> dict[str, Any]:
    return {
        "name": project.name,
        "project_id": _account(project, "project_id"),
        "client_email": _account(project, "client_email"),
        "default": project.default,
        "changed": iso(project.changed_ms),
    }


def _account(project: FcmProject, field: str) -> str:
    return str(msgspec.json.decode(project.service_account).get(field, ""))


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _unknown(name: str) -> str:
    return f"{name}: no such Firebase project; see: tocsin fcm list"
