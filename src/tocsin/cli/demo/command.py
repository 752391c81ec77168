"""`tocsin demo`: registers phones, sends five events, and shows that each event reaches each phone of its user."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
from rich.console import Console

from tocsin.cli.commands import AsJson
from tocsin.cli.demo.display import Display, Lines, NoDisplay
from tocsin.cli.demo.environment import Environment, running_environment
from tocsin.cli.demo.events import EVENTS, EXPECTED
from tocsin.cli.demo.live_table import LiveTable
from tocsin.cli.demo.next_steps import console_address, contents_compared, next_steps
from tocsin.cli.demo.received import InboxReader
from tocsin.cli.demo.users import ANNA, USERS
from tocsin.cli.errors import CommandError
from tocsin.cli.output import print_json

_RECEIVED_WITHIN_S: Final = 30.0
_POLL_S: Final = 0.05
_POLL_IDLE_S: Final = 0.25
_BETWEEN_EVENTS_S: Final = 0.5
"""In a terminal. Without one the next event is sent at once."""


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Exit when everything has arrived (0), or has not in 30 seconds (1).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine, and show events reaching phones.

    Starts an emulator of Apple and Google, a server and the console, registers the phones of three users, and sends
    five events. It uses free ports and a temporary directory, and runs until Ctrl-C, so that you can try things. With
    --json it prints everything that arrived, and nothing else, and exits.
    """
    # A shell that starts it in the background makes it ignore SIGINT; it must end with it all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    display = NoDisplay() if as_json else _display(once=once)
    try:
        with tempfile.TemporaryDirectory(prefix="tocsin-demo-") as directory:
            display.say("Starting an emulator of Apple and Google, the server and the console …")
            with running_environment(Path(directory)) as environment:
                _run(environment, display, once=once or as_json, as_json=as_json)
    except KeyboardInterrupt:
        display.say("\nStopped.")
        if once or as_json:
            raise typer.Exit(130) from None


def check_received(reader: InboxReader) -> None:
    """Check that each event has reached the phones that it is for, and no others.

    Raises:
        CommandError: it has not; the message says how many are missing, or were not expected.
    """
    missing, unexpected = EXPECTED - reader.reached, reader.reached - EXPECTED
    if missing:
        events = ", ".join(sorted({event for event, _ in missing}))
        raise CommandError(
            f"{len(missing)} of {len(EXPECTED)} pushes did not arrive within {_RECEIVED_WITHIN_S:.0f} s: {events}"
        )
    if unexpected:
        raise CommandError(f"{len(unexpected)} pushes reached phones that they were not for")


def _display(*, once: bool) -> Display:
    console = Console()
    # The stream itself is asked: rich also takes a pipe for a terminal where FORCE_COLOR is set.
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        return LiveTable(console, 0.0 if once else _BETWEEN_EVENTS_S)
    return Lines(console)


def _end(number: int, frame: FrameType | None) -> None:
    """Raises SystemExit, so that the context managers stop the child processes."""
    raise SystemExit(128 + number)


def _run(environment: Environment, display: Display, *, once: bool, as_json: bool) -> None:
    if not once:
        display.say(console_address(environment))
    display.registering()
    for user in USERS:
        environment.register(user)
        display.registered(user)
    display.say(f"\nFive events for {ANNA.name}, through POST /api/events:")
    reader = InboxReader(environment.inbox)
    with display.live():
        event_ids = _send_events(environment, display, reader)
        _show_received(environment, display, reader, lambda: reader.reached >= EXPECTED, _RECEIVED_WITHIN_S)
    if as_json:
        print_json([push.as_json() for push in reader.received])
    check_received(reader)
    display.say(f"\nEverything arrived: {len(EVENTS)} events at each of {len(ANNA.phones)} phones, at nobody else's.")
    display.compared(contents_compared(reader.received))
    if not once:
        display.say("\n" + next_steps(environment, event_ids))
        display.say("\nRunning until Ctrl-C. Every push that arrives from now on is shown here:")
        _show_received(environment, display, reader, lambda: False, None)


def _send_events(environment: Environment, display: Display, reader: InboxReader) -> dict[str, str]:
    """Send the five events; returns their ids by name."""
    event_ids = {}
    for event in EVENTS:
        display.sent(event["message"], time.time())
        event_ids[event["message"]] = environment.send(event)
        _show_received(environment, display, reader, lambda: False, display.pause_s)
    return event_ids


def _show_received(
    environment: Environment, display: Display, reader: InboxReader, enough: Callable[[], bool], for_s: float | None
) -> None:
    """Show what arrives until it is `enough`, for at most `for_s` seconds; None is without a limit."""
    deadline = None if for_s is None else time.monotonic() + for_s
    while True:
        environment.check()
        for push in reader.read_new():
            display.received(push)
        if enough() or (deadline is not None and time.monotonic() >= deadline):
            return
        time.sleep(_POLL_IDLE_S if deadline is None else _POLL_S)
