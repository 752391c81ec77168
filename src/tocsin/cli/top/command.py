"""The command itself: asks each second, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tocsin.cli.commands import AsJson, Config
from tocsin.cli.opening import settings_of
from tocsin.cli.output import print_json

if TYPE_CHECKING:
    from rich.console import Console

    from tocsin.cli.server_api import ServerApi

_LONGEST_S: Final = 3600
_WIDE: Final = 200
"""Columns where no terminal says how many there are."""


def top(
    key_file: Annotated[
        Path, typer.Option("--key-file", metavar="FILE", help="A file with an admin key; - for standard input.")
    ],
    api: Annotated[
        str | None,
        typer.Option("--api", metavar="URL", help="The server; else where the configuration says that it listens."),
    ] = None,
    every: Annotated[float, typer.Option("--every", min=0.2, max=_LONGEST_S, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print the figures once.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show how a running server is doing: rates, latency, backlog, lanes and nodes. Ctrl-C ends it.

    It asks the server's admin API; a read-only key for the area deliveries is enough. Where standard output is no
    terminal it prints the figures once; so it does with --once, and with --json as the API gives them.
    """
    # Only here: HTTP, the API's schema and rich take long to import.
    from rich.console import Console

    from tocsin.cli.server_api import server_of
    from tocsin.cli.top import figures
    from tocsin.cli.top.screen import Screen

    with server_of(settings_of(config), api, key_file) as server:
        if as_json:
            print_json(figures.read_json(server))
            return
        # A provider's words may look like markup.
        console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else _WIDE)
        if once or not console.is_terminal or console.is_dumb_terminal:
            console.print(Screen(figures.read(server), server.url))
            return
        # As Ctrl-C does: the terminal is left as it was.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            _watch(server, console, every)
        except KeyboardInterrupt:
            return


def _watch(server: ServerApi, console: Console, every_s: float) -> None:
    """Show the figures until Ctrl-C. A server that is restarted is waited for; the last figures stay meanwhile.

    Raises:
        CommandError: there were none at the start, or the server does not give them to this key any more.
    """
    from rich.live import Live

    from tocsin.cli.server_api import NoAnswerError
    from tocsin.cli.top import figures
    from tocsin.cli.top.screen import Screen

    last = figures.read(server)
    with Live(Screen(last, server.url), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            try:
                last, trouble = figures.read(server), ""
            except (NoAnswerError, figures.NotNowError) as error:
                trouble = str(error)
            live.update(Screen(last, server.url, trouble), refresh=True)
