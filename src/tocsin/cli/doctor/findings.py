"""What the doctor finds, and how it prints it: a line for each, as soon as it is found."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import typer
from msgspec import Struct

from tocsin.cli.output import print_json, terminal_width

_SUBJECT_COLUMNS: Final = 12
_LEVEL_COLUMNS: Final = 9
_NARROW: Final = 60
"""In fewer columns than these the sentence goes on below the level, and not beside it."""


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, and may not for long, or not for everybody."""
    PROBLEM = "problem"
    """Something does not work."""


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    level: Level
    subject: str
    """A word for what was looked at."""
    finding: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.finding}; {self.remedy}" if self.remedy else self.finding


def ok(subject: str, finding: str) -> Finding:
    return Finding(Level.OK, subject, finding)


def warning(subject: str, finding: str, remedy: str = "") -> Finding:
    return Finding(Level.WARNING, subject, finding, remedy)


def problem(subject: str, finding: str, remedy: str = "") -> Finding:
    return Finding(Level.PROBLEM, subject, finding, remedy)


class Report:
    """Takes findings until `end`."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._found: list[Finding] = []

    def add(self, findings: Iterable[Finding]) -> None:
        for one in findings:
            self._found.append(one)
            if not self._as_json:
                typer.echo(line(one, terminal_width()))

    def end(self) -> bool:
        """Print what is still to be printed; whether there is no problem."""
        counts = {level: sum(one.level is level for one in self._found) for level in Level}
        if self._as_json:
            print_json({"ok": not counts[Level.PROBLEM], "findings": self._found})
        else:
            typer.echo(f"{_many(counts[Level.PROBLEM], 'problem')}, {_many(counts[Level.WARNING], 'warning')}")
        return not counts[Level.PROBLEM]


def line(finding: Finding, width: int | None) -> str:
    """A finding as a line; folded to `width` columns of characters where it is given."""
    head = f"{finding.level:<{_LEVEL_COLUMNS}}{finding.subject:<{_SUBJECT_COLUMNS}}"
    text = " ".join(finding.sentence.split())
    if width is None:
        return head + text
    indent = " " * (len(head) if width >= _NARROW else 2)
    # A path is not broken: so it can be copied.
    return textwrap.fill(
        text,
        max(width, len(indent) + 10),
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _many(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count or 'no'} {what}s"
