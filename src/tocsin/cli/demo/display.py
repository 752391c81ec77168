"""How the demo shows what happens: in plain lines where there is no terminal, or not at all with `--json`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rich.console import Console

from tocsin.cli.demo.events import EXPECTED
from tocsin.cli.demo.received import ReceivedPush
from tocsin.cli.demo.users import User, user_of


class Display(Protocol):
    """Is told what happens. Times are Unix seconds."""

    pause_s: float
    """How long to wait between two events, so that a person can follow."""

    def say(self, text: str) -> None:
        """A line of text, or several."""

    def registering(self) -> None:
        """The phones are about to be registered."""

    def registered(self, user: User) -> None:
        """The user's phones are registered."""

    def sent(self, message: str, at: float) -> None:
        """The event of this name is sent at this time."""

    def received(self, push: ReceivedPush) -> None:
        """A phone has received a push."""

    def compared(self, contents: str) -> None:
        """The content of one event, as the phones of each provider received it."""

    def live(self) -> AbstractContextManager[None]:
        """For as long as the demo's own events are delivered."""


class NoDisplay:
    """Shows nothing: with `--json` only the JSON is printed. See `Display`."""

    pause_s: float = 0.0

    def say(self, text: str) -> None: ...

    def registering(self) -> None: ...

    def registered(self, user: User) -> None: ...

    def sent(self, message: str, at: float) -> None: ...

    def received(self, push: ReceivedPush) -> None: ...

    def compared(self, contents: str) -> None: ...

    def live(self) -> AbstractContextManager[None]:
        return nullcontext()


class Lines:
    """Prints one line for everything that happens. See `Display`."""

    pause_s: float = 0.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._sent_at: dict[str, float] = {}
        self._timed: set[tuple[str, str]] = set()

    def say(self, text: str) -> None:
        # Not wrapped: it may be a command to paste.
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def registering(self) -> None:
        self.say("\nRegistered through POST /api/push:")

    def registered(self, user: User) -> None:
        for phone in user.phones:
            self.say(f"  {user.name:<11} {phone.name:<13} {phone.reached_through:<44}  {_short(phone.token)}")

    def sent(self, message: str, at: float) -> None:
        self._sent_at[message] = at
        self.say(f"sent {message}")

    def received(self, push: ReceivedPush) -> None:
        found = user_of(push.token)
        phone = f"{found[0].name}'s {found[1].name}" if found else _short(push.token)
        through = " ".join(part for part in (push.provider, push.environment) if part)
        self.say(f"  {push.event} reached {phone} ({through}){self._after(push)}: {push.notification}")

    def compared(self, contents: str) -> None:
        self.say(contents)

    def live(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _after(self, push: ReceivedPush) -> str:
        """How long it took, for the demo's own events. When others were sent is not known."""
        first = (push.event, push.token) in EXPECTED - self._timed
        self._timed.add((push.event, push.token))
        since = self._sent_at.get(push.event)
        return f" after {milliseconds(push.time - since)}" if first and since is not None else ""


def milliseconds(seconds: float) -> str:
    """`0.0123` as `12 ms`."""
    return f"{max(0.0, seconds) * 1000:.0f} ms"


def _short(token: str) -> str:
    return f"{token[:10]}…{token[-4:]}"
