"""`tocsin console`: runs the operator's pages, a process of its own over the admin API."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Final

import typer

from tocsin.cli.commands import Config
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.opening import settings_of
from tocsin.cli.output import remark
from tocsin.cli.serve import announce, check_ready_file

INSTALL: Final = "pip install 'tocsin[console]'"


def is_installed() -> bool:
    """Whether what the console needs besides is there."""
    return importlib.util.find_spec("jinja2") is not None


def console(
    host: Annotated[str | None, typer.Option("--host", help="The address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="The port to listen on; 0 takes a free one.")
    ] = None,
    api: Annotated[
        str | None, typer.Option("--api", metavar="URL", help="Where the server is: http://127.0.0.1:8080.")
    ] = None,
    emulator: Annotated[
        str | None,
        typer.Option("--emulator", metavar="URL", help="An emulator's control address: its phones are shown, too."),
    ] = None,
    phones: Annotated[
        Path | None,
        typer.Option("--phones", metavar="FILE", help="Whose the emulator's phones are (JSON; as the demo writes it)."),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option("--ready-file", metavar="FILE", help="Write the console's address into FILE once it listens."),
    ] = None,
    config: Config = None,
) -> None:
    """Run the console: pages for the operator, in a browser.

    It is a process of its own, and asks the server over its admin API: sign in with an admin key. SIGTERM or Ctrl-C
    stops it.
    """
    if not is_installed():
        raise CommandError(f"the console needs more than is installed: {INSTALL}")
    import uvloop

    from tocsin.console.options import options, read_phones
    from tocsin.console.server import ConsoleError, serve

    settings = settings_of(config).console
    given = {"host": host, "port": port, "api_url": api}
    overridden = {name: value for name, value in given.items() if value is not None}
    try:
        settings = type(settings).model_validate(settings.model_dump() | overridden)
    except ValueError:
        raise InputError("--host, --api: must be an address to listen on, and a http:// or https:// URL") from None
    if ready_file is not None:
        check_ready_file(ready_file)
    try:
        known = read_phones(phones) if phones else ()
    except (OSError, ValueError) as error:
        raise InputError(f"--phones {phones}: {error}") from None
    ready = announce(ready_file)

    def listening(url: str) -> None:
        remark(f"The console: {url}")
        ready(url)

    try:
        uvloop.run(
            serve(
                options(settings, emulator_url=emulator, phones=known),
                host=settings.host,
                port=settings.port,
                ready=listening,
            )
        )
    except ConsoleError as error:
        raise CommandError(str(error)) from None
