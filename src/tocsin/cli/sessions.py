"""`tocsin session`: the sessions with which the app on a user's phone calls the API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.inputs import duration_ms, id_or_secret, read_secret, user_id
from tocsin.cli.opening import in_store, settings_of
from tocsin.cli.output import iso, kept_if_printed, print_json, print_table, remark, utc
from tocsin.sign_in.verdicts import Refused, SignedIn, Unavailable, Verdict
from tocsin.store.ports import Store
from tocsin.store.records import Session

app = group("Sessions, with which the app on a user's phone calls the API.")


@command(app, "create", example="tocsin session create --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0")
def create(
    owner: Annotated[str | None, typer.Option("--owner", metavar="UUID", help="The user it belongs to.")] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="A session in which nobody has signed in yet, in place of --owner.")
    ] = False,
    expires_in: Annotated[
        str, typer.Option("--expires-in", metavar="TIME", help="How long it is valid: 12h, 90d, or never.")
    ] = "90d",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Create a session and print its secret (`sid`). It cannot be shown again: only a hash is kept."""
    if (owner is None) != anonymous:
        raise InputError("session create: give either --owner UUID or --anonymous")
    user = None if owner is None else user_id(owner)
    lifetime_ms = duration_ms(expires_in)

    async def create_session(store: Store) -> tuple[str, Session]:
        expires_ms = None if lifetime_ms is None else store.now_ms() + lifetime_ms
        return await store.access.create_session(user, expires_ms)

    settings = settings_of(config)
    secret, session = in_store(settings, create_session, create=True)
    with kept_if_printed("session", lambda: in_store(settings, lambda store: store.access.revoke_session(session.id))):
        if as_json:
            print_json(_described(session) | {"sid": secret})
        else:
            whose = session.owner or "nobody yet"
            remark(f"Session {session.id} of {whose}, good until {utc(session.expires_ms)}. Its sid:")
            typer.echo(secret)


@command(app, "list", example="tocsin session list --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0")
def list_(
    owner: Annotated[str | None, typer.Option("--owner", metavar="UUID", help="Only this user's.")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show the sessions, never the secrets."""
    user = None if owner is None else user_id(owner)
    found = in_store(settings_of(config), lambda store: store.access.sessions(user))
    if as_json:
        print_json([_described(session) for session in found])
        return
    rows = [(one.id, one.owner or "-", utc(one.created_ms), utc(one.expires_ms)) for one in found]
    print_table(("id", "owner", "created", "expires"), rows, empty="No sessions; see: tocsin session create --help")


@command(
    app,
    "revoke",
    example="""
tocsin session revoke ses_3f9a1c5be207
tocsin session revoke --sid-file leaked-sid.txt
""",
)
def revoke(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The session's id.")] = None,
    sid_file: Annotated[
        Path | None,
        typer.Option("--sid-file", metavar="FILE", help="A file with the sid itself; - for standard input."),
    ] = None,
    config: Config = None,
) -> None:
    """End a session at once, also on a server that is running."""
    given = id_or_secret(id, "ses_", sid_file, "--sid-file")
    if not in_store(settings_of(config), lambda store: store.access.revoke_session(given)):
        raise CommandError("no session has this id or secret; see: tocsin session list")
    remark("The session is revoked.")


@command(app, "check", example="tocsin session check")
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Read a session or a token from standard input, and say whose it is, or why it is not taken.

    It is never printed. Whom a server with this configuration would ask is asked. The exit status is 1 where it is not
    taken, or where that cannot be known.
    """
    # Only here: HTTP and JWTs take long to import, and no other command of this group needs them.
    from tocsin.sign_in.configured import SignInError, configured

    text = read_secret(Path("-"), "standard input").strip()
    settings = settings_of(config)

    async def verify(store: Store) -> Verdict:
        sign_in = configured(settings.sessions, store.access)
        try:
            return await sign_in.verify(text)
        finally:
            await sign_in.close()

    try:
        verdict = in_store(settings, verify)
    except SignInError as error:
        raise InputError(str(error)) from None
    if as_json:
        print_json(_judged(verdict))
    match verdict:
        case SignedIn():
            if not as_json:
                typer.echo(f"taken: user {verdict.owner}, by {verdict.by}")
        case Refused():
            raise CommandError(f"not taken: {verdict.reason}")
        case Unavailable():
            raise CommandError(f"it is not known whether it is taken: {verdict.reason}; a server answers 503")


def _judged(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON shows it; `taken` is null where it is not known."""
    match verdict:
        case SignedIn():
            return {"taken": True, "owner": verdict.owner, "by": verdict.by, "reason": None}
        case Refused() | Unavailable():
            taken = False if isinstance(verdict, Refused) else None
            return {"taken": taken, "owner": None, "by": None, "reason": verdict.reason}


def _described(session: Session) -> dict[str, Any]:
    """A session as JSON shows it, without its secret."""
    return {
        "id": session.id,
        "owner": session.owner,
        "created": iso(session.created_ms),
        "expires": iso(session.expires_ms),
    }
