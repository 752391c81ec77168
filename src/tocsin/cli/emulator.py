"""`tocsin emulator`: runs an emulator of Apple and Google on this machine, over TLS and HTTP/2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tocsin.cli.commands import is_text
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.output import print_json

if TYPE_CHECKING:
    from tocsin.emulator.run import Emulator


_MOST: Final = 1_000_000_000
_MOST_STREAMS: Final = 2**31 - 1
"""Of SETTINGS_MAX_CONCURRENT_STREAMS more make no difference: there are no more stream ids (RFC 9113, 5.1.1)."""


def emulator(
    directory: Annotated[
        Path,
        typer.Option(
            "--directory", metavar="DIR", help="Where its CA, keys and emulator.json go; what is there is kept."
        ),
    ],
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65531, help="The first of five; 0 takes free ones.")] = 0,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", help="Allow only this topic of Apple's; may be given again.")
    ] = None,
    inbox: Annotated[int, typer.Option("--inbox", min=1, max=_MOST, help="How many pushes to remember.")] = 20_000,
    known_tokens: Annotated[
        int,
        typer.Option(
            "--known-tokens",
            min=0,
            max=_MOST,
            help="For how many of Apple's device tokens to remember the environment.",
        ),
    ] = 100_000,
    journal: Annotated[
        Path | None, typer.Option("--journal", metavar="FILE", help="Write a line for every accepted push.")
    ] = None,
    journal_bodies: Annotated[
        bool, typer.Option("--journal-bodies", help="Write the pushes' bodies into the journal, too.")
    ] = False,
    faults: Annotated[
        Path | None, typer.Option("--faults", metavar="FILE", help="A fault script (TOML) to start with.")
    ] = None,
    max_streams: Annotated[
        int, typer.Option("--max-streams", min=1, max=_MOST_STREAMS, help="Streams a connection may have.")
    ] = 1000,
    start_with_one_stream: Annotated[
        bool,
        typer.Option("--start-with-one-stream", help="Connections to Apple start with one stream, as real ones may."),
    ] = False,
    token_update_interval: Annotated[
        float,
        typer.Option(
            "--token-update-interval", min=0, max=_MOST, help="Seconds between provider tokens; Apple's: 1200."
        ),
    ] = 0.0,
    access_token_lifetime: Annotated[
        int, typer.Option("--access-token-lifetime", min=1, max=_MOST, help="Seconds that an OAuth access token lives.")
    ] = 3600,
) -> None:
    """Run an emulator of Apple and Google on this machine.

    It is as strict as they are, and runs until SIGTERM or Ctrl-C. The command writes everything that a client needs
    into DIR, lists it in DIR/emulator.json, and prints that.
    """
    import uvloop

    if not host:
        raise InputError("--host: must name an address, like 127.0.0.1")
    if not is_text(str(directory)):
        raise InputError("--directory: not UTF-8; emulator.json names the files in it, and is JSON")
    from tocsin.emulator.run import EmulatorError, EmulatorOptions, serve

    options = EmulatorOptions(
        directory=directory,
        host=host,
        port=port,
        topics=frozenset(topic or ()),
        inbox_size=inbox,
        known_tokens=known_tokens,
        journal=journal,
        journal_bodies=journal_bodies,
        faults=faults,
        max_streams=max_streams,
        start_with_one_stream=start_with_one_stream,
        token_update_interval_s=token_update_interval,
        access_token_lifetime_s=access_token_lifetime,
    )
    try:
        uvloop.run(serve(options, _announce))
    except EmulatorError as error:
        raise CommandError(str(error)) from None


def _announce(running: Emulator) -> None:
    print_json(running.summary)
