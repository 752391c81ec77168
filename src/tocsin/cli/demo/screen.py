"""What the demo shows: a table that fills as the phones ring, or plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tocsin.cli.demo.arrivals import Arrival, holder_of
from tocsin.cli.demo.cast import ANNA, EVENTS, EXPECTED, PEOPLE, Person


class Screen(Protocol):
    """Someone to tell what happens. Times are Unix seconds."""

    def say(self, text: str) -> None: ...

    def registered(self, person: Person) -> None: ...

    def handed_in(self, message: str, at: float) -> None: ...

    def arrived(self, arrival: Arrival) -> None: ...


class Silent:
    """Says nothing: for `--json`, whose stdout belongs to the JSON."""

    def say(self, text: str) -> None: ...

    def registered(self, person: Person) -> None: ...

    def handed_in(self, message: str, at: float) -> None: ...

    def arrived(self, arrival: Arrival) -> None: ...


class Lines:
    """One line for everything that happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._handed_in: dict[str, float] = {}
        self._timed: set[tuple[str, str]] = set()

    def say(self, text: str) -> None:
        # Never wrapped: what is said may be a command to paste.
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def registered(self, person: Person) -> None:
        for phone in person.phones:
            self.say(f"  {person.name:<11} {phone.name:<13} {phone.through:<44}  {_short(phone.token)}")

    def handed_in(self, message: str, at: float) -> None:
        self._handed_in[message] = at
        self.say(f"handed in {message}")

    def arrived(self, arrival: Arrival) -> None:
        found = holder_of(arrival.token)
        who = f"{found[0].name}'s {found[1].name}" if found else _short(arrival.token)
        through = " ".join(part for part in (arrival.provider, arrival.environment) if part)
        self.say(f"  {arrival.event} reached {who} ({through}){self._after(arrival)}: {arrival.understood}")

    def _after(self, arrival: Arrival) -> str:
        """How long it took, for the demo's own events; of one that somebody else hands in later, nobody knows."""
        first = (arrival.event, arrival.token) in EXPECTED - self._timed
        self._timed.add((arrival.event, arrival.token))
        since = self._handed_in.get(arrival.event)
        return f" after {_milliseconds(arrival.time - since)}" if first and since is not None else ""


class Board(Lines):
    """The same in a terminal: a table of events and phones that fills while one looks."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._arrivals: dict[tuple[str, str], Arrival] = {}
        self._live: Live | None = None

    @contextmanager
    def live(self) -> Iterator[None]:
        """The table is on the screen, and stays there as it was at the end."""
        with Live(self._render(), console=self._console, refresh_per_second=20) as self._live:
            yield
        self._live = None

    def handed_in(self, message: str, at: float) -> None:
        self._handed_in[message] = at
        self._update()

    def arrived(self, arrival: Arrival) -> None:
        if self._live is None:
            super().arrived(arrival)
            return
        self._arrivals.setdefault((arrival.event, arrival.token), arrival)
        self._timed.add((arrival.event, arrival.token))
        self._update()

    def _update(self) -> None:
        if self._live is not None:
            self._live.update(self._render(), refresh=True)

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 1), header_style="bold")
        table.add_column("event")
        for phone in ANNA.phones:
            table.add_column(f"{ANNA.name.split()[0]}'s\n{phone.name}".replace(" ", "\n"), justify="right")
        others = [person for person in PEOPLE if person is not ANNA]
        for person in others:
            table.add_column(f"{person.name.split()[0]}'s\nphones", justify="right")
        for event in EVENTS:
            message = event["message"]
            cells = [self._cell(message, phone.token) for phone in ANNA.phones]
            table.add_row(message, *cells, *(self._silence(message, person) for person in others))
        return Group(table, Text(), *self._sentences())

    def _cell(self, message: str, token: str) -> Text:
        arrival = self._arrivals.get((message, token))
        if arrival is not None:
            return Text(_milliseconds(arrival.time - self._handed_in.get(message, arrival.time)), style="bold green")
        return Text("…", style="yellow") if message in self._handed_in else Text("")

    def _silence(self, message: str, person: Person) -> Text:
        rung = sum((message, phone.token) in self._arrivals for phone in person.phones)
        if rung:
            return Text(f"{rung} rung", style="bold red")
        return Text("silent", style="dim") if message in self._handed_in else Text("")

    def _sentences(self) -> list[Text]:
        """What the phones made of each event: one sentence, as long as they all understood the same."""
        lines = []
        for event in EVENTS:
            message = event["message"]
            said = {arrival.understood for (name, _), arrival in self._arrivals.items() if name == message}
            lines.append(Text.assemble((f" {message:<27}", "dim"), " / ".join(sorted(said))))
        return lines


def _short(token: str) -> str:
    return f"{token[:10]}…{token[-4:]}"


def _milliseconds(seconds: float) -> str:
    return f"{max(0.0, seconds) * 1000:.0f} ms"
