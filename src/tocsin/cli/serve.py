"""`tocsin serve`: runs the API and the delivery, in one process, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.commands import Config
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.opening import settings_of
from tocsin.domain.nodes import NodeRole


def serve(
    ready_file: Annotated[
        Path | None,
        typer.Option(
            "--ready-file",
            metavar="FILE",
            help="Write the server's address into FILE once it listens: for port 0, and for programs that wait.",
        ),
    ] = None,
    role: Annotated[
        NodeRole,
        typer.Option(
            "--role",
            help="Serve the API and deliver (all), or one of both beside other processes (on PostgreSQL).",
        ),
    ] = NodeRole.ALL,
    config: Config = None,
) -> None:
    """Run the service: the API, and the delivery.

    SIGTERM or Ctrl-C stops it: what is in flight finishes, what is left is delivered after the next start.
    """
    import uvloop

    from tocsin import service
    from tocsin.store.ports import StoreError

    settings = settings_of(config)
    if ready_file is not None:
        check_ready_file(ready_file)
    try:
        uvloop.run(service.serve(settings, ready=announce(ready_file), role=role))
    except (StoreError, service.ServiceError) as error:
        raise CommandError(str(error)) from None


def check_ready_file(ready_file: Path) -> None:
    """Checks, before anything is started, what would prevent the file from being written.

    Raises:
        InputError: its directory does not exist, or it is one.
    """
    if os.path.isdir(ready_file):
        raise InputError(f"--ready-file {ready_file}: is a directory; name a file in it")
    if not os.path.isdir(ready_file.parent):
        raise InputError(f"--ready-file {ready_file}: there is no directory {ready_file.parent}; make it first")


def announce(ready_file: Path | None) -> Callable[[str], None]:
    """Writes the server's address to the file, if there is one; the log has it anyway."""

    def write(base_url: str) -> None:
        if ready_file is not None:
            # Renamed into place, so that a program that waits for the file never reads half of it.
            unfinished = ready_file.with_name(ready_file.name + ".part")
            try:
                unfinished.write_text(base_url + "\n")
                os.replace(unfinished, ready_file)
            except OSError as error:
                raise CommandError(f"--ready-file {ready_file}: {error.strerror}; name another file") from None

    return write
