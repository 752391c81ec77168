"""`tocsin app`: the apps that may register APNs device tokens, each with its key or certificate."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import application_id, now_ms, read_file
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, print_json, print_table, remark, utc
from tocsin.domain.devices import ApplicationId, team_id
from tocsin.store.ports import Application

if TYPE_CHECKING:
    from tocsin.store.opening import Store

app = group("Apps that may register APNs tokens, with their credentials.")

_KEY_ID: Final = re.compile(r"[A-Za-z0-9]{10}")
_KEY_FILE: Final = re.compile(r"AuthKey_([A-Za-z0-9]{10})\.p8")

Id = Annotated[str, typer.Argument(metavar="ID", help="Team id, a dot, bundle id.")]


@command(
    app,
    "add",
    example="""
tocsin app add 39JSDKGJ38.de.cospace.app --key AuthKey_ABC123DEFG.p8 --key-id ABC123DEFG
tocsin app add 39JSDKGJ38.de.cospace.app --certificate push.p12 --password secret
""",
)
def add(
    id: Id,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="An authentication key (.p8), as Apple hands it out.")
    ] = None,
    key_id: Annotated[
        str | None,
        typer.Option("--key-id", metavar="ID", help="The key's id; taken from a file name AuthKey_<ID>.p8."),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="A push certificate with its private key (.pem or .p12)."),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option("--password", metavar="TEXT", help="What the certificate's private key is locked with."),
    ] = None,
    config: Config = None,
) -> None:
    """Register an app, or replace its credential. The credential is checked first, without asking Apple."""
    known_as = application_id(id)
    if (key is None) == (certificate is None):
        raise InputError(f"app {id}: give one credential, either --key FILE.p8 or --certificate FILE")
    if key is not None:
        application = _with_key(known_as, key, key_id)
    else:
        assert certificate is not None
        application = _with_certificate(known_as, certificate, password)
    in_store(settings_of(config), lambda store: store.applications.put_application(application))
    remark(f"{id}: registered with {_credential(application)}. Ask Apple with: tocsin app check {id}")


@command(app, "list", example="tocsin app list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """Show the apps and their credentials, never the secrets."""
    found = in_store(settings_of(config), lambda store: store.applications.applications())
    if as_json:
        print_json([_described(application) for application in found])
        return
    rows = [(one.id, _credential(one), utc(one.changed_ms)) for one in found]
    print_table(("application", "credential", "changed"), rows, empty="No apps yet; see: tocsin app add --help")


@command(app, "remove", example="tocsin app remove 39JSDKGJ38.de.cospace.app")
def remove(id: Id, config: Config = None) -> None:
    """Forget an app and its credential. Its registered devices stay, and are not reached until it is added again."""
    known_as = application_id(id)
    if not in_store(settings_of(config), lambda store: store.applications.remove_application(known_as)):
        raise CommandError(_unknown(id))
    remark(f"{id}: removed")


@command(app, "check", example="tocsin app check 39JSDKGJ38.de.cospace.app --sandbox")
def check(
    id: Id,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Ask Apple's sandbox instead of production.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Ask Apple whether it accepts the app's credential. No device is rung.

    Where Apple does not know the key, it is tried once for each other team that has an app here: whose is it?
    """
    from tocsin.service import check_application

    settings = settings_of(config)
    known_as = application_id(id)

    async def read(store: Store) -> list[Application]:
        return await store.applications.applications()

    known = in_store(settings, read)
    application = next((one for one in known if one.id == known_as), None)
    if application is None:
        raise CommandError(_unknown(id))
    teams = sorted({team_id(one.id) for one in known} - {team_id(known_as)})
    result = asyncio.run(check_application(settings, application, sandbox=sandbox, other_teams=teams))
    if as_json:
        print_json({"application_id": id, "sandbox": sandbox, "ok": result.ok, "sentence": result.sentence})
    else:
        typer.echo(f"{id}: {result.sentence}")
    if not result.ok:
        raise typer.Exit(1)


def _with_key(id: ApplicationId, file: Path, key_id: str | None) -> Application:
    from tocsin.providers.credentials import CredentialError, read_key

    if key_id is None:
        named = _KEY_FILE.fullmatch(file.name)
        if named is None:
            raise InputError(f"app {id}: --key needs --key-id, the ten characters that Apple shows beside the key")
        key_id = named[1]
    if not _KEY_ID.fullmatch(key_id):
        raise InputError(f"--key-id {key_id}: must be the ten letters and digits that Apple shows beside the key")
    try:
        return Application(id, key_pem=read_key(read_file(file)), key_id=key_id, changed_ms=now_ms())
    except CredentialError as error:
        raise InputError(f"apns key for {id}: {file}: {error}") from None


def _with_certificate(id: ApplicationId, file: Path, password: str | None) -> Application:
    from tocsin.cli.certificates import belongs_to
    from tocsin.providers.credentials import CredentialError, read_certificate

    try:
        pem = read_certificate(read_file(file), password)
    except CredentialError as error:
        raise InputError(f"apns certificate for {id}: {file}: {error}") from None
    if not belongs_to(pem, id):
        raise InputError(f"apns certificate for {id}: {file}: issued for another app; export the one of this bundle id")
    return Application(id, certificate_pem=pem, changed_ms=now_ms())


def _credential(application: Application) -> str:
    from tocsin.providers.credentials import certificate_expiry

    if application.certificate_pem is not None:
        return f"certificate until {certificate_expiry(application.certificate_pem):%Y-%m-%d}"
    return f"key {application.key_id}"


def _described(application: Application) -> dict[str, Any]:
    from tocsin.providers.credentials import certificate_expiry

    described: dict[str, Any] = {"application_id": application.id, "changed": iso(application.changed_ms)}
    if application.certificate_pem is not None:
        expiry_ms = int(certificate_expiry(application.certificate_pem).timestamp() * 1000)
        return described | {"credential": "certificate", "certificate_expires": iso(expiry_ms)}
    return described | {"credential": "key", "key_id": application.key_id}


def _unknown(id: str) -> str:
    return f"{id}: no such app; see: tocsin app list"
