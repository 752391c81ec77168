"""All commands, and the one place where an expected error is printed and becomes the exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from tocsin import __version__
from tocsin.cli import (
    applications,
    audit,
    completion,
    console,
    dead_letters,
    deliveries,
    devices,
    emulator,
    event,
    fcm,
    keys,
    moving,
    quarantine,
    send,
    serve,
    sessions,
    status,
    store,
    users,
)
from tocsin.cli.commands import command, group
from tocsin.cli.demo import command as demo
from tocsin.cli.doctor import command as doctor
from tocsin.cli.errors import CommandError
from tocsin.cli.output import remark
from tocsin.cli.streams import prepared
from tocsin.cli.top import command as top

app = group(
    "A push service: it delivers each event to every device of the event's user, through Apple and Google.\n\n"
    "Start with `tocsin demo`, which needs no preparation, or with `tocsin serve`."
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tocsin {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options of `tocsin` itself."""


command(app, "serve", example="tocsin serve --config tocsin.toml")(serve.serve)
command(app, "console", example="tocsin console --config tocsin.toml")(console.console)
command(app, "emulator", example="tocsin emulator --directory ./emulator")(emulator.emulator)
command(app, "demo", example="tocsin demo")(demo.demo)
command(app, "status", example="tocsin status\ntocsin status --key-file monitoring.key")(status.status)
command(app, "top", example="tocsin top --key-file admin.key")(top.top)
command(app, "doctor", example="tocsin doctor")(doctor.doctor)
command(app, "completion", example="tocsin completion bash")(completion.completion)
command(
    devices.app,
    "import",
    example="tocsin device import devices.csv --dry-run\ntocsin device import devices.csv --refused refused.csv",
)(moving.import_)
command(devices.app, "export", example="tocsin device export devices.csv")(moving.export)
app.add_typer(applications.app, name="app")
app.add_typer(fcm.app, name="fcm")
app.add_typer(sessions.app, name="session")
app.add_typer(keys.app, name="key")
app.add_typer(devices.app, name="device")
app.add_typer(users.app, name="user")
app.add_typer(send.app, name="send")
app.add_typer(event.app, name="event")
app.add_typer(deliveries.app, name="deliveries")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(dead_letters.app, name="deadletter")
app.add_typer(audit.app, name="audit")
app.add_typer(store.app, name="store")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 failed, 2 wrong usage or bad input.

    Where the reader of standard output has gone (`| head -1`), the command ends with status 1, and says nothing.
    """
    completion.answer_shells()
    with prepared() as output:
        try:
            app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="tocsin")
        except CommandError as error:
            remark(f"tocsin: {error}")
            sys.exit(error.exit_code)
        except OSError as error:
            if error is not output.failure:
                raise
            remark(f"tocsin: standard output: {error.strerror}; what was printed is not complete")
            sys.exit(1)
        sys.exit(0)
