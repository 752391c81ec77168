"""How the demo shows what happens in a terminal: a table of events and phones, updated as pushes are received."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tocsin.cli.demo.display import Lines, milliseconds
from tocsin.cli.demo.events import EVENTS
from tocsin.cli.demo.received import ReceivedPush
from tocsin.cli.demo.users import ANNA, USERS, User


class LiveTable(Lines):
    """Shows the demo's own events in a table, and everything else in lines. All of it fits on a screen."""

    def __init__(self, console: Console, pause_s: float) -> None:
        super().__init__(console)
        self.pause_s = pause_s
        self._received: dict[tuple[str, str], ReceivedPush] = {}
        self._live: Live | None = None

    def registering(self) -> None:
        """Nothing: the phones are in the head of the table."""

    def registered(self, user: User) -> None:
        """Nothing."""

    def compared(self, contents: str) -> None:
        """Nothing: it would not fit on the screen, and the console shows it."""

    @contextmanager
    def live(self) -> Iterator[None]:
        """The table is on the screen and is updated; after the block it stays as it is."""
        with Live(self._render(), console=self._console, refresh_per_second=20) as self._live:
            yield
        self._live = None

    def sent(self, message: str, at: float) -> None:
        self._sent_at[message] = at
        self._update()

    def received(self, push: ReceivedPush) -> None:
        if self._live is None:
            super().received(push)
            return
        self._received.setdefault((push.event, push.token), push)
        self._timed.add((push.event, push.token))
        self._update()

    def _update(self) -> None:
        if self._live is not None:
            self._live.update(self._render(), refresh=True)

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 1), header_style="bold")
        table.add_column("event")
        for phone in ANNA.phones:
            table.add_column(f"{ANNA.first_name}'s\n{phone.name}".replace(" ", "\n"), justify="right")
        others = [user for user in USERS if user is not ANNA]
        for user in others:
            table.add_column(f"{user.first_name}'s\nphones", justify="right")
        for event in EVENTS:
            message = event["message"]
            cells = [self._phone_cell(message, phone.token) for phone in ANNA.phones]
            table.add_row(message, *cells, *(self._other_user_cell(message, user) for user in others))
        return Group(table, Text(), *self._notifications())

    def _phone_cell(self, message: str, token: str) -> Text:
        """How long the event took to this phone."""
        push = self._received.get((message, token))
        if push is not None:
            return Text(milliseconds(push.time - self._sent_at.get(message, push.time)), style="bold green")
        return Text("…", style="yellow") if message in self._sent_at else Text("")

    def _other_user_cell(self, message: str, user: User) -> Text:
        """How many phones of a user for whom the event is not have received it: there must be none."""
        count = sum((message, phone.token) in self._received for phone in user.phones)
        if count:
            return Text(f"{count} received", style="bold red")
        return Text("none", style="dim") if message in self._sent_at else Text("")

    def _notifications(self) -> list[Text]:
        """What the apps would show for each event: one sentence, if they all show the same."""
        lines = []
        for event in EVENTS:
            message = event["message"]
            shown = {push.notification for (name, _), push in self._received.items() if name == message}
            lines.append(Text.assemble((f" {message:<27}", "dim"), " / ".join(sorted(shown))))
        return lines
