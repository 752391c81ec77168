"""`tocsin demo`: registers phones, hands in the five events, and shows each of them reaching each phone."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
from rich.console import Console

from tocsin.cli.commands import AsJson
from tocsin.cli.demo.arrivals import Watch
from tocsin.cli.demo.cast import ANNA, EVENTS, EXPECTED, PEOPLE
from tocsin.cli.demo.ending import to_try, two_contents
from tocsin.cli.demo.screen import Board, Lines, Screen, Silent
from tocsin.cli.demo.stage import Stage, stage
from tocsin.cli.errors import CommandError
from tocsin.cli.output import print_json

_ARRIVE_WITHIN_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.05
_LOOK_EVERY_IDLE_S: Final = 0.25
_BETWEEN_EVENTS_S: Final = 0.5
"""For the eye. Without a terminal the events follow each other at once."""


def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit when everything has arrived: 0; or has not: 1.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the whole line at work, on this machine alone.

    A server, an Apple and a Google, three users, and phones that ring. The demo uses free ports and a directory of its
    own, which is gone afterwards, and stays up until Ctrl-C for you to try things. With --json it prints everything
    that arrived, and nothing else, and exits.
    """
    # A shell that starts it in the background has it ignore SIGINT; here that ends it all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    console = Console()
    screen = Silent() if as_json else _screen(console)
    try:
        with tempfile.TemporaryDirectory(prefix="tocsin-demo-") as directory:
            screen.say("Starting an emulator of Apple and Google, and the server …")
            with stage(Path(directory)) as set_up:
                _play(set_up, screen, once=once or as_json, as_json=as_json)
    except KeyboardInterrupt:
        screen.say("\nStopped.")
        if once or as_json:
            raise typer.Exit(130) from None


def _screen(console: Console) -> Screen:
    # Asked of the stream itself: rich also calls a pipe a terminal where FORCE_COLOR is set.
    return Board(console) if sys.stdout.isatty() and not console.is_dumb_terminal else Lines(console)


def _end(number: int, frame: FrameType | None) -> None:
    """Whoever ends the demo ends its children with it: the stack unwinds through what stops them."""
    raise SystemExit(128 + number)


def _play(set_up: Stage, screen: Screen, *, once: bool, as_json: bool) -> None:
    screen.say("\nRegistered through POST /api/push:")
    for person in PEOPLE:
        set_up.register(person)
        screen.registered(person)
    screen.say(f"\nFive events for {ANNA.name}, through POST /api/events:")
    watch = Watch(set_up.inbox)
    with screen.live() if isinstance(screen, Board) else nullcontext():
        pause_s = _BETWEEN_EVENTS_S if isinstance(screen, Board) and not once else 0.0
        event_ids = _hand_in(set_up, screen, watch, pause_s)
        _watch(set_up, screen, watch, lambda: watch.rung >= EXPECTED, _ARRIVE_WITHIN_S)
    if as_json:
        print_json([arrival.as_json() for arrival in watch.arrivals])
    judge(watch)
    screen.say(f"\nEverything arrived: {len(EVENTS)} events at each of {len(ANNA.phones)} phones, at nobody else's.")
    screen.say(two_contents(watch.arrivals))
    if not once:
        screen.say("\n" + to_try(set_up, event_ids))
        screen.say("\nUp until Ctrl-C. Whatever arrives from now on is shown here:")
        _watch(set_up, screen, watch, lambda: False, None)


def _hand_in(set_up: Stage, screen: Screen, watch: Watch, pause_s: float) -> dict[str, str]:
    """Returns the events' ids by name."""
    event_ids = {}
    for event in EVENTS:
        screen.handed_in(event["message"], time.time())
        event_ids[event["message"]] = set_up.hand_in(event)
        _watch(set_up, screen, watch, lambda: False, pause_s)
    return event_ids


def _watch(set_up: Stage, screen: Screen, watch: Watch, enough: Callable[[], bool], for_s: float | None) -> None:
    """Show what arrives until it is `enough`, at most `for_s` seconds; None is for ever."""
    deadline = None if for_s is None else time.monotonic() + for_s
    while True:
        set_up.check()
        for arrival in watch.look():
            screen.arrived(arrival)
        if enough() or (deadline is not None and time.monotonic() >= deadline):
            return
        time.sleep(_LOOK_EVERY_IDLE_S if deadline is None else _LOOK_EVERY_S)


def judge(watch: Watch) -> None:
    """Raises CommandError unless everything has arrived where it should, and nowhere else."""
    missing, astray = EXPECTED - watch.rung, watch.rung - EXPECTED
    if missing:
        events = ", ".join(sorted({event for event, _ in missing}))
        raise CommandError(
            f"{len(missing)} of {len(EXPECTED)} pushes did not arrive within {_ARRIVE_WITHIN_S:.0f} s: {events}"
        )
    if astray:
        raise CommandError(f"{len(astray)} pushes rang phones that were not meant")
