"""`tocsin app`: the apps that may register APNs device tokens, each with its key or certificate."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tocsin.cli import last_checks
from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import read_file, read_secret
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, print_json, print_table, remark, utc
from tocsin.domain.credentials import Credential
from tocsin.providers.apns.address import APPLICATION_ID, KEY_ID, NAME, team_id

if TYPE_CHECKING:
    from tocsin.providers.apns.credentials import ApnsCredential

app = group("Apps that may register APNs tokens, with their credentials.")

_KEY_FILE: Final = re.compile(rf"AuthKey_({KEY_ID.pattern})\.p8")

Id = Annotated[str, typer.Argument(metavar="ID", help="Team id, a dot, bundle id.")]


@command(
    app,
    "add",
    example="""
tocsin app add 39JSDKGJ38.de.cospace.app --key AuthKey_ABC123DEFG.p8 --key-id ABC123DEFG
tocsin app add 39JSDKGJ38.de.cospace.app --certificate push.p12 --password-file password.txt
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
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file", metavar="FILE", help="A file with the password of its private key; - for standard input."
        ),
    ] = None,
    password: Annotated[str | None, typer.Option("--password", hidden=True)] = None,
    config: Config = None,
) -> None:
    """Register an app, or replace its credential. The credential is checked first, without asking Apple."""
    _check_id(id)
    if password is not None:
        raise InputError(
            "--password: other users of this machine can read what is on a command line; use --password-file FILE, or"
            " --password-file - to give it on standard input"
        )
    if (key is None) == (certificate is None):
        raise InputError(f"app {id}: give one credential, either --key FILE.p8 or --certificate FILE")
    if key is not None:
        credential = _read_key(id, key, key_id)
    else:
        assert certificate is not None
        credential = _read_certificate(id, certificate, password_file)
    in_store(
        settings_of(config), lambda store: store.credentials.put(credential.stored(id, store.now_ms())), create=True
    )
    remark(f"{id}: registered with {_in_words(credential)}. Ask Apple with: tocsin app check {id}")


@command(app, "list", example="tocsin app list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """Show the apps and their credentials, never the secrets, and what Apple said when it was asked last."""
    from tocsin.providers.apns.credentials import read_stored

    found, checks = in_store(settings_of(config), lambda store: last_checks.credentials_of(store, NAME))
    if as_json:
        print_json([_described(one) | last_checks.described(checks.get(one.account)) for one in found])
        return
    rows = [
        (
            one.account,
            _in_words(read_stored(one)),
            utc(one.changed_ms),
            last_checks.in_words(checks.get(one.account)),
        )
        for one in found
    ]
    columns = ("application", "credential", "changed", "last check")
    print_table(columns, rows, empty="No apps yet; see: tocsin app add --help")


@command(app, "remove", example="tocsin app remove 39JSDKGJ38.de.cospace.app")
def remove(id: Id, config: Config = None) -> None:
    """Remove an app and its credential. Its registered devices stay, and get no pushes until it is added again."""
    _check_id(id)
    if not in_store(settings_of(config), lambda store: store.credentials.remove(NAME, id)):
        raise CommandError(_unknown(id))
    remark(f"{id}: removed")


@command(app, "check", example="tocsin app check 39JSDKGJ38.de.cospace.app --sandbox")
def check(
    id: Id,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Ask Apple's sandbox instead of production.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Ask Apple whether it accepts the app's credential. No device gets a push.

    Where Apple does not know the key, it is tried once for each other team that has an app here.
    """
    from tocsin.http2.network import SystemNetwork
    from tocsin.providers.apns.check import check as ask_apple
    from tocsin.providers.apns.credentials import read_stored
    from tocsin.providers.configured import apns_options

    settings = settings_of(config)
    _check_id(id)
    known = {one.account: one for one in in_store(settings, lambda store: store.credentials.of(NAME))}
    if id not in known:
        raise CommandError(_unknown(id))
    result = asyncio.run(
        ask_apple(
            id,
            read_stored(known[id]),
            apns_options(settings),
            network=SystemNetwork(),
            sandbox=sandbox,
            other_teams=sorted({team_id(one) for one in known} - {team_id(id)}),
        )
    )
    if as_json:
        print_json({"application_id": id, "sandbox": sandbox, "ok": result.ok, "sentence": result.sentence})
    else:
        typer.echo(f"{id}: {result.sentence}")
    last_checks.note_check(settings, known[id], result, sandbox=sandbox)
    if not result.ok:
        raise typer.Exit(1)


def _check_id(id: str) -> None:
    if not APPLICATION_ID.fullmatch(id):
        raise InputError(
            f"application id {id}: must be the team id, a dot and the bundle id, like 39JSDKGJ38.de.cospace.app"
        )


def _read_key(id: str, file: Path, key_id: str | None) -> ApnsCredential:
    from tocsin.providers.apns.credentials import ApnsCredential, read_key
    from tocsin.providers.base import CredentialError

    if key_id is None:
        named = _KEY_FILE.fullmatch(file.name)
        if named is None:
            raise InputError(f"app {id}: --key needs --key-id, the ten characters that Apple shows beside the key")
        key_id = named[1]
    if not KEY_ID.fullmatch(key_id):
        raise InputError(f"--key-id {key_id}: must be the ten letters and digits that Apple shows beside the key")
    try:
        return ApnsCredential(key_pem=read_key(read_file(file, "--key")), key_id=key_id)
    except CredentialError as error:
        raise InputError(f"apns key for {id}: {file}: {error}") from None


def _read_certificate(id: str, file: Path, password_file: Path | None) -> ApnsCredential:
    from tocsin.cli.certificates import belongs_to
    from tocsin.providers.apns.credentials import ApnsCredential, read_certificate
    from tocsin.providers.base import CredentialError

    password = None if password_file is None else read_secret(password_file, "--password-file")
    try:
        pem = read_certificate(read_file(file, "--certificate"), password, now_s=time.time())
    except CredentialError as error:
        raise InputError(f"apns certificate for {id}: {file}: {error}") from None
    if not belongs_to(pem, id):
        raise InputError(f"apns certificate for {id}: {file}: issued for another app; export the one of this bundle id")
    return ApnsCredential(certificate_pem=pem)


def _in_words(credential: ApnsCredential) -> str:
    """The credential for a table and for messages, without its secret."""
    from tocsin.providers.apns.credentials import certificate_expiry

    if credential.certificate_pem is not None:
        return f"certificate until {certificate_expiry(credential.certificate_pem):%Y-%m-%d}"
    return f"key {credential.key_id}"


def _described(stored: Credential) -> dict[str, Any]:
    """An app as JSON shows it, without the secret of its credential."""
    from tocsin.providers.apns.credentials import read_stored

    credential = read_stored(stored)
    described: dict[str, Any] = {"application_id": stored.account, "changed": iso(stored.changed_ms)}
    expires_s = credential.expires_s()
    if expires_s is not None:
        return described | {"credential": "certificate", "certificate_expires": iso(int(expires_s * 1000))}
    return described | {"credential": "key", "key_id": credential.key_id}


def _unknown(id: str) -> str:
    return f"{id}: no such app; see: tocsin app list"
